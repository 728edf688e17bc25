"""The compiled kernel against the reference: facts, baskets that change, and what moves stock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.kernel import _plan as kernel
from core.kernel import _pool
from core.kernel import reference as rule
from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from tests.property import strategies as drawn
from tests.property.kernel_world import Answer, Kernel, assert_same, pool_of, versions
from tests.property.test_kernel import known_worlds
from tests.property.world import Key, Order, World

RAISED = (_pool.Shortage, _pool.ChannelInUse, OverflowError, stock.Shortage, stock.ChannelInUse)


def outcome(holder: World | Kernel, verb: drawn.Verb) -> Any:
    """What a verb answers, or what it raises."""
    name, key, *how = verb
    try:
        return holder.transfer(key, *how) if name == "transfer" else holder.verb(name, key, *how)
    except RAISED as error:
        return type(error).__name__, getattr(error, "available", None)


def act(world: World, plan: Kernel, verb: drawn.Verb) -> None:
    """Do the same in both."""
    before = {key: pool.copy() for key, pool in world.pools.items()}
    expected = outcome(world, verb)
    assert outcome(plan, verb) == expected, verb
    if isinstance(expected, tuple) and isinstance(expected[0], str):
        assert world.pools == before
    for key, pool in world.pools.items():
        rule.check(pool)
        assert plan.verb("on_hand", key) == pool.on_hand
        for name in world.policy.channels:
            room = stock.available(world.policy, world.skus[key[0]], pool, name)
            assert plan.verb("available", key, name) == room


def packed(world: World, plan: Kernel) -> kernel.Stage:
    """Print, compare, and forget the pools that were only looked at."""
    keys = {(row.sku, row.location) for row in plan.rows.values()}
    before = versions(plan, keys | world.pools.keys())
    stage = plan.pack()
    assert_same(world, plan, stage, before)
    for key in [key for key in world.pools if not plan.row(key).text]:
        del world.pools[key]
    return stage


def decide(world: World, asked: list[Order]) -> list[Answer]:
    """What the rule says to orders."""
    answers = []
    for order in asked:
        try:
            found = world.order(order)
        except orders.NoPool:
            answers.append(Answer(kernel.NO_POOL))
        else:
            answers.append(Answer(kernel.ADDED, found.decision, found.moves))
    return answers


def held(world: World, order: Order) -> list[orders.Holding]:
    """What an order's record holds."""
    return [world.held[index].holding for index in order.held]


@given(known_worlds(), st.data())
def test_verbs_of_stock_do_alike(world: World, data: st.DataObject) -> None:
    """Several in one stage, also on one pool, also such as are refused; then another stage."""
    plan = Kernel(world)
    for _ in range(2):
        for _ in range(data.draw(st.integers(1, 5))):
            names = data.draw(st.sampled_from([drawn.VERBS, drawn.VERBS, ("drop_channel",)]))
            act(world, plan, data.draw(drawn.verbs(world, names)))
        packed(world, plan)
        for key, pool in world.pools.items():
            assert pool.on_hand == world.arrived[key]
        plan.begin()


@pytest.mark.parametrize("name", sorted({*drawn.VERBS, "drop_channel"}))
@given(known_worlds(), st.data())
def test_each_verb_of_stock_does_alike(name: str, world: World, data: st.DataObject) -> None:
    """And says whether its plan fits another row: only what arrives and allowances may."""
    plan = Kernel(world.met())
    world = world.met()
    verb = data.draw(drawn.verbs(world, (name,)))
    act(world, plan, verb)
    stage = packed(world, plan)
    floats = verb[0] in ("receive", "restock", "put_away", "give_allowance") or (
        verb[0] == "adjust" and verb[2] > 0
    )
    for old, deltas in zip(stage.old, stage.deltas, strict=True):
        assert bool(deltas) == (floats and old != b""), verb
        receipt = verb[0] in ("receive", "restock") or (
            verb[0] == "adjust" and verb[2] > 0 and verb[3] == "sellable"
        )
        assert (b" @5=" in deltas and b" @2=" in deltas) == (receipt and deltas != b"")


