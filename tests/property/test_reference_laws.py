"""What must be true of the rule itself, whatever the policy and whatever happened before.

The compiled kernel is compared with ``core/kernel/reference.py``; these laws are why one may
believe the reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel.reference import (
    ACCOUNT_MAX,
    SHARE_ONE,
    Ceiling,
    Channel,
    Override,
    Pool,
    Quota,
    SkuPolicy,
)
from core.kernel.reference_reserve import Decision, Demand
from tests.property import strategies as drawn
from tests.property.corners import unreached
from tests.property.one_pool import main, one_pool, stocks
from tests.property.world import Key, World

# At every moment.


@given(drawn.new_worlds(), st.data())
def test_units_are_conserved_and_no_account_is_below_zero(
    world: World, data: st.DataObject
) -> None:
    """What lies there is what came less what left, and who holds what is in the accounts."""
    for _ in range(data.draw(st.integers(1, 15))):
        data.draw(drawn.steps(world))
        if data.draw(st.integers(0, 7)) == 7:
            world = data.draw(drawn.changes(world))
        held: Counter[tuple[Key, str, str]] = Counter()
        for part in world.held:
            held[part.key, part.channel, part.account] += part.quantity
        for key, pool in world.pools.items():
            rule.check(pool)
            assert pool.on_hand == world.arrived[key]
            for name, quota in pool.quotas.items():
                assert quota.reserved == held[key, name, "reserved"]
                assert quota.committed == held[key, name, "committed"]


@given(drawn.worlds())
def test_meeting_a_policy_moves_no_stock_except_safety(world: World) -> None:
    """Safety and shared even out, changed ceilings start anew, credit stays with those who share;
    meeting the same policy a second time changes nothing."""
    world.policy = replace(world.policy, number=world.policy.number + 1)
    met = world.met()
    assert stocks(met.met()) == stocks(met)
    for key, pool in met.pools.items():
        rule.check(pool)
        before = world.pools[key]
        sku_policy = world.skus[pool.sku]
        assert pool.on_hand == before.on_hand
        assert pool.shared + pool.safety == before.shared + before.safety
        party = {p.name: p for p in rule.parties(world.policy, sku_policy, pool.location)}
        target = sku_policy.safety_at(pool.location)
        as_put = before.sku_number == sku_policy.number and pool.safety == before.safety  # by hand
        assert as_put or pool.safety == target or (pool.safety < target and pool.shared == 0)
        for name, quota in pool.quotas.items():
            old = before.quota(name)
            assert (quota.free, quota.reserved, quota.committed) == (
                (old.free, old.reserved, old.committed)
            )
            kept = old.credit if name in party and party[name].share else 0
            assert quota.credit == kept
            started = quota.ceiling is not None and quota.ceiling != old.ceiling
            number = (old.ceiling_number or before.version) + 1 if started else old.ceiling_number
            assert quota.ceiling_number == number
            if quota.ceiling == old.ceiling:
                assert quota.ceiling_left == old.ceiling_left


# Receiving.


@given(drawn.worlds(), st.data())
def test_a_receipt_is_filled_in_order(world: World, data: st.DataObject) -> None:
    """Deficit before safety, safety before unit floors, those before the shares; all of it goes."""
    key = data.draw(drawn.keys(world))
    quantity = data.draw(drawn.quantities)
    before = world.met().pools.get(key, Pool(*key))
    receipt = world.receive(key, quantity)
    pool = world.pools[key]
    target = world.skus[pool.sku].safety_at(pool.location)
    free = sum(receipt.free.values())
    assert receipt.deficit + receipt.safety + receipt.shared + free == quantity
    assert pool.deficit == before.deficit - receipt.deficit
    assert pool.shared == before.shared + receipt.shared
    if receipt.safety or free or receipt.shared:
        assert pool.deficit == 0
    if free or receipt.shared:
        assert pool.safety >= target
    if receipt.shared:
        for party in rule.parties(world.policy, world.skus[pool.sku], pool.location):
            assert pool.quota(party.name).free >= party.floor_units
    for name, quota in pool.quotas.items():
        assert quota.free == before.quota(name).free + receipt.free.get(name, 0)


@st.composite
def sharers(draw: st.DrawFn) -> list[Channel]:
    """Up to eight channels with shares and nothing else."""
    left, channels = SHARE_ONE, []
    for name in "abcdefgh"[: draw(st.integers(1, 8))]:
        share = min(left, draw(drawn.shares))
        left -= share
        channels.append(Channel(name, ("main",), floor_share=share))
    return channels


@given(sharers(), st.lists(drawn.quantities, min_size=1, max_size=60))
def test_shares_hold_however_the_receipts_are_cut(channels: list[Channel], cut: list[int]) -> None:
    """No party ever has a whole unit too much, or lacks more than 1/2 + 1/3 + ... + 1/n units.

    Above: a unit goes to the largest credit of parties whose credits sum to more than nothing, so
    a credit of at most 0 never pays one. Below: let m(k) be the most that the k parties with the
    largest credits are ever owed on average; m(n) = 0, for credits sum to 0. Take the k largest
    after a receipt, and the u others that the left-over units went to. Together these k + u were
    given all of those units, so they are owed no more than before: (k + u) * m(k + u). Each of the
    u was largest when it last got one, so it is now less than one unit below the average a of the
    k: k * a + u * (a - 1) <= (k + u) * m(k + u), and a <= m(k + u) + u / (k + u), which is at most
    m(k + u) + 1 / (k + 1) + ... + 1 / (k + u). From n down to 1 this adds up to the bound.
    """
    world = one_pool(*channels)
    bound = sum(Fraction(1, k) for k in range(2, len(channels) + 2))
    arrived = 0
    for quantity in cut:
        world.receive(("tee", "main"), quantity)
        arrived += quantity
        pool = main(world)
        owed = [
            Fraction(arrived * channel.floor_share, SHARE_ONE) - pool.quota(channel.name).free
            for channel in channels
        ]
        owed.append(Fraction(0) - sum(owed))  # shared
        assert all(-1 < units <= bound for units in owed)
        assert [pool.quota(c.name).credit for c in channels] == [u * SHARE_ONE for u in owed[:-1]]


def test_70_30_holds_over_a_hundred_receipts_of_one_unit() -> None:
    """Never more than half a unit off on the way; rounding each receipt would give 100 to 0."""
    web = Channel("web", ("main",), floor_share=700_000)
    store = Channel("store", ("main",), floor_share=300_000)
    world = one_pool(store, web)
    for count in range(1, 101):
        world.receive(("tee", "main"), 1)
        assert abs(main(world).quota("web").free - Fraction(7 * count, 10)) <= Fraction(1, 2)
    assert (main(world).quota("web").free, main(world).quota("store").free) == (70, 30)


def test_unit_floors_share_what_is_too_little_by_largest_remainder() -> None:
    """7 units on lacks of 5, 5 and 1: 3.18, 3.18 and 0.63; the one left over goes to the last."""
    channels = [Channel(n, ("main",), floor_units=u) for n, u in (("a", 5), ("b", 5), ("c", 1))]
    world = one_pool(*channels)
    assert world.receive(("tee", "main"), 7).free == {"a": 3, "b": 3, "c": 1}
    assert world.receive(("tee", "main"), 3).free == {"a": 2, "b": 1}
    assert world.receive(("tee", "main"), 3) == rule.Receipt(0, 0, 2, {"b": 1})


def test_a_floor_that_a_sku_names_replaces_all_floors_of_the_channels() -> None:
    """Even a floor of nothing: then all is shared. An override of a ceiling alone leaves floors."""
    web = Channel("web", ("main",), floor_share=700_000)
    store = Channel("store", ("main",), floor_share=300_000)

    def received(override: Override) -> rule.Receipt:
        world = one_pool(store, web, sku_policy=SkuPolicy(1, overrides={"web": override}))
        return world.receive(("tee", "main"), 10)

    assert received(Override(floor_share=0)).shared == 10
    assert received(Override(floor_units=4)) == rule.Receipt(0, 0, 6, {"web": 4})
    assert received(Override(ceiling=Ceiling(units=1))).free == {"store": 3, "web": 7}


def test_what_cannot_be_counted_exactly_is_refused_and_changes_nothing() -> None:
    """No account passes 2^53 - 1, and an allowance does not either."""
    web = Channel("web", ("main",), ceiling=Ceiling(share=SHARE_ONE))
    for full in (
        Pool("tee", "main", shared=ACCOUNT_MAX),
        Pool("tee", "main", quotas={"web": Quota(0, 0, 0, 0, 1, web.ceiling, ACCOUNT_MAX)}),
    ):
        world = one_pool(web)
        world.pools["tee", "main"] = full
        before = full.copy()
        with pytest.raises(OverflowError, match="tee@main"):
            world.receive(("tee", "main"), 1)
        assert full == before


# Giving back.


@given(drawn.worlds(), st.data())
def test_giving_all_back_undoes_the_taking(world: World, data: st.DataObject) -> None:
    """Without a deficit, and in any order, every account is what it was."""
    world.held.clear()
    before = world.met()
    world.reserve(data.draw(drawn.batches(world)))
    for held in data.draw(st.permutations(world.held)):
        assert world.give_back(held, held.quantity) == 0
    assert stocks(world.met()) == stocks(before)


@given(drawn.worlds(), st.data())
def test_giving_back_in_parts_is_giving_back_the_whole(world: World, data: st.DataObject) -> None:
    """Borrowed units first, a part ends where the whole would, also when a deficit is paid."""
    live = [i for i, held in enumerate(world.held) if held.quantity]
    assume(live)
    index = data.draw(st.sampled_from(live))
    whole = world.copy()
    quantity = world.held[index].quantity
    cuts = sorted(data.draw(st.lists(st.integers(0, quantity), max_size=4)))
    paid = [
        world.give_back(world.held[index], end - start)
        for start, end in pairwise([0, *cuts, quantity])
    ]
    assert whole.give_back(whole.held[index], quantity) == sum(paid)
    assert stocks(whole) == stocks(world)


@given(drawn.worlds())
def test_what_comes_back_pays_the_deficit_first(world: World) -> None:
    """And the allowance comes back to the ceiling it was spent of, all of it, or to none."""
    for held in world.held:
        pool = world.pools[held.key]
        before = pool.copy()
        quantity = held.quantity
        paid = world.give_back(held, quantity)
        rule.check(pool)
        assert paid == min(quantity, before.deficit)
        assert pool.deficit == before.deficit - paid
        assert pool.on_hand == before.on_hand
        old, quota = before.quota(held.channel), pool.quota(held.channel)
        same = quota.ceiling is not None and quota.ceiling_number == held.ceiling_number
        assert quota.ceiling_left == old.ceiling_left + quantity * same


# The strategies reach what they are there for.

Run = tuple[World, list[tuple[Demand, Decision]], World]


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A met world, the demands that were decided in it, and the world after."""
    world = draw(drawn.worlds())
    before = world.met()
    batch = draw(drawn.batches(world))
    return before, list(zip(batch, world.reserve(batch), strict=True)), world


