"""A ledger for tests, and its audit: what is in PostgreSQL is summed a second time, apart from
``core``, and held against the store, field by field.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

import asyncpg

from core.embedded.postgres import Addresses
from core.ledger.journal import Journal, Mark
from core.rebuild import Rebuild
from core.scribe import Scribe
from core.store.events import EventStream
from core.store.rebuilding import Refill
from tests.stored import ALIVE, Row, Store, parse_record, parse_row, read

DIFFERENCES_SHOWN = 40
HOUR_MS, WEEK_MS = 3_600_000, 604_800_000
_AUDITED = ("movement", "balance", "reservation_version")


class Ledger:
    """A database that was migrated, and whoever reads or writes it in this process."""

    def __init__(self, addresses: Addresses) -> None:
        self.dsn, self.owner_dsn = addresses
        self.journal = Journal(self.dsn, 30.0)
        self._streams: list[EventStream | Refill] = []

    def scribe(self, url: str, timeout_seconds: float = 2.0) -> Scribe:
        """A scribe of the store at ``url``."""
        stream = EventStream(url, timeout_seconds)
        self._streams.append(stream)
        return Scribe(stream, self.journal, HOUR_MS, WEEK_MS)

    def rebuilding(
        self, url: str, move_deadlines: bool = True, count_live: bool = False
    ) -> Rebuild:
        """A rebuild of the store at ``url``, not begun yet."""
        stream, refill = EventStream(url, 5.0), Refill(url, 5.0)
        self._streams += (stream, refill)
        windows_ms = (HOUR_MS, WEEK_MS)
        return Rebuild(
            stream, refill, self.journal, windows_ms, move_deadlines, count_live=count_live
        )

    async def catch_up(self, url: str) -> Mark:
        """Brings all that the store holds into the ledger; the mark then."""
        scribe = self.scribe(url)
        while await scribe.turn(wait=False):
            pass
        assert scribe.mark is not None
        return scribe.mark

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Rows of a query of a test, as the owner."""
        connection = await asyncpg.connect(self.owner_dsn)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()

    async def close(self) -> None:
        for stream in self._streams:
            await stream.close()
        await self.journal.close()


async def audit_ledger(dsn: str, url: str, edited: Collection[str] = ()) -> dict[str, int]:
    """Waits until the ledger has all that the store holds, and holds the two against each other.

    Raises AssertionError with all differences; how many rows of each table were looked at.
    ``edited``: reservations whose deadline a test moved behind everybody's back.
    """
    connection = await asyncpg.connect(dsn)
    try:
        for _ in range(3_000):
            store = await read(url)
            mark = await connection.fetchrow("SELECT epoch, seq FROM stockade.mark")
            meta = store.hash("meta")
            if mark and (str(mark["epoch"]), str(mark["seq"])) == (meta["epoch"], meta["seq"]):
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(f"the ledger is at {mark}, the store at {meta}")
        tables: dict[str, Any] = {}
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for table in (*_AUDITED, "pool", "reservation", "policy", "drift"):
                order = "position" if table in _AUDITED else "1"
                query = f"SELECT * FROM stockade.{table} ORDER BY {order}"
                tables[table] = await connection.fetch(query)
    finally:
        await connection.close()
    differences = [
        *_prefixes(tables), *_pools(tables, store), *_reservations(tables, store, edited),
        *_promised(tables), *_policies(tables, store),
    ]  # fmt: skip
    if differences:
        shown = "\n  ".join(differences[:DIFFERENCES_SHOWN])
        raise AssertionError(f"{len(differences)} differences in the ledger:\n  {shown}")
    return {table: len(rows) for table, rows in tables.items()}


def _accounts(row: Row) -> Counter[str]:
    found = row.accounts()
    found["deficit"] = -found["deficit"]
    return Counter({name: units for name, units in found.items() if units})