@given(known_worlds(), st.data())
def test_orders_of_all_kinds_are_decided_alike(world: World, data: st.DataObject) -> None:
    """Made to collide: decisions, takes, what was short, moves in order, and every row after."""
    for key in data.draw(st.sets(st.sampled_from(sorted(world.pools)), max_size=2)):
        world.lose(key, data.draw(st.integers(1, world.pools[key].on_hand + 1)))
    plan = Kernel(world)
    for _ in range(2):
        asked = data.draw(drawn.orders_of_all_kinds(world))
        before = versions(plan, world.pools)
        was = world.met()
        answers, stage = plan.order([(order, held(world, order)) for order in asked])
        assert answers == decide(world, asked)
        assert_same(world, plan, stage, before)
        for pool in world.pools.values():
            rule.check(pool)
        for key, pool in world.pools.items():
            assert pool.on_hand == world.arrived[key]
        assert_rebased(was, asked, answers, stage)
        plan.begin()


def assert_rebased(
    was: World, asked: list[Order], answers: list[Answer], stage: kernel.Stage
) -> None:
    """A fact's plan fits another row unless it took what a demand may not take; what is planned
    under a record looks at the deficit."""
    kept: dict[bytes, str] = {}  # pools of whose channel's own units a fact took, some being kept
    fixed: set[bytes] = set()
    looks: set[bytes] = set()
    for order, answer in zip(asked, answers, strict=True):
        if answer.decision is None or not answer.decision.takes:
            continue
        may = {"shared", f"free:{order.demand.channel}", f"committed:{order.demand.channel}"}
        for key, (source, target, _) in answer.moves or ():
            if (source != "outside" and source not in may) or target == "deficit":
                fixed.add("@".join(key).encode())
            channel = was.policy.channels[order.demand.channel]
            if source.startswith("free:") and channel.keeps and not channel.borrow:
                kept["@".join(key).encode()] = channel.name
        if order.known:
            looks |= {f"{t.sku}@{t.location}".encode() for t in answer.decision.takes}
            looks |= {"@".join(was.held[n].key).encode() for n in order.held}
    assert looks <= set(stage.pools)
    for pool, old, new, deltas in zip(
        stage.pools, stage.old, stage.new, stage.deltas, strict=True
    ):
        _, sku, policy = old.split(b" ")[:3]
        name, _, place = pool.decode().partition("@")
        if pool in kept and deltas:
            channel = was.policy.channels[kept[pool]]
            assert pool_of((name, place), new).quota(channel.name).free >= channel.keeps
        met = int(sku) == was.skus[name].number and int(policy) == was.policy.number
        if pool not in kept:
            assert bool(deltas) == (met and pool not in fixed), (pool, deltas)
        assert (b" @5=" in deltas) == (bool(deltas) and pool in looks)


@given(known_worlds(), st.data())
def test_an_amendment_is_release_and_reserve_with_nobody_between(
    world: World, data: st.DataObject
) -> None:
    """Without a deficit, with its present locations first, and if the policy could have given it
    what it holds: the same takes, the same rows."""
    asked = data.draw(drawn.amendments(world))
    assume(asked)
    (order,) = asked
    assume(lawful(world, order))
    plan = Kernel(world)
    apart = world.copy()
    assume(not any(world.pools[world.held[n].key].deficit for n in order.held))
    before = world.met()
    versions_before = versions(plan, world.pools)
    answers, stage = plan.order([(order, held(world, order))])
    assert answers == decide(world, asked)
    assert_same(world, plan, stage, versions_before)
    for index in order.held:
        rule.meet(
            apart.policy, apart.skus[apart.held[index].key[0]], apart.pools[apart.held[index].key]
        )
        apart.give_back(apart.held[index], apart.held[index].quantity)
    (expected,) = apart.reserve([order.demand])
    decision = answers[0].decision
    assert decision == expected
    if expected.takes:
        if order.state == "committed":
            for each in apart.held[-len(expected.takes) :]:
                apart.commit(each)
        assert rows(world.met()) == rows(apart.met())
    else:
        assert rows(world.met()) == rows(before)


