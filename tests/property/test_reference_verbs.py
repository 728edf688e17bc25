"""What must be true of facts and of what is moved by hand.

``test_kernel_verbs`` holds the compiled kernel to the same rules; these laws are why one may
believe them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import SHARE_ONE, Ceiling, Channel, Policy, Pool, SkuPolicy
from core.kernel.reference_reserve import Demand, Line
from tests.property import strategies as drawn
from tests.property.corners import unreached
from tests.property.world import Key, Order, Outcome, World

MAIN, NORTH = ("tee", "main"), ("tee", "north")
TEE = SkuPolicy(1)


def two_places(*channels: Channel, sku_policy: SkuPolicy = TEE) -> World:
    """A world of ``tee`` at ``main``, and nothing at ``north`` yet."""
    policy = Policy({each.name: each for each in channels}, {"main": True, "north": True})
    return World(policy, {"tee": sku_policy}, {MAIN: Pool(*MAIN)})


def sold(channel: str, quantity: int, location: str | None = None) -> Order:
    """So many were sold already."""
    return Order(Demand(channel, (Line("tee", quantity, location),)), "committed", fact=True)


# What is counted and adjusted.


@given(drawn.worlds(), st.data())
def test_what_was_counted_is_there(world: World, data: st.DataObject) -> None:
    """Whatever was promised stays so: what it is more than the count is missing."""
    key = data.draw(st.sampled_from(sorted(world.pools)))
    pool = world.pools[key]
    promised = sum(quota.reserved + quota.committed for quota in pool.quotas.values())
    counted = data.draw(st.sampled_from([0, 1, pool.on_hand // 2, pool.on_hand]))
    assume(counted <= pool.on_hand)
    owed = pool.deficit
    world.verb("count", key, counted)
    rule.check(pool)
    assert pool.on_hand == counted
    assert pool.deficit == max(owed, promised - counted)
    assert promised == sum(quota.reserved + quota.committed for quota in pool.quotas.values())


@given(drawn.worlds(), st.data())
def test_an_adjustment_changes_what_is_there_by_just_that(
    world: World, data: st.DataObject
) -> None:
    """And no promise, whatever is named; more than is there is refused."""
    name, key, delta, account = data.draw(drawn.verbs(world, ("adjust",)))
    pool = world.pools.get(key, Pool(*key))
    before = pool.copy()
    if -delta > pool.on_hand:
        with pytest.raises(stock.Shortage) as refused:
            world.verb(name, key, delta, account)
        assert refused.value.available == pool.on_hand
        assert pool == before
        return
    world.verb(name, key, delta, account)
    pool = world.pools[key]
    rule.check(pool)
    assert pool.on_hand == before.on_hand + delta
    for name, quota in before.quotas.items():
        assert pool.quota(name).reserved == quota.reserved
        assert pool.quota(name).committed == quota.committed


def test_a_fact_takes_in_order_and_in_proportion() -> None:
    """5 shared, 2 safety, then 10 and 5 of web and store go 2 to 1; then it is missing."""
    world = two_places(Channel("web", ("main",)), Channel("store", ("main",)))
    quotas = {"web": rule.Quota(10, 0, 3), "store": rule.Quota(5)}
    world.pools[MAIN] = Pool(*MAIN, shared=5, safety=2, damaged=1, quotas=quotas)
    world.skus["tee"] = SkuPolicy(1, safety=2)
    rule.meet(world.policy, world.skus["tee"], world.pools[MAIN])
    assert world.verb("adjust", MAIN, -10, "sellable") == [
        ("shared", "outside", 5), ("safety", "outside", 2),
        ("free:store", "outside", 1), ("free:web", "outside", 2),
    ]  # fmt: skip
    assert world.verb("adjust", MAIN, -2, "damaged") == [
        ("damaged", "outside", 1), ("free:web", "outside", 1),
    ]  # fmt: skip
    world.verb("put_away", MAIN, 2, "quarantine")
    assert world.verb("count", MAIN, 1) == [
        ("free:store", "outside", 4), ("free:web", "outside", 7), ("quarantine", "outside", 2),
        ("deficit", "outside", 2),
    ]  # fmt: skip
    assert world.verb("count", MAIN, 6) == [("outside", "deficit", 2), ("outside", "safety", 2),
                                            ("outside", "shared", 1)]  # fmt: skip


# What was sold already.


@given(drawn.worlds(), st.data())
def test_a_recorded_sale_is_never_refused(world: World, data: st.DataObject) -> None:
    """It is whole, short by what is nowhere, and if one place had enough for each line it is what
    a demand would have got."""
    asked = data.draw(drawn.sales(world, max_size=1))
    (order,) = asked
    lines = reserving.summed(order.demand.lines)
    demanded = world.copy().reserve([replace(order.demand, partial=False)])[0]
    before = {key: pool.copy() for key, pool in world.pools.items()}
    try:
        found = world.order(order).decision
    except orders.NoPool:
        assert world.pools == before
        return
    assert not found.shortfalls
    assert sum(t.own + t.borrowed for t in found.takes) == sum(line.quantity for line in lines)
    if len(demanded.takes) == len(lines):
        assert found.takes == demanded.takes
    for take in found.takes:
        assert 0 <= take.short <= take.borrowed
    for pool in world.pools.values():
        rule.check(pool)


@given(drawn.worlds(), st.data())
def test_a_recorded_sale_that_is_cancelled_leaves_nothing_missing(
    world: World, data: st.DataObject
) -> None:
    """What was short comes back to nobody; a ceiling has again what it had, no more, no less."""
    world.held.clear()
    for key in world.pools:
        rule.meet(world.policy, world.skus[key[0]], world.pools[key])
    before = {key: pool.copy() for key, pool in world.pools.items()}
    (order,) = data.draw(drawn.sales(world, max_size=1))
    try:
        world.order(replace(order, state="committed"))
    except orders.NoPool:
        return
    for each in world.held:
        world.give_back(each, each.quantity)
    for key, pool in world.pools.items():
        rule.check(pool)
        assert pool.deficit <= before[key].deficit
        for name, quota in pool.quotas.items():
            assert quota.ceiling_left == before[key].quota(name).ceiling_left


def test_a_sale_looks_everywhere_before_something_is_missing() -> None:
    """Own and shared units of all places; safety and others' units; the first. Ceilings apart."""
    web = Channel("web", ("main", "north"), floor_units=2, ceiling=Ceiling(units=6))
    store = Channel("store", ("north",), floor_units=3)
    world = two_places(web, store, sku_policy=SkuPolicy(1, safety=1))
    world.verb("receive", MAIN, 5)
    world.verb("receive", NORTH, 8)
    outcome = world.order(sold("web", 16))
    assert outcome.decision.takes == (
        reserving.Take(*MAIN, 2, 4, 1, short=1), reserving.Take(*NORTH, 2, 4, 1),
        reserving.Take(*NORTH, 0, 2, 0), reserving.Take(*MAIN, 0, 2, 0, short=2),
    )  # fmt: skip
    assert outcome.moves == (
        (MAIN, ("free:web", "committed:web", 2)),
        (MAIN, ("shared", "committed:web", 2)),
        (NORTH, ("free:web", "committed:web", 2)),
        (NORTH, ("shared", "committed:web", 2)),
        (MAIN, ("safety", "committed:web", 1)),
        (NORTH, ("safety", "committed:web", 1)),
        (NORTH, ("free:store", "committed:web", 3)),
        (MAIN, ("deficit", "committed:web", 3)),
    )
    assert world.pools[MAIN].quota("web").ceiling_left == 0


