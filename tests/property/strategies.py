"""Hypothesis strategies for policies, pools and demands, drawn so that they collide.

The pools of a drawn ``World`` got where they are by receipts, sales, give-backs, losses, transfers
and changes of policy, so that every pool is a legal one. Quantities are drawn from the edges
of what is left: exactly the last unit, exactly a floor, exactly a ceiling, and one more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import SHARE_ONE, Ceiling, Channel, Override, Policy, Pool, SkuPolicy
from core.kernel.reference_reserve import Demand, Line
from tests.property.world import Key, Order, State, World

SKUS = ("cup", "tee")
LOCATIONS = ("main", "north", "south")
CHANNELS = ("app", "market", "store", "web")
STEPS = (
    *("receive", "take", "take", "reserve", "give_back", "commit", "ship", "lose", "spoil"),
    *("verb", "verb", "sell", "amend"),
)

# Policies.

shares = st.sampled_from([0, 1, 300_000, 333_333, 500_000, 700_000, 999_999, SHARE_ONE]) | (
    st.integers(0, SHARE_ONE)
)
CEILINGS: dict[str, st.SearchStrategy[Ceiling | None]] = {
    "none": st.none(),
    "units": st.builds(Ceiling, units=st.integers(0, 12)),
    "share": st.builds(Ceiling, share=shares),
}
ceilings = st.sampled_from(["none", "none", "none", *CEILINGS]).flatmap(CEILINGS.__getitem__)
borrows = st.sampled_from([True, True, False])
keeps = st.sampled_from([0, 0, 0, 1, 3])
safeties = st.sampled_from([0, 0, 0, 1, 2, 5])
quantities = st.one_of(
    st.just(1),
    st.integers(1, 12),
    st.sampled_from([100, 999_999, 1_000_000, 1_000_001, 2**31 - 1]),
)


@st.composite
def floors(draw: st.DrawFn, places: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Per channel (floor_share, floor_units), not both; no location's shares sum to more than 1."""
    left = dict.fromkeys(LOCATIONS, SHARE_ONE)
    drawn = {}
    for name, locations in places.items():
        kind = draw(st.sampled_from(["none", "share", "share", "units"]))
        share = 0
        if kind == "share":
            share = min(draw(shares), *(left[location] for location in locations))
            for location in locations:
                left[location] -= share
        drawn[name] = share, draw(st.integers(0, 8)) if kind == "units" else 0
    return drawn


@st.composite
def policies(draw: st.DrawFn, min_locations: int = 1) -> Policy:
    """1 to 4 channels over 1 to 3 locations, most of which sell."""
    locations = LOCATIONS[: draw(st.integers(min_locations, len(LOCATIONS)))]
    names = draw(st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True))
    order = st.permutations(locations) | st.lists(
        st.sampled_from(locations), min_size=1, unique=True
    )
    places = {name: tuple(draw(order)) for name in sorted(names)}
    floor = draw(floors(places))
    channels = {
        name: Channel(
            name,
            places[name],
            *floor[name],
            ceiling=draw(ceilings),
            borrow=draw(borrows),
            keeps=draw(keeps),
            split=draw(st.booleans()),
        )
        for name in places
    }
    sells = st.sampled_from([True] * 7 + [False])
    return Policy(channels, {location: draw(sells) for location in locations})


@st.composite
def sku_policies(draw: st.DrawFn, policy: Policy, number: int = 1) -> SkuPolicy:
    """Safety stock, and overrides: of ceilings alone, or of floors too, or of none."""
    by_location = draw(st.dictionaries(st.sampled_from(LOCATIONS), safeties, max_size=2))
    names = draw(st.lists(st.sampled_from(CHANNELS), unique=True, max_size=2))
    places = {n: policy.channels[n].locations for n in names if n in policy.channels}
    named = draw(st.booleans())
    floor = draw(floors(places)) if named else {}
    overrides = {
        name: Override(share, units, draw(ceilings))
        for name in sorted(names)
        for share, units in [floor.get(name, (None, None))]
    }
    return SkuPolicy(number, draw(safeties), by_location, overrides)


