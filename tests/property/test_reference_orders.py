"""What must be true of what orders give back, and of baskets that change, also where the policy has
changed meanwhile. ``test_kernel_verbs`` holds the compiled kernel to the same rules.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel.reference import Channel
from core.kernel.reference_reserve import Demand, Line
from tests.property import strategies as drawn
from tests.property.kernel_world import one_pool
from tests.property.world import Key, Order, World


def test_more_than_is_held_cannot_be_given_back() -> None:
    """Neither from the wrong account, and a refused give-back changes nothing."""
    world = one_pool(Channel("web", ("main",)))
    world.receive(("tee", "main"), 3)
    world.reserve([Demand("web", (Line("tee", 2),))])
    pool = world.pools["tee", "main"]
    before = pool.copy()
    with pytest.raises(ValueError, match="fewer than 3"):
        orders.give_back(pool, "web", 0, 3, 0, "reserved")
    with pytest.raises(ValueError, match="fewer than 1"):
        orders.give_back(pool, "web", 0, 1, 0, "committed")
    assert pool == before


# A basket that changes.


@st.composite
def changed(draw: st.DrawFn) -> tuple[World, Order]:
    """A record in a world whose policy may have become another since, and a demand to be made of
    it."""
    world = draw(drawn.worlds())
    asked = draw(drawn.amendments(world))
    assume(asked)
    if draw(st.booleans()):
        world = draw(drawn.changes(world))
    (order,) = asked
    assume(order.demand.channel in world.policy.channels)
    return world, order


def at_most(data: st.DataObject, world: World, order: Order) -> list[Line]:
    """Of each SKU no more than is held: some of it where it lies, and some wherever it may lie."""
    left: Counter[str] = Counter()
    lines = []
    for each in (world.held[n] for n in order.held):
        sku, location = each.key
        here = data.draw(st.integers(0, each.quantity))
        lines.append(Line(sku, here, location))
        left[sku] += each.quantity - here
    lines += [Line(sku, data.draw(st.integers(0, units))) for sku, units in sorted(left.items())]
    return [line for line in lines if line.quantity]


@given(changed(), st.data())
def test_an_own_hold_never_blocks_an_own_basket(
    case: tuple[World, Order], data: st.DataObject
) -> None:
    """The same again, less of it, or some of it: never refused, whatever is missing and whatever
    the policy has become: floors, ceilings, borrowing, splitting, safety, who sells where."""
    world, order = case
    lines = at_most(data, world, order)
    assume(lines)
    name = order.demand.channel
    order = replace(order, demand=drawn.again(world, name, lines, order.held))
    assert not world.order(order).decision.shortfalls
    for pool in world.pools.values():
        rule.check(pool)


@given(changed())
def test_the_same_basket_where_it_lies_changes_no_account(case: tuple[World, Order]) -> None:
    """And each unit keeps the ceiling that it spent of, whatever the policy has become."""
    world, order = case
    name = order.demand.channel
    held = [world.held[n] for n in order.held]
    lines = tuple(Line(each.key[0], each.quantity, each.key[1]) for each in held)
    before = world.met().pools
    for each in held:  # own units that came free since are taken before borrowed ones, as always
        assume(each.borrowed == 0 or before[each.key].quota(name).free == 0)
    spent: Counter[tuple[Key, int]] = Counter()
    for each in held:
        spent[each.key, each.ceiling_number] += each.quantity
    demand = replace(order.demand, lines=lines)
    decision = world.order(replace(order, demand=demand)).decision
    assert not decision.shortfalls
    assert world.met().pools == before
    assert spent == Counter(
        {
            ((take.sku, take.location), take.ceiling_number): take.own + take.borrowed
            for take in decision.takes
        }
    )


@given(changed())
def test_what_is_more_than_was_held_obeys_the_policy(case: tuple[World, Order]) -> None:
    """What another basket could have had at that moment: no more is taken of any pool."""
    world, order = case
    name = order.demand.channel
    channel = world.policy.channels[name]
    before = world.met().pools
    there: Counter[Key] = Counter()
    for each in (world.held[n] for n in order.held):
        there[each.key] += each.quantity
    more: Counter[Key] = Counter()
    for take in world.order(order).decision.takes:
        more[take.sku, take.location] += take.own + take.borrowed
    more.subtract(there)
    for key, units in more.items():
        sells = world.policy.locations[key[1]]
        assert units <= (reserving.room(before[key], channel) if sells else 0)


@given(drawn.worlds(), st.data())
def test_what_an_amendment_lets_go_pays_what_is_missing(world: World, data: st.DataObject) -> None:
    """Nothing is sellable beside a deficit after it, units are conserved, and a refused one
    changes nothing."""
    asked = data.draw(drawn.amendments(world))
    assume(asked)
    (order,) = asked
    before = world.met()
    decision = world.order(order).decision
    for key, pool in world.met().pools.items():
        rule.check(pool)
        assert pool.on_hand == before.pools[key].on_hand
        assert pool.deficit <= before.pools[key].deficit
        if decision.shortfalls:
            assert pool == before.pools[key]
