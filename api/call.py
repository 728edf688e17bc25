"""One request and its answer. Bodies are read within bounds; every answer leaves by one door."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from starlette.types import Message, Receive, Scope, Send

from api.problems import BodyTooLarge, Forbidden
from core.access import LOOPBACK, Caller
from core.errors import LedgerUnavailable, UnknownReservation

if TYPE_CHECKING:
    from api.app import App
    from api.tracing import RequestTrace
    from core.catalogue import Catalogue
    from core.engine import Engine
    from core.feed import Feed
    from core.ledger.audit import Files
    from core.noting import Notes
    from core.records import Records
    from core.stock import Stock

Header = tuple[bytes, bytes]
Reply = tuple[int, list[Header], bytes]
Answer: TypeAlias = "Reply | Stream"

# The ASGI extension of our own server: (status, headers, body) → whether it was said, in one write.
WHOLE = "stockade.whole"

JSON: Header = (b"content-type", b"application/json")

BODY_BYTES_MAX = 2**20  # a hundred lines with the longest names are 40 KB
BATCH_BYTES_MAX = 2**23  # a batch: a thousand such requests of ordinary size
DROPPED_BYTES_MAX = 2**16  # of a body that nobody reads, for which a connection may stay open
LINGER_BYTES_MAX = 2**26  # what is read and dropped of a refused body, so that its sender sees why
LINGER_SECONDS_MAX = 5.0
STALL_SECONDS_MAX = 60.0  # who takes nothing of a stream for so long makes room for another
ADMITTED_SECONDS = 1.0  # between looks whether who takes a stream may still have it
END_SECONDS_MAX = 1.0  # to say that a stream is over

# What a proxy adds: behind one that is open to others, all seem to come from this machine.
PROXIED = frozenset({
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
    b"x-real-ip",
})  # fmt: skip
_READ = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"idempotency-key",
        b"if-match",
        b"host",
        b"last-event-id",
        b"traceparent",
        b"transfer-encoding",
        b"x-request-id",
        *PROXIED,
    }
)
_ECHOED: tuple[tuple[bytes, re.Pattern[bytes]], ...] = (
    (
        b"traceparent",
        re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"),
    ),
    (b"x-request-id", re.compile(rb"[ -~]{1,255}")),
)


class Disconnected(Exception):
    """The caller went away before its request was whole: nothing was done, nobody to answer."""


class Call:
    """A request as handlers see it.

    ``raw_path`` is the path as sent; ``parameter`` the ``{…}`` of the route's path, decoded;
    ``caller`` who asks. ``headers`` holds those that Stockade reads, by lower-case name; one that
    was sent twice is joined by a comma (RFC 9110 §5.3), so that it fails where only one is allowed.
    """

    __slots__ = ("app", "body", "caller", "headers", "limits", "method", "more", "parameter",
                 "query", "raw_path", "trace", "whole")  # fmt: skip

    def __init__(self, scope: Scope, app: App) -> None:
        self.app = app
        self.method: str = scope["method"]
        raw_path: bytes | None = scope.get("raw_path")
        self.raw_path = quote(scope["path"]).encode("ascii") if raw_path is None else raw_path
        self.query: bytes = scope["query_string"]
        self.parameter = ""
        self.body = b""
        self.caller: Caller = LOOPBACK
        self.limits: list[Header] = []  # what the answer says of rates
        self.trace: RequestTrace | None = None
        self.whole: Callable[[int, list[Header], bytes], bool] | None
        self.whole = scope.get("extensions", {}).get(WHOLE)
        self.more = True  # there may be more of the body to come
        self.headers: dict[bytes, bytes] = {}
        headers = self.headers
        for name, value in scope["headers"]:
            if name in _READ:
                headers[name] = headers[name] + b", " + value if name in headers else value

    @property
    def owner(self) -> bytes:
        """In whose name idempotency keys are used: nobody's where there are no API keys."""
        return b"" if self.caller is LOOPBACK else self.caller.id.encode("ascii")

    def check_scopes(self, scopes: frozenset[str]) -> None:
        """Raises Forbidden unless the caller has one of them."""
        if scopes.isdisjoint(self.caller.scopes):
            raise Forbidden(f"This needs an API key of scope {' or '.join(sorted(scopes))}")

    def check_customer(self, customer: str | None) -> None:
        """Raises RateLimited if enough was reserved for this customer for now."""
        self.app.limits.of_customer(customer)

    def check_channel(self, name: str) -> None:
        """Raises Forbidden for a channel that is not among the caller's."""
        if not self.caller.sees(name):
            raise Forbidden(f"This API key is not for the channel {name}")

    async def check_reservation(self, id: str) -> None:
        """Raises UnknownReservation for one of a channel that is not among the caller's: it does
        not learn that there is such a one."""
        own = self.caller.channels
        if own is not None and await self.engine.channel_of(id) not in own:
            raise UnknownReservation

    @property
    def engine(self) -> Engine:
        """The engine of the opened service. Raises StockUnavailable outside its life."""
        return self.app.opened.engine

    @property
    def stock(self) -> Stock:
        """What lies there. Raises StockUnavailable outside the service's life."""
        return self.app.opened.stock

    @property
    def catalogue(self) -> Catalogue:
        """Channels, locations and SKUs. Raises StockUnavailable outside the service's life."""
        return self.app.opened.catalogue

    @property
    def records(self) -> Records:
        """What the ledger holds. Raises StockUnavailable outside the service's life."""
        return self.app.opened.records

    @property
    def feed(self) -> Feed:
        """What happens. Raises StockUnavailable outside the service's life."""
        return self.app.opened.feed

    @property
    def files(self) -> Files:
        """What reconciling found. Raises LedgerUnavailable where there is no ledger."""
        files = self.app.opened.files
        if files is None:
            raise LedgerUnavailable("there is no ledger")
        return files

    @property
    def request_id(self) -> str | None:
        """The id that the request came with."""
        return ids(self.headers).get("request_id")

    @property
    def notes(self) -> Notes:
        """Where it is written what no event tells of. Raises StockUnavailable outside the service's
        life."""
        return self.app.opened.notes

    @property
    def instance(self) -> str:
        """The path as sent, for problem documents."""
        return self.raw_path.decode("ascii", "replace")

    async def read(self, receive: Receive, bytes_max: int) -> None:
        """Read the body into ``body``. Raises BodyTooLarge before more than that is kept."""
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > bytes_max:
            raise BodyTooLarge
        body = await self._chunk(receive)
        if self.more:
            chunks = [body]
            size = len(body)
            while self.more and size <= bytes_max:
                chunks.append(await self._chunk(receive))
                size += len(chunks[-1])
            body = b"".join(chunks)
        if len(body) > bytes_max:
            raise BodyTooLarge
        self.body = body

    @property
    def pours(self) -> bool:
        """True if more of a body may come than is worth keeping the connection for."""
        if not self.more or b"transfer-encoding" in self.headers:
            return self.more
        length = self.headers.get(b"content-length", b"0")
        return not length.isdigit() or int(length) > DROPPED_BYTES_MAX

    async def drop(self, receive: Receive, bytes_max: int) -> None:
        """Read what is left of the body, or ``bytes_max`` of it, and forget it."""
        dropped = 0
        while self.more and dropped < bytes_max:
            dropped += len(await self._chunk(receive))

    async def _chunk(self, receive: Receive) -> bytes:
        """The next piece of the body. Raises Disconnected."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        self.more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    def finish(self, reply: Reply) -> list[Header]:
        """The headers of ``reply`` with its length and with what is passed through."""
        status, headers, body = reply
        if status != 204:  # which has no content, not even of length 0 (RFC 9110 §8.6)
            headers.append((b"content-length", b"%d" % len(body)))
        if self.limits:
            headers += self.limits
        pass_through(self.headers, headers)
        return headers


class Stream:
    """An answer that goes on until the caller leaves or the worker drains.

    Each of its ``pieces`` goes out whole. ``close`` is called at the end, however it comes.
    """

    __slots__ = ("close", "headers", "pieces")

    def __init__(
        self,
        headers: list[Header],
        pieces: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self.headers = headers
        self.pieces = pieces
        self.close = close


def pass_through(sent: Mapping[bytes, bytes], headers: list[Header]) -> None:
    """Add to ``headers`` what every answer repeats of the request's: who traces it finds it."""
    for name, pattern in _ECHOED:
        value = sent.get(name)
        if value is not None and pattern.fullmatch(value):
            headers.append((name, value))