def decided(holds: Callable[[Demand, Decision], bool]) -> Callable[[Run], bool]:
    """Some demand of the run was decided so."""
    return lambda run: any(holds(demand, decision) for demand, decision in run[1])


def quota_after(holds: Callable[[Quota, Quota], bool]) -> Callable[[Run], bool]:
    """Some quota was like this before the batch, and like that after."""
    return lambda run: any(
        holds(quota, run[2].pools[key].quota(name))
        for key, pool in run[0].pools.items()
        for name, quota in pool.quotas.items()
    )


def limited(by: str) -> Callable[[Run], bool]:
    """Some line fell short for this reason although there was something for it."""
    return decided(lambda _, d: any(s.limited_by == by and s.available for s in d.shortfalls))


CORNERS: dict[str, Callable[[Run], bool]] = {
    "ceiling is the limit": limited("channel_ceiling"),
    "quota is the limit": limited("channel_quota"),
    "safety is the limit": limited("safety_stock"),
    "stock is the limit": limited("on_hand"),
    "split over locations": decided(
        lambda demand, d: len(d.takes) > len({line.sku for line in demand.lines})
    ),
    "partly granted": decided(lambda _, d: bool(d.takes and d.shortfalls)),
    "own and borrowed": decided(lambda _, d: any(t.own and t.borrowed for t in d.takes)),
    "first come, first served": lambda run: any(
        a == c and b.takes and not d.takes for (a, b), (c, d) in pairwise(run[1])
    ),
    "floor emptied": quota_after(lambda old, new: old.free > new.free == 0),
    "ceiling met exactly": quota_after(
        lambda old, new: old.ceiling_left > new.ceiling_left == 0 and new.reserved > 0
    ),
    "last shared unit": lambda run: any(
        pool.shared and not run[2].pools[key].shared for key, pool in run[0].pools.items()
    ),
    "deficit": lambda run: any(pool.deficit for pool in run[0].pools.values()),
    "credit": quota_after(lambda old, _: old.credit != 0),
    "second ceiling": quota_after(lambda old, _: old.ceiling_number > 1),
}


def test_strategies_reach() -> None:
    """Each situation that a rule is about comes up within a few thousand examples."""
    assert not unreached(runs(), CORNERS)
