"""The rule of what happens to stock, slow and obvious: one account after the other.

Whatever moves does so by ``move``, from one account of a pool to another or from and to
``outside``: so units are conserved. Each verb works on a draft, which the pool becomes at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.kernel.reference import (
    SHARE_ONE,
    Policy,
    Pool,
    Quota,
    Receipt,
    SkuPolicy,
    adopt,
    apportion,
    meet,
    receive,
)
from core.kernel.reference_reserve import room

Move = tuple[str, str, int]  # from, to, units
OUTSIDE, SHARED, SAFETY, DEFICIT = "outside", "shared", "safety", "deficit"
DAMAGED, QUARANTINE = "damaged", "quarantine"
UNSELLABLE = (DAMAGED, QUARANTINE)


class Shortage(Exception):
    """A decision asks for more than there is to move."""

    def __init__(self, available: int) -> None:
        super().__init__(available)
        self.available = available


class ChannelInUse(Exception):
    """A channel has units reserved or committed."""


# Accounts by name.


def units(pool: Pool, account: str) -> int:
    """What lies in an account: ``shared``, ``free:web``."""
    name, _, channel = account.partition(":")
    found: int = getattr(pool.quota(channel) if channel else pool, name)
    return found


def put(pool: Pool, account: str, quantity: int) -> None:
    """Let an account hold so many more; outside is not counted, and a deficit is a debt."""
    if account == OUTSIDE:
        return
    name, _, channel = account.partition(":")
    holder = pool.quotas.setdefault(channel, Quota()) if channel else pool
    change = -quantity if account == DEFICIT else quantity
    setattr(holder, name, getattr(holder, name) + change)


def move(pool: Pool, moves: list[Move], source: str, target: str, quantity: int) -> None:
    """Move units, and say so."""
    if quantity:
        put(pool, source, -quantity)
        put(pool, target, quantity)
        moves.append((source, target, quantity))


def give(pool: Pool, moves: list[Move], source: str, target: str, wanted: int) -> int:
    """Move what an account has, at most what is wanted; what is wanted still."""
    quantity = min(wanted, units(pool, source))
    move(pool, moves, source, target, quantity)
    return wanted - quantity


def give_free(pool: Pool, moves: list[Move], target: str, wanted: int) -> int:
    """Move what is free, of each channel in proportion; what is wanted still."""
    names = sorted(pool.quotas)
    frees = [pool.quotas[name].free for name in names]
    quantity = min(wanted, sum(frees))
    for name, part in zip(names, apportion(quantity, frees, [0] * len(frees)), strict=True):
        move(pool, moves, f"free:{name}", target, part)
    return wanted - quantity


def strip(pool: Pool, moves: list[Move], target: str, wanted: int) -> int:
    """A fact takes what it must: shared, safety, free in proportion; what is missing still."""
    wanted = give(pool, moves, SHARED, target, wanted)
    wanted = give(pool, moves, SAFETY, target, wanted)
    return give_free(pool, moves, target, wanted)


# What arrives.


def told(receipt: Receipt, source: str = OUTSIDE) -> list[Move]:
    """A receipt as moves."""
    parts = [(DEFICIT, receipt.deficit), (SAFETY, receipt.safety)]
    parts += [(f"free:{name}", free) for name, free in sorted(receipt.free.items())]
    parts.append((SHARED, receipt.shared))
    return [(source, account, part) for account, part in parts if part and account != source]


def put_away(
    policy: Policy, sku_policy: SkuPolicy, pool: Pool, quantity: int, account: str
) -> list[Move]:
    """Units that are not to be sold."""
    draft, moves = pool.copy(), list[Move]()
    meet(policy, sku_policy, draft)
    move(draft, moves, OUTSIDE, account, quantity)
    adopt(pool, draft)
    return moves


def adjust(
    policy: Policy, sku_policy: SkuPolicy, pool: Pool, delta: int, account: str
) -> list[Move]:
    """Found units arrive; lost ones leave the account that is named, then as a fact."""
    if delta >= 0 and account in UNSELLABLE:
        return put_away(policy, sku_policy, pool, delta, account)
    if delta >= 0:
        return told(receive(policy, sku_policy, pool, delta))
    first = [account] if account in UNSELLABLE else []
    return lose(policy, sku_policy, pool, -delta, first, [])


def count(policy: Policy, sku_policy: SkuPolicy, pool: Pool, counted: int) -> list[Move]:
    """All that lies there was counted: it is what there is."""
    more = counted - pool.on_hand
    if more >= 0:
        return told(receive(policy, sku_policy, pool, more))
    return lose(policy, sku_policy, pool, -more, [], [QUARANTINE, DAMAGED])


def lose(
    policy: Policy,
    sku_policy: SkuPolicy,
    pool: Pool,
    quantity: int,
    first: Sequence[str],
    last: Sequence[str],
) -> list[Move]:
    """Units are not there: what nobody was promised goes, then a deficit opens."""
    if quantity > pool.on_hand:
        raise Shortage(pool.on_hand)
    draft, moves = pool.copy(), list[Move]()
    meet(policy, sku_policy, draft)
    for account in first:
        quantity = give(draft, moves, account, OUTSIDE, quantity)
    quantity = strip(draft, moves, OUTSIDE, quantity)
    for account in last:
        quantity = give(draft, moves, account, OUTSIDE, quantity)
    move(draft, moves, DEFICIT, OUTSIDE, quantity)
    adopt(pool, draft)
    return moves


# What is moved by hand.


def transfer(
    policy: Policy, sku_policy: SkuPolicy, source: Pool, target: Pool, quantity: int
) -> tuple[list[Move], list[Move]]:
    """Unsold units go from one location to another: what moves here, and what moves there."""
    here, there = source.copy(), target.copy()
    meet(policy, sku_policy, here)
    meet(policy, sku_policy, there)
    unsold = here.shared + sum(quota.free for quota in here.quotas.values())
    if quantity > unsold:
        raise Shortage(unsold)
    leaving, coming = list[Move](), list[Move]()
    give_free(here, leaving, OUTSIDE, give(here, leaving, SHARED, OUTSIDE, quantity))

    for name, quota in here.quotas.items():
        carry_allowance(quota, there.quotas.setdefault(name, Quota()), quantity)

    # Those units arrive. The deficit is paid out of what was shared, then out of each one's own.
    parts = {account: part for account, _, part in leaving}
    shared = parts.pop(SHARED, 0)
    owed = min(quantity, there.deficit)
    move(there, coming, OUTSIDE, DEFICIT, owed)
    paid = min(shared, owed)
    shared -= paid
    weights = list(parts.values())
    for account, part in zip(
        list(parts), apportion(owed - paid, weights, [0] * len(weights)), strict=True
    ):
        parts[account] -= part
    for account, part in parts.items():
        channel = policy.channels.get(account.removeprefix("free:"))
        if channel and target.location in channel.locations and not channel.closed:
            move(there, coming, OUTSIDE, account, part)
        else:
            shared += part
    coming += told(receive(policy, sku_policy, there, shared, grows=False))
    adopt(target, there)
    adopt(source, here)
    return leaving, coming


def carry_allowance(source: Quota, target: Quota, quantity: int) -> None:
    """Of a ceiling by share so much goes along as the units had brought when they arrived."""
    if source.ceiling is None or source.ceiling.share is None:
        return
    if target.ceiling is None or target.ceiling.share is None:
        return
    left = source.ceiling_left * SHARE_ONE + source.ceiling_remainder
    carried = min(left, quantity * source.ceiling.share)
    there = target.ceiling_left * SHARE_ONE + target.ceiling_remainder
    source.ceiling_left, source.ceiling_remainder = divmod(left - carried, SHARE_ONE)
    target.ceiling_left, target.ceiling_remainder = divmod(there + carried, SHARE_ONE)


def account_of(name: str) -> str:
    """The account that a reallocation calls so: a channel's is what it has free."""
    return name if name in (SHARED, SAFETY, *UNSELLABLE) else f"free:{name}"


