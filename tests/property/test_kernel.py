"""The compiled kernel against the reference: every decision, every take, every row, every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from core import policy_model
from core.kernel import _plan as kernel
from core.kernel import _policy as known
from core.kernel import reference as rule
from core.kernel import reference_reserve as reserving
from core.kernel._pool import ChannelUnknown
from core.kernel.reference import ACCOUNT_MAX, SHARE_ONE, Ceiling, Channel, Policy, Pool, SkuPolicy
from tests.property import strategies as drawn
from tests.property.kernel_world import (
    Kernel,
    assert_same,
    demand_of,
    one_pool,
    orphans,
    pool_of,
    row_text,
    versions,
)
from tests.property.world import World

TEE = "tee"
MAIN = (TEE, "main")


@st.composite
def known_worlds(draw: st.DrawFn) -> World:
    """A world whose pools name no channel that the policy does not have."""
    world = draw(drawn.worlds())
    assume(not orphans(world))
    return world


# Stage by stage.


@given(drawn.worlds())
def test_rows_are_read_and_printed_as_they_are(world: World) -> None:
    """What the kernel makes of a row that meets its policy is what the reference makes of it."""
    plan = Kernel(world)
    astray = orphans(world)
    for key, pool in world.pools.items():
        assert pool_of(key, row_text(pool)) == replace(pool_without_empty(pool), version=7)
        if key in astray:
            with pytest.raises(ChannelUnknown, match=key[0]):
                plan.batch.meet(plan.rows[key], plan.skus[key[0]])
        else:
            assert plan.batch.meet(plan.rows[key], plan.skus[key[0]])
    before = versions(plan, world.pools)
    met = world.met()
    stage = plan.pack()
    changed = {row.pool.decode() for row in stage.rows}
    for key, pool in met.pools.items():
        was = world.pools[key]
        stale = (was.sku_number, was.policy_number) != (pool.sku_number, pool.policy_number)
        assert ("@".join(key) in changed) == (stale and key not in astray)
    for key in astray:
        del met.pools[key]
    assert_same(met, plan, stage, before)
    assert set(stage.deltas) <= {b""}, "a row that met a policy is never rebased"


def pool_without_empty(pool: Pool) -> Pool:
    """A pool without the quotas that a row does not tell."""
    quotas = {n: q for n, q in pool.copy().quotas.items() if q != rule.Quota()}
    return replace(pool, quotas=quotas)


@given(known_worlds(), st.data())
def test_demands_are_decided_alike(world: World, data: st.DataObject) -> None:
    """Batches made to collide: decisions, shortfalls, takes, and every row after."""
    demands = data.draw(drawn.batches(world))
    plan = Kernel(world)
    before = versions(plan, world.pools)
    answers, stage = plan.reserve(demands)
    assert [answer.code for answer in answers] == [kernel.ADDED] * len(demands)
    assert [answer.decision for answer in answers] == world.reserve(demands)
    assert_same(world, plan, stage, before)


@given(known_worlds(), st.data())
def test_receipts_are_allotted_alike(world: World, data: st.DataObject) -> None:
    """Several receipts, also of one unit and also into one pool, in one batch."""
    plan = Kernel(world)
    receipts = st.lists(st.tuples(drawn.keys(world), drawn.quantities), min_size=1, max_size=6)
    before = versions(plan, world.pools)
    for key, quantity in data.draw(receipts):
        receipt = world.receive(key, quantity)
        moves = [("deficit", receipt.deficit), ("safety", receipt.safety)]
        moves += [(f"free:{name}", units) for name, units in sorted(receipt.free.items())]
        moves.append(("shared", receipt.shared))
        got = plan.batch.receive(plan.row(key), plan.skus[key[0]], quantity)
        assert got == [("outside", *move) for move in moves if move[1]]
    assert_same(world, plan, plan.pack(), before)


@given(known_worlds(), st.data())
def test_units_are_given_back_alike(world: World, data: st.DataObject) -> None:
    """Reserved and committed ones, into deficits and into ceilings that were followed by others."""
    live = [held for held in world.held if held.quantity]
    assume(live)
    for key in data.draw(st.sets(st.sampled_from(sorted(world.pools)))):
        world.lose(key, data.draw(st.integers(1, world.pools[key].on_hand + 1)))
    # A pool that gives back is met first, as every row that the kernel has in hand.
    for sku, location in {held.key for held in live}:
        rule.meet(world.policy, world.skus[sku], world.pools[sku, location])
    plan = Kernel(world)
    before = versions(plan, world.pools)
    for held in data.draw(st.permutations(live)):
        quantity = data.draw(st.integers(1, held.quantity))
        borrowed = min(quantity, held.borrowed)
        paid = world.give_back(held, quantity)
        assert paid == plan.batch.give_back(
            plan.rows[held.key],
            plan.skus[held.key[0]],
            held.channel,
            quantity - borrowed,
            borrowed,
            held.ceiling_number,
            held.account == "committed",
        )
    assert_same(world, plan, plan.pack(), before)


@given(known_worlds(), st.data())
def test_a_round_of_stages_is_one_after_the_other(world: World, data: st.DataObject) -> None:
    """Receipts, demands on what those leave, late commits on what these leave; one batch for all,
    and the same batch for the next round."""
    plan = Kernel(world)
    for _ in range(2):
        plan.begin()
        before = versions(plan, world.pools)
        for key in data.draw(st.lists(drawn.keys(world), max_size=2)):
            world.receive(key, 3)
            plan.batch.receive(plan.row(key), plan.skus[key[0]], 3)
        assert_same(world, plan, plan.pack(), before)
        # A pool that is new now has a row: the SKU's places are as its rows are.
        for late in (False, True):
            before = versions(plan, world.pools)
            demands = data.draw(drawn.batches(world, max_size=4))
            taken = len(world.held)
            decisions = world.reserve(demands)
            if late:
                for held in world.held[taken:]:
                    world.commit(held)
            answers, stage = plan.reserve(demands, late)
            assert [answer.decision for answer in answers] == decisions
            assert_same(world, plan, stage, before)


@given(known_worlds(), st.data())
def test_a_plan_is_a_function_of_what_it_is_given(world: World, data: st.DataObject) -> None:
    """Whatever a batch was used for before, and however often: same input, same plan."""
    first, second = data.draw(drawn.batches(world)), data.draw(drawn.batches(world))
    plan = Kernel(world)
    plan.reserve(first)
    fresh, used = Kernel(world), Kernel(world)
    used.batch = plan.batch
    used.begin()
    assert used.reserve(second)[0] == fresh.reserve(second)[0]
    assert [row.text for row in used.rows.values()] == [row.text for row in fresh.rows.values()]


# What a refusal rests on.


@given(known_worlds(), st.data())
def test_a_refusal_may_stand_if_all_it_rests_on_was_seen(world: World, data: st.DataObject) -> None:
    """Rows and SKUs of a refused demand: seen in this round or lately, and not changed by it."""
    plan = Kernel(world)
    demands = data.draw(drawn.batches(world))
    plan.batch.begin_stage()
    for demand in demands:
        plan.batch.add(demand_of(demand))
    plan.batch.plan()
    touched = {(t.sku, t.location) for d in world.reserve(demands) for t in d.takes}
    for number in range(len(demands)):
        reads = plan.batch.reads(number)
        for row in plan.rows.values():
            row.round, row.seen_at = 4, 100.0
        for each in plan.skus.values():
            each.round, each.seen_at = 4, 100.0
        clean = not touched.intersection(reads)
        assert plan.batch.confirmed(number, 3, float("inf")) == clean
        assert plan.batch.confirmed(number, 4, 100.0) == clean
        assert not plan.batch.confirmed(number, 4, 100.5)
        sku, place = data.draw(st.sampled_from(reads))
        if place is not None:
            plan.rows[sku, place].round = 2
            assert not plan.batch.confirmed(number, 3, float("inf"))


# Bounds.

WEB = Channel("web", ("main",))


@given(
    st.sampled_from([1, 2, 2**31 - 1, 2**40, 2**52, ACCOUNT_MAX - 1, ACCOUNT_MAX]),
    st.integers(1, 2**31 - 1) | st.sampled_from([1, 2, 2**31 - 1]),
    st.sampled_from([None, Ceiling(share=SHARE_ONE), Ceiling(share=1), Ceiling(units=2**31 - 1)]),
    st.sampled_from([0, 1, 333_333, SHARE_ONE]),
    st.integers(0, 3),
)
def test_no_account_passes_2_to_the_53(
    held: int, quantity: int, ceiling: Ceiling | None, floor: int, safety: int
) -> None:
    """An account near the end takes what still fits; else OverflowError, and nothing changed."""
    web = replace(WEB, ceiling=ceiling, floor_share=floor)
    world = one_pool(web, sku_policy=SkuPolicy(1, safety))
    world.pools[MAIN] = Pool(*MAIN, damaged=held)
    rule.meet(world.policy, world.skus[TEE], world.pools[MAIN])
    plan = Kernel(world)
    before = versions(plan, world.pools)
    text = plan.rows[MAIN].text
    try:
        world.receive(MAIN, quantity)
    except OverflowError:
        with pytest.raises(OverflowError):
            plan.batch.receive(plan.rows[MAIN], plan.skus[TEE], quantity)
        assert plan.pack().rows == []
        assert plan.rows[MAIN].text == text
    else:
        plan.batch.receive(plan.rows[MAIN], plan.skus[TEE], quantity)
        assert_same(world, plan, plan.pack(), before)


@given(
    st.integers(0, ACCOUNT_MAX),
    st.sampled_from([1, 3, 333_333, 999_999, SHARE_ONE]),
    st.integers(1, 2**31 - 1),
)
@example(ACCOUNT_MAX - 1, SHARE_ONE, 1)
@example(ACCOUNT_MAX, SHARE_ONE, 1)
@example(ACCOUNT_MAX, 1, SHARE_ONE - 1)
@example(ACCOUNT_MAX, 1, SHARE_ONE)
def test_no_allowance_passes_2_to_the_53(left: int, share: int, quantity: int) -> None:
    """What a ceiling allows can outgrow what lies there: units that were shipped stay in it."""
    world = one_pool(replace(WEB, ceiling=Ceiling(share=share)))
    pool = world.pools[MAIN] = Pool(*MAIN)
    rule.meet(world.policy, world.skus[TEE], pool)
    pool.quotas["web"].ceiling_left = left
    plan = Kernel(world)
    before = versions(plan, world.pools)
    try:
        world.receive(MAIN, quantity)
    except OverflowError:
        with pytest.raises(OverflowError):
            plan.batch.receive(plan.rows[MAIN], plan.skus[TEE], quantity)
        assert plan.pack().rows == []
    else:
        plan.batch.receive(plan.rows[MAIN], plan.skus[TEE], quantity)
        assert_same(world, plan, plan.pack(), before)


@pytest.mark.parametrize("base", [2**53 - 1, 9_007_199_254_740_000, 10**15 + 1])
@pytest.mark.parametrize("share", [1, 333_333, 999_999, SHARE_ONE])
def test_a_ceiling_starts_exactly_on_large_stocks(base: int, share: int) -> None:
    """units × share passes 2^63; the allowance is exact all the same."""
    world = one_pool(replace(WEB, ceiling=Ceiling(share=share)))
    world.pools[MAIN] = Pool(*MAIN, shared=base)
    plan = Kernel(world)
    assert plan.batch.meet(plan.rows[MAIN], plan.skus[TEE])
    before = versions(plan, world.pools)
    assert_same(world.met(), plan, plan.pack(), before)


@given(st.lists(st.integers(1, 2**31 - 1) | st.just(2**31 - 1), min_size=1, max_size=100))
def test_a_hundred_lines_of_the_largest_quantity(quantities: list[int]) -> None:
    """They are summed without a wrap, granted if they fit and refused if one unit is missing."""
    total = sum(quantities)
    lines = tuple(reserving.Line(TEE, quantity) for quantity in quantities)
    for stock in (total, total - 1):
        world = one_pool(WEB)
        world.pools[MAIN] = Pool(*MAIN, shared=stock)
        plan = Kernel(world)
        before = versions(plan, world.pools)
        demands = [reserving.Demand("web", lines)]
        answers, stage = plan.reserve(demands)
        assert [answer.decision for answer in answers] == world.reserve(demands)
        assert_same(world, plan, stage, before)


@given(
    st.lists(st.integers(0, 31_250), min_size=64, max_size=64),
    st.lists(st.integers(1, 200), min_size=1, max_size=8),
    st.booleans(),
)
def test_sixty_four_channels(weights: list[int], receipts: list[int], by_units: bool) -> None:
    """As many as there may be, with shares in millionths; the last is as good as the first."""
    total = sum(weights) or 1
    channels = [
        Channel(
            f"c{number:02d}",
            ("main",),
            floor_share=0 if by_units else weight * SHARE_ONE // total,
            floor_units=weight % 5 if by_units else 0,
            ceiling=Ceiling(share=1 + number) if number % 3 == 0 else None,
            borrow=number % 2 == 0,
        )
        for number, weight in enumerate(weights)
    ]
    world = one_pool(*channels)
    plan = Kernel(world)
    for quantity in receipts:
        before = versions(plan, world.pools)
        world.receive(MAIN, quantity)
        plan.batch.receive(plan.row(MAIN), plan.skus[TEE], quantity)
        assert_same(world, plan, plan.pack(), before)
    before = versions(plan, world.pools)
    demands = [
        reserving.Demand(f"c{number:02d}", (reserving.Line(TEE, quantity),), partial=True)
        for number in (63, 0, 62, 33, 63)
        for quantity in (1, 7)
    ]
    answers, stage = plan.reserve(demands)
    assert [answer.decision for answer in answers] == world.reserve(demands)
    assert_same(world, plan, stage, before)


def test_sixty_five_channels_are_refused() -> None:
    specs = {f"c{number}": policy_model.ChannelSpec() for number in range(65)}
    with pytest.raises(ValueError, match="at most 64"):
        known.Policy(1, specs, {"main": (True, True)})


def test_a_full_batch_takes_no_more_and_loses_nothing() -> None:
    """2,000 pools fill it; a demand on a pool that is in still gets in, another waits."""
    policy = Policy({"web": WEB}, {"main": True})
    skus = {f"s{number}": SkuPolicy(1) for number in range(2_001)}
    world = World(policy, skus, {(sku, "main"): Pool(sku, "main", shared=1) for sku in skus})
    plan = Kernel(world)
    demands = [reserving.Demand("web", (reserving.Line(sku, 1),)) for sku in [*skus, "s0"]]
    answers, stage = plan.reserve(demands)
    codes = [answer.code for answer in answers]
    assert codes == [kernel.ADDED] * 2_000 + [kernel.FULL, kernel.ADDED]
    assert len(stage.pools) == 2_000
    assert answers[-1].decision is not None
    assert answers[-1].decision.shortfalls[0].available == 0
    assert plan.batch.receive(plan.rows["s2000", "main"], plan.skus["s2000"], 1) is None
    assert not plan.batch.meet(plan.rows["s2000", "main"], plan.skus["s2000"])