def test_what_is_handed_over_was_there_after_all() -> None:
    """A sale over the counter of a unit that the books do not have finds it."""
    world = two_places(Channel("store", ("main",)))
    outcome = world.order(replace(sold("store", 2), state="fulfilled"))
    assert outcome.moves == (
        (MAIN, ("deficit", "committed:store", 2)),
        (MAIN, ("committed:store", "outside", 2)),
        (MAIN, ("outside", "deficit", 2)),
    )
    assert (world.pools[MAIN].on_hand, world.pools[MAIN].deficit) == (0, 0)


# What is moved by hand.


@given(drawn.worlds(), st.data())
def test_a_transfer_moves_units_and_no_promise(world: World, data: st.DataObject) -> None:
    """As many there as are gone here; nothing reserved, committed or put away moves, and no free
    units are lost to a channel that sells at both ends unless they pay what is missing there."""
    verb = data.draw(drawn.verbs(world, ("transfer",)))
    assume(verb[0] == "transfer")
    _, key, location, quantity = verb
    there = key[0], location
    world = world.met()
    before = {each: world.pools.get(each, Pool(*each)).copy() for each in (key, there)}
    source = before[key]
    unsold = source.shared + sum(quota.free for quota in source.quotas.values())
    if quantity > unsold:
        with pytest.raises(stock.Shortage) as refused:
            world.transfer(key, location, quantity)
        assert refused.value.available == unsold
        return
    leaving, coming = world.transfer(key, location, quantity)
    assert sum(units for _, _, units in leaving) == sum(units for _, _, units in coming) == quantity
    for each, sign in ((key, -1), (there, 1)):
        pool, was = world.pools[each], before[each]
        rule.check(pool)
        assert pool.on_hand == was.on_hand + sign * quantity
        assert (pool.damaged, pool.quarantine) == (was.damaged, was.quarantine)
        for name, quota in was.quotas.items():
            assert pool.quota(name).reserved == quota.reserved
            assert pool.quota(name).committed == quota.committed
    assert world.pools[key].safety == before[key].safety
    if not before[there].deficit:
        for name, channel in world.policy.channels.items():
            if location in channel.locations:
                total = sum(world.pools[each].quota(name).free for each in (key, there))
                assert total >= sum(before[each].quota(name).free for each in (key, there))


