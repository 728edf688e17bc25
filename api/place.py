"""The children of the supervisor: processes of ours, and the places that they fill."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence

from api.control import LEAVE
from core.errors import StartRefused
from core.settings import Settings, encode

START_SECONDS = 60.0  # for a child to report: it connects, loads scripts, and no more
# Beyond what the settings give a worker to end: kept connections, closing the service.
MARGIN_SECONDS = 7.0

_log = logging.getLogger("stockade.serve")


class Place:
    """A place that one child fills, and then another: a dead one is started again, one that is to
    go is replaced."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Settings,
        descriptors: Sequence[int],
        sheets: Sequence[int],
        alone: bool = False,
    ) -> None:
        """``alone``: the next child starts when the one before has ended; else that one leaves when
        the next one serves. ``sheets``: of the book; they count on the first, and who replaces
        them on the next, for two that live at once may not share one."""
        self.name = name
        self._module = module
        self._descriptors = descriptors
        self._alone = alone
        self._sheets = itertools.cycle(sheets)
        self._child = self._next(settings)
        self._leaving: Child | None = None
        self._changing = asyncio.Lock()

    def _next(self, settings: Settings) -> Child:
        arguments = (*self._descriptors, next(self._sheets))
        return Child(self.name, self._module, settings, self._descriptors, arguments)

    async def start(self) -> None:
        """Start the child, unless it was replaced meanwhile; StartRefused with its reason."""
        async with self._changing:
            if not self._child.runs:
                await self._child.start()

    async def wait(self) -> str:
        """Return when the place is empty, with how its child ended."""
        while True:
            child = self._child
            how = await child.wait()
            async with self._changing:
                if child is self._child:
                    return how

    async def replace(self, settings: Settings) -> None:
        """Have a child with these settings in the place; return when the one before has ended.

        Raises StartRefused if it does not start; then that one has the place again.
        """
        async with self._changing:
            fresh = self._next(settings)
            if self._alone:
                await self._child.stop()
                await fresh.start()
                self._child = fresh
                return
            await fresh.start()
            self._leaving, self._child = self._child, fresh
            await self._leaving.leave()
            self._leaving = None

    async def stop(self) -> None:
        """Let every child drain; return when all are gone."""
        children = [child for child in (self._child, self._leaving) if child is not None]
        await asyncio.gather(*(child.stop() for child in children))


class Child:
    """One process of ours: the settings go in and a report comes out through its standard input,
    which is a socket. When our end of it closes, by whatever death, it finishes and ends."""

    def __init__(
        self,
        name: str,
        module: str,
        settings: Settings,
        descriptors: Sequence[int],
        arguments: Sequence[int],
    ) -> None:
        """``descriptors``: open files that it inherits; ``arguments``: what it is told of them."""
        self.name = name
        self._module = module
        self._settings = settings
        self._descriptors = descriptors
        self._arguments = arguments
        self._process: Process | None = None
        self._control: asyncio.StreamWriter | None = None

    @property
    def runs(self) -> bool:
        """True while there is a process."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the process and return when it serves; StartRefused with its reason."""
        ours, theirs = socket.socketpair()
        with theirs:
            reader, self._control = await asyncio.open_unix_connection(sock=ours)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    # -P: a directory called api or core where we were started is none of ours.
                    *(sys.executable, "-P", "-m", self._module, *map(str, self._arguments)),
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
        except asyncio.CancelledError:  # it may have let callers in already
            self._process.terminate()
            await self._end()
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
        if self.runs:
            assert self._process is not None
            self._process.terminate()
            await self._end()

    async def leave(self) -> None:
        """Let it go while others serve: the same, but the port stays."""
        if self.runs:
            assert self._control is not None
            self._control.write(LEAVE)
            await self._end()

    async def _end(self) -> None:
        assert self._process is not None
        settings = self._settings
        seconds = settings.notice_seconds + settings.drain_seconds + MARGIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
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
