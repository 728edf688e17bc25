"""What is asked of the ledger by those who only look: lists page by page, and what happened since.

Each question sees one instant, in a transaction that cannot write and is cut off when it takes too
long. A page is bounded by what is looked at, not only by what is found: where a filter has no index
of its own, a page may hold few rows or none and still say where to go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from msgspec import Struct

from core.errors import LedgerTooSlow, Overloaded
from core.ledger import queries
from core.ledger.journal import SHARD, Connection, Journal, Mark
from core.record_model import VERBS, AuditFilter, MovementFilter, ReservationFilter

QUESTIONS_MAX = 2  # at once, of one worker: its other connections are for who must not wait
WAITING_MAX = 32
ANSWER_MS = 5_000  # of one statement
LOOKED_MAX = 50_000  # rows, or positions, that one page is chosen from: some 100 ms

NOTHING: Final = Mark(0, 0, 0, 1, 0, 0)  # of a ledger that never saw its store
# The verbs of the partial indices of ``movement``; a query must say the same for them to be used.
TAKING: Final = "reservation IS NOT NULL AND verb IN ('reserve', 'amend', 'import')"
RARE: Final = frozenset(VERBS) - {"reserve", "amend", "commit", "release", "expire", "fulfil"}


class Found(Struct, frozen=True):
    """A page: its rows, the key after which the next one goes on, and how far the ledger was."""

    rows: list[asyncpg.Record]
    following: Any
    mark: Mark


class Happened(Struct, frozen=True):
    """Rows of a range of positions, each list in their order."""

    movements: list[asyncpg.Record]
    balances: list[asyncpg.Record]
    versions: list[asyncpg.Record]
    policies: list[asyncpg.Record]


class _Question:
    """A query on its way: its arguments, and the conditions that no index answers."""

    def __init__(self) -> None:
        self.arguments: list[object] = []
        self.rest: list[str] = []

    def put(self, value: object) -> str:
        """The name of an argument."""
        self.arguments.append(value)
        return f"${len(self.arguments)}"


class Reading:
    """The questions of one process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._turn = asyncio.Semaphore(QUESTIONS_MAX)
        self._waiting = 0

    async def mark(self) -> Mark:
        """How far the ledger is."""
        return await self._journal.mark() or NOTHING

    @asynccontextmanager
    async def instant(self) -> AsyncIterator[tuple[Connection, Mark]]:
        """A connection that sees one instant, and how far the ledger is then.

        Raises LedgerUnavailable, LedgerTooSlow, Overloaded.
        """
        if self._waiting >= WAITING_MAX:
            raise Overloaded("too many ask the ledger at once")
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            async with self._journal.connection() as connection:
                try:
                    async with connection.transaction(isolation="repeatable_read", readonly=True):
                        await connection.execute(f"SET LOCAL statement_timeout = {ANSWER_MS}")
                        found = await connection.fetchrow(queries.get("mark"), SHARD)
                        yield connection, Mark(*found) if found else NOTHING
                except asyncpg.QueryCanceledError:
                    raise LedgerTooSlow from None
        finally:
            self._turn.release()

    # --- movements -------------------------------------------------------------------------------

    async def movements(self, chosen: MovementFilter, after: int, limit: int) -> Found:
        """Movements behind the position ``after``, in the order of the stream."""
        async with self.instant() as (connection, mark):
            low, high = after, mark.position
            for at, first in ((chosen.since, True), (chosen.until, False)):
                if at is None:
                    continue
                position = await connection.fetchval(
                    queries.get("position_at"), at, mark.position
                )
                low, high = (max(low, position - 1), high) if first else (low, position - 1)
            if low >= high:
                return Found([], None, mark)
            last = high
            if not _is_indexed(chosen):
                # Bounded by positions, so that it does not hang on how the planner sees it.
                last = min(high, low + LOOKED_MAX)
            question = _Question()
            source, left = _movements(question, chosen, low, last)
            filtered = bool(left) or chosen.channels is not None
            look = LOOKED_MAX if filtered else limit + 1
            source = source.replace("{look}", str(look))
            looked = tuple(question.arguments)
            question.rest = [f"{name} = {question.put(value)}" for name, value in left.items()]
            if chosen.channels is not None:
                question.rest.append(f"channel = ANY({question.put(sorted(chosen.channels))})")
            rows = await connection.fetch(
                f"SELECT * FROM ({source}) m {_where(question)} "
                f"ORDER BY position LIMIT {limit + 1}",
                *question.arguments,
            )
            if len(rows) > limit:
                return Found(rows[:limit], rows[limit - 1]["position"], mark)
            following = last if last < high else None
            if filtered and last == high:  # there may be more behind what was looked at
                following = await connection.fetchval(
                    f"SELECT position FROM ({source}) m ORDER BY position OFFSET {look - 1}",
                    *looked,
                )
            return Found(rows, following, mark)

    # --- reservations ----------------------------------------------------------------------------

    async def reservations(
        self, chosen: ReservationFilter, before: str, limit: int, now_ms: int, at_risk: bool
    ) -> Found:
        """Reservations older than the id ``before``, newest first: (id, record).

        ``at_risk``: those with open units in a pool with a deficit; ``chosen.state`` is one of
        ``reserved`` and ``committed`` then. A deadline that lies before ``now_ms`` has passed.
        """
        if chosen.created_before_ms is not None:
            before = min(before, _first_id(chosen.created_before_ms))
        async with self.instant() as (connection, mark):
            look = LOOKED_MAX
            if at_risk:
                pools = await connection.fetchval(
                    queries.get("deficits"), chosen.sku, chosen.location
                )
                if not pools:
                    return Found([], None, mark)
                look = max(limit + 1, LOOKED_MAX // pools)
            question = _Question()
            ids = _ids(question, chosen, before, at_risk)
            looked = tuple(question.arguments)
            _narrow(question, chosen, now_ms)
            if at_risk:
                question.rest.append(_is_at_risk(question, chosen))
            if not question.rest:
                look = limit + 1
            ids = ids.replace("{look}", str(look))
            # Without OFFSET 0 the planner might read all that could be looked at, then join.
            rows = await connection.fetch(
                f"SELECT r.id, r.record FROM ({ids}) s CROSS JOIN LATERAL "
                "(SELECT * FROM stockade.reservation r WHERE r.id = s.id OFFSET 0) r "
                f"{_where(question)} ORDER BY s.id DESC LIMIT {limit + 1}",
                *question.arguments,
            )
            if len(rows) > limit:
                return Found(rows[:limit], str(rows[limit - 1]["id"]), mark)
            following = None
            if question.rest:  # there may be more behind what was looked at
                found = await connection.fetchval(
                    f"SELECT id FROM ({ids}) s ORDER BY id DESC OFFSET {look - 1} LIMIT 1", *looked
                )
                following = None if found is None else str(found)
            return Found(rows, following, mark)

    async def audit(self, chosen: AuditFilter, after: int, limit: int) -> Found:
        """What people did, behind the position ``after``, in the order of the stream."""
        async with self.instant() as (connection, mark):
            rows = await connection.fetch(
                queries.get("audit"), after, chosen.actor, chosen.target, chosen.since,
                chosen.until, limit + 1,
            )  # fmt: skip
            more = len(rows) > limit
            return Found(rows[:limit], rows[limit - 1]["position"] if more else None, mark)

    # --- what happened ---------------------------------------------------------------------------

    async def happened(self, after: int, last: int) -> Happened:
        """What was written behind the position ``after`` up to ``last``, of which the ledger must
        have all: no more rows than positions."""
        async with self.instant() as (connection, _):
            return Happened(*[
                await connection.fetch(queries.get(name), after, last)
                for name in ("stock_moved", "balanced", "versions", "policies_changed")
            ])  # fmt: skip

    async def rows_at(self, pools: list[tuple[str, str, int]]) -> dict[tuple[str, str, int], str]:
        """Rows of pools (SKU, location, version) as they were at that version."""
        if not pools:
            return {}
        skus, locations, versions = zip(*pools, strict=True)
        found = await self._journal.fetch(
            "rows_at", list(skus), list(locations), list(versions)
        )
        return {(row["sku"], row["location"], row["version"]): row["row"] for row in found}

    async def policy(self) -> list[asyncpg.Record]:
        """Channels and locations as they are now: kind, name, entry."""
        return await self._journal.fetch("places")


def _where(question: _Question) -> str:
    return f"WHERE {' AND '.join(question.rest)}" if question.rest else ""


def _is_indexed(chosen: MovementFilter) -> bool:
    """True if an index finds them among all others."""
    named = (chosen.reservation, chosen.reference, chosen.sku)
    return any(each is not None for each in named) or chosen.verb in RARE


def _movements(
    question: _Question, chosen: MovementFilter, low: int, high: int
) -> tuple[str, dict[str, object]]:
    """The movements to look at, by the index that fits best, and what of the filter is left."""
    put = question.put
    bounds = [f"position > {put(low)}", f"position <= {put(high)}"]
    if chosen.since is not None:
        bounds.append(f"time >= {put(chosen.since)}")  # so that older months are not opened
    if chosen.until is not None:
        bounds.append(f"time < {put(chosen.until)}")
    names = ["reservation", "reference", "sku", "location", "channel", "verb"]
    wanted: dict[str, object] = {
        name: value for name in names if (value := getattr(chosen, name)) is not None
    }
    indexed = ("reservation", "reference", "sku")
    driving: str | None = next((name for name in indexed if name in wanted), None)
    if driving is not None:
        bounds.append(f"{driving} = {put(wanted.pop(driving))}")
        if driving == "sku" and "location" in wanted:
            bounds.append(f"location = {put(wanted.pop('location'))}")
            driving = "pool"
    elif wanted.get("verb") in RARE:
        # Said as it is, not as an argument: the planner must see that it is a rare one.
        bounds.append(f"verb = '{wanted.pop('verb')}'")
    found = f"SELECT * FROM stockade.movement WHERE {' AND '.join(bounds)}"
    found += " ORDER BY position LIMIT {look}"
    if driving != "sku":
        return found, wanted
    # The index goes by SKU, location and position: one way for each location, then merged.
    found = found.replace("WHERE ", "WHERE location = p.location AND ", 1)
    merged = (
        f"SELECT m.* FROM stockade.pool p CROSS JOIN LATERAL ({found}) m "
        f"WHERE p.sku = {put(chosen.sku)} ORDER BY m.position LIMIT {{look}}"
    )
    return merged, wanted


def _ids(question: _Question, chosen: ReservationFilter, before: str, at_risk: bool) -> str:
    """The ids to look at, newest first, by the index that fits best."""
    put = question.put
    behind = put(before)
    for name in ("reference", "customer"):
        value = getattr(chosen, name)
        if value is not None:
            return (
                f"SELECT id FROM stockade.reservation WHERE {name} = {put(value)} "
                f"AND id < {behind} ORDER BY id DESC LIMIT {{look}}"
            )
    if at_risk:
        pools = _in_deficit(question, chosen, "p")
        short = f"SELECT DISTINCT sku FROM stockade.pool p WHERE {pools}"
        return (
            f"SELECT DISTINCT h.id FROM ({short}) p CROSS JOIN LATERAL "
            f"({_holders('p.sku', behind)}) h ORDER BY h.id DESC LIMIT {{look}}"
        )
    if chosen.sku is not None:
        return _holders(put(chosen.sku), behind)
    return (
        f"SELECT id FROM stockade.reservation WHERE id < {behind} ORDER BY id DESC LIMIT {{look}}"
    )


def _holders(sku: str, behind: str) -> str:
    """The reservations that ever held a SKU."""
    return (
        f"SELECT DISTINCT ON (reservation) reservation AS id FROM stockade.movement "
        f"WHERE sku = {sku} AND {TAKING} AND reservation < {behind} "
        "ORDER BY reservation DESC LIMIT {look}"
    )


def _in_deficit(question: _Question, chosen: ReservationFilter, pool: str) -> str:
    """Which pools have a deficit, of the SKU and the location that were asked for."""
    found = [f"{pool}.deficit > 0"]
    for name in ("sku", "location"):
        value = getattr(chosen, name)
        if value is not None:
            found.append(f"{pool}.{name} = {question.put(value)}")
    return " AND ".join(found)


def _is_at_risk(question: _Question, chosen: ReservationFilter) -> str:
    """A reservation has open units in such a pool: neither shipped nor given back."""
    return (
        "EXISTS (SELECT FROM unnest(string_to_array(r.record, ' ')) AS word "
        "JOIN stockade.pool p ON p.sku = split_part(word, '@', 1) "
        "AND p.location = split_part(word, '@', 2), "
        "LATERAL (SELECT string_to_array(split_part(word, '@', 3), ',') AS n) line "
        f"WHERE word LIKE '%@%@%' AND {_in_deficit(question, chosen, 'p')} "
        "AND n[1]::bigint + n[2]::bigint > coalesce(n[3]::bigint + n[4]::bigint, 0))"
    )


def _narrow(question: _Question, chosen: ReservationFilter, now_ms: int) -> None:
    """What the record itself says; a passed deadline counts."""
    put, rest = question.put, question.rest
    if chosen.channels is not None:
        rest.append(f"r.channel = ANY({put(sorted(chosen.channels))})")
    for name in ("channel", "customer", "reference"):
        value = getattr(chosen, name)
        driving = "reference" if chosen.reference is not None else "customer"
        if value is not None and name != driving:
            rest.append(f"r.{name} = {put(value)}")
    if chosen.sku is not None or chosen.location is not None:
        # A line is a word: SKU@location@numbers. No other word of a record has an @.
        line = f" {chosen.sku}@" if chosen.sku is not None else "@"
        line += f"{chosen.location}@" if chosen.location is not None else ""
        rest.append(f"strpos(r.record, {put(line)}) > 0")
    if chosen.state in ("reserved", "expired"):
        due = f"split_part(r.record, ' ', 4)::bigint <= {put(now_ms)}"
        passed = f"(CASE r.state WHEN 'R' THEN {due} END)"  # it stands there only while reserved
        rest.append(
            f"(r.state = 'X' OR {passed})" if chosen.state == "expired" else f"NOT {passed}"
        )
    elif chosen.state is not None:
        rest.append(f'r.state = {put(_LETTERS[chosen.state])}::text::"char"')


_LETTERS: Final = {
    "committed": "C", "fulfilled": "F", "returned": "T", "released": "L", "cancelled": "K",
}  # fmt: skip


def _first_id(time_ms: int) -> str:
    """The least id that a reservation of this time could have (UUIDv7)."""
    digits = f"{max(0, time_ms):012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"