def test_a_transfer_takes_shares_along() -> None:
    """2 shared first, then 7 free by largest remainder; there the channel that sells keeps its
    own, the other's are a receipt, after the deficit was paid by what was shared."""
    web = Channel("web", ("main", "north"), ceiling=Ceiling(share=500_000))
    store = Channel("store", ("main",))
    world = two_places(web, store)
    quotas = {"web": rule.Quota(6), "store": rule.Quota(4)}
    world.pools[MAIN] = Pool(*MAIN, shared=2, quotas=quotas)
    world.order(replace(sold("web", 1, "north"), demand=Demand("web", (Line("tee", 1, "main"),))))
    world.pools[NORTH] = Pool(*NORTH, deficit=1, quotas={"web": rule.Quota(0, 0, 1)})
    leaving, coming = world.transfer(MAIN, "north", 8)
    assert leaving == [
        ("shared", "outside", 2), ("free:store", "outside", 3), ("free:web", "outside", 3),
    ]  # fmt: skip
    assert coming == [
        ("outside", "deficit", 1), ("outside", "free:web", 3), ("outside", "shared", 4),
    ]  # fmt: skip
    assert world.pools[MAIN].quota("web").ceiling_left == 6 - 1 - 4
    assert world.pools[NORTH].quota("web").ceiling_left == 4


@given(
    st.sampled_from([400_000, 333_333, 1]),
    st.lists(
        st.tuples(
            st.sampled_from(["receive", "take", "ship", "back", "transfer", "policy"]),
            st.sampled_from([MAIN, NORTH]),
            st.integers(1, 9),
        ),
        max_size=40,
    ),
)
def test_a_ceiling_by_share_holds_while_orders_ship_and_units_travel(
    share: int, happenings: list[tuple[str, Key, int]]
) -> None:
    """All that arrived gave its share, to the millionth, wherever it lies now; what was taken and
    not given back is spent of it."""
    web = Channel("web", ("main", "north"), 200_000, ceiling=Ceiling(share=share))
    world = two_places(web)
    for key in (MAIN, NORTH):
        rule.meet(world.policy, TEE, world.pools.setdefault(key, Pool(*key)))
    arrived = kept = 0
    for what, key, quantity in happenings:
        live = [held for held in world.held if held.quantity]
        if what == "receive":
            world.verb("receive", key, quantity)
            arrived += quantity
        elif what == "take":
            (got,) = world.reserve([Demand("web", (Line("tee", quantity),), partial=True)])
            kept += sum(take.own + take.borrowed for take in got.takes)
        elif what == "transfer":
            pool = world.pools[key]
            free = pool.shared + pool.quota("web").free
            if free:
                world.transfer(key, "north" if key == MAIN else "main", min(quantity, free))
        elif what == "policy":
            world.verb("reallocate_by_policy", key)
        elif live and what == "ship":
            world.ship(live[0])
        elif live:
            kept -= live[0].quantity
            world.give_back(live[0], live[0].quantity)
        quotas = [pool.quota("web") for pool in world.pools.values()]
        left = sum(quota.ceiling_left * SHARE_ONE + quota.ceiling_remainder for quota in quotas)
        assert left == arrived * share - kept * SHARE_ONE
        assert kept * SHARE_ONE <= arrived * share


