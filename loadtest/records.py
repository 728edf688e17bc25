"""Holds the ledger against the store and the book: three records of one run, by three hands.

The ledger follows the store by a moment, so it is asked only when it has all that happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from loadtest.book import Book, PoolKey, differences
from loadtest.checks import About, Audit
from loadtest.client import Call, Client, Pool, Refused, Reservation
from loadtest.live import Progress
from loadtest.pools import accounts_of

POLL_S = 0.05
PAGE = 1000
OUTSIDE = "outside"
SOLD_BY = frozenset({"reserve", "commit", "amend"})  # what a channel takes for itself

T = TypeVar("T")


class Movement(msgspec.Struct, gc=False):
    """A movement, as answered."""

    verb: str
    sku: str
    location: str
    quantity: int
    source: str = msgspec.field(name="from")
    target: str = msgspec.field(name="to")
    channel: str | None = None


class Page(msgspec.Struct, Generic[T]):
    """A page of a list, as answered."""

    items: list[T]
    next_cursor: str | None
    as_of_seq: int


class Listed(Reservation):
    """A reservation, as the ledger has it."""

    reference: str | None = None


class _Store(msgspec.Struct):
    seq: int


class _Ready(msgspec.Struct):
    store: _Store | None = None  # told to who may operate


async def hold(
    client: Client, book: Book, pools: dict[PoolKey, Pool], result: Audit, within_s: float
) -> None:
    """Compare what the ledger has of the run's locations with ``pools`` and with the book.

    Nothing may happen there meanwhile; ``within_s`` it must have caught up.
    """
    behind = await _caught_up(client, within_s)
    if behind:
        result.add(About.LEDGER, behind)
        return
    await _movements(client, book, pools, result)
    await _reservations(client, book, result)


async def _caught_up(client: Client, within_s: float) -> str:
    """Wait until the ledger has all that the store did; why it does not, if it does not."""
    ready = await client.must(Call("read", "GET", "/readyz"), 200)
    store, until_s = ready.decode(_Ready).store, time.monotonic() + within_s
    if store is None:
        raise Refused("/readyz tells nothing of the store: the key needs the scope operate, too")
    while True:
        answer = await client.call(Call("read", "GET", "/v1/movements?limit=1"))
        if answer.status != 200:
            problem = answer.problem()
            return f"the ledger cannot be read: {answer.status} {problem.code} {problem.detail}"
        has = answer.decode(Page[Movement]).as_of_seq
        if has >= store.seq:
            return ""
        if time.monotonic() > until_s:
            return f"the ledger has events up to {has} of {store.seq} {within_s:g} s after the run"
        await asyncio.sleep(POLL_S)


async def _movements(client: Client, book: Book, pools: dict[PoolKey, Pool], result: Audit) -> None:
    """All movements of a pool, summed up, are its accounts; no channel sold another's quota."""
    balances: dict[PoolKey, Counter[str]] = {pool: Counter() for pool in pools}
    check, progress = result.checks[About.LEDGER], Progress("ledger")
    for location in book.shares:
        path = f"/v1/movements?location={location}"
        async for moved in _listed(client, path, Page[Movement]):
            balance = balances.setdefault((moved.sku, moved.location), Counter())
            balance[moved.source] -= moved.quantity
            balance[moved.target] += moved.quantity
            check.checked += 1
            progress.step()
            kind, _, owner = moved.source.partition(":")
            if kind == "free" and moved.verb in SOLD_BY and moved.channel != owner:
                result.add(
                    About.QUOTAS,
                    f"pool {moved.sku}@{location}: {moved.channel} took {moved.quantity} "
                    f"of what is set aside for {owner}",
                )
    progress.end()
    for (sku, location), balance in balances.items():
        pool = pools.get((sku, location))
        found = {} if pool is None else _accounts(pool)
        for account in sorted(balance.keys() | found.keys()):
            if account != OUTSIDE and balance[account] != found.get(account, 0):
                result.add(
                    About.LEDGER,
                    f"pool {sku}@{location}: the ledger moved {balance[account]} to {account}, "
                    f"the store has {found.get(account, 0)} there",
                )


def _accounts(pool: Pool) -> dict[str, int]:
    """The accounts of a pool by the names that movements use."""
    named = {"deficit": -pool.deficit}
    for name, units in accounts_of(pool, pool.channels).items():
        account, _, channel = name.rstrip("]").partition("[")
        named[f"{account}:{channel}" if channel else account] = units
    return named


async def _reservations(client: Client, book: Book, result: Audit) -> None:
    """The ledger has every reservation as it was acknowledged, and none that nobody knows of."""
    known: set[str] = set()
    unknown: list[str] = []
    for location in book.shares:
        path = f"/v1/reservations?location={location}"
        async for found in _listed(client, path, Page[Listed]):
            if found.id in known:
                continue  # it has lines elsewhere, too
            known.add(found.id)
            held = book.reservations.get(found.id)
            if held is not None:
                for text in differences(found, held):
                    result.add(About.LEDGER, f"reservation {found.id} {text}, by the ledger")
            elif found.reference not in book.unheard or found.state != "expired":
                unknown.append(f"{found.id} of {found.reference} is {found.state}")
    if book.folded and len(unknown) != book.folded:
        told = f"{book.folded} are known by their sum alone, the ledger has {len(unknown)} of them"
        result.add(About.KEYS, told)
    for told in [] if book.folded else unknown:
        result.add(
            About.KEYS,
            f"reservation {told}, and was never acknowledged: a key that had two effects, or one "
            "that nobody asked for",
        )
    result.checks[About.LEDGER].checked += len(known)
    for id in book.reservations.keys() - known:
        result.add(About.LEDGER, f"reservation {id} was acknowledged, the ledger does not have it")


async def _listed(client: Client, path: str, kind: type[Page[T]]) -> AsyncIterator[T]:
    """The items of all pages of a list."""
    cursor = ""
    while True:
        answer = await client.must(Call("read", "GET", f"{path}&limit={PAGE}{cursor}"), 200)
        page = answer.decode(kind)
        for item in page.items:
            yield item
        if page.next_cursor is None:
            return
        cursor = f"&cursor={quote(page.next_cursor, safe='')}"
