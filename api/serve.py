"""The supervisor: one port, private servers if none are named, workers and a scribe that are kept.

It serves no request itself. ``serve`` binds the port, starts the servers, starts the workers with
the port and the settings handed down, says that it listens, and keeps all of them running until
SIGTERM or SIGINT: then the workers drain, the servers stop last, and the status is 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import msgspec

from api.servers import private_postgres, private_store, with_postgres
from core.embedded.server import EmbeddedServer
from core.errors import StartRefused
from core.opening import prepare_ledger
from core.settings import Settings, encode

START_SECONDS = 60.0  # for a child to report: it connects, loads scripts, and no more
DRAIN_MARGIN_SECONDS = 5.0  # beyond drain_seconds, to close the service, before a worker is killed
# A process that dies is started anew: at once, then ever later, so that one that cannot live
# does not keep the machine busy. One that lived for a while starts over at the first pause.
PAUSE_FIRST_SECONDS = 0.1
PAUSE_MAX_SECONDS = 5.0
LIVED_SECONDS = 10.0

_log = logging.getLogger("stockade.serve")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT asks to stop, and return when all is stopped.

    Raises StartRefused, with one line, when the service cannot start.
    """
    with asyncio.Runner() as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    """Run until asked to stop, or until it fails by itself, which only a start does."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    with _bind(settings.host, settings.port) as listener:
        running = asyncio.create_task(_run(settings, listener))
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait((running, asking), return_when=asyncio.FIRST_COMPLETED)
        # Closed first: who knocks from now on is refused at once, and may try another machine.
        listener.close()
        asking.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def _run(settings: Settings, listener: socket.socket) -> None:
    """Start the servers and the workers and keep them; when cancelled, stop them."""
    async with contextlib.AsyncExitStack() as stack:
        kept: list[tuple[str, _Start, _Wait]] = []
        servers: list[EmbeddedServer] = []
        if settings.valkey_url is None:
            servers.append(store := private_store(settings))
            settings = msgspec.structs.replace(settings, valkey_url=store.url)
        if settings.postgres_dsn is None:
            servers.append(ledger := private_postgres(settings))
            settings = with_postgres(settings, ledger.addresses())
        stack.push_async_callback(_all, [server.stop for server in servers])
        await _all([server.start for server in servers])
        kept.extend((server.name, server.start, server.wait) for server in servers)
        await prepare_ledger(settings)
        scribe = _Child("the scribe", "api.scribe", settings)
        workers = [
            _Child("a worker", "api.worker", settings, listener.fileno())
            for _ in range(settings.workers)
        ]
        # The scribe starts when there is a shard, and stops last: it takes along what workers did.
        stack.push_async_callback(scribe.stop)
        stack.push_async_callback(_all, [worker.stop for worker in workers])
        await _all([worker.start for worker in workers])
        await scribe.start()
        kept.extend((child.name, child.start, child.wait) for child in (*workers, scribe))
        print(f"listening on http://{_address(listener)}", flush=True)
        async with asyncio.TaskGroup() as group:
            for name, start, wait in kept:
                group.create_task(_keep(name, start, wait))


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


class _Child:
    """One process of ours: the settings go in and a report comes out through its standard input,
    which is a socket. When our end of it closes, by whatever death, it finishes and ends."""

    def __init__(self, name: str, module: str, settings: Settings, *descriptors: int) -> None:
        """``descriptors``: open files that it inherits; it is told their numbers."""
        self.name = name
        self._module = module
        self._settings = settings
        self._descriptors = descriptors
        self._process: Process | None = None
        self._control: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        """Start the process and return when it serves; StartRefused with its reason."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._control = await asyncio.open_unix_connection(sock=ours)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    # -P: a directory called api or core where we were started is none of ours.
                    *(sys.executable, "-P", "-m", self._module, *map(str, self._descriptors)),
                    stdin=theirs.fileno(),
                    pass_fds=self._descriptors,
                    process_group=0,  # a terminal's Ctrl-C is for us, and we tell our children
                )
            except OSError as error:
                self._control.close()
                raise StartRefused(f"{self.name} cannot be started: {error.strerror}") from None
        self._control.write(encode(self._settings) + b"\n")
        try:
            async with asyncio.timeout(START_SECONDS):
                report, _, reason = (await reader.readline()).decode().strip().partition(" ")
        except ConnectionResetError:  # it ended before it read its settings
            report = reason = ""
        except TimeoutError:
            await self._kill()
            raise StartRefused(f"{self.name} did not start within {START_SECONDS:g} s") from None
        except BaseException:
            await self._kill()
            raise
        if report != "ready":
            how = await self.wait()
            raise StartRefused(reason or f"{self.name} ended while it started: {how}")
        _log.info("%s runs as process %d", self.name, self._process.pid)

    async def wait(self) -> str:
        """Return when the process has ended, with how."""
        assert self._process is not None, "start it first"
        assert self._control is not None
        status = await self._process.wait()
        self._control.close()
        return f"process {self._process.pid}, status {status}"

    async def stop(self) -> None:
        """Let it drain, and return when it is gone; one that takes too long is killed."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(self._settings.drain_seconds + DRAIN_MARGIN_SECONDS):
                await self.wait()
        except TimeoutError:
            _log.error(
                "%s, process %d, did not end in time and was killed", self.name, self._process.pid
            )
            await self._kill()

    async def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: the workers make it, once they can serve.

    Raises StartRefused for an address that cannot be bound, and for one that others can reach:
    there are no API keys yet that would keep them out.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise StartRefused(f"host: {host} is not an address: {error}") from None
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise StartRefused(
            f"host: {host} can be reached by others, and there are no API keys yet to keep them "
            "out; listen on 127.0.0.1 or ::1"
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
