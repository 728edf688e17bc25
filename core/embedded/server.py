"""What the private servers have in common: a guard, a socket with a short path, patience."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import stat
import sys
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any, ClassVar

from core.embedded import guard
from core.errors import StartRefused

SOCKET_PATH_MAX_BYTES = 103  # what macOS takes; Linux has room for four more
ANSWER_SECONDS = 60.0  # between two signs of life of a server that has started: a disk may stall
POLL_FIRST_SECONDS = 0.005
POLL_MAX_SECONDS = 0.1
LOG_LINES_SHOWN = 3


class EmbeddedServer:
    """One private server. ``start`` it, use it, ``stop`` it; it may be started again.

    It also stops when this process is gone, by whatever death: see ``core.embedded.guard``.
    A kind of server says what it is called, what is run (``_order``) and when it answers.
    """

    name: ClassVar[str]  # in messages
    lock_name: ClassVar[str]
    log_name: ClassVar[str]
    socket_name: ClassVar[str]
    patience_seconds: ClassVar[float]  # for the first sign of life

    def __init__(self, data: Path) -> None:
        self.data = data.absolute()
        # The name outlives a restart, so that whoever knows the address finds the server again.
        self._runtime = self._runtime_base() / f"{guard.RUNTIME_PREFIX}{secrets.token_hex(8)}"
        self._guard: Process | None = None

    @property
    def socket(self) -> Path:
        """The server's socket; short, whatever the data directory is called."""
        return self._runtime / self.socket_name

    async def start(self) -> None:
        """Start the server and return when it answers.

        Raises StartRefused, with one line, when there is no binary, when the data directory
        cannot be used or is in use, or when the server ends before it answers.
        """
        order = self._order()
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartRefused(f"data: {self.data} cannot be made: {error.strerror}") from None
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", guard.__file__),  # the standard library alone: it starts in no time
            json.dumps(order._asdict()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd="/",
            start_new_session=True,  # a SIGKILL of our process group passes it by
        )
        try:
            await self._started(self._guard)
        except BaseException:
            await self.stop()
            raise

    async def wait(self) -> str:
        """Return when the server has ended by itself, with the last lines that it logged."""
        assert self._guard is not None, "start it first"
        await self._guard.wait()
        return self._last_words()

    async def stop(self) -> None:
        """Stop the server, if it runs, and return when it is gone."""
        if self._guard is None:
            return
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        # Cancelled or not, nobody goes on before the data directory is free again.
        await asyncio.shield(self._guard.wait())
        self._guard = None

    def _order(self) -> guard.Order:
        """What the guard starts. Raises StartRefused when there is nothing to start."""
        raise NotImplementedError

    async def _answers(self, deadline: asyncio.Timeout) -> bool:
        """Ask once. The directory is new and ours, so whoever answers is our own child.

        One that is at work but not ready has the deadline put off by ANSWER_SECONDS.
        """
        raise NotImplementedError

    def _runs(self, pid: int) -> None:
        """Its process is there, and may not answer yet."""

    async def _started(self, process: Process) -> None:
        assert process.stdout is not None
        answer, _, more = (await process.stdout.readline()).decode().strip().partition(" ")
        if answer == "refused":
            raise StartRefused(more)
        if answer == "started" and more:  # a guard that was installed since may be an older one
            self._runs(int(more))
        pause_seconds = POLL_FIRST_SECONDS
        try:
            async with asyncio.timeout(self.patience_seconds) as deadline:
                while not await self._answers(deadline):
                    if process.returncode is not None:
                        raise StartRefused(f"{self.name} ended: {self._last_words()}")
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(pause_seconds * 1.2, POLL_MAX_SECONDS)
        except TimeoutError:
            raise StartRefused(f"{self.name} is silent: {self._last_words()}") from None

    def _last_words(self) -> str:
        try:
            with (self.data / self.log_name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return " | ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:] if line.strip())

    def _runtime_base(self) -> Path:
        """A directory for ours, so short that a socket in it has a path that the system takes."""
        name_bytes = len(guard.RUNTIME_PREFIX) + 16 + len(self.socket_name) + 2
        for base in filter(None, (_user_runtime(), tempfile.gettempdir(), "/tmp")):
            short = len(os.fsencode(base)) + name_bytes <= SOCKET_PATH_MAX_BYTES
            if short and os.access(base, os.W_OK) and self._can_be_reached(Path(base)):
                return Path(base)
        raise StartRefused("no short directory for a socket: set TMPDIR to one that can be written")

    def _can_be_reached(self, base: Path) -> bool:
        """True if the server can enter ``base``; here, since it is run by the same user as we."""
        return os.access(base, os.X_OK)

    @classmethod
    def running_socket(cls, data: Path) -> Path | None:
        """The socket of the server that runs on ``data`` now, or None."""
        holder = _holder(data / cls.lock_name)
        if holder is None or holder.get("stopping") or "runtime" not in holder:
            return None
        return Path(holder["runtime"], cls.socket_name)


def machine_memory_bytes() -> int:
    """The memory that there is for us: the machine's, or less where a cgroup says so."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no cgroup there, or it says "max"
            total_bytes = min(total_bytes, int(Path(limit).read_text()))
    return total_bytes


def _holder(lock: Path) -> dict[str, Any] | None:
    """What the holder of a lock wrote, or None: nobody holds it, or it has only just been taken."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = json.loads(file.read())
                return holder if isinstance(holder, dict) else None
    except (OSError, ValueError):
        return None
    return None


def _user_runtime() -> str | None:
    """XDG_RUNTIME_DIR if it is what it should be: ours, and nobody else's."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        state = os.stat(base)
    except OSError:
        return None
    private = stat.S_ISDIR(state.st_mode) and stat.S_IMODE(state.st_mode) == 0o700
    return base if private and state.st_uid == os.getuid() else None