@st.composite
def changes(draw: st.DrawFn, world: World) -> World:
    """A copy of ``world`` with another policy: one channel differs, one SKU does, or everything."""
    changed = world.copy()
    number = world.policy.number + 1
    kind = draw(st.sampled_from(["channel", "sku", "all"]))
    if kind == "channel":
        name = draw(st.sampled_from(sorted(world.policy.channels)))
        channel = replace(
            world.policy.channels[name],
            ceiling=draw(ceilings),
            borrow=draw(borrows),
            keeps=draw(keeps),
            split=draw(st.booleans()),
        )
        channels = {**world.policy.channels, name: channel}
        changed.policy = replace(world.policy, channels=channels, number=number)
        return changed
    if kind == "all":
        policy = draw(policies(len(world.policy.locations)))  # a location stays for good
        changed.policy = replace(policy, number=number)
    for sku, before in world.skus.items():
        changed.skus[sku] = draw(sku_policies(changed.policy, before.number + 1))
    return changed


# Pools.


@st.composite
def keys(draw: st.DrawFn, world: World) -> Key:
    """A pool of the world, there already or not."""
    sku = draw(st.sampled_from(sorted(world.skus)))
    return sku, draw(st.sampled_from(sorted(world.policy.locations)))


@st.composite
def steps(draw: st.DrawFn, world: World) -> str:
    """Do one thing in ``world`` and say what."""
    step = draw(st.sampled_from(STEPS))
    held = [held for held in world.held if held.quantity > 0]
    if step == "receive" or not world.pools:
        world.receive(draw(keys(world)), draw(quantities))
        return "receive"
    if step == "take":
        met = world.met()
        world.reserve([draw(modest(met))] if wanted(met) else [])
    elif step == "reserve":
        world.reserve(draw(batches(world, max_size=3)))
    elif step == "verb":
        name, key, *how = draw(verbs(world))
        with suppress(stock.Shortage, stock.ChannelInUse):
            world.verb(name, key, *how) if name != "transfer" else world.transfer(key, *how)
    elif step in ("sell", "amend"):
        for order in draw(sales(world) if step == "sell" else amendments(world)):
            with suppress(orders.NoPool):
                world.order(order)
    elif step in ("lose", "spoil"):
        key = draw(st.sampled_from(sorted(world.pools)))
        verb = world.lose if step == "lose" else world.spoil
        verb(key, draw(st.sampled_from([1, 2, max(1, world.pools[key].on_hand)])))
    elif held:
        one = draw(st.sampled_from(held))
        if step == "give_back":
            world.give_back(one, draw(st.just(one.quantity) | st.integers(1, one.quantity)))
        elif step == "commit":
            if one.account == "reserved":
                world.commit(one)
        else:
            world.ship(one)
    return step


@st.composite
def new_worlds(draw: st.DrawFn) -> World:
    """A policy and one or two SKUs, and no stock yet."""
    policy = draw(policies())
    count = draw(st.integers(1, len(SKUS)))
    return World(policy, {sku: draw(sku_policies(policy)) for sku in SKUS[:count]})


@st.composite
def worlds(draw: st.DrawFn, max_steps: int = 12) -> World:
    """A world where this and that has happened; its pools may not have met the policy yet."""
    world = draw(new_worlds())
    for key in draw(st.lists(keys(world), min_size=1, max_size=3)):
        world.receive(key, draw(quantities))
    if draw(st.booleans()):  # one lies everywhere: what is asked for may come from several places
        sku = draw(st.sampled_from(sorted(world.skus)))
        for location in sorted(world.policy.locations):
            world.receive((sku, location), draw(quantities))
    for _ in range(draw(st.integers(2, max_steps))):
        draw(steps(world))
        if draw(st.integers(0, 7)) == 7:
            world = draw(changes(world))
    return world


# Demands.


