"""Connections of callers that are slow, that never end, or that smuggle: real sockets, real parser.

The clocks are turned short; that they run at all in a worker is in ``tests/faults/test_hostile``.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
import uvicorn

from api import connection
from api.app import App
from api.connection import Connection, make_room, sweep
from core.service import Service
from tests.fake_service import BASKET, FakeService

BODY = json.dumps(BASKET).encode()
HEAD = b"POST /v1/reservations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
PATIENCE_SECONDS = 20.0


class Door:
    """A server with our connections over a service that only remembers."""

    def __init__(self) -> None:
        self.service = FakeService()

        @asynccontextmanager
        async def opened() -> AsyncIterator[Service]:
            yield cast(Service, self.service)

        app = App(opened)
        app.service = cast(Service, self.service)
        self.app: Any = app
        config = uvicorn.Config(
            lambda *each: self.app(*each), http=Connection, ws="none", lifespan="off",
            interface="asgi3", log_config=None, server_header=False,
        )  # fmt: skip
        config.load()
        self.server = uvicorn.Server(config)
        self.server.lifespan = config.lifespan_class(config)
        self.address: tuple[str, int] = ("", 0)

    @property
    def connections(self) -> set[Connection]:
        return cast("set[Connection]", self.server.server_state.connections)

    def sweep(self) -> None:
        sweep(self.connections, asyncio.get_running_loop().time())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        name = writer.get_extra_info("sockname")
        await until(lambda: any(each.client == name for each in self.connections))
        return reader, writer

    async def said(self, *pieces: bytes) -> bytes:
        """All that is answered to some bytes until the connection ends, sweeping meanwhile."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            with suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0)
        return await self.rest(reader, writer)

    async def rest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        found = b""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    async with asyncio.timeout(0.02):
                        more = await reader.read(65_536)
                except TimeoutError:
                    self.sweep()
                    continue
                except ConnectionError:
                    break
                if not more:
                    break
                found += more
        writer.close()
        return found


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.002)


def statuses(said: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+)", said)]


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    made = Door()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made.address = listener.getsockname()
        made.server.config.timeout_graceful_shutdown = 1
        await made.server.startup(sockets=[listener])
        yield made
        await made.server.shutdown(sockets=[listener])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS_MAX", "BODY_SECONDS_MAX", "STUCK_SECONDS_MAX"):
        monkeypatch.setattr(connection, name, 0.15)


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("began", [b"G", HEAD, HEAD + b"x-more: ", b"\r\n", WHOLE + b"GET /"])
async def test_a_head_that_does_not_end_is_ended(door: Door, began: bytes) -> None:
    """From the first byte, however it goes on; what was whole before it has its answer."""
    said = await door.said(began)
    assert statuses(said) == ([201, 408] if WHOLE in began else [408])
    assert b'"code":"request_timeout"' in said


@pytest.mark.usefixtures("short")
async def test_a_head_that_drips_is_ended(door: Door) -> None:
    reader, writer = await door.connect()

    async def drip() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"x-a: b\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)

    writer.write(HEAD)
    dripping = asyncio.ensure_future(drip())
    said = await door.rest(reader, writer)
    dripping.cancel()
    # What drips on may reset the connection before the answer is read.
    assert statuses(said) in ([408], [])


@pytest.mark.usefixtures("short")
async def test_a_body_that_does_not_end_is_ended(door: Door) -> None:
    """Nothing of it is done."""
    said = await door.said(HEAD + b"content-length: 99\r\n\r\n{")
    assert statuses(said) == [408]
    assert door.service.engine.calls == []
    chunked = await door.said(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
    assert statuses(chunked) == [408]
    unread = await door.said(GET.replace(b"\r\n\r\n", b"\r\ncontent-length: 99\r\n\r\n"))
    assert statuses(unread) == [200], "it is not read, so it is answered, and then it is ended"


@pytest.mark.usefixtures("short")
async def test_who_waits_for_an_answer_is_left_in_peace(door: Door) -> None:
    """However long it takes, and though half of the next request came already."""
    going = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await going.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"at last"})

    door.app = slow
    reader, writer = await door.connect()
    writer.write(GET + b"GET /he")
    for _ in range(30):
        await asyncio.sleep(0.01)
        door.sweep()
    going.set()
    said = await door.rest(reader, writer)
    assert b"at last" in said
    assert statuses(said) == [200, 408]


async def test_who_never_says_anything_idles_no_longer_than_others(door: Door) -> None:
    door.server.config.timeout_keep_alive = cast(Any, 0.5)
    silent = await door.said()
    after = await door.said(GET)
    assert (silent, statuses(after)) == (b"", [200])
    assert not door.connections


@pytest.mark.usefixtures("short")
async def test_who_takes_nothing_of_its_answer_is_cut_off(door: Door) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"." * 2**26})

    door.app = large
    _, writer = await door.connect()
    cast(asyncio.Transport, writer.transport).pause_reading()
    writer.write(GET)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while door.connections:
            await asyncio.sleep(0.02)
            door.sweep()
    writer.close()


# --- size and number ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endless",
    [b"GET /" + b"a" * 16_384, HEAD + b"x-a: " + b"b" * 16_384, HEAD + b"x-a: b\r\n" * 2_048],
)
async def test_a_head_without_end_is_refused(door: Door, endless: bytes) -> None:
    """Whatever grows: its path, a value, their number."""
    more = endless[-8:] * 2_048
    reader, writer = await door.connect()
    writer.write(endless)
    sent = len(endless)
    while sent < 2**24 and not writer.transport.is_closing():
        writer.write(more)
        sent += len(more)
        with suppress(ConnectionError):
            await writer.drain()
        await asyncio.sleep(0)
    assert statuses(await door.rest(reader, writer)) in ([431], [])
    assert sent < 2**23, "it was taken for ever"
    assert not door.connections


