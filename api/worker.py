"""One worker: uvicorn with our application on the socket that the supervisor handed down.

Run by ``api.serve`` as ``python -m api.worker LISTENER_FD BOOK_FD SHEET``: the port, and where it
counts. Standard input is a socket to the supervisor: a line of settings comes in, ``ready`` or
``refused REASON`` goes out. ``leave`` means that another worker has taken its place; its end, as
SIGTERM, that the service stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, cast

import uvicorn
import uvloop

from api import door
from api.app import App, create_app
from api.connection import Connection, descriptors, sweep
from api.control import CONTROL_FD, LEAVE, report
from api.log import configure
from api.tls import tls_context
from core import collector, slices
from core.errors import StartRefused, StockadeError
from core.settings import Settings, decode
from core.sheets import Book

BACKLOG = 2_048  # connections that wait to be taken; the system may cap it lower
# Longer than load balancers and client pools keep a connection idle (60 s is usual), so that it
# is they who close it: a server that closes first can meet a request on its way.
KEEP_ALIVE_SECONDS = 75
SWEEP_TICKS = 10  # of uvicorn's, a tenth of a second each
# How long who keeps a connection has to use it once more, and to hear that it closes, before one
# on which nothing is asked is closed unheard.
QUIET_SECONDS = 1.0
TURN_SECONDS = 0.02  # between two looks whether all connections are gone

_log = logging.getLogger("stockade.worker")

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def main(listener_fd: int, book_fd: int, sheet: int) -> int:
    """Serve until told to stop. Returns the exit status."""
    settings = decode(sys.stdin.buffer.readline())
    configure(settings.log_level)
    try:
        server = _Server(settings, Book(book_fd), sheet)
    except StartRefused as refused:
        report(f"refused {refused.detail}")
        return 1
    listener = socket.socket(fileno=listener_fd)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve(sockets=[listener]))
    except SystemExit:  # uvicorn's way to say that the application did not start
        report(f"refused {server.application.refusal}")
        return 1
    return 0


class _Server(uvicorn.Server):
    """uvicorn, told to stop by us alone, so that a stop is no death by signal."""

    def __init__(self, settings: Settings, book: Book, sheet: int) -> None:
        self.application = _Application(create_app(settings, book, sheet))
        self._notice_seconds = settings.notice_seconds
        self._leaving = False
        tls = tls_context(settings)
        config = uvicorn.Config(
            self.application,
            loop="uvloop",
            http=Connection,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.drain_seconds,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )
        super().__init__(config)
        Connection.room = descriptors()
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its notices are of no news here

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM, and what the supervisor says, drain. uvicorn's own would raise it again."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_reader(CONTROL_FD, self._told)
        try:
            yield
        finally:
            loop.remove_reader(CONTROL_FD)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell the supervisor. What goes wrong is told by it, not by uvicorn."""
        log = logging.getLogger("uvicorn")
        log.setLevel(logging.CRITICAL + 1)
        await super().startup(sockets)
        log.setLevel(logging.WARNING)
        collector.settle()
        if why := slices.shorten():
            _log.info("no short slices: %s", why)
        report("ready")

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % SWEEP_TICKS == 0:
            connections = cast("set[Connection]", self.server_state.connections)
            sweep(connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop so that no request is lost that somebody has sent.

        Who keeps a connection hears with the next answer that it closes. The port is given up
        when nobody waits in it; where others go on taking from it, at once.
        """
        assert sockets is not None
        # Answers under way have this list too. It is renewed by ticks, and there are none any more.
        self.server_state.default_headers.append((b"connection", b"close"))
        if not self._leaving:
            await asyncio.sleep(self._notice_seconds)
            await door.empty(sockets[0])
        for server in self.servers:
            server.close()
        clock = asyncio.get_running_loop().time
        quiet_at = clock() + QUIET_SECONDS
        while self.server_state.connections and clock() < quiet_at:  # noqa: ASYNC110 - uvicorn's
            await asyncio.sleep(TURN_SECONDS)
        await super().shutdown(sockets)

    def _told(self) -> None:
        if os.read(CONTROL_FD, len(LEAVE)) == LEAVE:
            self._leaving = True
            self.application.app.leave()
            self.should_exit = True
        else:
            asyncio.get_running_loop().remove_reader(CONTROL_FD)
            self._drain()

    def _drain(self) -> None:
        # First of all: whoever balances the load shall see it before the port closes.
        self.application.app.drain()
        self.should_exit = True


class _Application:
    """The application, with the reason kept if it refuses to start."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.refusal = ""

    def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> Awaitable[None]:
        """Pass all but the lifespan straight on: no frame of ours is on a request's way."""
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        return self.app(scope, receive, send)

    async def _lifespan(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        try:
            await self.app(scope, receive, send)
        except StockadeError as error:
            self.refusal = error.detail
            raise
        except Exception as error:
            self.refusal = f"{type(error).__name__}: {error}"
            _log.exception("the application failed")
            raise


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
