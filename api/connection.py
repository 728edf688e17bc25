"""One connection within bounds: uvicorn's protocol, whose parser keeps and waits without end.

The head of a request is bounded in bytes and seconds, its body in seconds (in bytes by who reads
it), what a caller may ask ahead in number, an answer that it does not take in seconds, and all
connections of a worker in number: the quietest make room for whoever comes. ``sweep`` looks at the
clocks of all of them, about once a second, so that a request costs none of its own.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from api.call import WHOLE, Header
from api.problems import HeadTooLarge, RequestTimeout, answer
from core.errors import StockadeError

# Two hundred SKUs of 64 characters each, all of them percent-encoded, are 40 KB.
HEAD_BYTES_MAX = 2**16
HEAD_SECONDS_MAX = 20.0
BODY_SECONDS_MAX = 60.0  # 8 MiB in that are 140 KB/s
STUCK_SECONDS_MAX = 60.0  # an answer of which nothing is taken for so long
# Requests of one connection that came while the one before them was being answered.
AHEAD_MAX = 128
# Each takes some ten kilobytes and a descriptor; far more than a worker has callers at once.
CONNECTIONS_MAX = 16_384
# For all that is no caller's: the listener, store, ledger, libraries, files that are just read.
DESCRIPTORS_KEPT = 128


class Connection(HttpToolsProtocol):
    """A caller's connection."""

    room = CONNECTIONS_MAX

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Taken. Until a first byte comes it may idle as long as between two requests."""
        if len(self.connections) >= self.room:
            make_room(cast("set[Connection]", self.connections), 1 + self.room // 10)
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self.in_head = True
        self.head_bytes = 0
        self.fresh = False  # a head began with the last bytes
        self.began: float | None = None  # when the first byte of what is not whole came
        self.unsent_bytes = 0
        self.stuck_since: float | None = None
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone; also its clock, which uvicorn lets run if it was reset."""
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes came. Of those that a head begins with none is counted: they are bounded, and
        there may be the end of another request before them."""
        if self.began is None:
            self.began = self.loop.time()
        self.fresh = False
        super().data_received(data)
        if self.in_head and self.began is not None and not self.fresh:
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """A request begins, perhaps right behind another one."""
        super().on_message_begin()
        self.fresh = True
        if self.began is None:
            self.began = self.loop.time()

    def on_headers_complete(self) -> None:
        """The head is whole. What is raised here ends the connection."""
        if len(self.pipeline) >= AHEAD_MAX:
            raise ValueError("too many requests ahead of their answers")
        self.in_head = False
        super().on_headers_complete()
        self.scope["extensions"] = {WHOLE: partial(say, self.cycle)}  # type: ignore[dict-item]

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self.in_head, self.head_bytes, self.began = True, 0, None

    def is_next_to_hear(self) -> bool:
        """True if the next word on this connection is due to the request that is coming in: no
        other one waits for its answer, and nothing was said to this one yet."""
        if self.pipeline:
            return False
        return not self.answering() if self.in_head else not self.cycle.response_started

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP. Close; say so, unless another request would take that for its
        answer."""
        if self.is_next_to_hear():
            super().send_400_response(msg)
        else:
            self.transport.close()

    def refuse(self, error: StockadeError) -> None:
        """Close; say why, as ``send_400_response`` does."""
        if self.is_next_to_hear():
            status, headers, body = answer(error, "")
            headers = [*headers, (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
            lines = b"".join(b"%s: %s\r\n" % header for header in headers)
            self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)
        self.transport.close()

    def look(self, now: float) -> None:
        """End it if it is over its time."""
        unsent_bytes = self.transport.get_write_buffer_size()
        if not unsent_bytes or unsent_bytes < self.unsent_bytes:
            self.stuck_since = None
        elif self.stuck_since is None:
            self.stuck_since = now
        elif now - self.stuck_since > STUCK_SECONDS_MAX:
            self.transport.abort()
            return
        self.unsent_bytes = unsent_bytes
        if self.began is None or self.transport.is_closing():
            return
        if self.in_head and self.answering():
            return  # one thing after the other
        if now - self.began > (HEAD_SECONDS_MAX if self.in_head else BODY_SECONDS_MAX):
            self.refuse(RequestTimeout())

    def answering(self) -> bool:
        """True while a request that came here has not had its whole answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def quiet_since(self) -> float | None:
        """Since when nobody waits for an answer here; None if somebody does."""
        if self.answering():
            return None
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when() - self.timeout_keep_alive
        return self.began


def say(cycle: RequestResponseCycle, status: int, headers: list[Header], body: bytes) -> bool:
    """Answer whole, in one write: one system call and one segment, where the two messages of ASGI
    are two of each. False if that must wait until the caller takes more; nothing was said then.

    ``headers`` are clean; ``connection`` among them means its end, and there is no
    ``transfer-encoding``.
    """
    if cycle.disconnected:
        return True
    if cycle.flow.write_paused:
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    lines = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        if name == b"connection":
            cycle.keep_alive = False
        else:
            lines += (name, b": ", value, b"\r\n")
    lines.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    lines.append(body)
    cycle.transport.write(b"".join(lines))
    del cycle.scope["extensions"]  # it holds this, and would be garbage for the collector alone
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


class _Flow(FlowControl):
    """Reads nothing more while requests wait behind the one that is being answered."""

    def __init__(self, transport: asyncio.Transport, pipeline: Any) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


def sweep(connections: Iterable[Connection], now: float) -> None:
    """End those that are over their time. ``now`` is the loop's."""
    for connection in tuple(connections):
        connection.look(now)


def make_room(connections: Iterable[Connection], count: int) -> None:
    """Close the ``count`` that have been quiet for longest."""
    quiet = [(since, id(each), each) for each in connections if (since := each.quiet_since())]
    for _, _, connection in sorted(quiet)[:count]:
        connection.transport.abort()


def descriptors() -> int:
    """Raise the number of open files to what the system allows; how many connections that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + DESCRIPTORS_KEPT
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(1, max(soft, allowed) - DESCRIPTORS_KEPT)
