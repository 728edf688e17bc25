"""Judges the service from outside: what it holds must follow from what it acknowledged.

Every pool is read by pages and recomputed from the book; reservations are read back by id, all of
them up to ``READ_BACK_MAX``, beyond that a sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

from loadtest.book import Book, Differences, PoolKey, place
from loadtest.client import Call, Client, Line, Pool, PoolChannel, Reservation, StockPage, each
from loadtest.progress import Progress

READ_BACK_MAX = 20_000
PAGE_LIMIT = 1000
SHARE_ONE = 1_000_000
GIVEN_BACK = ("released", "expired")  # states in which nothing is taken any more
SHARED = ""  # the party of a receipt that is no channel


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
    """What a pool must hold, by the book; ``restocked`` came back for sale."""

    received: int = 0
    fulfilled: int = 0
    restocked: int = 0
    damaged: int = 0
    quarantine: int = 0
    taken: dict[str, Taken] = field(default_factory=dict)

    @property
    def on_hand(self) -> int:
        """All that came less all that left."""
        back = self.restocked + self.damaged + self.quarantine
        return self.received - self.fulfilled + back


def expectations(book: Book) -> dict[PoolKey, Expected]:
    """What each pool must hold, recomputed from everything that was acknowledged."""
    pools = {pool: Expected(received=units) for pool, units in book.received.items()}
    for held in book.reservations.values():
        if held.state in GIVEN_BACK:
            continue
        for line in held.lines:
            expected = pools.setdefault(place(line), Expected())
            taken = expected.taken.setdefault(held.channel, Taken())
            own, borrowed = still_taken(line)
            taken.own += own
            taken.borrowed += borrowed
            if held.state == "reserved":
                taken.reserved += line.open
            else:
                taken.committed += line.open
            expected.fulfilled += line.fulfilled
    for pool, back in book.returned.items():
        expected = pools.setdefault(pool, Expected())
        expected.restocked += back["restock"]
        expected.damaged += back["damaged"]
        expected.quarantine += back["quarantine"]
    return pools


def still_taken(line: Line) -> tuple[int, int]:
    """(own, borrowed) units of a line that did not go back by a cancel.

    Own ones ship first and borrowed ones go back first: of those that were not shipped.
    """
    lent = line.borrowed - max(0, line.fulfilled - line.own)
    borrowed_back = min(line.cancelled, lent)
    return line.own - (line.cancelled - borrowed_back), line.borrowed - borrowed_back


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


def allotments(expected: Expected, shares: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Party → the least and the most that it was given of everything that arrived for sale.

    The receipt of the start is exact. What is restocked arrives as receipts too, but in what order
    and cut into which is not known. Each leaves credits that sum to 0 and are paid by the next
    (DESIGN §3), so after any receipts a party was given its share of all of them less its credit,
    and the bound is the credit's, however many receipts there were. Above: a unit goes to the
    largest credit while they sum to more than nothing, so one of at most 0 never pays: a party has
    less than a unit too much. Below: of n parties none is ever owed more than 1/2 + 1/3 + … + 1/n
    (1/2 beside shared alone; the proof is in tests/property/test_reference_laws.py).
    """
    parties = {**shares, SHARED: SHARE_ONE - sum(shares.values())}
    if not expected.restocked:
        quotas = allotted(expected.received, shares)
        quotas[SHARED] = expected.received - sum(quotas.values())
        return {party: (units, units) for party, units in quotas.items()}
    arrived = expected.received + expected.restocked
    owed = sum(-(-SHARE_ONE // k) for k in range(2, len(parties) + 1))
    return {
        party: (-((owed - arrived * share) // SHARE_ONE), -(-arrived * share // SHARE_ONE))
        for party, share in parties.items()
    }


def accounts_of(pool: Pool, channels: dict[str, PoolChannel]) -> dict[str, int]:
    """Every account of a pool by name, but its deficit."""
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
    return accounts


def compare(expected: Expected, shares: dict[str, int], pool: Pool) -> Iterator[str]:
    """What is wrong with a pool whose receipts are divided by ``shares``."""
    nothing = PoolChannel(0, 0, 0, 0)
    channels = dict.fromkeys((*shares, *expected.taken), nothing) | pool.channels
    accounts = accounts_of(pool, channels)
    yield from (f"{name} is {units}" for name, units in accounts.items() if units < 0)
    total = sum(accounts.values()) - pool.deficit
    if pool.on_hand != total:
        yield f"on_hand is {pool.on_hand}, its accounts make {total}"
    promised = sum(channel.reserved + channel.committed for channel in channels.values())
    if promised > expected.on_hand:
        yield f"{promised} are promised of {expected.on_hand}: oversold"

    found = accounts | {"on_hand": pool.on_hand, "deficit": pool.deficit}
    wanted = {"on_hand": expected.on_hand, "safety": 0, "deficit": 0}
    wanted |= {"damaged": expected.damaged, "quarantine": expected.quarantine}
    ranges: dict[str, tuple[int, int]] = {}
    given = allotments(expected, shares)
    borrowed = sum(taken.borrowed for taken in expected.taken.values())
    ranges["shared"] = _less(given[SHARED], borrowed)
    for name in channels:
        taken = expected.taken.get(name) or Taken()
        ranges[f"free[{name}]"] = _less(given.get(name, (0, 0)), taken.own)
        wanted[f"reserved[{name}]"] = taken.reserved
        wanted[f"committed[{name}]"] = taken.committed
        if name in shares:
            found[f"available[{name}]"] = channels[name].available
            wanted[f"available[{name}]"] = channels[name].free + pool.shared
    for name, units in wanted.items():
        if found[name] != units:
            yield f"{name} is {found[name]}, should be {units}"
    yield from _outside(found, ranges)
    if expected.restocked:  # where each account may be off, all of them together may not
        sellable = pool.shared + sum(channel.free for channel in channels.values())
        own = sum(taken.own for taken in expected.taken.values())
        units = expected.received + expected.restocked - own - borrowed
        if sellable != units:
            yield f"free and shared are {sellable}, should be {units}"


def _less(bounds: tuple[int, int], units: int) -> tuple[int, int]:
    least, most = bounds
    return least - units, most - units


def _outside(found: dict[str, int], ranges: dict[str, tuple[int, int]]) -> Iterator[str]:
    for name, (least, most) in ranges.items():
        if not least <= found[name] <= most:
            bounds = f"{least}" if least == most else f"{least} to {most}"
            yield f"{name} is {found[name]}, should be {bounds}"


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
    if held.state != "expired" and found.version != held.version:
        differences.append(f"is version {found.version}, should be {held.version}")
    if sorted(found.lines, key=place) != sorted(held.lines, key=place):
        differences.append(f"holds {found.lines}, should hold {held.lines}")
    return differences
