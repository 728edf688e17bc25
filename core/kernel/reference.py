"""The rule of who gets what, slow and obvious: the oracle that the compiled kernel is held to.

Read it from the top: what a policy says, what a pool holds, then what can happen. A pool *meets*
its policy, units are *received*, and in ``reference_reserve`` they are *reserved*. Every function
works in place; a pool is changed as a whole or, where something is raised, not at all. What else
happens to stock is in ``reference_stock``; what goes back, sales that happened, baskets that change
in ``reference_orders``.

Quantities are whole units, shares whole millionths, and every number is an exact integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

SHARE_ONE = 1_000_000
ACCOUNT_MAX = 2**53 - 1  # above this a double, and so the store, stops counting by one
SHARED = "shared"  # the party of a receipt that is no channel; no channel may be called so


# What a policy says.


@dataclass(frozen=True)
class Ceiling:
    """What a channel may take of a pool: so many units, or a share of what there is to sell."""

    units: int | None = None
    share: int | None = None


@dataclass(frozen=True)
class Channel:
    """Who sells, where from (in order of preference), and how much is set aside for it."""

    name: str
    locations: tuple[str, ...]
    floor_share: int = 0
    floor_units: int = 0
    ceiling: Ceiling | None = None
    borrow: bool = True
    keeps: int = 0  # who does not borrow leaves so many units of its own in a pool
    split: bool = True
    closed: bool = False  # it is being deleted: it takes nothing and is given nothing


@dataclass(frozen=True)
class Override:
    """What a SKU has otherwise for one channel. ``None`` is not named; a floor of 0 is."""

    floor_share: int | None = None
    floor_units: int | None = None
    ceiling: Ceiling | None = None


@dataclass(frozen=True)
class SkuPolicy:
    """A SKU's safety stock and overrides; ``number`` grows with each change."""

    number: int
    safety: int = 0
    safety_by_location: Mapping[str, int] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)

    def safety_at(self, location: str) -> int:
        """The target of the safety stock there."""
        return self.safety_by_location.get(location, self.safety)

    def ceiling(self, channel: Channel) -> Ceiling | None:
        """The ceiling that stands for this SKU: the override's if it has one."""
        return self.overrides.get(channel.name, Override()).ceiling or channel.ceiling


@dataclass(frozen=True)
class Policy:
    """All channels by name, and for each location whether it sells.

    ``number`` grows with each change.
    """

    channels: Mapping[str, Channel]
    locations: Mapping[str, bool]
    number: int = 1


@dataclass(frozen=True)
class Party:
    """Who has a part in a receipt. The shares of all parties sum to one."""

    name: str
    share: int
    floor_units: int


def parties(policy: Policy, sku_policy: SkuPolicy, location: str) -> list[Party]:
    """The channels that sell from ``location``, by name, then ``shared`` with the rest.

    A SKU that names one floor names them all: a channel that it leaves out has none there.
    """
    overrides = sku_policy.overrides
    named = any(o.floor_share is not None or o.floor_units is not None for o in overrides.values())
    found = []
    for name, channel in sorted(policy.channels.items()):
        if location in channel.locations and not channel.closed:
            floor = overrides.get(name, Override()) if named else channel
            found.append(Party(name, floor.floor_share or 0, floor.floor_units or 0))
    rest = SHARE_ONE - sum(party.share for party in found)
    return [*found, Party(SHARED, rest, 0)]


# What a pool holds.


@dataclass
class Quota:
    """One channel's accounts in a pool, its credit in millionths of a unit, and its ceiling."""

    free: int = 0
    reserved: int = 0
    committed: int = 0
    credit: int = 0
    ceiling_number: int = 0
    ceiling: Ceiling | None = None
    ceiling_left: int = 0
    ceiling_remainder: int = 0


@dataclass
class Pool:
    """One (SKU, location). A channel has a quota from when it first has something here.

    ``sku_number`` and ``policy_number`` say which policies it has met.
    """

    sku: str
    location: str
    version: int = 0
    sku_number: int = 0
    policy_number: int = 0
    shared: int = 0
    safety: int = 0
    damaged: int = 0
    quarantine: int = 0
    deficit: int = 0
    shared_credit: int = 0
    quotas: dict[str, Quota] = field(default_factory=dict)

    @property
    def on_hand(self) -> int:
        """What lies there: all accounts less what is known to be missing."""
        channels = sum(q.free + q.reserved + q.committed for q in self.quotas.values())
        return self.shared + self.safety + self.damaged + self.quarantine + channels - self.deficit

    def quota(self, channel: str) -> Quota:
        """The quota of ``channel``; one that is not there is an empty one, to look at only."""
        return self.quotas.get(channel, Quota())

    def copy(self) -> Pool:
        """A pool with the same numbers that shares nothing with this one."""
        return replace(self, quotas={name: replace(q) for name, q in self.quotas.items()})


def adopt(pool: Pool, draft: Pool) -> None:
    """Let ``pool`` become ``draft``; OverflowError if units or an allowance would be too many.

    All units together must stay countable: whoever reads the pool adds them up.
    """
    allowances = [quota.ceiling_left for quota in draft.quotas.values()]
    if max(draft.on_hand + draft.deficit, *allowances, 0) > ACCOUNT_MAX:
        raise OverflowError(f"an account of {pool.sku}@{pool.location} would pass {ACCOUNT_MAX}")
    vars(pool).update(vars(draft))


# A pool meets its policy: nothing of the stock moves, except between safety and shared.