def _prefixes(tables: dict[str, Any]) -> list[str]:
    """At every version of a pool its accounts are what moved until then (law 1), and no less than
    nothing; versions have no gap (law 7)."""
    wrong = []
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    versions: Counter[str] = Counter()
    moves = list(reversed(tables["movement"]))
    drifted = {_name(row) for row in tables["drift"]}
    repaired = {(_name(move), move["version"]) for move in moves if move["verb"] == "repair"}
    for balance in tables["balance"]:
        while moves and moves[-1]["position"] < balance["position"]:
            move = moves.pop()
            moved = sums[f"{move['sku']}@{move['location']}"]
            moved[move["source"]] -= move["quantity"]
            moved[move["target"]] += move["quantity"]
        pool = f"{balance['sku']}@{balance['location']}"
        versions[pool] += 1
        # A repair passes the version that was found; what was accepted may have skipped some.
        if (pool, balance["version"]) in repaired or pool in drifted:
            versions[pool] = max(versions[pool], balance["version"])
        row = parse_row(balance["row"])
        if not row.version == balance["version"] == versions[pool]:
            wrong.append(f"{pool}: version {balance['version']} is the {versions[pool]}th")
    # Balances of one event follow its movements, so at the end of each event sums are whole.
    for pool, moved in sums.items():
        row = parse_row(next(x["row"] for x in tables["pool"] if _name(x) == pool))
        here = Counter({a: n for a, n in moved.items() if n and a != "outside"})
        if here != _accounts(row):
            wrong.append(f"{pool}: {dict(_accounts(row))}, movements make {dict(here)}")
        if -moved["outside"] != row.on_hand:
            wrong.append(f"{pool}: {row.on_hand} on hand, movements make {-moved['outside']}")
    if moves:
        wrong.append(f"{len(moves)} movements are behind the last balance")
    return wrong


def _name(row: asyncpg.Record) -> str:
    return f"{row['sku']}@{row['location']}"


def _pools(tables: dict[str, Any], store: Store) -> list[str]:
    """Hot = ledger, per pool (law 8), and the ledger's own last balance."""
    hot, last = store.hash("pools"), {_name(row): row["row"] for row in tables["balance"]}
    cold = {_name(row): row["row"] for row in tables["pool"]}
    return [
        f"{pool}: the store has {hot.get(pool)}, the ledger {cold.get(pool)}, its last balance "
        f"{last.get(pool)}"
        for pool in sorted({*hot, *cold, *last})
        if not hot.get(pool) == cold.get(pool) == last.get(pool)
    ]


def _reservations(
    tables: dict[str, Any], store: Store, edited: Collection[str]
) -> list[str]:
    """Hot = ledger, per reservation; one that left the store has ended (law 8)."""
    wrong, last, versions = [], {}, Counter[str]()
    for row in tables["reservation_version"]:
        id = str(row["reservation"])
        last[id] = row["record"]
        versions[id] += 1
        if row["version"] != versions[id]:
            wrong.append(f"{id}: version {row['version']} is the {versions[id]}th")
    cold = {str(row["id"]): row["record"] for row in tables["reservation"]}
    if cold != last:
        wrong.append("reservations are not their last versions")
    hot = {
        id: text
        for name, bucket in store.hashes.items()
        if name.startswith("{s0}:rsv:")
        for id, text in bucket.items()
    }
    for id in sorted({*hot, *cold}):
        one, other = hot.get(id), cold.get(id)
        if one is None and other is not None and other[0] not in "RC":
            continue  # it left the store
        if one is not None and other is not None and _same(one, other, id in edited):
            continue
        wrong.append(f"{id}: the store has {one}, the ledger {other}")
    return wrong


def _same(one: str, other: str, edited: bool) -> bool:
    """True but for the word that says which event wrote it, where it came back from the ledger."""
    ours, theirs = one.split(" "), other.split(" ")
    if ours[5] == "-":
        theirs[5] = "-"
    if edited:
        ours[3] = theirs[3]
    return ours == theirs


def _promised(tables: dict[str, Any]) -> list[str]:
    """What the pools promise is what live reservations hold."""
    held: Counter[tuple[str, str]] = Counter()
    for row in tables["reservation"]:
        record = parse_record(row["record"])
        if record.state in ALIVE:
            for line in record.lines:
                held[line.pool, f"{ALIVE[record.state]}:{record.channel}"] += line.open
    promised: Counter[tuple[str, str]] = Counter()
    for row in tables["pool"]:
        for account, units in _accounts(parse_row(row["row"])).items():
            if account.startswith(("reserved:", "committed:")):
                promised[_name(row), account] += units
    return [
        f"{what}: {promised[what]} promised, reservations hold {held[what]}"
        for what in sorted(promised.keys() | held.keys())
        if promised[what] != held[what]
    ]


def _policies(tables: dict[str, Any], store: Store) -> list[str]:
    wrong = []
    cold: dict[str, dict[str, str]] = {"channel": {}, "location": {}, "sku": {}}
    for row in tables["policy"]:
        cold[row["kind"]][row["name"]] = row["entry"]
    for kind, entries in cold.items():
        hot = store.hash(f"{kind}s")
        if hot != entries:
            wrong.append(f"{kind}s: the store has {hot}, the ledger {entries}")
    return wrong
