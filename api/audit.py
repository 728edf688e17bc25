"""Who changed what, and who read whose a reservation is: ``GET /v1/audit``, ``stockade audit``."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

import msgspec
from msgspec import Struct

from api import wire
from api.call import JSON, Call, Reply
from api.servers import open_ledger
from api.wire import Parameters
from core.model import is_printable
from core.opening import open_reading
from core.record_model import AuditEntry, AuditFilter
from core.records import all_audit, audit_entry
from core.settings import Settings

NAMES = ("actor", "target", "since", "until", "cursor", "limit")
TEXT_RULE = "Expected 1 to 128 printable characters"
_POSITION = re.compile(r"[0-9]{1,18}")


class AuditPage(Struct, frozen=True):
    """A page of the audit log in the order in which it happened; what is behind ``as_of_seq``, an
    event of the store, was not in the ledger yet."""

    items: list[AuditEntry]
    next_cursor: str | None
    as_of_seq: int


async def audit(call: Call) -> Reply:
    """``GET /v1/audit``."""
    sent = Parameters(call, once=NAMES)
    chosen = AuditFilter(
        actor=sent.checked("actor", is_printable, TEXT_RULE),
        target=sent.checked("target", is_printable, TEXT_RULE),
        since=sent.time("since"),
        until=sent.time("until"),
    )
    after, limit = sent.page()
    if after and not _POSITION.fullmatch(after):
        raise wire.invalid("?cursor", wire.CURSOR_RULE)
    found = await call.records.reading.audit(chosen, int(after or 0), limit)
    following = None if found.following is None else str(found.following)
    items = [audit_entry(row) for row in found.rows]
    page = AuditPage(items, wire.cursor(following), found.mark.seq)
    return 200, [JSON], wire.encode(page)


def show(settings: Settings, since: datetime | None, until: datetime | None, form: str) -> None:
    """Print the audit log. Raises StockadeError with one line."""
    asyncio.run(_show(settings, AuditFilter(since=since, until=until), form))


async def _show(settings: Settings, chosen: AuditFilter, form: str) -> None:
    async with open_ledger(settings) as opened, open_reading(opened) as reading:
        async for each in all_audit(reading, chosen):
            print(msgspec.json.encode(each).decode() if form == "jsonl" else _line(each))


def _line(each: AuditEntry) -> str:
    said = [each.time, each.actor or "nobody", each.verb, each.target]
    if each.request_id is not None:
        said.append(f"request {each.request_id}")
    for name in ("before", "after"):
        spec = getattr(each, name)
        if spec is not None:
            said.append(f"{name} {msgspec.json.encode(spec).decode()}")
    return "  ".join(said)