def lawful(world: World, order: Order) -> bool:
    """True if the policy of now could have given a record what it holds, as no policy changed."""
    met = world.met()
    channel = world.policy.channels[order.demand.channel]
    taken = [world.held[n] for n in order.held]
    places = {each.key for each in taken}
    last = channel.keeps and not channel.borrow  # it may hold of what it has to leave there now
    whole = channel.split or len(places) == len({sku for sku, _ in places})
    return (not last and whole) and all(
        world.policy.locations[each.key[1]]
        and (channel.borrow or each.borrowed == 0)
        and each.ceiling_number == orders.standing(met.pools[each.key].quota(each.channel))
        for each in taken
    )


def rows(world: World) -> dict[Key, rule.Pool]:
    """All pools without the quotas that hold nothing."""
    return {
        key: replace(
            pool.copy(),
            quotas={n: q for n, q in pool.copy().quotas.items() if q != rule.Quota()},
        )
        for key, pool in world.pools.items()
    }


@given(known_worlds(), st.data())
def test_a_plan_on_a_row_that_is_not_of_its_record_is_for_nobody(
    world: World, data: st.DataObject
) -> None:
    """A record that is old holds more than the row does: whatever is planned fits no other row,
    breaks no law, and does not lift what others hold below nothing."""
    asked = data.draw(drawn.amendments(world))
    assume(asked)
    (order,) = asked
    stale = [
        replace(each, borrowed=each.borrowed + data.draw(st.integers(0, 9)))
        for each in held(world, order)
    ]
    plan = Kernel(world)
    answers, stage = plan.order([(order, stale)])
    assert answers[0].decision is not None
    account = world.held[order.held[0]].account
    for each in stale if answers[0].decision.takes else ():
        pool = world.pools[each.sku, each.location]
        index = stage.pools.index(f"{each.sku}@{each.location}".encode())
        if each.own + each.borrowed > getattr(pool.quota(order.demand.channel), account):
            assert stage.deltas[index] == b""


# A channel that is being deleted.


@given(known_worlds(), st.data())
def test_a_closed_channel_gets_nothing_and_takes_nothing(world: World, data: st.DataObject) -> None:
    """Receipts pass it by, its ceilings neither start nor end, and it can leave every pool for
    good; opened again it goes on where it was."""
    name = data.draw(st.sampled_from(sorted(world.policy.channels)))
    world = world.met()
    number = world.policy.number
    ceilings = {key: pool.quota(name).ceiling_number for key, pool in world.pools.items()}
    shut = replace(world.policy.channels[name], closed=True)
    world.policy = replace(
        world.policy, channels={**world.policy.channels, name: shut}, number=number + 1
    )
    plan = Kernel(world)
    line = reserving.Line(sorted(world.skus)[0], 1)
    asked = reserving.Demand(name, (line,))
    for order in (Order(asked), Order(asked, fact=True)):
        assert plan.order([(order, [])])[0] == [Answer(kernel.UNKNOWN_CHANNEL)]
    frees = {key: pool.quota(name).free for key, pool in world.pools.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        verb = data.draw(drawn.verbs(world, ("receive", "restock", "count", "transfer")))
        act(world, plan, verb)
        for key, pool in world.pools.items():
            assert pool.quota(name).free <= frees.get(key, 0)
            assert pool.quota(name).ceiling_number == ceilings.get(key, 0)
    packed(world, plan)
    plan.begin()
    for key in sorted(world.pools):
        act(world, plan, ("drop_channel", key, name))
    stage = packed(world, plan)
    assert set(stage.deltas) <= {b""}
    for key, pool in world.pools.items():
        open_units = pool.quota(name).reserved + pool.quota(name).committed
        assert (f" {name}@".encode() in plan.rows[key].text) == bool(open_units)