def edges(world: World, channel: Channel, sku: str) -> list[int]:
    """The quantities that are just there and just not, for ``channel`` in ``world`` as met."""
    found = {1, 2}
    total = 0
    for location, sells in world.policy.locations.items():
        if sells and (pool := world.pools.get((sku, location))):
            room = reserving.room(pool, channel)
            quota = pool.quota(channel.name)
            total += room
            found |= {room, room + 1, quota.free, quota.ceiling_left}
            found.add(reserving.reach(pool, channel))
    found |= {total, total + 1, (total + 1) // 2}
    return sorted(quantity for quantity in found if quantity > 0)


@st.composite
def lines(draw: st.DrawFn, met: World, channel: Channel) -> Line:
    """A line pinned to a location, with an order of its own (names may repeat), or free."""
    sku = draw(st.sampled_from([sku for sku, _ in sorted(met.pools)] or sorted(met.skus)))
    quantity = draw(st.sampled_from(edges(met, channel, sku)) | st.integers(1, 4))
    stocked = [location for of, location in sorted(met.pools) if of == sku]
    somewhere = st.sampled_from([*stocked, *met.policy.locations])
    kind = draw(st.sampled_from(["free", "free", "pinned", "ordered"]))
    if kind == "pinned":
        return Line(sku, quantity, location=draw(somewhere))
    if kind == "ordered":
        order = draw(st.lists(somewhere, min_size=1, max_size=3))
        return Line(sku, quantity, locations=tuple(order))
    return Line(sku, quantity)


def wanted(met: World) -> list[tuple[str, Key, int]]:
    """Who could have what now: (channel, pool, how many units)."""
    found = []
    for name, channel in sorted(met.policy.channels.items()):
        for (sku, location), pool in sorted(met.pools.items()):
            room = reserving.room(pool, channel)
            if room > 0 and met.policy.locations.get(location, False):
                found.append((name, (sku, location), room))
    return found


@st.composite
def modest(draw: st.DrawFn, met: World) -> Demand:
    """A demand that the first to come is granted; there must be something that is wanted."""
    name, (sku, location), room = draw(st.sampled_from(wanted(met)))
    quantity = draw(st.sampled_from([1, (room + 1) // 2, room]))
    return Demand(name, (Line(sku, quantity, location),))


@st.composite
def greedy(draw: st.DrawFn, met: World, max_lines: int = 4) -> Demand:
    """A demand of 1 to ``max_lines`` lines, the same SKU again and again among them."""
    able = [name for name, _, _ in wanted(met)]
    name = draw(st.sampled_from([*able, *sorted(met.policy.channels)]))
    few = draw(st.sampled_from([1, min(2, max_lines), max_lines]))
    drawn = st.lists(lines(met, met.policy.channels[name]), min_size=1, max_size=few)
    return Demand(name, tuple(draw(drawn)), draw(st.booleans()), draw(st.booleans()))


def demands(met: World) -> st.SearchStrategy[Demand]:
    """A demand on what ``met`` has, or on what it has not."""
    return modest(met) | greedy(met) if wanted(met) else greedy(met)


@st.composite
def batches(draw: st.DrawFn, world: World, max_size: int = 8) -> list[Demand]:
    """Demands that want the same units: a few different ones, each as often as it comes."""
    few = draw(st.lists(demands(world.met()), min_size=1, max_size=3))
    return draw(st.lists(st.sampled_from(few), min_size=1, max_size=max_size))


# Verbs of stock.

Verb = tuple[Any, ...]  # its name, its pool, and how
VERBS = (
    *("receive", "restock", "put_away", "adjust", "adjust", "count", "transfer", "transfer"),
    *("reallocate", "reallocate", "reallocate_by_policy", "give_allowance"),
)


def accounts(world: World) -> list[str]:
    """What a reallocation can name."""
    return ["shared", "safety", "damaged", "quarantine", *sorted(world.policy.channels)]


def contents(pool: Pool) -> list[int]:
    """Quantities that are just there and just not."""
    frees = sum(quota.free for quota in pool.quotas.values())
    spare = pool.shared + pool.safety
    held = [pool.shared, pool.safety, pool.damaged, pool.quarantine, pool.deficit, pool.on_hand]
    held += [spare, pool.shared + frees, spare + frees, pool.on_hand - pool.damaged]
    found = {1, 2, *held, *(each + 1 for each in held)}
    return sorted(quantity for quantity in found if quantity > 0)


@st.composite
def verbs(draw: st.DrawFn, world: World, names: Sequence[str] = VERBS) -> Verb:
    """A verb on a pool that may not be there yet, with a quantity that just fits or just not."""
    name = draw(st.sampled_from(names))
    key = draw(st.sampled_from(sorted(world.pools)) if world.pools else keys(world))
    if draw(st.integers(0, 7)) == 0:
        key = draw(keys(world))
    pool = world.pools.get(key, Pool(*key))
    quantity = draw(st.sampled_from(contents(pool)) | st.integers(1, 12))
    if name in ("receive", "restock"):
        return name, key, draw(quantities)
    if name == "put_away":
        return name, key, quantity, draw(st.sampled_from(["damaged", "quarantine"]))
    if name == "adjust":
        account = draw(st.sampled_from(["sellable", "sellable", "damaged", "quarantine"]))
        return name, key, draw(st.sampled_from([-1, -1, 1])) * quantity, account
    if name == "count":
        counted = st.sampled_from([0, max(0, pool.on_hand - 1), pool.on_hand, quantity])
        return name, key, draw(counted)
    if name == "transfer":
        others = [place for place in sorted(world.policy.locations) if place != key[1]]
        if others:
            return name, key, draw(st.sampled_from(others)), quantity
        return "reallocate_by_policy", key
    if name == "reallocate":
        source, target = draw(
            st.lists(st.sampled_from(accounts(world)), min_size=2, max_size=2, unique=True)
        )
        here = stock.units(pool, stock.account_of(source))
        wanted = st.sampled_from([None, max(1, here), max(1, here), (here + 1) // 2 or 1, here + 1])
        return name, key, source, target, draw(wanted)
    if name == "give_allowance":
        channel = draw(st.sampled_from(sorted(world.policy.channels)))
        number = pool.quota(channel).ceiling_number
        return name, key, channel, draw(st.integers(1, 12)), draw(st.sampled_from([number, 1]))
    if name == "drop_channel":
        return name, key, draw(st.sampled_from(sorted(world.policy.channels)))
    return name, key


# Orders.


@st.composite
def sales(draw: st.DrawFn, world: World, max_size: int = 2) -> list[Order]:
    """What was sold already, some of it more than there is anywhere."""
    states: st.SearchStrategy[State] = st.sampled_from(["committed", "fulfilled", "reserved"])
    demanded = draw(batches(world, max_size=max_size))
    return [Order(demand, draw(states), fact=True) for demand in demanded]


@st.composite
def amendments(draw: st.DrawFn, world: World) -> list[Order]:
    """A record is to hold something else: more, less, other things, or the same."""
    live = [n for n, each in enumerate(world.held) if each.quantity]
    if not live:
        return []
    first = world.held[draw(st.sampled_from(live))]
    alike = {
        (world.held[n].key, world.held[n].ceiling_number): n
        for n in live
        if (world.held[n].channel, world.held[n].account) == (first.channel, first.account)
    }
    held = tuple(draw(st.lists(st.sampled_from(sorted(alike.values())), min_size=1, unique=True)))
    there: Counter[Key] = Counter()
    for n in held:
        there[world.held[n].key] += world.held[n].quantity
    channel = world.policy.channels.get(first.channel)
    if channel is None or {world.held[n].key[1] for n in held} - world.policy.locations.keys():
        return []
    wanted = [
        Line(sku, draw(st.sampled_from([q, q, max(1, q - 1), q + 1, 2 * q, q + more])), draw(pin))
        for (sku, location), q in there.items()
        for more in [1 + world.pools[sku, location].shared]  # as a rule the place has not so many
        for pin in [st.sampled_from([None, None, location, *channel.locations])]
        if draw(st.integers(0, 4))
    ] or [Line(first.key[0], 1)]
    if draw(st.integers(0, 3)) == 0:
        wanted += draw(greedy(world.met(), max_lines=1)).lines
    return [Order(again(world, first.channel, wanted, held), first.account, known=True, held=held)]


def again(world: World, name: str, lines: Sequence[Line], held: Sequence[int]) -> Demand:
    """A demand whose lines look first where their record lies."""
    usual = world.policy.channels[name].locations
    present = [world.held[n].key for n in held]
    return Demand(
        name,
        tuple(
            line
            if line.location
            else replace(
                line,
                locations=tuple(
                    dict.fromkeys([*(place for sku, place in present if sku == line.sku), *usual])
                ),
            )
            for line in lines
        ),
    )


@st.composite
def orders_of_all_kinds(draw: st.DrawFn, world: World) -> list[Order]:
    """Demands, facts, late commits and amendments that want the same; no record twice."""
    found: list[Order] = []
    taken: set[int] = set()
    states: st.SearchStrategy[State] = st.sampled_from(["committed", "fulfilled"])
    for demand in draw(batches(world, max_size=5)):
        kind = draw(st.sampled_from(["plain", "sold", "late", "fact", "amend"]))
        state = draw(states)
        if kind == "plain":
            found.append(Order(demand))
        elif kind == "sold":
            found.append(Order(demand, state))
        elif kind == "late":
            found.append(Order(replace(demand, partial=False), "committed", known=True))
        elif kind == "fact":
            found.append(Order(demand, state, fact=True))
        else:
            for order in draw(amendments(world)):
                if not taken.intersection(order.held):
                    taken.update(order.held)
                    found.append(order)
    return draw(st.permutations(found))
