"""What reconciling asks the ledger: what it holds, what it makes of it, and the cases it keeps."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from typing import Any, Literal

import msgspec
from asyncpg import Record
from msgspec import Struct

from core.errors import LedgerUnexplained
from core.ledger import queries
from core.ledger.journal import SHARD, Connection, Journal, Mark
from core.ledger.rebuilding import Rebuilds

PASS_SECONDS = 3_600.0  # for what looks at all live reservations at once
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LOWEST_ID = "00000000-0000-0000-0000-000000000000"

Kind = Literal["row", "lag", "fold", "held", "record", "customers", "live", "count"]


class Inside(Struct, frozen=True):
    """A pool as the ledger has it at its mark. ``row`` is empty if only reservations name it.

    ``held``: account → units that live reservations hold; ``verified``: version and position at
    which movements and accounts were found to agree last, or zeros.
    """

    sku: str
    location: str
    version: int
    position: int
    row: str
    on_hand: int
    held: dict[str, int]
    verified: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.sku}@{self.location}"


class Difference(Struct, frozen=True):
    """Something that is not as it should be. ``subject``: ``sku@location``, a SKU, a reservation's
    id, or what there is one of; ``units`` lie in the wrong account, or nowhere."""

    kind: Kind
    subject: str
    cause: str
    expected: str
    found: str
    units: int

    @property
    def place(self) -> tuple[str | None, str | None]:
        """SKU and location, of a pool; what customers have is of a SKU alone."""
        if self.kind == "customers":
            return self.subject, None
        sku, at, location = self.subject.partition("@")
        return (sku, location) if at else (None, None)


class Case(Struct, frozen=True):
    """A difference, from when it was first found until it is gone."""

    id: int
    kind: Kind
    subject: str
    cause: str
    expected: str
    found: str
    units: int
    movements: list[int]
    state: Literal["open", "explained", "repaired", "vanished"]
    person: str | None
    note: str | None
    opened_at: datetime
    age_seconds: int


class Reconciliation(Struct, frozen=True):
    """What one reconciliation came to."""

    id: int
    night: date | None
    sku: str | None
    whole: bool
    started_at: datetime
    finished_at: datetime | None
    position: int
    pools: int
    reservations: int
    counts: int
    differences: int
    on_hand: int
    units_off: int
    counted_on_hand: int
    counted_off: int
    variance_rate: float
    oversold_units: int
    oversold_orders: int
    status: Literal["normal", "watch", "alarm"]
    reasons: list[str]


class Totals(Struct):
    """What was looked at."""

    position: int = 0
    pools: int = 0
    reservations: int = 0
    counts: int = 0
    on_hand: int = 0
    counted_on_hand: int = 0
    oversold_units: int = 0
    oversold_orders: int = 0


class Snapshot:
    """The ledger as of one mark."""

    def __init__(self, connection: Connection, mark: Mark) -> None:
        self._connection = connection
        self.mark = mark

    async def pools(self, sku: str | None) -> AsyncIterator[list[Inside]]:
        """All pools, or those of a SKU, turn by turn."""
        await self._connection.execute(queries.get("declare_inside"), sku, timeout=PASS_SECONDS)
        while rows := await self._connection.fetch(
            queries.get("fetch_inside"), timeout=PASS_SECONDS
        ):
            yield [_inside(row) for row in rows]

    async def moved(self, pools: Sequence[Inside], whole: bool) -> dict[str, Counter[str]]:
        """Per pool what its accounts gained since it was verified last, or from the start."""
        after = [0 if whole else pool.verified[1] for pool in pools]
        rows = await self._connection.fetch(
            queries.get("moved_between"), [pool.name for pool in pools],
            [pool.sku for pool in pools], [pool.location for pool in pools], after,
            [pool.position for pool in pools], timeout=PASS_SECONDS,
        )  # fmt: skip
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for pool, source, target, units in rows:
            found[pool][source] -= units
            found[pool][target] += units
        return found

    async def oversold(self) -> tuple[int, int]:
        """Units that are promised and not there, and orders that wait for such."""
        units = await self._connection.fetchval(queries.get("oversold"))
        orders = await self._connection.fetchval(
            queries.get("oversold_orders"), timeout=PASS_SECONDS
        )
        return units, orders


class Files:
    """Reads what the ledger holds, and keeps what reconciling finds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def mark(self) -> Mark | None:
        """How far the ledger is."""
        return await self._journal.mark()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """The ledger as of one mark, whatever the scribe writes meanwhile."""
        async with (
            self._journal.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            found = await connection.fetchrow(queries.get("mark"), SHARD)
            assert found is not None, "a mark is never removed"
            yield Snapshot(connection, Mark(*found))

    async def pool_count(self, sku: str | None) -> int:
        return int((await self._journal.fetch("pool_count", sku))[0][0])

    async def rows(self, pools: Sequence[str]) -> dict[str, str]:
        """Rows of pools as of the mark; those that the ledger has."""
        return await self._journal.rows(pools)

    async def pools_behind(
        self, last: tuple[str, str], sku: str | None, count: int
    ) -> list[tuple[str, str, int, str]]:
        """(SKU, location, version, row) of the next pools behind ``last``."""
        rows = await self._journal.fetch("pools_behind", *last, sku, count)
        return [tuple(row) for row in rows]

    async def balances(self, versions: Mapping[str, int]) -> dict[str, str]:
        """Rows of pools at these versions; those that the ledger has."""
        places = [pool.split("@") for pool in versions]
        rows = await self._journal.fetch(
            "balances", list(versions), [sku for sku, _ in places], [at for _, at in places],
            list(versions.values()),
        )  # fmt: skip
        return {row["pool"]: row["row"] for row in rows}

    async def live_behind(self, last: str, count: int) -> dict[str, int]:
        """The next live reservations behind ``last``: id → version."""
        rows = await self._journal.fetch("live_behind", last, count)
        return {row["id"]: row["version"] for row in rows}

    async def record_versions(self, versions: Mapping[str, int]) -> dict[str, str]:
        """Records at these versions; those that the ledger has."""
        rows = await self._journal.fetch(
            "record_versions", list(versions), list(versions.values())
        )
        return {row["id"]: row["record"] for row in rows}

    async def records(self, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
        """(version, record) of reservations as of the mark; those that the ledger has."""
        rows = await self._journal.fetch("records", list(ids))
        return {row["id"]: (row["version"], row["record"]) for row in rows}

    async def customers(self, sku: str, low: str) -> AsyncIterator[list[Record]]:
        """What customers have of a SKU by reservations with an id of ``low`` or higher: (day,
        customer, units), page by page."""
        async with Rebuilds(self._journal).remains() as remains:
            async for page in remains.pages("customers_before", sku, 2**62, low):
                yield page

    async def units_of(self, named: Sequence[tuple[str, str]], low: str) -> list[Record]:
        """The same of some (SKU, customer): (sku, customer, day, units)."""
        return await self._journal.fetch(
            "units_of_customers", [sku for sku, _ in named], [name for _, name in named], low
        )

    async def verified(self, pools: Sequence[Inside]) -> None:
        """Movements and accounts of these agree."""
        if pools:
            await self._journal.fetch(
                "put_verified", [pool.sku for pool in pools], [pool.location for pool in pools],
                [pool.version for pool in pools], [pool.position for pool in pools],
            )  # fmt: skip

    # --- cases -----------------------------------------------------------------------------------

    async def begin(self, night: date | None, sku: str | None, whole: bool) -> int | None:
        """The number of a reconciliation that begins; None if that night's has begun already."""
        found = await self._journal.fetch("begin_reconciliation", night, sku, whole)
        return int(found[0]["id"]) if found else None

    async def give_back(self, run: int) -> None:
        """A night's that was broken off is that night's no more: it can be begun anew."""
        await self._journal.change("give_night_back", run)

    async def put(self, run: int, differences: Iterable[Difference]) -> None:
        """Opens a case for each, or finds the one that is open."""
        found = list({(each.kind, each.subject): each for each in differences}.values())
        if not found:
            return
        suspects = await self._suspects(found)
        await self._journal.fetch(
            "put_cases", [each.kind for each in found], [each.subject for each in found],
            [each.place[0] for each in found], [each.place[1] for each in found],
            [each.cause for each in found], [each.expected for each in found],
            [each.found for each in found], [each.units for each in found],
            [",".join(map(str, suspects[each.subject])) for each in found], run,
        )  # fmt: skip

    async def _suspects(self, found: Sequence[Difference]) -> dict[str, list[int]]:
        """Positions of movements to look at, by subject."""
        pools = {each.subject: each.units for each in found if each.subject.count("@") == 1}
        records = list({each.subject for each in found if _UUID.fullmatch(each.subject)})
        places = [pool.split("@") for pool in pools]
        rows = await self._journal.fetch(
            "suspects_of_pool", list(pools), [sku for sku, _ in places],
            [at for _, at in places], list(pools.values()),
        )  # fmt: skip
        rows += await self._journal.fetch("suspects_of_record", records)
        positions: dict[str, list[int]] = defaultdict(list)
        for subject, position in rows:
            positions[subject].append(position)
        return positions

    async def close_counted(self, subjects: Sequence[str]) -> None:
        """Cases of pools that were counted and are as counted are gone."""
        await self._journal.fetch("close_counted", list(subjects))

    async def finish(
        self, run: int, totals: Totals, kinds: Sequence[Kind], sku: str | None
    ) -> float:
        """Closes cases of these kinds that were not found again, and notes what there was; the
        variance rate."""
        await self._journal.fetch("close_vanished", run, list(kinds), sku)
        found = await self._journal.fetch(
            "finish_reconciliation", run, totals.position, totals.pools, totals.reservations,
            totals.counts, totals.on_hand, totals.counted_on_hand, totals.oversold_units,
            totals.oversold_orders,
        )  # fmt: skip
        return float(found[0]["variance_rate"])

    async def rate_of_day(self, day: datetime) -> float | None:
        """The variance rate of a day, if one is known."""
        found = await self._journal.fetch("rate_of_day", day)
        return float(found[0]["variance_rate"]) if found else None

    async def judge(self, run: int, status: str, reasons: Sequence[str]) -> None:
        """The last word on a reconciliation."""
        await self._journal.fetch("judge_reconciliation", run, status, list(reasons))

    async def reconciliations(self, before: int | None, count: int) -> list[Reconciliation]:
        """Those that came to their end, newest first."""
        rows = await self._journal.fetch("reconciliations", before, count)
        return [msgspec.convert(dict(row), Reconciliation) for row in rows]

    async def cases_of(self, run: int, behind: int, count: int) -> list[Case]:
        """What that reconciliation found, if none found it again since."""
        return _cases(await self._journal.fetch("cases_of", run, behind, count))

    async def unclosed(self, behind: int, count: int) -> list[Case]:
        """Cases that are open or explained."""
        return _cases(await self._journal.fetch("cases_unclosed", behind, count))

    async def explain(self, case: int, note: str, person: str) -> bool:
        """Notes why the difference is there; False if no such case is open."""
        return await self._journal.change("explain_case", case, note, person) == 1

    async def accepted(self) -> dict[tuple[int, int, str], str]:
        """What was accepted, as the scribe sees it."""
        return await self._journal.accepted()

    async def accept(self, error: LedgerUnexplained, epoch: int, reason: str, person: str) -> None:
        """Lets the scribe write a change that no event explains."""
        await self._journal.fetch(
            "accept_drift", epoch, error.seq, *error.pool.split("@"), reason, person
        )

    async def repaired(self, case: int, note: str, person: str) -> bool:
        """Closes a case."""
        return await self._journal.change("close_repaired", case, note, person) == 1


def _inside(row: Record) -> Inside:
    held = msgspec.json.decode(row["held"]) if row["held"] else {}
    return Inside(
        row["sku"], row["location"], row["version"] or 0, row["position"] or 0, row["row"] or "",
        row["on_hand"] or 0, held,
        (row["verified_version"] or 0, row["verified_position"] or 0),
    )  # fmt: skip


def _cases(rows: list[Record]) -> list[Case]:
    found = []
    for row in rows:
        values: dict[str, Any] = dict(row)
        age: timedelta = values.pop("age")
        values["age_seconds"] = int(age.total_seconds())
        found.append(msgspec.convert(values, Case))
    return found
