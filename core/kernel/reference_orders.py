"""The rule of what orders give back, of sales that happened, and of baskets that change.

Slow and obvious, as ``reference``; all decide on drafts and adopt all or nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.kernel.reference import Channel, Policy, Pool, Quota, SkuPolicy, adopt, meet
from core.kernel.reference_reserve import (
    Decision,
    Demand,
    Line,
    Pools,
    Take,
    candidates,
    room,
    spread,
    summed,
)
from core.kernel.reference_stock import Move, give, move, strip

Account = Literal["reserved", "committed"]
Drafts = dict[tuple[str, str], Pool]


class NoPool(Exception):
    """A sale cannot be recorded where nothing was ever kept."""


# Units are given back.


def give_back(
    pool: Pool,
    channel: str,
    own: int,
    borrowed: int,
    ceiling_number: int,
    from_account: Account,
) -> int:
    """Put units back where they came from and return how many of them paid the deficit first.

    The allowance comes back whole, to the ceiling that it was spent of and to no later one.
    Raises ValueError if the account does not hold so many.
    """
    draft = pool.copy()
    quota, quantity = draft.quota(channel), own + borrowed
    if quantity > getattr(quota, from_account):
        raise ValueError(f"{channel} has fewer than {quantity} units {from_account}")
    setattr(quota, from_account, getattr(quota, from_account) - quantity)

    paid_borrowed = min(borrowed, draft.deficit)
    paid_own = min(own, draft.deficit - paid_borrowed)
    draft.deficit -= paid_borrowed + paid_own
    draft.shared += borrowed - paid_borrowed
    quota.free += own - paid_own
    if quota.ceiling is not None and quota.ceiling_number == ceiling_number:
        quota.ceiling_left += quantity
    adopt(pool, draft)
    return paid_borrowed + paid_own


# A sale that happened already.


@dataclass
class Sale:
    """A recorded sale, as far as it is written down."""

    channel: Channel
    account: Account
    drafts: Drafts
    takes: dict[tuple[str, str, int], Take]  # by pool and number of the ceiling
    moves: list[tuple[tuple[str, str], Move]]

    @property
    def target(self) -> str:
        """Where the units of it come to lie."""
        return f"{self.account}:{self.channel.name}"

    def book(self, pool: Pool, moved: Sequence[Move]) -> None:
        """Write down what was moved in a pool: whose it was, and what it spent of the ceiling, own
        units first; what the ceiling does not reach stands apart, and never comes back to it."""
        key = pool.sku, pool.location
        self.moves += [(key, each) for each in moved]
        free = f"free:{self.channel.name}"
        units = sum(quantity for _, _, quantity in moved)
        if not units:
            return
        own = sum(quantity for source, _, quantity in moved if source == free)
        missing = any(source == "deficit" for source, _, _ in moved)
        quota = pool.quotas[self.channel.name]
        spent = 0 if quota.ceiling is None else min(units, quota.ceiling_left)
        quota.ceiling_left -= spent
        for number, part in ((quota.ceiling_number, spent), (0, units - spent)):
            if part:
                mine = min(own, part)
                own -= mine
                before = self.takes.get((*key, number), Take(*key, 0, 0, number))
                self.takes[*key, number] = Take(
                    *key, before.own + mine, before.borrowed + part - mine, number,
                    before.short + (part if missing else 0),
                )  # fmt: skip


def record_sale(
    policy: Policy,
    skus: Mapping[str, SkuPolicy],
    pools: Pools,
    demand: Demand,
    state: Literal["reserved", "committed", "fulfilled"],
) -> tuple[tuple[Take, ...], list[tuple[tuple[str, str], Move]]]:
    """Write a sale down, whatever there is. What it took, and what moved where.

    Raises NoPool, or OverflowError if a pool could not be counted any more.
    """
    channel = policy.channels[demand.channel]
    account: Account = "reserved" if state == "reserved" else "committed"
    sale = Sale(channel, account, {}, {}, [])
    for line in summed(demand.lines):
        places = []
        for location in candidates(line, channel):
            key = line.sku, location
            if key in pools:
                draft = sale.drafts.setdefault(key, pools[key].copy())
                meet(policy, skus[line.sku], draft)
                places.append(draft)
        if not places:
            raise NoPool(line.sku)
        record_line(policy, sale, line, places)
    if state == "fulfilled":
        for (sku, location, _), take in sale.takes.items():
            key = sku, location
            sale.moves += [
                (key, each)
                for each in ship(sale.drafts[key], channel.name, take.own + take.borrowed)
            ]
    touched = dict.fromkeys((sku, location) for sku, location, _ in sale.takes)
    for key in touched:  # all or nothing: what cannot be adopted is told before any is
        adopt(sale.drafts[key].copy(), sale.drafts[key])
    for key in touched:
        adopt(pools[key], sale.drafts[key])
    return tuple(sale.takes.values()), sale.moves


def record_line(policy: Policy, sale: Sale, line: Line, places: Sequence[Pool]) -> None:
    """What one place has for the channel; else what each has for it; else what each has at all;
    and what is missing then is missing in the first."""
    channel, rest = sale.channel, line.quantity
    selling = [place for place in places if policy.locations.get(place.location, False)]
    whole = [place for place in selling if room(place, channel) >= rest]
    for place in whole[:1] or selling:
        wanted = min(rest, room(place, channel))
        rest -= wanted
        moved: list[Move] = []
        wanted = give(place, moved, f"free:{channel.name}", sale.target, wanted)
        give(place, moved, "shared", sale.target, wanted)
        sale.book(place, moved)
    for place in places:
        moved = []
        rest = strip(place, moved, sale.target, rest)
        sale.book(place, moved)
    moved = []
    move(places[0], moved, "deficit", sale.target, rest)
    sale.book(places[0], moved)


def ship(pool: Pool, channel: str, quantity: int) -> list[Move]:
    """Committed units leave. More than lie there cannot: those were not missing after all."""
    moves: list[Move] = []
    move(pool, moves, f"committed:{channel}", "outside", quantity)
    move(pool, moves, "outside", "deficit", max(0, -pool.on_hand))
    return moves


# A basket that changes, and a commit that comes late.


@dataclass(frozen=True)
class Holding:
    """What a record holds open of a pool."""

    sku: str
    location: str
    own: int
    borrowed: int
    ceiling_number: int


def plan_again(
    policy: Policy,
    skus: Mapping[str, SkuPolicy],
    pools: Pools,
    demand: Demand,
    held: Sequence[Holding],
    account: Account,
) -> Decision:
    """Decide a demand as if its record held nothing, and let go of what it does not take again.

    What it holds of a pool it may have again whatever the policy has become; only what is more is
    asked of the policy. Units whose ceiling stands no more keep its number: they have spent
    nothing of today's. They are the first that are taken again.
    """
    lines = summed(demand.lines)
    channel = policy.channels[demand.channel]
    keys = {(line.sku, place) for line in lines for place in candidates(line, channel)}
    keys |= {(each.sku, each.location) for each in held}
    for key in keys & pools.keys():
        meet(policy, skus[key[0]], pools[key])
    there: Counter[tuple[str, str]] = Counter()
    for each in held:
        there[each.sku, each.location] += each.own + each.borrowed
    parts, shortfalls = spread(policy, pools, demand, lines, there)
    if shortfalls:
        return Decision((), tuple(shortfalls))

    drafts = {key: pool.copy() for key, pool in pools.items()}
    outdated: dict[tuple[str, str], Counter[int]] = {key: Counter() for key in drafts}
    for each in held:
        key = each.sku, each.location
        move(drafts[key], [], f"{account}:{channel.name}", f"free:{channel.name}", each.own)
        move(drafts[key], [], f"{account}:{channel.name}", "shared", each.borrowed)
        quota, units = drafts[key].quota(channel.name), each.own + each.borrowed
        if each.ceiling_number != standing(quota):
            outdated[key][each.ceiling_number] += units
        elif quota.ceiling is not None:
            quota.ceiling_left += units
    lent = lent_first(channel, held)
    takes: dict[tuple[str, str, int], Take] = {}
    for key, quantity in parts:
        for number, units in outdated[key].items():
            kept = min(units, quantity)
            outdated[key][number] -= kept
            quantity -= kept
            book_again(drafts[key], channel.name, account, kept, number, takes, lent)
        quota = drafts[key].quota(channel.name)
        if quota.ceiling is not None:
            quota.ceiling_left -= quantity
        book_again(drafts[key], channel.name, account, quantity, standing(quota), takes, lent)
    for each in held:
        draft = drafts[each.sku, each.location]
        for source in ("shared", f"free:{channel.name}"):
            give(draft, [], source, "deficit", draft.deficit)
    for key, draft in drafts.items():
        adopt(pools[key], draft)
    return Decision(tuple(takes.values()), ())


def lent_first(channel: Channel, held: Sequence[Holding]) -> Counter[tuple[str, str]]:
    """Borrowed units of a record, by pool, that it takes again before own ones: where those are
    kept back, or it would exchange them."""
    lent: Counter[tuple[str, str]] = Counter()
    for each in held if channel.keeps and not channel.borrow else ():
        lent[each.sku, each.location] += each.borrowed
    return lent


def standing(quota: Quota) -> int:
    """The number of the ceiling that a take spends of now; 0 if none stands."""
    return 0 if quota.ceiling is None else quota.ceiling_number


def book_again(
    pool: Pool,
    channel: str,
    account: Account,
    quantity: int,
    number: int,
    takes: dict[tuple[str, str, int], Take],
    lent: Counter[tuple[str, str]],
) -> None:
    """Take what is ``lent`` there of the shared units, then own ones, then shared ones, and write
    down which ceiling they have spent."""
    if quantity == 0:
        return
    first = min(lent[pool.sku, pool.location], quantity)
    own = min(quantity - first, pool.quota(channel).free)
    lent[pool.sku, pool.location] -= min(lent[pool.sku, pool.location], quantity - own)
    move(pool, [], f"free:{channel}", f"{account}:{channel}", own)
    move(pool, [], "shared", f"{account}:{channel}", quantity - own)
    key = pool.sku, pool.location, number
    before = takes.get(key, Take(pool.sku, pool.location, 0, 0, number))
    takes[key] = replace(before, own=before.own + own, borrowed=before.borrowed + quantity - own)
