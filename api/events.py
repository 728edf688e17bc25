"""``GET /v1/events``: what happens, as server-sent events, each a CloudEvent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from api import wire
from api.call import Call, Stream
from api.problems import Forbidden
from api.reservations import PEOPLE
from api.wire import Parameters
from core.access import LOOPBACK
from core.errors import Draining, Unavailable
from core.feed import WHOLE, Wanted
from core.happenings import TYPES
from core.model import NAME_RULE, Timestamp, is_name

if TYPE_CHECKING:
    from core.feed import Place, Subscriber

NAMES_MAX = 200  # of one filter
QUIET_SECONDS = 15.0  # then a line is sent, so that nobody between takes the silence for death
RETRY_MS = 1_000  # how long a client waits before it connects again
CHUNK_BYTES = 2**15
# What who sells may hear without reading stock.
SELLING = frozenset(
    each for each in TYPES if each.startswith("reservation.")
) | {"stock.sold_out", "stock.back"}
ID_RULE = "Expected the id of an event as this stream gave it"

_ID = re.compile(rb"([0-9]{1,18})(?:\.([0-9]{1,2}))?")


class CloudEvent(Struct, frozen=True):
    """What happened (CloudEvents 1.0). ``id`` is a position of the ledger, for some events with a
    number behind a point; ``data`` is the reservation as it became, the movement, the pool's place
    and what changed there, or the policy."""

    specversion: str
    id: str
    source: str
    type: str
    time: Timestamp
    subject: str
    datacontenttype: str
    data: dict[str, Any]


async def listen(call: Call) -> Stream:
    """``GET /v1/events``."""
    sent = Parameters(call, many=("type", "channel", "sku"))
    types, channels = sent.each("type", NAMES_MAX), sent.each("channel", NAMES_MAX)
    if not TYPES.issuperset(types):
        raise wire.invalid("?type", f"Expected one of {', '.join(sorted(TYPES))}")
    if not all(map(is_name, channels)):
        raise wire.invalid("?channel", NAME_RULE)
    skus = sent.skus("sku", NAMES_MAX)
    for channel in channels:
        call.check_channel(channel)
    wanted = Wanted(_types(call, types), frozenset(channels), frozenset(skus), call.caller.channels)
    after = _last_event_id(call)
    if call.app.draining:
        raise Draining
    people = call.caller.may(PEOPLE)
    if people and call.caller is not LOOPBACK:
        await call.notes.note("read", "events")
    stack = AsyncExitStack()
    subscriber = await stack.enter_async_context(call.feed.subscribe(wanted, after))
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-store"),
        (b"x-accel-buffering", b"no"),  # a proxy that gathers would hold events back
    ]
    pieces = _pieces(subscriber, call.caller.channels, people)
    return Stream(headers, pieces, stack.aclose)


def _types(call: Call, asked: list[str]) -> frozenset[str]:
    """The types that are wanted; empty for all. What moves in the warehouse is for who may read
    stock. Raises Forbidden for what was asked for and may not be."""
    types = frozenset(asked)
    if call.caller.may("stock:read"):
        return types
    if not SELLING.issuperset(types):
        raise Forbidden("Events of stock, deficits and policy need a key of scope stock:read")
    return types or SELLING


def _last_event_id(call: Call) -> Place | None:
    """Behind which event to go on; None: from now on. Raises InvalidRequest."""
    sent = call.headers.get(b"last-event-id")
    if sent is None:
        return None
    if (found := _ID.fullmatch(sent)) is None:
        raise wire.invalid("Last-Event-ID", ID_RULE)
    return int(found[1]), int(found[2] or 0)


async def _pieces(
    subscriber: Subscriber, seen: frozenset[str] | None, people: bool
) -> AsyncIterator[bytes]:
    """Events in portions; and in silence a comment, with the place to come back to. ``people``:
    with the customers of reservations.

    A client that has heard nothing yet has the place where it began from the first lines.
    """
    yield b"retry: %d\n%b" % (RETRY_MS, _place(subscriber.place))
    while True:
        try:
            found = await subscriber.next(QUIET_SECONDS)
        except Unavailable:
            # Who listens waits, as long as it takes; the service's log says why.
            await asyncio.sleep(QUIET_SECONDS)
            yield b": the ledger does not answer\n\n"
            continue
        if not found:
            yield b": quiet\n" + _place(subscriber.place)
        chunk = b""
        for happening in found:
            data = happening.encode(seen, people)
            chunk += b"id: %b\ndata: %b\n\n" % (happening.id.encode(), data)
            if len(chunk) >= CHUNK_BYTES:
                yield chunk
                chunk = b""
        if chunk:
            yield chunk


def _place(place: Place) -> bytes:
    """Lines that tell no event, only where to go on."""
    return b"id: %d.%d\n\n" % (place[0], min(place[1], WHOLE))