async def test_the_largest_head_that_somebody_needs_is_taken(door: Door) -> None:
    """200 SKUs of 64 characters, each of them percent-encoded, and a body behind it in pieces."""
    skus = b"&".join([b"sku=" + b"%23" * 64] * 200)
    reader, writer = await door.connect()
    for _ in range(3):
        writer.write(b"GET /v1/nothing?" + skus + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"404" in await reader.readuntil(b"\r\n\r\n")
    large = b" " * 1_000_000 + BODY
    for _ in range(3):  # what ends a body is not taken for the head of another request
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(large) + large)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 201 " in head, head
    writer.close()


async def test_a_body_is_not_taken_for_the_head_behind_it(door: Door) -> None:
    """One read brings both: of the next head only what comes after it counts."""
    _, writer = await door.connect()
    (served,) = door.connections
    large = b" " * 100_000 + BODY
    served.data_received(HEAD + b"content-length: %d\r\n\r\n" % len(large) + large + GET[:9])
    assert served.in_head
    served.data_received(GET[9:])
    await until(lambda: not served.answering())
    assert not served.transport.is_closing()
    writer.close()


async def test_nothing_more_is_read_while_requests_wait(door: Door) -> None:
    """Also when the first of them has been answered."""
    going = asyncio.Semaphore(0)
    app = door.app

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await going.acquire()
        await app(scope, receive, send)

    door.app = slow
    reader, writer = await door.connect()
    (served,) = door.connections
    writer.write(GET * 3)
    for left in (2, 1):
        waiting = left
        await until(lambda: len(served.pipeline) == waiting)  # noqa: B023 - in this round
        await asyncio.sleep(0.01)
        assert served.flow.read_paused
        going.release()
        await reader.readexactly(10)
    await until(lambda: not served.pipeline and not served.flow.read_paused)
    going.release()
    writer.close()


async def test_requests_ahead_are_answered_in_order_and_bounded(door: Door) -> None:
    calm = GET * connection.AHEAD_MAX
    reader, writer = await door.connect()
    writer.write(calm)
    for _ in range(connection.AHEAD_MAX):
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(15)
    writer.close()
    said = await door.said(GET * 4_000)
    assert len(statuses(said)) <= connection.AHEAD_MAX


async def test_the_quietest_make_room(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of twenty that idle the first two go when one more comes; who is being served never does."""
    going = asyncio.Event()
    app = door.app

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await going.wait()
        await app(scope, receive, send)

    door.app = slow
    monkeypatch.setattr(Connection, "room", 21)
    served, serving = await door.connect()
    serving.write(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await until(lambda: any(each.answering() for each in door.connections))
    idle = [await door.connect() for _ in range(20)]
    new = await asyncio.open_connection(*door.address)
    new[1].write(GET)
    assert b" 200 " in await new[0].readuntil(b"\r\n\r\n")
    gone = [reader.at_eof() or reader.exception() is not None for reader, _ in idle]
    await until(lambda: len(door.connections) == 19)
    assert gone[3:] == [False] * 17
    going.set()
    assert b" 404 " in await served.readuntil(b"\r\n\r\n")
    make_room(door.connections, 100)
    await until(lambda: not door.connections)
    for _, writer in (*idle, new, (served, serving)):
        writer.close()


# --- smuggling ------------------------------------------------------------------------------------

SECOND = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
AMBIGUOUS = {
    "both lengths": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 4\r\ncontent-length: 0\r\n\r\n",
    "a list of lengths": b"content-length: 4, 4\r\n\r\n",
    "a signed length": b"content-length: +4\r\n\r\n",
    "a length in hexadecimal": b"content-length: 0x4\r\n\r\n",
    "chunked that is not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "another coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded value": b"x-a: b\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare line feed": b"x-a: b\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare carriage return": b"x-a: b\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a zero byte": b"x-a: b\0c\r\n\r\n",
    "a chunk of another length": b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "a chunk length that overflows":
        b"transfer-encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a chunk length with a sign": b"transfer-encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", AMBIGUOUS)
async def test_what_two_could_read_in_two_ways_is_refused(door: Door, what: str) -> None:
    """One 400 and the end: what stands behind it is never a request of its own, and nothing of it
    was done."""
    said = await door.said(HEAD + AMBIGUOUS[what] + SECOND)
    assert statuses(said) == [400], said
    assert door.service.engine.calls == []


async def test_garbage_behind_a_request_is_never_its_answer(door: Door) -> None:
    """Who asked for something that is being done must not hear 400 for it."""
    going = asyncio.Event()
    app = door.app

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await going.wait()
        await app(scope, receive, send)

    door.app = slow
    asked = asyncio.ensure_future(door.said(WHOLE + b"\0garbage\r\n\r\n"))
    await asyncio.sleep(0.05)
    going.set()
    assert statuses(await asked) == []
    asked = asyncio.ensure_future(door.said(GET + GET + b"\0garbage\r\n\r\n"))
    assert 400 not in statuses(await asked)


async def test_an_upgrade_is_not_taken(door: Door) -> None:
    """To a websocket or to HTTP/2 in plain text: answered as any other request."""
    for words in (
        b"upgrade: websocket\r\n",
        b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
    ):
        reader, writer = await door.connect()
        writer.write(
            b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n" + words + b"\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head
        assert b"upgrade" not in head.lower()
        writer.close()
