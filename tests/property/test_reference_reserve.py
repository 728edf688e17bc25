"""What must be true of the rule of who gets the last unit, whatever the policy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel import reference_reserve as reserving
from core.kernel.reference import (
    SHARE_ONE,
    Ceiling,
    Channel,
    Override,
    Policy,
    Pool,
    Quota,
    SkuPolicy,
)
from core.kernel.reference_reserve import Demand, Line
from tests.property import strategies as drawn
from tests.property.one_pool import TEE, ask, granted, main, one_pool, stocks
from tests.property.world import Key, World


@given(drawn.worlds(), st.data())
def test_a_batch_never_oversells(world: World, data: st.DataObject) -> None:
    """Every unit taken lay there before, in the channel's own free or, if it borrows, in shared."""
    before = world.met()
    batch = data.draw(drawn.batches(world))
    decisions = world.reserve(batch)
    own: Counter[tuple[Key, str]] = Counter()
    borrowed: Counter[Key] = Counter()
    for demand, decision in zip(batch, decisions, strict=True):
        for take in decision.takes:
            key = take.sku, take.location
            own[key, demand.channel] += take.own
            borrowed[key] += take.borrowed
            assert take.own + take.borrowed > 0
            assert take.borrowed == 0 or world.policy.channels[demand.channel].borrow
            assert world.policy.locations[take.location]
    met = world.met()
    for key, pool in met.pools.items():
        rule.check(pool)
        assert pool.shared == before.pools[key].shared - borrowed[key]
        assert pool.safety == before.pools[key].safety
        assert pool.deficit == before.pools[key].deficit
        for name, quota in pool.quotas.items():
            assert quota.free == before.pools[key].quota(name).free - own[key, name]


@given(drawn.worlds(), st.data())
def test_a_basket_is_all_or_nothing_unless_partial(world: World, data: st.DataObject) -> None:
    """A demand gets all it asked for, or (partial) what its failing lines say; else nothing."""
    for demand in data.draw(drawn.batches(world)):
        before = world.met()
        (decision,) = world.reserve([demand])
        asked = sum(line.quantity for line in demand.lines)
        missing = sum(short.requested - short.available for short in decision.shortfalls)
        if demand.partial:
            assert granted(decision) == asked - missing
        else:
            assert granted(decision) == (0 if decision.shortfalls else asked)
        assert bool(decision.takes or decision.shortfalls)
        if not decision.takes:
            assert stocks(world.met()) == stocks(before)


@given(drawn.worlds(), st.data())
def test_available_is_exact(world: World, data: st.DataObject) -> None:
    """What a refusal calls available can be had; one unit more is refused for the same reason."""
    demand = data.draw(drawn.greedy(world.met(), max_lines=1))
    (decision,) = world.copy().reserve([demand])
    assume(decision.shortfalls)
    (short,) = decision.shortfalls
    (line,) = demand.lines
    (more,) = world.copy().reserve(
        [replace(demand, lines=(replace(line, quantity=short.available + 1),))]
    )
    assert more.shortfalls == (replace(short, requested=short.available + 1),)
    if short.available:
        exact = replace(demand, lines=(replace(line, quantity=short.available),))
        assert granted(world.reserve([exact])[0]) == short.available


@given(drawn.worlds(), st.data())
def test_a_refusal_names_the_tightest_limit(world: World, data: st.DataObject) -> None:
    """Lift one limit after the other: the first that lets the line have more is the one named."""
    lifted = world.met()
    pool = lifted.pools[data.draw(st.sampled_from(sorted(world.pools)))]
    channel = data.draw(st.sampled_from(list(world.policy.channels.values())))
    quota = pool.quotas.setdefault(channel.name, Quota())
    sells = world.policy.locations[pool.location]

    def takeable() -> int:
        return reserving.room(pool, channel) if sells else 0

    def lift_ceiling() -> None:
        quota.ceiling = None

    def lift_quota() -> None:
        nonlocal channel
        channel = replace(channel, keeps=min(channel.keeps, quota.free))  # of its own alone
        quota.free += sum(q.free for q in pool.quotas.values() if q is not quota) + pool.shared
        pool.shared = 0

    def lift_safety() -> None:
        nonlocal channel
        channel = replace(channel, keeps=0)
        quota.free += pool.safety

    before = takeable()
    line = Line(pool.sku, before + 1, pool.location)
    (decision,) = world.reserve([Demand(channel.name, (line,))])
    limits = ("channel_ceiling", "channel_quota", "safety_stock")
    expected = "on_hand"
    for name, lift in zip(limits, (lift_ceiling, lift_quota, lift_safety), strict=True):
        lift()
        if takeable() > before:
            expected = name
            break
    (short,) = decision.shortfalls
    assert (short.available, short.limited_by) == (before, expected)


