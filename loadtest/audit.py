"""Judges the service from outside: what it holds must follow from what it acknowledged.

Every pool is read and recomputed from the book; reservations are read back by id, all of them up to
``READ_BACK_MAX``, beyond that a sample; all that the ledger tells of the run must come to the same.
"""

from __future__ import annotations

import asyncio
import random
import time

from loadtest import records
from loadtest.book import Book, PoolKey, differences
from loadtest.checks import About, Audit
from loadtest.client import Call, Client, Pool, Reservation, each
from loadtest.live import Progress
from loadtest.pools import compare, expectations, oversold, read_pools

READ_BACK_MAX = 20_000
EXPIRY_S = 10.0  # the service promises 1 s after the deadline; a busy machine may be away for some
LOOK_S = 0.2


async def audit(
    client: Client, book: Book, concurrency: int, rng: random.Random, ledger_s: float
) -> Audit:
    """Read everything back and compare it with the book; surprises of the run count too.

    The ledger is given ``ledger_s`` to catch up.
    """
    pools = await _after_expiry(client, book)
    result = Audit(book)
    _pools(pools, book, result)
    ids = list(book.reservations)
    if len(ids) > READ_BACK_MAX:
        ids = rng.sample(ids, READ_BACK_MAX)
    progress = Progress("audit", len(ids))

    async def read_back(id: str) -> None:
        for difference in await _reservation(client, book, id):
            result.add(About.FOUND, f"reservation {id}: {difference}")
        result.checks[About.FOUND].checked += 1
        progress.step()

    await each(ids, read_back, concurrency)
    await records.hold(client, book, pools, result, ledger_s)
    return result


async def _after_expiry(client: Client, book: Book) -> dict[PoolKey, Pool]:
    """The pools when all that was not paid has expired, or should have long ago."""

    async def read() -> dict[PoolKey, Pool]:
        return await read_pools(client, (sku for sku, _ in book.received), book.shares)

    last_s = book.last_deadline_s()
    if not last_s:
        return await read()
    await asyncio.sleep(last_s - time.monotonic())
    book.deadlines_passed()
    while (pools := await read()) and time.monotonic() < last_s + EXPIRY_S:
        looked = Audit(book)
        _pools(pools, book, looked)
        if looked.passed:
            break
        await asyncio.sleep(LOOK_S)
    return pools


def _pools(pools: dict[PoolKey, Pool], book: Book, result: Audit) -> None:
    expected = expectations(book)
    for about in (About.OVERSELL, About.STOCK, About.QUOTAS):
        result.checks[about].checked = len(expected)
    for (sku, location), wanted in expected.items():
        found = pools.get((sku, location))
        if found is None:
            if wanted.received or wanted.taken:
                told = f"not listed, though {wanted.received} were received"
                result.add(About.STOCK, f"pool {sku}@{location}: {told}")
            continue
        result.oversold += oversold(wanted, found)
        for about, text in compare(wanted, book.shares.get(location, {}), found, book.rules):
            result.add(about, f"pool {sku}@{location}: {text}")
    for sku, location in pools.keys() - expected.keys():
        result.add(About.STOCK, f"pool {sku}@{location}: listed, though nothing came there")


async def _reservation(client: Client, book: Book, id: str) -> list[str]:
    """How the reservation differs from what was acknowledged."""
    answer = await client.call(Call("read", "GET", f"/v1/reservations/{id}"))
    if answer.status != 200:
        return [f"acknowledged, but reading it answers {answer.status} {answer.problem().code}"]
    found = answer.decode(Reservation)
    told = [] if found.id == id else [f"reading it answers {found.id}"]
    return told + list(differences(found, book.reservations[id]))
