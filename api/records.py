"""What the ledger holds: movements and reservations, page by page."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from api import wire
from api.call import JSON, Call, Reply
from api.problems import Forbidden
from api.reservations import PEOPLE, listed, shows
from api.wire import Parameters
from core.model import NAME_RULE, SKU_RULE, Reservation, is_name, is_printable, is_sku
from core.model import is_reservation_id as is_id
from core.record_model import (
    LAST_ID,
    STATES,
    VERBS,
    Movement,
    MovementFilter,
    ReservationFilter,
)

TEXT_RULE = "Expected 1 to 128 printable characters"
ID_RULE = "Expected the id of a reservation"
MOVEMENTS = (
    "sku", "location", "channel", "reservation", "reference", "verb", "since", "until", "cursor",
    "limit",
)  # fmt: skip
RESERVATIONS = (
    "reference", "state", "channel", "sku", "location", "customer", "created_before", "at_risk",
    "cursor", "limit",
)  # fmt: skip
EPOCH, MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_POSITION = re.compile(r"[0-9]{1,18}")


class MovementPage(Struct, frozen=True):
    """A page of movements in the order in which they happened; what is behind ``as_of_seq``, an
    event of the store, was not in the ledger yet. A page that is not full may have a next one."""

    items: list[Movement]
    next_cursor: str | None
    as_of_seq: int


class ReservationPage(Struct, frozen=True):
    """A page of reservations, newest first; what is behind ``as_of_seq``, an event of the store,
    was not in the ledger yet. A page that is not full may have a next one."""

    items: list[Reservation]
    next_cursor: str | None
    as_of_seq: int


async def movements(call: Call) -> Reply:
    """``GET /v1/movements``."""
    sent = Parameters(call, once=MOVEMENTS)
    chosen = MovementFilter(
        sku=sent.checked("sku", is_sku, SKU_RULE),
        location=sent.checked("location", is_name, NAME_RULE),
        channel=sent.checked("channel", is_name, NAME_RULE),
        reservation=sent.checked("reservation", is_id, ID_RULE),
        reference=sent.checked("reference", is_printable, TEXT_RULE),
        verb=sent.checked("verb", VERBS.__contains__, _one_of(VERBS)),
        since=sent.time("since"),
        until=sent.time("until"),
        channels=call.caller.channels,
    )
    _check_channel(call, chosen.channel)
    if chosen.since and chosen.until and chosen.until <= chosen.since:
        raise wire.invalid("?until", "Expected a time behind since")
    after, limit = sent.page()
    if after and not _POSITION.fullmatch(after):
        raise wire.invalid("?cursor", wire.CURSOR_RULE)
    page = await call.records.movements(chosen, int(after or 0), limit)
    following = None if page.following is None else str(page.following)
    own, items = call.caller.channels, page.items
    if own is not None:
        items = [each.seen_by(own) for each in items]
    document = MovementPage(items, wire.cursor(following), page.as_of_seq)
    return 200, [JSON], wire.encode(document)


async def reservations(call: Call) -> Reply:
    """``GET /v1/reservations``."""
    sent = Parameters(call, once=RESERVATIONS)
    before = sent.time("created_before")
    chosen = ReservationFilter(
        reference=sent.checked("reference", is_printable, TEXT_RULE),
        state=sent.checked("state", STATES.__contains__, _one_of(STATES)),
        channel=sent.checked("channel", is_name, NAME_RULE),
        sku=sent.checked("sku", is_sku, SKU_RULE),
        location=sent.checked("location", is_name, NAME_RULE),
        customer=sent.checked("customer", is_printable, TEXT_RULE),
        created_before_ms=None if before is None else (before - EPOCH) // MS,
        channels=call.caller.channels,
    )
    _check_channel(call, chosen.channel)
    if chosen.customer is not None and not (call.caller.may("reserve") or call.caller.may(PEOPLE)):
        raise Forbidden("To ask for a customer's reservations needs a key of scope pii:read")
    after, limit = sent.page()
    if sent.flag("at_risk"):
        if after and not (after[0] in "RC" and _is_key(after[1:])):
            raise wire.invalid("?cursor", wire.CURSOR_RULE)
        page = await call.records.at_risk(chosen, after or None, limit)
    else:
        if after and not _is_key(after):
            raise wire.invalid("?cursor", wire.CURSOR_RULE)
        page = await call.records.reservations(chosen, after or None, limit)
    members: dict[str, Any] = {
        "next_cursor": wire.cursor(page.following), "as_of_seq": page.as_of_seq
    }  # fmt: skip
    if any(shows(call.caller, each) for each in page.items):
        await call.notes.note("read", "reservations", after={"items": len(page.items)})
    items = b",".join([listed(call.caller, each).encode() for each in page.items])
    return 200, [JSON], b'{"items":[%b],%b' % (items, wire.encode(members)[1:])


def _check_channel(call: Call, channel: str | None) -> None:
    if channel is not None:
        call.check_channel(channel)


def _is_key(text: str) -> bool:
    return is_id(text) or text == LAST_ID


def _one_of(names: tuple[str, ...]) -> str:
    return f"Expected one of {', '.join(names)}"