@given(drawn.worlds(), st.data())
def test_without_split_a_line_comes_from_one_location(world: World, data: st.DataObject) -> None:
    """With split too, if any location has enough for the whole line."""
    demand = data.draw(drawn.greedy(world.met(), max_lines=1))
    met = world.met()
    channel = world.policy.channels[demand.channel]
    (line,) = demand.lines
    rooms = [
        reserving.room(met.pools.get((line.sku, location), Pool(line.sku, location)), channel)
        for location in reserving.candidates(line, channel)
        if world.policy.locations[location]
    ]
    (decision,) = world.reserve([demand])
    if not (channel.split and demand.split) or max(rooms, default=0) >= line.quantity:
        assert len(decision.takes) <= 1
        if demand.partial:
            assert granted(decision) == min(line.quantity, max(rooms, default=0))
    elif sum(rooms) >= line.quantity:
        assert granted(decision) == line.quantity
        assert len(decision.takes) > 1


@given(drawn.worlds(), st.data())
def test_the_same_sku_twice_is_the_same_as_their_sum(world: World, data: st.DataObject) -> None:
    """One unit cut off a line and asked for at the end of the basket changes nothing."""
    demand = data.draw(drawn.greedy(world.met()))
    first = demand.lines[0]
    assume(first.quantity > 1)
    rest = (replace(first, quantity=first.quantity - 1), *demand.lines[1:])
    cut = replace(demand, lines=(*rest, replace(first, quantity=1)))
    assert world.copy().reserve([cut]) == world.reserve([demand])


@given(drawn.worlds(), st.data())
def test_where_something_is_missing_nothing_is_sold(world: World, data: st.DataObject) -> None:
    """A pool with a deficit grants nobody anything."""
    for key in sorted(world.pools):
        world.lose(key, world.pools[key].on_hand)
    batch = data.draw(drawn.batches(world))
    for decision in world.reserve(batch):
        for take in decision.takes:
            assert world.pools[take.sku, take.location].deficit == 0
    for pool in world.pools.values():
        rule.check(pool)


@pytest.mark.parametrize("sizes", [[1] * 400, [1, 2, 3, 1, 1] * 40])
def test_a_hard_wall_is_never_crossed(sizes: list[int]) -> None:
    """100 units behind 70 and 30: 400 buyers get exactly that, whoever comes first."""
    web = Channel("web", ("main",), floor_share=700_000, borrow=False)
    store = Channel("store", ("main",), floor_share=300_000, borrow=False)
    world = one_pool(store, web)
    world.receive(("tee", "main"), 100)
    sold: Counter[str] = Counter()
    for i, size in enumerate(sizes):
        name = "web" if i % 3 else "store"
        sold[name] += granted(world.reserve([ask(name, size)])[0])
    assert sold == {"web": 70, "store": 30}


@given(
    st.sampled_from([Ceiling(units=7), Ceiling(share=400_000), Ceiling(share=333_333)]),
    st.lists(st.tuples(st.sampled_from(["receive", "take", "ship", "back"]), st.integers(1, 9))),
    st.booleans(),
)
def test_a_ceiling_is_never_passed_while_orders_ship(
    ceiling: Ceiling, happenings: list[tuple[str, int]], own: bool
) -> None:
    """What was taken and not given back stays within the allowance; shipping earns none anew."""
    web = Channel("web", ("main",), floor_share=SHARE_ONE * own, ceiling=ceiling)
    world = one_pool(web)
    arrived = kept = 0
    for what, quantity in happenings:
        live = [held for held in world.held if held.quantity]
        if what == "receive":
            arrived += quantity
            world.receive(("tee", "main"), quantity)
        elif what == "take":
            kept += granted(world.reserve([ask("web", quantity, partial=True)])[0])
        elif live and what == "ship":
            world.ship(live[0])
        elif live:
            kept -= live[0].quantity
            world.give_back(live[0], live[0].quantity)
        share = ceiling.share or 0
        allowance = ceiling.units if ceiling.units is not None else arrived * share // SHARE_ONE
        rule.meet(world.policy, TEE, main(world))
        assert kept <= allowance
        assert main(world).quota("web").ceiling_left == allowance - kept


