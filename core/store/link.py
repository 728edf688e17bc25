"""One multiplexed connection to the store for the lane's pipelines.

redis-py costs about 110 µs of CPU per call, this 10: one write, one read, replies in order. It
speaks RESP2 through hiredis and is used for scripts only; all other calls go through redis-py
(``core.store.shard``).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from core.store._pack import pack_command

Command = tuple[bytes | str | int, ...]

Replies = list[Any] | ConnectionError
_NOTHING = object()


# Scripts guard before they write, so a refusal by one of these names means that nothing happened.
_DID_NOTHING = frozenset({
    "OOM", "MISCONF", "READONLY", "NOREPLICAS", "LOADING", "BUSY", "WRONGTYPE", "LAW", "MASTERDOWN",
    "NOPERM", "NOAUTH", "CLUSTERDOWN", "TRYAGAIN",
})  # fmt: skip


class ReplyError(Exception):
    """An error reply of the server; the first word is its code."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]

    @property
    def did_nothing(self) -> bool:
        """True if it is known that the script changed nothing."""
        return self.code in _DID_NOTHING


class Link(asyncio.Protocol):
    """Sends packed commands, hands their replies to a callback in order.

    A lost connection is handed to every callback that waits, as a ConnectionError; the link is
    then done for. Nothing is sent twice here: whether to repeat is the lane's decision.
    """

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=ReplyError, notEnoughData=_NOTHING)
        self._waiting: deque[tuple[int, list[Any], Callable[[Replies], None], bool]] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost: ConnectionError | None = None
        self._near = False  # on this machine

    @property
    def alive(self) -> bool:
        return self._transport is not None and self._lost is None

    def send(
        self, payload: bytes, count: int, done: Callable[[Replies], None], crowd: bool = False
    ) -> None:
        """Sends ``count`` packed commands; ``done`` gets their replies, or why there are none. For
        a ``crowd`` a store on this machine may have the core, to begin and to go on (ADR 0019)."""
        if not self.alive:
            done(self._lost or ConnectionError("not connected"))
            return
        self._waiting.append((count, [], done, crowd))
        assert self._transport is not None
        self._transport.write(payload)
        if crowd:
            self._give_way()

    async def call(self, *command: bytes | str | int) -> Any:
        """One command, awaited: for the handshake."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(replies: Replies) -> None:
            if future.done():
                return
            if isinstance(replies, ConnectionError):
                future.set_exception(replies)
            elif isinstance(replies[0], ReplyError):
                future.set_exception(replies[0])
            else:
                future.set_result(replies[0])

        self.send(pack_command(command), 1, done)
        return await future

    def abort(self, reason: str) -> None:
        """Gives the connection up now, e.g. after a time-out."""
        self._fail(ConnectionError(reason))
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._near = not isinstance(peer, tuple) or ip_address(peer[0]).is_loopback

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._waiting:
            try:
                reply = self._reader.gets()
            except hiredis.ProtocolError as error:
                self.abort(f"not a RESP server: {error}")
                return
            if reply is _NOTHING:
                return
            count, replies, done, crowd = self._waiting[0]
            replies.append(reply)
            if len(replies) == count:
                self._waiting.popleft()
                done(replies)
                if crowd:
                    self._give_way()

    def _give_way(self) -> None:
        if self._near:
            os.sched_yield()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionError(str(exc) if exc else "the store closed the connection"))

    def _fail(self, error: ConnectionError) -> None:
        if self._lost is None:
            self._lost = error
        waiting, self._waiting = self._waiting, deque()
        for _, _, done, _ in waiting:
            done(self._lost)


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    """The TLS context that redis-py would make of the same URL."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement in ("none", None):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif options.get("ssl_check_hostname") is False:
        context.check_hostname = False
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


async def open_link(url: str, timeout_seconds: float) -> Link:
    """Connects and authenticates. Raises ConnectionError or ReplyError."""
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = dict(parse_url(url))
    link: Link | None = None
    try:
        async with asyncio.timeout(timeout_seconds):
            if "path" in options:
                _, link = await loop.create_unix_connection(Link, options["path"])
            else:
                _, link = await loop.create_connection(
                    Link,
                    options.get("host", "localhost"),
                    options.get("port", 6379),
                    ssl=_tls(options) if options.get("connection_class") is SSLConnection else None,
                )
            if options.get("password"):
                user = [options["username"]] if options.get("username") else []
                await link.call("AUTH", *user, options["password"])
            if options.get("db"):
                await link.call("SELECT", options["db"])
            await link.call("CLIENT", "SETNAME", "stockade-lane")
    except BaseException as error:
        if link is not None:
            link.abort("the handshake failed")
        if not isinstance(error, (OSError, TimeoutError)):
            raise
        raise ConnectionError(f"cannot reach the store: {error or 'timed out'}") from error
    return link