def meet(policy: Policy, sku_policy: SkuPolicy, pool: Pool) -> None:
    """Bring ``pool`` up to the policy, once: what happens to it later is no change of policy."""
    if (pool.sku_number, pool.policy_number) == (sku_policy.number, policy.number):
        return
    draft = pool.copy()
    if pool.sku_number != sku_policy.number:  # a channel's change moves no stock
        surplus = draft.safety - sku_policy.safety_at(draft.location)
        moved = max(surplus, -draft.shared)  # a lack is filled as far as shared goes
        draft.safety -= moved
        draft.shared += moved

    sellable = draft.shared + draft.safety + sum(q.free for q in draft.quotas.values())
    for name, channel in policy.channels.items():
        ceiling = sku_policy.ceiling(channel)
        if ceiling != draft.quota(name).ceiling and not channel.closed:
            start_ceiling(draft.quotas.setdefault(name, Quota()), ceiling, sellable, pool.version)

    sharing = {p.name for p in parties(policy, sku_policy, draft.location) if p.share > 0}
    for name, quota in draft.quotas.items():
        if name not in sharing:
            draft.shared_credit += quota.credit
            quota.credit = 0
    draft.sku_number, draft.policy_number = sku_policy.number, policy.number
    adopt(pool, draft)


def start_ceiling(quota: Quota, ceiling: Ceiling | None, sellable: int, version: int) -> None:
    """Begin a new allowance, under a number never used here, also by a channel that is gone."""
    quota.ceiling = ceiling
    quota.ceiling_left = quota.ceiling_remainder = 0
    if ceiling is not None:
        quota.ceiling_number = (quota.ceiling_number or version) + 1
        quota.ceiling_left = ceiling.units or 0
        grow_ceiling(quota, sellable)


def grow_ceiling(quota: Quota, units: int) -> None:
    """Let an allowance by share grow by its share of ``units``; fractions wait in the remainder."""
    if quota.ceiling is not None and quota.ceiling.share is not None:
        whole = units * quota.ceiling.share + quota.ceiling_remainder
        grown, quota.ceiling_remainder = divmod(whole, SHARE_ONE)
        quota.ceiling_left += grown


# Units are received.


@dataclass(frozen=True)
class Receipt:
    """Where received units went; ``free`` names the channels that got some."""

    deficit: int
    safety: int
    shared: int
    free: Mapping[str, int]


def receive(
    policy: Policy, sku_policy: SkuPolicy, pool: Pool, quantity: int, grows: bool = True
) -> Receipt:
    """Allot what arrives: deficit, safety, unit floors, shares with credit; a ceiling may grow."""
    draft = pool.copy()
    meet(policy, sku_policy, draft)
    rest = quantity

    deficit = min(rest, draft.deficit)
    draft.deficit -= deficit
    rest -= deficit

    safety = min(rest, max(0, sku_policy.safety_at(draft.location) - draft.safety))
    draft.safety += safety
    rest -= safety

    present = parties(policy, sku_policy, draft.location)
    lacks = [max(0, p.floor_units - draft.quota(p.name).free) for p in present]
    floors = apportion(min(rest, sum(lacks)), lacks, [0] * len(lacks))
    rest -= sum(floors)

    credits = [draft.quota(party.name).credit for party in present]
    credits[-1] = draft.shared_credit  # shared is the last party
    shares = apportion(rest, [party.share for party in present], credits)
    shared = shares.pop()
    draft.shared += shared
    draft.shared_credit = credits.pop()

    free = {}
    for party, floor, share, credit in zip(present, floors, shares, credits, strict=False):
        before = draft.quota(party.name)
        after = replace(before, free=before.free + floor + share, credit=credit)
        if after != before:
            draft.quotas[party.name] = after
        if floor + share > 0:
            free[party.name] = floor + share

    if grows:
        for quota in draft.quotas.values():
            grow_ceiling(quota, quantity)
    adopt(pool, draft)
    return Receipt(deficit, safety, shared, free)


def apportion(units: int, weights: Sequence[int], credits: list[int]) -> list[int]:
    """``units`` in proportion to ``weights``; ``credits`` says, before and after, who is owed what.

    Credits are fractions of a unit over ``sum(weights)`` and sum to 0. Nobody is ever given a whole
    unit too much, nor owed more than 1/2 + 1/3 + ... + 1/len(weights) units, however the receipts
    are cut (``test_reference_laws`` says why).
    """
    one = sum(weights) or 1
    given = [units * weight // one for weight in weights]
    for i, weight in enumerate(weights):
        credits[i] += units * weight % one
    while sum(given) < units:
        largest = credits.index(max(credits))  # the first of equals
        given[largest] += 1
        credits[largest] -= one
    return given


# What always holds.


def check(pool: Pool) -> None:
    """Assert what is true of every pool at all times: the laws of conservation and no oversell."""
    sellable = [pool.shared, pool.safety, *(quota.free for quota in pool.quotas.values())]
    accounts = [*sellable, pool.damaged, pool.quarantine, pool.deficit]
    for quota in pool.quotas.values():
        accounts += [quota.reserved, quota.committed, quota.ceiling_left]
        assert 0 <= quota.ceiling_remainder < SHARE_ONE
        if quota.ceiling is None:
            assert quota.ceiling_left == quota.ceiling_remainder == 0
        else:
            assert quota.ceiling_number > 0
    assert all(0 <= account <= ACCOUNT_MAX for account in accounts), pool
    assert pool.on_hand >= 0, "more is missing than there is on the books"
    assert not (pool.deficit and any(sellable)), "what is missing may not be sold"
    assert pool.shared_credit + sum(quota.credit for quota in pool.quotas.values()) == 0