def test_a_channel_that_ships_at_once_gets_no_more_than_its_ceiling() -> None:
    """400 of 1,000 under 40 %; if shipping gave allowance back, it would get 792."""
    world = one_pool(Channel("web", ("main",), ceiling=Ceiling(share=400_000)))
    world.receive(("tee", "main"), 1_000)
    for _ in range(1_000):
        world.reserve([ask("web", 1)])
        for held in world.held:
            world.ship(held)
        world.held.clear()
    assert main(world).on_hand == 600


def test_every_failing_line_is_named_and_pinned_ones_come_first() -> None:
    """In the order in which they are planned, each with its own reason."""
    web = Channel("web", ("main",), borrow=False)
    store = Channel("store", ("main",), floor_share=SHARE_ONE, ceiling=Ceiling(units=1))
    policy = Policy({"store": store, "web": web}, {"main": True, "back": False})
    skus = {"cup": TEE, "tee": SkuPolicy(1, safety=2), "jug": TEE}
    world = World(policy, skus)
    for sku in ("cup", "tee"):
        world.receive((sku, "main"), 5)
    lines = (Line("cup", 2), Line("tee", 4), Line("jug", 1), Line("cup", 1, location="back"))

    def reasons(channel: str) -> list[tuple[str, str | None, int, str]]:
        (decision,) = world.reserve([Demand(channel, lines)])
        return [(s.sku, s.location, s.available, s.limited_by) for s in decision.shortfalls]

    assert reasons("web") == [
        ("cup", "back", 0, "on_hand"),
        ("cup", None, 0, "channel_quota"),
        ("tee", None, 0, "channel_quota"),
        ("jug", None, 0, "on_hand"),
    ]
    assert reasons("store")[1:3] == [
        ("cup", None, 1, "channel_ceiling"),
        ("tee", None, 1, "channel_ceiling"),
    ]
    skus["tee"] = SkuPolicy(2, safety=2, overrides={"store": Override(ceiling=Ceiling(units=9))})
    assert reasons("store")[2] == ("tee", None, 3, "safety_stock")


def test_without_split_a_partial_line_takes_from_the_location_with_most() -> None:
    """The first among equals, what it has; the refusal is judged there too."""
    web = Channel("web", ("a", "b", "c"), split=False)
    world = World(Policy({"web": web}, dict.fromkeys("abc", True)), {"tee": TEE})
    for location, quantity in (("a", 2), ("b", 3), ("c", 3)):
        world.receive(("tee", location), quantity)
    (decision,) = world.reserve([ask("web", 5, partial=True)])
    assert decision.takes == (reserving.Take("tee", "b", 0, 3, 0),)
    assert decision.shortfalls == (reserving.Shortfall("tee", None, 5, 3, "on_hand"),)


def test_a_line_sees_what_earlier_lines_took_but_not_what_they_failed_to_take() -> None:
    """A pinned line that gets its units leaves fewer; one that fails leaves all of them."""
    web = Channel("web", ("main",))
    world = one_pool(web)
    world.receive(("tee", "main"), 5)

    def available(pinned: int, free: int) -> list[int]:
        lines = (Line("tee", free), Line("tee", pinned, location="main"))
        (decision,) = world.reserve([Demand("web", lines)])
        return [short.available for short in decision.shortfalls]

    assert available(pinned=4, free=2) == [1]
    assert available(pinned=6, free=7) == [5, 5]
    assert available(pinned=6, free=5) == [5]


def test_two_lines_that_take_of_one_pool_make_one_take() -> None:
    """A reservation knows its lines by SKU and location."""
    web = Channel("web", ("main",), floor_units=3)
    world = one_pool(web)
    world.receive(("tee", "main"), 6)
    lines = (Line("tee", 2), Line("tee", 2, location="main"))
    (decision,) = world.reserve([Demand("web", lines)])
    assert decision.takes == (reserving.Take("tee", "main", 3, 1, 0),)
