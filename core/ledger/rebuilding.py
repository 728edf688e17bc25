"""The reading side of a rebuild: the fence, what the store must have again, and what was lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Struct

from core.ledger import queries
from core.ledger.journal import SHARD, Connection, Journal, Mark

PAGE_ROWS = 1_000
PAGE_SECONDS = 600.0  # few live reservations may lie among many that ended


class Loss(Struct, frozen=True):
    """From where on it is not known what the store acknowledged.

    The last event that is known is ``seq`` of ``epoch``; its last row in the ledger is
    ``position``; ``time_ms`` is its time, ``seen_ms`` when there was nothing behind it for sure.
    ``carried`` events were still found in the store and are not lost. ``whole``: that was all of
    them. Else ``reason`` says why no more were carried, if there were more, and ``named`` what is
    known of those: "id reference" of each reservation that they are about.
    """

    epoch: int
    seq: int
    position: int
    time_ms: int
    seen_ms: int
    carried: int
    whole: bool
    reason: str
    named: list[str]


class Report(Struct, frozen=True):
    """A rebuild that ended: what the store has since."""

    epoch: int
    loss: Loss
    counts: dict[str, int]
    moved: int
    outage_ms: int
    seconds: float
    by_another: bool = False


class Remains:
    """What a rebuild reads, all of one instant. One stream at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def sizes(self, short_ms: int, long_ms: int) -> dict[str, int]:
        """How many rows there will be of each kind."""
        rows = await self._connection.fetch(
            queries.get("rebuild_sizes"), short_ms, long_ms, timeout=PAGE_SECONDS
        )
        return dict(rows[0])

    async def pages(self, name: str, *args: object) -> AsyncIterator[list[asyncpg.Record]]:
        """The rows of a named query, page by page: a cursor that lives in this transaction."""
        connection = self._connection
        await connection.execute(
            f"DECLARE remains NO SCROLL CURSOR FOR {queries.get(name)}", *args
        )
        while page := await connection.fetch(
            f"FETCH {PAGE_ROWS} FROM remains", timeout=PAGE_SECONDS
        ):
            yield page
        await connection.execute("CLOSE remains")


class Rebuilds:
    """The ledger's own account of rebuilds, and its fence."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def fence(self, mark: Mark, epoch: int, now_ms: int, loss: Loss) -> bool:
        """Begins a new epoch and writes down what was lost with the old one, both or neither.

        False if the mark is another by now. No scribe of the old epoch writes after this.
        """
        async with self._journal.connection() as connection, connection.transaction():
            moved = await connection.execute(
                queries.get("fence_mark"), SHARD, mark.epoch, mark.seq, epoch
            )
            if moved != "UPDATE 1":
                return False
            await connection.execute(
                queries.get("begin_rebuild"), epoch, now_ms, loss.epoch, loss.seq, loss.position,
                loss.time_ms, loss.seen_ms, loss.carried, loss.whole, loss.reason, loss.named,
            )  # fmt: skip
        return True

    async def unfinished(self, epoch: int) -> Loss | None:
        """What a rebuild that began this epoch and never ended had lost."""
        found = await self._journal.fetch("unfinished_rebuild", epoch)
        return Loss(*found[0]) if found else None

    async def ended(self, report: Report, now_ms: int) -> None:
        """Writes down that it came to its end."""
        await self._journal.fetch(
            "end_rebuild", report.epoch, now_ms, json.dumps(report.counts), report.moved,
            report.outage_ms,
        )  # fmt: skip

    async def last(self) -> Report | None:
        """The last one that came to its end."""
        found = await self._journal.fetch("last_rebuild")
        if not found:
            return None
        epoch, *lost, counts, moved, outage_ms, started, finished = found[0]
        seconds = float(finished - started)
        return Report(epoch, Loss(*lost), json.loads(counts), moved, outage_ms, seconds, True)

    @asynccontextmanager
    async def remains(self) -> AsyncIterator[Remains]:
        """Opens what the ledger has, as of now."""
        async with (
            self._journal.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield Remains(connection)