@given(drawn.new_worlds(), st.data())
def test_by_policy_is_as_if_it_arrived_now(world: World, data: st.DataObject) -> None:
    """What is shared comes to lie where a receipt of it would."""
    key = data.draw(drawn.keys(world))
    quantity = data.draw(drawn.quantities)
    world.verb("put_away", key, quantity, "damaged")
    world.verb("reallocate", key, "damaged", "shared", None)
    allowances = [quota.ceiling_left for quota in world.pools[key].quotas.values()]
    world.verb("reallocate_by_policy", key)
    pool = world.pools[key]
    assert [quota.ceiling_left for quota in pool.quotas.values()][: len(allowances)] == allowances
    fresh = Pool(*key)
    rule.receive(world.policy, world.skus[key[0]], fresh, quantity)
    heads = [(each.shared, each.safety, each.shared_credit) for each in (pool, fresh)]
    assert heads[0] == heads[1]
    for name in world.policy.channels:
        found, expected = pool.quota(name), fresh.quota(name)
        assert (found.free, found.credit) == (expected.free, expected.credit)


@given(drawn.worlds(), st.data())
def test_what_becomes_sellable_pays_first(world: World, data: st.DataObject) -> None:
    """Nothing is lost by a reallocation, and it never leaves units to sell beside a deficit."""
    name, key, source, target, quantity = data.draw(drawn.verbs(world, ("reallocate",)))
    before = world.met().pools.get(key, Pool(*key))
    here = stock.units(before, stock.account_of(source))
    if (quantity or 0) > here:
        with pytest.raises(stock.Shortage) as refused:
            world.verb(name, key, source, target, quantity)
        assert refused.value.available == here
        return
    world.verb(name, key, source, target, quantity)
    pool = world.pools[key]
    rule.check(pool)
    assert pool.on_hand == before.on_hand
    moved = here if quantity is None else quantity
    paid = min(moved, before.deficit) if target not in stock.UNSELLABLE else 0
    assert before.deficit - pool.deficit == paid
    into = stock.account_of(target)
    assert stock.units(pool, into) == stock.units(before, into) + moved - paid


# The strategies reach what they are there for.


Decided = tuple[World, list[tuple[Order, Outcome]]]


@st.composite
def decided(draw: st.DrawFn) -> Decided:
    """A world before, and what became of orders in it."""
    world = draw(drawn.worlds())
    before = world.met()
    found = []
    for order in draw(drawn.orders_of_all_kinds(world)):
        try:
            found.append((order, world.order(order)))
        except orders.NoPool:
            continue
    return before, found


Case = Callable[[World, Order, Outcome], bool]


def moved(source: str, target: str) -> Case:
    """Some fact moved units so."""
    return lambda _, __, outcome: any(
        each[0].startswith(source) and each[1].startswith(target) for _, each in outcome.moves or ()
    )


CORNERS: dict[str, Case] = {
    "short and not short": lambda _, __, o: any(
        0 < t.short < t.own + t.borrowed for t in o.decision.takes
    ),
    "another's units sold": lambda _, order, o: any(
        each[0].startswith("free:") and each[0] != f"free:{order.demand.channel}"
        for _, each in o.moves or ()
    ),
    "safety sold": moved("safety", "committed"),
    "found after all": moved("outside", "deficit"),
    "ceiling overrun": lambda w, order, o: bool(
        order.fact
        and any(
            t.ceiling_number == 0
            and (w.pools[t.sku, t.location].quota(order.demand.channel).ceiling_left)
            for t in o.decision.takes
        )
    ),
    "amended beside a deficit": lambda w, order, o: bool(
        o.decision.takes and any(w.pools[t.sku, t.location].deficit for t in o.decision.takes)
        and order.held
    ),
    "amendment refused": lambda _, order, o: bool(order.held and o.decision.shortfalls),
    "amended to another place": lambda w, order, o: bool(
        order.held
        and {(t.sku, t.location) for t in o.decision.takes} - {w.held[n].key for n in order.held}
    ),
}  # fmt: skip


def test_strategies_reach() -> None:
    """Each situation comes up within a few thousand examples."""

    def came_up(case: Case) -> Callable[[Decided], bool]:
        return lambda found: any(case(found[0], order, outcome) for order, outcome in found[1])

    assert not unreached(decided(), {name: came_up(case) for name, case in CORNERS.items()})