def reallocate(
    policy: Policy,
    sku_policy: SkuPolicy,
    pool: Pool,
    source: str,
    target: str,
    quantity: int | None,
) -> list[Move]:
    """Unsold units change hands; those that can be sold now pay what is missing first."""
    draft, moves = pool.copy(), list[Move]()
    meet(policy, sku_policy, draft)
    out_of, into = account_of(source), account_of(target)
    here = units(draft, out_of)
    wanted = here if quantity is None else quantity
    if wanted > here:
        raise Shortage(here)
    if into not in UNSELLABLE:
        paid = min(wanted, draft.deficit)
        move(draft, moves, out_of, DEFICIT, paid)
        wanted -= paid
    move(draft, moves, out_of, into, wanted)
    adopt(pool, draft)
    return moves


def reallocate_by_policy(policy: Policy, sku_policy: SkuPolicy, pool: Pool) -> list[Move]:
    """What is shared is allotted as if it had just arrived, but no ceiling grows."""
    draft = pool.copy()
    meet(policy, sku_policy, draft)
    quantity, draft.shared = draft.shared, 0
    receipt = receive(policy, sku_policy, draft, quantity, grows=False)
    adopt(pool, draft)
    return told(receipt, SHARED)


# What comes back, and what goes for good.


def restock(policy: Policy, sku_policy: SkuPolicy, pool: Pool, quantity: int) -> list[Move]:
    """What was shipped came back and is sold again."""
    return told(receive(policy, sku_policy, pool, quantity, grows=False))


def give_allowance(
    policy: Policy, sku_policy: SkuPolicy, pool: Pool, channel: str, quantity: int, number: int
) -> bool:
    """Let a channel take again what it had taken, if the ceiling still stands."""
    draft = pool.copy()
    meet(policy, sku_policy, draft)
    quota = draft.quota(channel)
    stands = quota.ceiling is not None and quota.ceiling_number == number
    if stands:
        quota.ceiling_left += quantity
    adopt(pool, draft)
    return stands


def drop_channel(policy: Policy, sku_policy: SkuPolicy, pool: Pool, channel: str) -> list[Move]:
    """A channel leaves the pool; what it had free is for all."""
    draft, moves = pool.copy(), list[Move]()
    meet(policy, sku_policy, draft)
    quota = draft.quota(channel)
    if quota.reserved or quota.committed:
        raise ChannelInUse(channel)
    move(draft, moves, f"free:{channel}", SHARED, quota.free)
    draft.shared_credit += quota.credit
    draft.quotas.pop(channel, None)
    adopt(pool, draft)
    return moves


def available(policy: Policy, sku_policy: SkuPolicy, pool: Pool, name: str) -> int:
    """What a channel can take there now."""
    channel = policy.channels[name]
    if channel.closed or not policy.locations.get(pool.location, False):
        return 0
    draft = pool.copy()
    meet(policy, sku_policy, draft)
    return room(draft, channel)
