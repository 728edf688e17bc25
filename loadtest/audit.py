"""Judges the service from outside: what it holds must follow from what it acknowledged.

Every pool is read by pages and recomputed from the book; reservations are read back by id, all of
them up to ``READ_BACK_MAX``, beyond that a sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from loadtest.book import Book, Differences, PoolKey
from loadtest.client import Call, Client, Line, Pool, PoolChannel, Reservation, StockPage, each
from loadtest.progress import Progress

READ_BACK_MAX = 20_000
PAGE_LIMIT = 1000
SHARE_ONE = 1_000_000
OPEN = ("reserved", "committed")


@dataclass(slots=True)
class Audit:
    """What was looked at, and what was not as it should be."""

    pools: int = 0
    read_back: int = 0
    acknowledged: int = 0
    differences: Differences = field(default_factory=Differences)


@dataclass(slots=True)
class Taken:
    """What one channel has of a pool, by the book."""

    reserved: int = 0
    committed: int = 0
    own: int = 0  # taken from its quota, whether still here or shipped
    borrowed: int = 0


@dataclass(slots=True)
class Expected:
    """What a pool must hold, by the book."""

    received: int = 0
    fulfilled: int = 0
    taken: dict[str, Taken] = field(default_factory=dict)


def expectations(book: Book) -> dict[PoolKey, Expected]:
    """What each pool must hold, recomputed from everything that was acknowledged."""
    pools = {pool: Expected(received=units) for pool, units in book.received.items()}
    for held in book.reservations.values():
        if held.state not in (*OPEN, "fulfilled"):
            continue
        for line in held.lines:
            expected = pools.setdefault((line.sku, line.location), Expected())
            taken = expected.taken.setdefault(held.channel, Taken())
            taken.own += line.own
            taken.borrowed += line.borrowed
            if held.state == "reserved":
                taken.reserved += line.quantity
            elif held.state == "committed":
                taken.committed += line.quantity
            else:
                expected.fulfilled += line.quantity
    return pools


def allotted(units: int, shares: dict[str, int]) -> dict[str, int]:
    """How one receipt of ``units`` is set aside: the floor of each share, then the units left over
    one by one to the largest remainder, ties by name and what is shared (not listed) last."""
    shared = SHARE_ONE - sum(shares.values())
    quotas = {channel: units * share // SHARE_ONE for channel, share in shares.items()}
    left = units - sum(quotas.values()) - units * shared // SHARE_ONE
    remainders = [(-(units * share % SHARE_ONE), 0, name) for name, share in shares.items()]
    remainders.append((-(units * shared % SHARE_ONE), 1, ""))
    for _, is_shared, channel in sorted(remainders)[:left]:
        if not is_shared:
            quotas[channel] += 1
    return quotas


def compare(expected: Expected, shares: dict[str, int], pool: Pool) -> Iterator[str]:
    """What is wrong with a pool whose receipts are divided by ``shares``."""
    nothing = PoolChannel(0, 0, 0, 0)
    channels = dict.fromkeys((*shares, *expected.taken), nothing) | pool.channels
    accounts = {
        "safety": pool.safety,
        "shared": pool.shared,
        "damaged": pool.damaged,
        "quarantine": pool.quarantine,
    }
    for name, channel in channels.items():
        accounts[f"free[{name}]"] = channel.free
        accounts[f"reserved[{name}]"] = channel.reserved
        accounts[f"committed[{name}]"] = channel.committed
    yield from (f"{name} is {units}" for name, units in accounts.items() if units < 0)
    total = sum(accounts.values()) - pool.deficit
    if pool.on_hand != total:
        yield f"on_hand is {pool.on_hand}, its accounts make {total}"
    promised = sum(channel.reserved + channel.committed for channel in channels.values())
    if promised > expected.received - expected.fulfilled:
        yield f"{promised} are promised of {expected.received - expected.fulfilled}: oversold"

    wanted = {"on_hand": expected.received - expected.fulfilled}
    wanted |= {"safety": 0, "damaged": 0, "quarantine": 0, "deficit": 0}
    found = accounts | {"on_hand": pool.on_hand, "deficit": pool.deficit}
    quotas = allotted(expected.received, shares)
    borrowed = sum(taken.borrowed for taken in expected.taken.values())
    wanted["shared"] = expected.received - sum(quotas.values()) - borrowed
    for name in channels:
        taken = expected.taken.get(name) or Taken()
        wanted[f"free[{name}]"] = quotas.get(name, 0) - taken.own
        wanted[f"reserved[{name}]"] = taken.reserved
        wanted[f"committed[{name}]"] = taken.committed
        if name in shares:
            found[f"available[{name}]"] = channels[name].available
            wanted[f"available[{name}]"] = channels[name].free + pool.shared
    for name, units in wanted.items():
        if found[name] != units:
            yield f"{name} is {found[name]}, should be {units}"


async def audit(client: Client, book: Book, concurrency: int, rng: random.Random) -> Audit:
    """Read everything back and compare it with the book; surprises of the run count too."""
    result = Audit(acknowledged=len(book.reservations), differences=book.surprises)
    await _pools(client, book, result)
    ids = list(book.reservations)
    if len(ids) > READ_BACK_MAX:
        ids = rng.sample(ids, READ_BACK_MAX)
    progress = Progress("audit", len(ids))

    async def read_back(id: str) -> None:
        for difference in await _reservation(client, book, id):
            result.differences.add(f"reservation {id}: {difference}")
        result.read_back += 1
        progress.step()

    await each(ids, read_back, concurrency)
    return result


async def _pools(client: Client, book: Book, result: Audit) -> None:
    expected = expectations(book)
    cursor = ""
    while True:
        path = f"/v1/stock?limit={PAGE_LIMIT}{cursor}"
        page = (await client.must(Call("read", "GET", path), 200)).decode(StockPage)
        for item in page.items:
            for pool in item.pools:
                # A pool listed twice meets nothing the second time, and differs from that.
                wanted = expected.pop((item.sku, pool.location), None) or Expected()
                for difference in compare(wanted, book.shares.get(pool.location, {}), pool):
                    result.differences.add(f"pool {item.sku}@{pool.location}: {difference}")
                result.pools += 1
        if page.next_cursor is None:
            break
        cursor = f"&cursor={quote(page.next_cursor, safe='')}"
    for (sku, location), missing in expected.items():
        result.differences.add(
            f"pool {sku}@{location}: not listed, though {missing.received} were received"
        )


async def _reservation(client: Client, book: Book, id: str) -> list[str]:
    """How the reservation differs from what was acknowledged."""
    answer = await client.call(Call("read", "GET", f"/v1/reservations/{id}"))
    if answer.status != 200:
        return [f"acknowledged, but reading it answers {answer.status} {answer.problem().code}"]
    found, held = answer.decode(Reservation), book.reservations[id]
    differences = []
    if found.id != id:
        differences.append(f"reading it answers {found.id}")
    if found.state != held.state:
        differences.append(f"is {found.state}, should be {held.state}")
    if found.channel != held.channel:
        differences.append(f"is of {found.channel}, should be of {held.channel}")
    if sorted(found.lines, key=_place) != sorted(held.lines, key=_place):
        differences.append(f"holds {found.lines}, should hold {held.lines}")
    return differences


def _place(line: Line) -> PoolKey:
    return line.sku, line.location
