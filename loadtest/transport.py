"""HTTP/1.1 over kept connections, as lean as it can be: what sends must not be what is measured.

A connection carries one request at a time. Up to a bound, a request that finds none idle opens one;
beyond it requests wait their turn, and who counts from when a request was due counts the wait too.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools


class WrongTarget(Exception):
    """A URL at which no service can be."""


@dataclass(slots=True)
class Heard:
    """An answer as it came. ``wait_s``: for how long it asks to be left alone."""

    status: int = 0
    body: bytes = b""
    replayed: bool = False
    wait_s: float = 0.0


class _Connection(asyncio.Protocol):
    """One connection; ``answer`` is what is being heard."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Heard] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._heard = Heard()
        self._chunks: list[bytes] = []
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but name.
        self._transport, self.open = cast(asyncio.Transport, transport), True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(ConnectionAbortedError("what came is not HTTP/1.1"))
            self.close()

    def on_message_begin(self) -> None:
        self._heard, self._chunks = Heard(), []

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"idempotent-replayed":
            self._heard.replayed = value == b"true"
        elif name == b"retry-after" and value.isdigit():
            self._heard.wait_s = float(value)

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)

    def on_message_complete(self) -> None:
        self._heard.status = self._parser.get_status_code()
        self._heard.body = b"".join(self._chunks)
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(self._heard)

    async def ask(self, request: bytes) -> Heard:
        """The answer to ``request``; who stops waiting leaves a closed connection behind."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    def close(self) -> None:
        """No more of it."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()


class Transport:
    """Connections to one service, at most ``connections`` of them."""

    def __init__(self, url: str, connections: int, key: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise WrongTarget(f"{url}: expected http://HOST:PORT or https://HOST")
        self._host = parts.hostname
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._head = f" HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n"
        if key is not None:
            self._head += f"authorization: Bearer {key}\r\n"
        self._spare = connections
        self._idle: list[_Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def request(self, method: str, path: str, body: bytes, key: str | None) -> Heard:
        """One attempt. Raises OSError when the connection fails."""
        head = f"{method} {self._prefix}{path}{self._head}"
        if key is not None:
            head += f"idempotency-key: {key}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        else:
            head += "content-length: 0\r\n\r\n" if method != "GET" else "\r\n"
        await self._turn()
        connection: _Connection | None = None
        try:
            connection = self._kept() or await self._connected()
            return await connection.ask(head.encode() + body)
        finally:
            self._done(connection)

    def close(self) -> None:
        """Close all that is idle."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _turn(self) -> None:
        """Wait until there may be one request more."""
        if self._spare > 0:
            self._spare -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """The place of a request that is over goes to the one that waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._spare += 1

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
        return None

    async def _connected(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._host, self._port, ssl=self._tls
        )
        return connection

    def _done(self, connection: _Connection | None) -> None:
        if connection is not None and connection.open:
            self._idle.append(connection)
        self._pass_on()


@asynccontextmanager
async def reach(url: str, connections: int, key: str | None = None) -> AsyncIterator[Transport]:
    """Connections to the service at ``url``, closed at the end."""
    transport = Transport(url, connections, key)
    try:
        yield transport
    finally:
        transport.close()
