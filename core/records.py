"""The use cases of the ledger for those who look: movements and reservations, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct

from core.errors import LedgerUnavailable
from core.lane import Lane
from core.ledger.journal import Journal
from core.ledger.reading import Reading
from core.ops import Receipt
from core.record_model import (
    LAST_ID,
    AuditEntry,
    AuditFilter,
    Movement,
    MovementFilter,
    ReservationFilter,
)
from core.store import keys

EXPORT_ROWS: Final = 10_000  # of one page, of which a process holds one
PASSES: Final = {"R": "reserved", "C": "committed"}  # of what is at risk: the unpaid first


class Movements(Struct, frozen=True):
    """A page of movements, the position to go on behind, and how far the ledger was."""

    items: list[Movement]
    following: int | None
    as_of_seq: int


class Reservations(Struct, frozen=True):
    """A page of reservations, the key to go on behind, and how far the ledger was."""

    items: list[Receipt]
    following: str | None
    as_of_seq: int


class Records:
    """What one worker reads in the ledger; without one all of it raises LedgerUnavailable."""

    def __init__(self, lane: Lane, journal: Journal | None) -> None:
        self._lane = lane
        self._reading = None if journal is None else Reading(journal)

    @property
    def reading(self) -> Reading:
        """The ledger's questions. Raises LedgerUnavailable if there is no ledger."""
        if self._reading is None:
            raise LedgerUnavailable("there is no ledger")
        return self._reading

    async def movements(self, chosen: MovementFilter, after: int, limit: int) -> Movements:
        """Movements behind the position ``after``, in order. There may be more behind a page that
        is not full: ``following`` says so."""
        found = await self.reading.movements(chosen, after, limit)
        return Movements([movement(row) for row in found.rows], found.following, found.mark.seq)

    async def reservations(
        self, chosen: ReservationFilter, after: str | None, limit: int
    ) -> Reservations:
        """Reservations behind the id ``after``, newest first, each as it is now. There may be more
        behind a page that is not full: ``following`` says so."""
        now_ms = self._lane.now_ms
        found = await self.reading.reservations(chosen, after or LAST_ID, limit, now_ms, False)
        return Reservations(self._receipts(found.rows, now_ms), found.following, found.mark.seq)

    async def at_risk(
        self, chosen: ReservationFilter, after: str | None, limit: int
    ) -> Reservations:
        """Those with open units in a pool with a deficit: the reserved ones, newest first, then the
        committed ones. A key is R or C, and an id."""
        now_ms = self._lane.now_ms
        passed, id = (after[0], after[1:]) if after else ("R", LAST_ID)
        items: list[Receipt] = []
        seq = (await self.reading.mark()).seq
        for letter in "RC"["RC".index(passed) :]:
            if chosen.state not in (None, PASSES[letter]):
                continue
            narrowed = msgspec.structs.replace(chosen, state=PASSES[letter])
            found = await self.reading.reservations(
                narrowed, id if letter == passed else LAST_ID, limit - len(items), now_ms, True
            )
            items += self._receipts(found.rows, now_ms)
            seq = min(seq, found.mark.seq)
            if found.following is not None:
                return Reservations(items, letter + found.following, seq)
            if len(items) == limit and letter == "R" and chosen.state is None:
                return Reservations(items, "C" + LAST_ID, seq)
        return Reservations(items, None, seq)

    def _receipts(self, rows: Sequence[Any], now_ms: int) -> list[Receipt]:
        level = self._lane.durability
        return [
            Receipt(str(row["id"]), row["record"].encode(), level, as_of_ms=now_ms) for row in rows
        ]


async def all_movements(
    reading: Reading, chosen: MovementFilter
) -> AsyncIterator[list[Movement]]:
    """All movements that are there now, in order, page by page."""
    last = (await reading.mark()).position
    after: int | None = 0
    while after is not None and after < last:
        found = await reading.movements(chosen, after, EXPORT_ROWS)
        yield [movement(row) for row in found.rows if row["position"] <= last]
        after = found.following


async def all_audit(reading: Reading, chosen: AuditFilter) -> AsyncIterator[AuditEntry]:
    """All of the audit log that is chosen, in order."""
    after: int | None = 0
    while after is not None:
        found = await reading.audit(chosen, after, EXPORT_ROWS)
        for row in found.rows:
            yield audit_entry(row)
        after = found.following


async def all_reservations(
    reading: Reading, since_ms: int
) -> AsyncIterator[list[Receipt]]:
    """All reservations that were made since then, newest first, page by page: each as it was when
    its page was read, by the time when the store was last seen."""
    after: str | None = LAST_ID
    while after is not None:
        found = await reading.reservations(ReservationFilter(), after, EXPORT_ROWS, 0, False)
        yield [
            Receipt(id, row["record"].encode(), "ledger", as_of_ms=found.mark.seen_ms)
            for row in found.rows
            if keys.created_ms(id := str(row["id"])) >= since_ms
        ]
        after = found.following
        if after is not None and keys.created_ms(after) < since_ms:
            return


def movement(row: Any) -> Movement:
    """A row of the ledger as the API shows it."""
    reservation = row["reservation"]
    return Movement(
        row["position"], rfc3339(row["time"]), row["verb"], row["sku"], row["location"],
        row["source"], row["target"], row["quantity"], row["version"],
        None if row["occurred_at"] is None else rfc3339(row["occurred_at"]), row["channel"],
        None if reservation is None else str(reservation), row["reference"], row["reason"],
        row["actor"],
    )  # fmt: skip


def audit_entry(row: Any) -> AuditEntry:
    """A row of the audit log as the API shows it."""
    specs = (row["before"], row["after"])
    before, after = (None if text is None else msgspec.json.decode(text) for text in specs)
    return AuditEntry(
        row["position"], rfc3339(row["time"]), row["verb"], row["target"], row["actor"],
        row["request"], before, after,
    )  # fmt: skip


def rfc3339(time: datetime) -> str:
    """A time of the ledger, which keeps them in UTC, with milliseconds."""
    return f"{time.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
