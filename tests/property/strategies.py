"""Hypothesis strategies for policies, pools and demands, drawn so that they collide.

A ``World`` is a policy, SKUs and pools that got where they are by receipts, takes, give-backs,
losses and changes of policy, so that every pool is a legal one. Quantities are drawn from the edges
of what is left: exactly the last unit, exactly a floor, exactly a ceiling, and one more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel.reference import (
    SHARE_ONE,
    Ceiling,
    Channel,
    Decision,
    Demand,
    Line,
    Override,
    Policy,
    Pool,
    SkuPolicy,
)

SKUS = ("cup", "tee")
LOCATIONS = ("main", "north", "south")
CHANNELS = ("app", "market", "store", "web")
STEPS = ("receive", "take", "take", "reserve", "give_back", "commit", "ship", "lose", "spoil")

Key = tuple[str, str]  # (SKU, location)


@dataclass
class Held:
    """What is left of one take, and the account that its units lie in."""

    key: Key
    channel: str
    own: int
    borrowed: int
    ceiling_number: int
    account: Literal["reserved", "committed"] = "reserved"

    @property
    def quantity(self) -> int:
        """The units that are still held."""
        return self.own + self.borrowed


@dataclass
class World:
    """Pools, the policy they are planned with, who holds what, and what came in less what left."""

    policy: Policy
    skus: dict[str, SkuPolicy]
    pools: dict[Key, Pool] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    arrived: Counter[Key] = field(default_factory=Counter)

    def copy(self) -> World:
        """A world with the same numbers that shares no pool with this one."""
        pools = {key: pool.copy() for key, pool in self.pools.items()}
        held = [replace(held) for held in self.held]
        return World(self.policy, dict(self.skus), pools, held, self.arrived.copy())

    def met(self) -> World:
        """A copy where every pool has met the policy."""
        world = self.copy()
        for (sku, _), pool in world.pools.items():
            rule.meet(world.policy, world.skus[sku], pool)
        return world

    def receive(self, key: Key, quantity: int) -> rule.Receipt:
        """Units arrive; the first ones make the pool."""
        self.arrived[key] += quantity
        pool = self.pools.setdefault(key, Pool(*key))
        return rule.receive(self.policy, self.skus[key[0]], pool, quantity)

    def reserve(self, demands: Sequence[Demand]) -> list[Decision]:
        """Decide the demands and remember what was taken."""
        decisions = rule.reserve(self.policy, self.skus, self.pools, demands)
        for demand, decision in zip(demands, decisions, strict=True):
            for t in decision.takes:
                key = t.sku, t.location
                self.held.append(Held(key, demand.channel, t.own, t.borrowed, t.ceiling_number))
        return decisions

    def give_back(self, held: Held, quantity: int) -> int:
        """A part of what is held goes back, borrowed units first."""
        borrowed = min(quantity, held.borrowed)
        own = quantity - borrowed
        held.borrowed -= borrowed
        held.own -= own
        pool = self.pools[held.key]
        number, account = held.ceiling_number, held.account
        return rule.give_back(pool, held.channel, own, borrowed, number, account)

    def commit(self, held: Held) -> None:
        """An order is placed."""
        quota = self.pools[held.key].quotas[held.channel]
        quota.reserved -= held.quantity
        quota.committed += held.quantity
        held.account = "committed"

    def ship(self, held: Held) -> None:
        """All that is held leaves; what was missing and yet leaves was there after all."""
        pool = self.pools[held.key]
        quota = pool.quotas[held.channel]
        setattr(quota, held.account, getattr(quota, held.account) - held.quantity)
        found = max(0, -pool.on_hand)
        pool.deficit -= found
        self.arrived[held.key] -= held.quantity - found
        held.own = held.borrowed = 0

    def lose(self, key: Key, quantity: int) -> None:
        """A count finds fewer: what may be sold goes first, what is promised becomes a deficit."""
        pool = self.pools[key]
        quantity = min(quantity, max(0, pool.on_hand - pool.damaged - pool.quarantine))
        self.arrived[key] -= quantity
        for account in ("shared", "safety"):
            lost = min(quantity, getattr(pool, account))
            setattr(pool, account, getattr(pool, account) - lost)
            quantity -= lost
        for quota in pool.quotas.values():
            lost = min(quantity, quota.free)
            quota.free -= lost
            quantity -= lost
        pool.deficit += quantity

    def spoil(self, key: Key, quantity: int) -> None:
        """Units come back broken, or nobody has looked at them yet."""
        self.arrived[key] += quantity
        pool = self.pools[key]
        pool.damaged += quantity - quantity // 2
        pool.quarantine += quantity // 2


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
    order = st.lists(st.sampled_from(locations), min_size=1, unique=True)
    places = {name: tuple(draw(order)) for name in sorted(names)}
    floor = draw(floors(places))
    channels = {
        name: Channel(
            name,
            places[name],
            *floor[name],
            ceiling=draw(ceilings),
            borrow=draw(borrows),
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
            room = rule.room(pool, channel)
            quota = pool.quota(channel.name)
            total += room
            found |= {room, room + 1, quota.free, quota.ceiling_left, rule.reach(pool, channel)}
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
            room = rule.room(pool, channel)
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
