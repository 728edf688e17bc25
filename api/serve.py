"""The supervisor: one port, private servers if none are named, workers and a scribe that are kept.

It serves no request itself. ``serve`` binds the port, starts the servers, starts the workers with
the port and the settings handed down, says that it listens, and keeps all of them running until
SIGTERM or SIGINT: then the workers drain, the servers stop last, and the status is 0. On SIGHUP it
reads the settings again and replaces workers and scribe, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from api.gate import is_local
from api.log import configure
from api.place import Place
from api.servers import private_postgres, private_store, with_postgres
from api.tls import tls_context
from core.embedded.server import EmbeddedServer
from core.errors import LedgerUnavailable, StartRefused
from core.opening import open_key_table, prepare_ledger
from core.settings import STANDING, Settings
from core.sheets import SCRIBE_SHEET, WORKER_SHEET, WORKERS_MAX, Book

# A process that dies is started anew: at once, then ever later, so that one that cannot live
# does not keep the machine busy. One that lived for a while starts over at the first pause.
PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0
LIVED_SECONDS = 10.0

_log = logging.getLogger("stockade.serve")


def serve(settings: Settings, reread: Callable[[], Settings]) -> None:
    """Serve until SIGTERM or SIGINT asks to stop, and return when all is stopped.

    On SIGHUP what ``reread`` gives is handed to new workers, and the old ones leave. Raises
    StartRefused, with one line, when the service cannot start.
    """
    with asyncio.Runner() as runner:
        runner.run(_serve(settings, reread))


async def _serve(settings: Settings, reread: Callable[[], Settings]) -> None:
    """Run until asked to stop, or until it fails by itself, which only a start does."""
    asked, renew = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    # A terminal that is closed says the same, and means the end.
    loop.add_signal_handler(signal.SIGHUP, asked.set if os.isatty(0) else renew.set)
    with _bind(settings) as listener:
        running = asyncio.create_task(_run(settings, listener, _Renewal(settings, reread, renew)))
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait((running, asking), return_when=asyncio.FIRST_COMPLETED)
        # Closed here, so that the port is free when the last worker has given it up.
        listener.close()
        asking.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _run(settings: Settings, listener: socket.socket, renewal: _Renewal) -> None:
    """Start the servers and the workers and keep them; when cancelled, stop them."""
    async with contextlib.AsyncExitStack() as stack:
        servers: list[EmbeddedServer] = []
        if settings.valkey_url is None:
            servers.append(store := private_store(settings))
            settings = msgspec.structs.replace(settings, valkey_url=store.url)
        if settings.postgres_dsn is None:
            servers.append(ledger := private_postgres(settings, stands_back=True))
            settings = with_postgres(settings, ledger.addresses())
        stack.push_async_callback(_all, [server.stop for server in servers])
        await _all([server.start for server in servers])
        await prepare_ledger(settings)
        if not is_local(settings.host):
            await _check_keys(settings)
        book = Book()
        scribe = Place(
            "the scribe", "api.scribe", settings, (book.descriptor,), (SCRIBE_SHEET,), alone=True
        )
        workers = [
            Place(
                "a worker", "api.worker", settings, (listener.fileno(), book.descriptor),
                (WORKER_SHEET + number, WORKER_SHEET + WORKERS_MAX + number),
            )
            for number in range(settings.workers)
        ]  # fmt: skip
        # The scribe starts when there is a shard, and stops last: it takes along what workers did.
        stack.push_async_callback(scribe.stop)
        stack.push_async_callback(_all, [worker.stop for worker in workers])
        await _all([worker.start for worker in workers])
        await scribe.start()
        scheme = "http" if settings.tls_cert is None else "https"
        print(f"listening on {scheme}://{_address(listener)}", flush=True)
        async with asyncio.TaskGroup() as group:
            kept: Sequence[EmbeddedServer | Place] = (*servers, *workers, scribe)
            for each in kept:
                group.create_task(_keep(each.name, each.start, each.wait))
            group.create_task(renewal.run(settings, (*workers, scribe)))


class _Renewal:
    """Reads the settings again when told to, and has every child replaced by one that has them."""

    def __init__(
        self, given: Settings, reread: Callable[[], Settings], told: asyncio.Event
    ) -> None:
        """``given``: what was read last."""
        self._given = given
        self._reread = reread
        self._told = told

    async def run(self, running: Settings, places: Sequence[Place]) -> None:
        """As often as told. ``running`` has the addresses of private servers as well."""
        standing = {name: getattr(running, name) for name in STANDING}
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                read = self._reread()
            except StartRefused as refused:
                _log.error("nothing is renewed: %s", refused.detail)
                continue
            for name in STANDING:
                if getattr(read, name) != getattr(self._given, name):
                    _log.error("%s stays as it was until the service is started again", name)
            configure(read.log_level)
            await self._replace(msgspec.structs.replace(read, **standing), places)

    async def _replace(self, settings: Settings, places: Sequence[Place]) -> None:
        """One place after the other, so that all the others serve."""
        for place in places:
            try:
                await place.replace(settings)
            except StartRefused as refused:
                _log.error("%s; what was not replaced yet goes on as it is", refused.detail)
                return
        _log.info("everything is renewed")


_Start = Callable[[], Coroutine[Any, Any, None]]
_Wait = Callable[[], Awaitable[str]]


async def _all(calls: Iterable[_Start]) -> None:
    """Call all at once; the first that fails ends the others, and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(call())
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _keep(name: str, start: _Start, wait: _Wait) -> None:
    """Start it anew whenever it ends, for ever."""
    clock = asyncio.get_running_loop().time
    pause_seconds = PAUSE_FIRST_SECONDS
    while True:
        started = clock()
        how = await wait()
        if clock() - started > LIVED_SECONDS:
            pause_seconds = PAUSE_FIRST_SECONDS
        while how:
            _log.error("%s ended: %s; starting it again", name, how)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, PAUSE_MAX_SECONDS)
            try:
                await start()
                how = ""
                _log.info("%s runs again", name)
            except StartRefused as refused:
                how = refused.detail


async def _check_keys(settings: Settings) -> None:
    """Raises StartRefused if others can reach us and there is no key that would keep them out."""
    async with open_key_table(settings) as table:
        try:
            found = await table.live()
        except LedgerUnavailable as error:
            raise StartRefused(f"host: whether there are API keys is not known: {error}") from None
    if not found:
        raise StartRefused(
            f"host: {settings.host} can be reached by others, and there is no API key to keep them "
            "out: make one with stockade keys create, or listen on 127.0.0.1 or ::1"
        )


def _bind(settings: Settings) -> socket.socket:
    """A bound socket that does not listen yet: the workers make it, once they can serve.

    Raises StartRefused for an address that cannot be bound, and for one that others can reach if
    their keys would travel in the clear.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartRefused(f"host: {host} is not an address: {error}") from None
    encrypted = tls_context(settings) is not None  # wrong files are told before anything is done
    if not (encrypted or settings.plain_http or is_local(host)):
        raise StartRefused(
            f"host: {host} can be reached by others, and their API keys would travel in the clear: "
            "set tls_cert and tls_key, or plain_http if a proxy in front speaks TLS, or listen on "
            "127.0.0.1 or ::1"
        )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartRefused(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
