"""What each pool must hold, by the book, and how one that was read differs from that."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import quote

from loadtest.book import Book, PoolKey, Rule, Taken
from loadtest.checks import About
from loadtest.client import Call, Client, Pool, PoolChannel, StockPage
from loadtest.stocking import SHARE_ONE

PAGE_SKUS = 100  # of one read; the contract has room for 200
SHARED = ""  # the party of a receipt that is no channel


Told = tuple[About, str]


@dataclass(slots=True)
class Expected:
    """What a pool must hold, by the book.

    ``received`` in one receipt, ``arrived`` in later ones, ``restocked`` came back for sale;
    ``lost`` was not there when it was counted.
    """

    received: int = 0
    fulfilled: int = 0
    restocked: int = 0
    damaged: int = 0
    quarantine: int = 0
    taken: dict[str, Taken] = field(default_factory=dict)
    arrived: int = 0
    lost: int = 0

    @property
    def later(self) -> int:
        """What arrived for sale after the first receipt."""
        return self.arrived + self.restocked

    @property
    def on_hand(self) -> int:
        """All that came less all that left."""
        back = self.restocked + self.damaged + self.quarantine
        return self.received + self.arrived - self.lost - self.fulfilled + back


def expectations(book: Book) -> dict[PoolKey, Expected]:
    """What each pool must hold, recomputed from everything that was acknowledged."""
    pools = {pool: Expected(received=units) for pool, units in book.received.items()}
    for pool, sums in book.sums().items():
        expected = pools.setdefault(pool, Expected())
        expected.fulfilled, expected.taken = sums.fulfilled, sums.taken
    for pool, units in book.arrived.items():
        pools.setdefault(pool, Expected()).arrived += units
    for pool, units in book.lost.items():
        pools.setdefault(pool, Expected()).lost += units
    for pool, back in book.returned.items():
        expected = pools.setdefault(pool, Expected())
        expected.restocked += back["restock"]
        expected.damaged += back["damaged"]
        expected.quarantine += back["quarantine"]
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


def allotments(expected: Expected, shares: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Party → the least and the most that it was given of everything that arrived for sale.

    The receipt of the start is exact. What comes later, or comes back, arrives as receipts too,
    but in what order and cut into which is not known. Each leaves credits that sum to 0 and are
    paid by the next (DESIGN §3), so after any receipts a party was given its share of all of them
    less its credit, and the bound is the credit's, however many receipts there were. Above: a unit
    goes to the largest credit while they sum to more than nothing, so one of at most 0 never pays:
    a party has less than a unit too much. Below: of n parties none is ever owed more than
    1/2 + 1/3 + … + 1/n (1/2 beside shared alone; the proof is in
    tests/property/test_reference_laws.py). What a count did not find may have been any party's.
    """
    parties = {**shares, SHARED: SHARE_ONE - sum(shares.values())}
    if not expected.later:
        quotas = allotted(expected.received, shares)
        quotas[SHARED] = expected.received - sum(quotas.values())
        return {party: (units - expected.lost, units) for party, units in quotas.items()}
    arrived = expected.received + expected.later
    owed = sum(-(-SHARE_ONE // k) for k in range(2, len(parties) + 1))
    return {
        party: (
            -((owed - arrived * share) // SHARE_ONE) - expected.lost,
            -(-arrived * share // SHARE_ONE),
        )
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


def oversold(expected: Expected, pool: Pool) -> int:
    """The units of a pool that were promised, by its own account or by the book, and are not."""
    channels = pool.channels.values()
    promised = sum(channel.reserved + channel.committed for channel in channels)
    acknowledged = sum(taken.reserved + taken.committed for taken in expected.taken.values())
    return max(0, max(promised, acknowledged) - expected.on_hand)


def compare(
    expected: Expected, shares: dict[str, int], pool: Pool, rules: dict[str, Rule]
) -> Iterator[Told]:
    """What is wrong with a pool whose receipts are divided by ``shares``."""
    nothing = PoolChannel(0, 0, 0, 0)
    channels = dict.fromkeys((*shares, *expected.taken), nothing) | pool.channels
    accounts = accounts_of(pool, channels)
    for name, units in accounts.items():
        if units < 0:
            yield About.OVERSELL, f"{name} is {units}"
    total = sum(accounts.values()) - pool.deficit
    if pool.on_hand != total:
        yield About.STOCK, f"on_hand is {pool.on_hand}, its accounts make {total}"
    if over := oversold(expected, pool):
        yield About.OVERSELL, f"{expected.on_hand + over} are promised of {expected.on_hand}"
    if pool.deficit:
        yield About.OVERSELL, f"deficit is {pool.deficit}, should be 0"

    found = accounts | {"on_hand": pool.on_hand}
    wanted = {"on_hand": expected.on_hand, "safety": 0}
    wanted |= {"damaged": expected.damaged, "quarantine": expected.quarantine}
    for name in channels:
        taken = expected.taken.get(name) or Taken()
        wanted[f"reserved[{name}]"] = taken.reserved
        wanted[f"committed[{name}]"] = taken.committed
    for name, units in wanted.items():
        if found[name] != units:
            yield About.STOCK, f"{name} is {found[name]}, should be {units}"
    yield from ((About.QUOTAS, text) for text in _quotas(expected, shares, pool, channels, rules))


def _quotas(
    expected: Expected,
    shares: dict[str, int],
    pool: Pool,
    channels: dict[str, PoolChannel],
    rules: dict[str, Rule],
) -> Iterator[str]:
    """How what is left for each party differs from what it was given less what was taken of it."""
    given = allotments(expected, shares)
    own = sum(taken.own for taken in expected.taken.values())
    borrowed = sum(taken.borrowed for taken in expected.taken.values())
    found, ranges = {"shared": pool.shared}, {"shared": _less(given[SHARED], borrowed)}
    for name, channel in channels.items():
        taken, rule = expected.taken.get(name) or Taken(), rules.get(name, Rule())
        found[f"free[{name}]"] = channel.free
        ranges[f"free[{name}]"] = _less(given.get(name, (0, 0)), taken.own)
        if name not in shares:
            continue
        available = channel.free + (pool.shared if rule.borrow else 0)
        if rule.ceiling is not None:
            # What came back for sale was given back to the ceiling, too, by whoever had taken it.
            allowed = rule.ceiling * (expected.received + expected.arrived) // SHARE_ONE
            most = allowed + expected.restocked
            if (sold := taken.own + taken.borrowed) > most:
                yield f"{name} has taken {sold}, its ceiling is {most}"
            left = 0 if channel.ceiling_left is None else channel.ceiling_left
            available = min(available, left)
        found[f"available[{name}]"] = channel.available
        ranges[f"available[{name}]"] = available, available
    yield from _outside(found, ranges)
    if expected.later or expected.lost:  # each account may be off, all of them together may not
        sellable = pool.shared + sum(channel.free for channel in channels.values())
        units = expected.received + expected.later - expected.lost - own - borrowed
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


async def read_pools(
    client: Client, skus: Iterable[str], locations: Container[str]
) -> dict[PoolKey, Pool]:
    """The pools of ``skus`` at ``locations``, as they are now."""
    found: dict[PoolKey, Pool] = {}
    rest = iter(dict.fromkeys(skus))
    while some := list(islice(rest, PAGE_SKUS)):
        asked = "&".join(f"sku={quote(sku, safe='')}" for sku in some)
        answer = await client.must(Call("read", "GET", f"/v1/stock?{asked}"), 200)
        for item in answer.decode(StockPage).items:
            for pool in item.pools:
                if pool.location in locations:
                    found[item.sku, pool.location] = pool
    return found