def ids(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What a log says of a request, so that it is found again: the ids that it came with."""
    sent: list[Header] = []
    pass_through(headers, sent)
    found: dict[str, str] = {}
    for name, value in sent:
        if name == b"traceparent":
            _, found["trace_id"], found["span_id"], _ = value.decode("ascii").split("-")
        else:
            found["request_id"] = value.decode("ascii")
    return found


def passing_through(scope: Scope, send: Send) -> Send:
    """``send``, with what is passed through added to the head of the answer."""
    headers: list[Header] = []
    pass_through(dict(scope["headers"]), headers)
    if not headers:
        return send

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return send_more


async def send_reply(call: Call, reply: Reply, send: Send) -> None:
    """Answer ``call``. A HEAD gets what its GET would, without the body."""
    headers = call.finish(reply)
    body = b"" if call.method == "HEAD" else reply[2]
    if call.whole is not None and call.whole(reply[0], headers, body):
        return
    await send({"type": "http.response.start", "status": reply[0], "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_and_linger(call: Call, reply: Reply, receive: Receive, send: Send) -> None:
    """Answer ``call`` before its body was read, then close.

    A connection that is closed on a sender in mid-body is reset, and the answer lost with it. So
    the answer goes out whole, and what still arrives is dropped, within bounds, before the end.
    """
    headers = [*call.finish(reply), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply[0], "headers": headers})
    await send({"type": "http.response.body", "body": reply[2], "more_body": True})
    # Whoever has not taken the answer when the time is up is cut off.
    with suppress(TimeoutError, Disconnected):
        async with asyncio.timeout(LINGER_SECONDS_MAX):
            await call.drop(receive, LINGER_BYTES_MAX)
    await send({"type": "http.response.body", "body": b""})


async def send_stream(
    call: Call, stream: Stream, receive: Receive, send: Send, drained: asyncio.Event
) -> None:
    """Answer ``call`` piece by piece, no faster than its caller takes them, for as long as its key
    counts."""

    async def pump() -> None:
        async for piece in stream.pieces:
            async with asyncio.timeout(STALL_SECONDS_MAX):
                await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def shut_out() -> None:
        while call.app.admits(call):  # noqa: ASYNC110 - of a key that others may revoke
            await asyncio.sleep(ADMITTED_SECONDS)

    try:
        stream.headers += call.limits
        pass_through(call.headers, stream.headers)
        await send({"type": "http.response.start", "status": 200, "headers": stream.headers})
        if call.method != "HEAD":
            ends = (pump(), left(), shut_out(), drained.wait())
            works = [asyncio.create_task(each) for each in ends]
            try:
                await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for work in works:
                    work.cancel()
                await asyncio.gather(*works, return_exceptions=True)
            _raise_defect(works[0])
        # Who takes nothing does not take the end either, and is cut off.
        with suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS_MAX):
                await send({"type": "http.response.body", "body": b""})
    finally:
        await stream.close()


def _raise_defect(work: asyncio.Task[Any]) -> None:
    """Raises what ended a stream, unless that was its caller."""
    error = None if work.cancelled() else work.exception()
    if error is not None and not isinstance(error, TimeoutError | OSError):
        raise error
