"""The rule of who gets what, continued: units are reserved.

All lines of a demand or none, own units before shared ones, and of who gets nothing the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.kernel.reference import Channel, Policy, Pool, Quota, SkuPolicy, meet

LimitedBy = Literal["channel_ceiling", "channel_quota", "safety_stock", "on_hand"]


@dataclass(frozen=True)
class Line:
    """One (``sku``, ``quantity``) of a demand: pinned, or with an order of locations, or free."""

    sku: str
    quantity: int
    location: str | None = None
    locations: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Demand:
    """One reserve request."""

    channel: str
    lines: tuple[Line, ...]
    partial: bool = False
    split: bool = True


@dataclass(frozen=True)
class Take:
    """What one demand took of a pool, and the ceiling that it spent of (0: none stood)."""

    sku: str
    location: str
    own: int
    borrowed: int
    ceiling_number: int
    short: int = 0  # of what is borrowed: units that were missing where a sale was recorded


@dataclass(frozen=True)
class Shortfall:
    """A line that did not get all it asked for; what was available is what a partial one got."""

    sku: str
    location: str | None
    requested: int
    available: int
    limited_by: LimitedBy


@dataclass(frozen=True)
class Decision:
    """Granted if it took something. A partial demand may have taken some and fallen short too."""

    takes: tuple[Take, ...]
    shortfalls: tuple[Shortfall, ...]


Pools = Mapping[tuple[str, str], Pool]  # by (SKU, location)


def reserve(
    policy: Policy, skus: Mapping[str, SkuPolicy], pools: Pools, demands: Sequence[Demand]
) -> list[Decision]:
    """Decide the demands one after the other; every pool that one looks at meets its policy."""
    decisions = []
    for demand in demands:
        lines = summed(demand.lines)
        for line in lines:
            for location in candidates(line, policy.channels[demand.channel]):
                if (line.sku, location) in pools:
                    meet(policy, skus[line.sku], pools[line.sku, location])
        decisions.append(decide(policy, pools, demand, lines))
    return decisions


def summed(lines: Sequence[Line]) -> list[Line]:
    """The lines with the same SKU asked for in the same place as one; pinned ones come first."""
    sums: dict[Line, int] = {}
    for line in lines:
        place = replace(line, quantity=0)
        sums[place] = sums.get(place, 0) + line.quantity
    whole = [replace(place, quantity=quantity) for place, quantity in sums.items()]
    return sorted(whole, key=lambda line: line.location is None)


def candidates(line: Line, channel: Channel) -> list[str]:
    """The locations where the line may be taken from, in order, each once."""
    pinned = None if line.location is None else (line.location,)
    return list(dict.fromkeys(pinned or line.locations or channel.locations))


def decide(policy: Policy, pools: Pools, demand: Demand, lines: Sequence[Line]) -> Decision:
    """Take what the demand gets: all or nothing, unless it is partial."""
    parts, shortfalls = spread(policy, pools, demand, lines, {})
    takes: dict[tuple[str, str], Take] = {}
    for key, quantity in parts if demand.partial or not shortfalls else ():
        channel = policy.channels[demand.channel]
        takes[key] = take(pools[key], channel, quantity, takes.get(key))
    return Decision(tuple(takes.values()), tuple(shortfalls))


def spread(
    policy: Policy,
    pools: Pools,
    demand: Demand,
    lines: Sequence[Line],
    held: Mapping[tuple[str, str], int],
) -> tuple[list[tuple[tuple[str, str], int]], list[Shortfall]]:
    """How many units of which pool the lines get, one after the other, and which fall short.

    ``held`` are units that the demand's own record has of a pool: it may have so many again,
    whatever the policy has become, and the policy is asked for what is more.
    """
    channel = policy.channels[demand.channel]
    given: Counter[tuple[str, str]] = Counter()
    parts, shortfalls = [], []
    for line in lines:
        selling, rooms, kept = {}, {}, {}
        for location in candidates(line, channel):
            key = line.sku, location
            rooms[key] = held.get(key, 0) - given[key]
            kept[key] = max(0, rooms[key])
            if policy.locations.get(location, False):
                selling[key] = pools.get(key, Pool(*key))
                rooms[key] += room(selling[key], channel)
        rooms = choose(rooms, kept, line.quantity, channel.split and demand.split)
        available = sum(rooms.values())
        if available < line.quantity:
            limited_by = tightest([selling[key] for key in rooms if key in selling], channel)
            short = Shortfall(line.sku, line.location, line.quantity, available, limited_by)
            shortfalls.append(short)
            if not demand.partial:
                continue
        rest = line.quantity
        for key, units in rooms.items():
            if quantity := min(rest, units):
                parts.append((key, quantity))
                given[key] += quantity
                rest -= quantity
    return parts, shortfalls


def reach(pool: Pool, channel: Channel) -> int:
    """What ``channel`` could take of ``pool`` if it had no ceiling."""
    free = pool.quota(channel.name).free
    return free + pool.shared if channel.borrow else max(0, free - channel.keeps)


def room(pool: Pool, channel: Channel) -> int:
    """What ``channel`` can take of ``pool``."""
    quota, units = pool.quota(channel.name), reach(pool, channel)
    return units if quota.ceiling is None else min(units, quota.ceiling_left)


def choose(
    rooms: dict[tuple[str, str], int], kept: dict[tuple[str, str], int], quantity: int, split: bool
) -> dict[tuple[str, str], int]:
    """What to fill a line from: the first place with enough; else all; without split as it lies,
    if so much is held already, or the one with most.

    Where no place has anything all of them are to blame: a refusal is judged by all.
    """
    for key, units in rooms.items():
        if units >= quantity:
            return {key: units}
    if split or not any(rooms.values()):
        return rooms
    if sum(kept.values()) >= quantity:
        return kept
    most = max(rooms, key=lambda key: rooms[key])  # the first of equals
    return {most: rooms[most]}


def tightest(places: Sequence[Pool], channel: Channel) -> LimitedBy:
    """What stands in the way at ``places``: the first thing without which there were more."""
    if any(reach(place, channel) > room(place, channel) for place in places):
        return "channel_ceiling"
    for place in places:
        others = sum(quota.free for name, quota in place.quotas.items() if name != channel.name)
        if others or (place.shared and not channel.borrow):
            return "channel_quota"
    kept = [p.safety or p.quota(channel.name).free > reach(p, channel) for p in places]
    return "safety_stock" if any(kept) else "on_hand"


def take(pool: Pool, channel: Channel, quantity: int, before: Take | None) -> Take:
    """Take own units first, then shared ones; ``before`` is what the demand has from there."""
    quota = pool.quotas.setdefault(channel.name, Quota())
    own = min(quota.free, quantity)
    borrowed = quantity - own
    quota.free -= own
    pool.shared -= borrowed
    quota.reserved += quantity
    number = 0
    if quota.ceiling is not None:
        quota.ceiling_left -= quantity
        number = quota.ceiling_number
    if before is not None:
        own += before.own
        borrowed += before.borrowed
    return Take(pool.sku, pool.location, own, borrowed, number)
