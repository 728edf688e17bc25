"""What one batch of events writes: a page, and with it the mark, in one transaction.

The mark moves by a conditional update, first of all: it is the fence against a second scribe, and
what makes a batch count once whatever breaks. A COMMIT whose answer was lost is found out by
reading the mark again.
"""

from __future__ import annotations

import logging
import re
from datetime import date
from typing import Any

import asyncpg
from msgspec import Struct, field

from core.errors import LedgerBroken
from core.ledger import queries
from core.ledger.journal import SHARD, Connection, Journal, Mark

log = logging.getLogger("stockade.ledger")

_OF_POOLS = re.compile("pool$|balance")

COLUMNS = {
    "movement": (
        "position", "time", "occurred_at", "verb", "sku", "location", "source", "target",
        "quantity", "version", "channel", "reservation", "reference", "reason", "actor",
    ),
    "balance": (
        "position", "time", "sku", "location", "version", "row", "on_hand", "promised",
        "sellable", "deficit", "was_sellable", "was_deficit",
    ),
    "reservation_version": (
        "position", "time", "reservation", "version", "verb", "record", "actor",
    ),
    "reservation": (
        "id", "state", "version", "position", "channel", "customer", "reference", "record",
    ),
    "policy_version": ("position", "time", "kind", "name", "entry"),
    "audit": (
        "position", "time", "actor", "request", "verb", "target", "before", "after",
    ),
    "idempotency_keys": ("position", "time_ms", "long", "keys"),
}  # fmt: skip


class Changed(Struct, gc=False):
    """A reservation that was there before: what it is after the page."""

    was: int
    state: str
    version: int
    position: int
    reference: str | None
    record: str


class Page(Struct):
    """The rows of one transaction. ``copied``: table → lines as COPY takes them, in text."""

    copied: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in COLUMNS})
    pools: dict[str, tuple[int, int, str, tuple[int, int, int, int]]] = {}
    made: dict[str, tuple[str, str]] = {}  # id → channel, customer, as encoded
    changed: dict[str, Changed] = {}
    policy: dict[tuple[str, str], str] = {}  # kind, name → entry, or "" for one that is gone
    imports: dict[str, str] = {}
    months: set[date] = field(default_factory=set)


class Books:
    """Writes pages. One object per scribe."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._months: set[date] = set()

    async def begin(self, epoch: int, now_ms: int, main: str) -> None:
        """Makes the mark of a shard that the ledger never saw. It begins with one location, which
        no event tells of: ``main``, its entry."""
        await self._journal.fetch("begin_mark", SHARD, epoch, now_ms, main)

    async def see(self, mark: Mark, now_ms: int) -> bool:
        """Notes that the store holds no more than this now; False if the mark is another."""
        async with self._journal.connection() as connection:
            done = await connection.execute(
                queries.get("see_mark"), SHARD, mark.epoch, mark.seq, now_ms
            )
        return bool(done == "UPDATE 1")

    async def write(self, page: Page, old: Mark, new: Mark) -> bool:
        """Writes a page and moves the mark, both or neither.

        False if the mark is not ``old``: another scribe was here. Raises LedgerUnavailable with
        nothing written, or perhaps all of it: then the mark says which. Raises LedgerBroken for a
        page that contradicts what is there.
        """
        await self._open_months(page.months)
        async with self._journal.connection() as connection:
            try:
                async with connection.transaction():
                    moved = await connection.execute(
                        queries.get("move_mark"), SHARD, old.epoch, old.seq, new.seq,
                        new.position, new.policy, new.time_ms,
                    )  # fmt: skip
                    if moved != "UPDATE 1":
                        return False
                    await self._write(connection, page)
            except asyncpg.IntegrityConstraintViolationError as error:
                raise LedgerBroken(
                    f"the events up to {new.seq} break a law: {_told(error)}"
                ) from error
            except asyncpg.DataError as error:
                raise LedgerBroken(
                    f"the events up to {new.seq} are no rows: {_told(error)}"
                ) from error
        return True

    async def _open_months(self, months: set[date]) -> None:
        for month in sorted(months - self._months):
            await self._journal.fetch("open_month", month)
            self._months.add(month)

    async def _write(self, connection: Connection, page: Page) -> None:
        for table, lines in page.copied.items():
            if lines:
                # A file would be read in a thread. That a buffer will do, its types do not know.
                rows: Any = memoryview("".join(lines).encode())
                await connection.copy_to_table(
                    table, source=rows, schema_name="stockade", columns=COLUMNS[table],
                    format="text",
                )  # fmt: skip
        if page.changed:
            await self._change(connection, page.changed)
        if page.pools:
            await self._put_pools(connection, page)
        if page.policy:
            kinds, names = [kind for kind, _ in page.policy], [name for _, name in page.policy]
            for query in ("put_policy", "drop_policy"):
                await connection.execute(
                    queries.get(query), kinds, names, list(page.policy.values())
                )
        for name, value in page.imports.items():
            await connection.execute(queries.get("put_import"), name, value)

    @staticmethod
    async def _change(connection: Connection, changed: dict[str, Changed]) -> None:
        rows = changed.values()
        done = await connection.execute(
            queries.get("change_reservations"), list(changed), [row.was for row in rows],
            [row.state for row in rows], [row.version for row in rows],
            [row.position for row in rows], [row.reference for row in rows],
            [row.record for row in rows],
        )  # fmt: skip
        if done != f"UPDATE {len(changed)}":
            raise LedgerBroken(
                f"of {len(changed)} reservations that changed the ledger has {done.split()[1]} at "
                "the version before"
            )

    @staticmethod
    async def _put_pools(connection: Connection, page: Page) -> None:
        places = [pool.split("@") for pool in page.pools]
        rows = page.pools.values()
        await connection.execute(
            queries.get("put_pools"), [sku for sku, _ in places], [at for _, at in places],
            [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows],
            *([row[3][i] for row in rows] for i in range(4)),
        )  # fmt: skip

    async def drop_keys(self, short_before_ms: int, long_before_ms: int) -> None:
        """Forgets keys of windows that are out of use."""
        await self._journal.fetch("drop_keys", short_before_ms, long_before_ms)


def _told(error: asyncpg.PostgresError) -> str:
    """What PostgreSQL says, without the row that it is about unless that is a pool's: another one
    may tell whose a reservation is."""
    return str(error) if _OF_POOLS.match(error.table_name or "") else str(error.args[0])
