"""A private Valkey under a data directory: start and stop, as the service and the tests do it.

The server listens on a Unix socket alone, in a directory that nobody else can enter. It writes
every change to its disk before it answers, and finds its data again at the next start.
"""

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
from typing import Literal
from urllib.parse import quote

from core.embedded import guard
from core.embedded.find import find_server
from core.errors import StartRefused

SOCKET_PATH_MAX_BYTES = 103  # what macOS takes; Linux has room for four more
ANSWER_SECONDS = 10.0  # for the first answer of a server; loading may then take what it takes
POLL_SECONDS = 0.005
LOG_LINES_SHOWN = 3
LOG_REWRITE_MIN_BYTES = 512 * 2**20
Appendfsync = Literal["always", "everysec", "no"]


class EmbeddedValkey:
    """One private server. ``start`` it, use ``url``, ``stop`` it; it may be started again.

    It also stops when this process is gone, by whatever death: see ``core.embedded.guard``.
    ``appendfsync`` other than ``always`` is for tests of a store that is too weak.
    """

    def __init__(
        self,
        data: Path,
        *,
        binary: Path | None = None,
        maxmemory_bytes: int | None = None,
        appendfsync: Appendfsync = "always",
    ) -> None:
        self.data = data.absolute()
        self._binary = binary
        self._maxmemory_bytes = maxmemory_bytes
        self._appendfsync = appendfsync
        # The name outlives a restart, so that whoever knows the address finds the server again.
        self._runtime = _runtime_base() / f"{guard.RUNTIME_PREFIX}{secrets.token_hex(8)}"
        self._guard: Process | None = None

    @property
    def socket(self) -> Path:
        """The server's socket; short, whatever the data directory is called."""
        return self._runtime / guard.SOCKET_NAME

    @property
    def url(self) -> str:
        """The server's address, as the ``valkey_url`` setting takes it."""
        return f"unix://{quote(str(self.socket))}"

    async def start(self) -> None:
        """Start the server and return when it answers.

        Raises StartRefused, with one line, when there is no binary, when the data directory
        cannot be used or is in use, or when the server ends before it answers.
        """
        binary = find_server(self._binary)
        try:
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartRefused(f"data: {self.data} cannot be made: {error.strerror}") from None
        self._guard = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", guard.__file__),  # the standard library alone: it starts in no time
            *(str(self.data), str(self._runtime), str(os.getpid())),
            *(str(binary), *self._options()),
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

    async def _started(self, process: Process) -> None:
        assert process.stdout is not None
        answer, _, reason = (await process.stdout.readline()).decode().strip().partition(" ")
        if answer == "refused":
            raise StartRefused(reason)
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as deadline:
                while not await self._answers(deadline):
                    if process.returncode is not None:
                        raise StartRefused(f"the private store ended: {self._last_words()}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise StartRefused(f"the private store is silent: {self._last_words()}") from None

    async def _answers(self, deadline: asyncio.Timeout) -> bool:
        """One PING. The directory is new and ours, so whoever answers is our own child."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            answer = await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if answer.startswith(b"-LOADING"):
            deadline.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
        return answer.startswith(b"+PONG")

    def _options(self) -> list[str]:
        """What every Redis from 7.0 on and every Valkey from 7.2 on knows."""
        maxmemory_bytes = self._maxmemory_bytes or machine_memory_bytes() // 2
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "daemonize": "no",
            "dir": ".",  # the guard starts it there: a path of any length and spelling will do
            "logfile": "",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "maxmemory": str(maxmemory_bytes),
            "maxmemory-policy": "noeviction",
            # Rewriting the log costs a core: seldom, and without compressing it.
            "auto-aof-rewrite-min-size": str(LOG_REWRITE_MIN_BYTES),
            "rdbcompression": "no",
        }
        return [text for name, value in options.items() for text in (f"--{name}", value)]

    def _last_words(self) -> str:
        try:
            with (self.data / guard.LOG_NAME).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return " | ".join(line.strip() for line in lines[-LOG_LINES_SHOWN:] if line.strip())


def find_running(data: Path) -> str | None:
    """The address of the private server that runs on ``data`` now, or None."""
    try:
        with (data / guard.LOCK_NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = json.loads(file.read())
                if not holder.get("stopping"):
                    socket = Path(holder["runtime"], guard.SOCKET_NAME)
                    return f"unix://{quote(str(socket))}"
    except (OSError, ValueError, KeyError):
        return None  # never used, or a start that has just taken the lock: not running yet
    return None


def machine_memory_bytes() -> int:
    """The memory that there is for us: the machine's, or less where a cgroup says so."""
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no cgroup there, or it says "max"
            total_bytes = min(total_bytes, int(Path(limit).read_text()))
    return total_bytes


def _runtime_base() -> Path:
    """A directory for ours, so short that a socket in it has a path that the system takes."""
    name_bytes = len(guard.RUNTIME_PREFIX) + 16 + len(guard.SOCKET_NAME) + 2
    for base in filter(None, (_user_runtime(), tempfile.gettempdir(), "/tmp")):
        short = len(os.fsencode(base)) + name_bytes <= SOCKET_PATH_MAX_BYTES
        if short and os.access(base, os.W_OK | os.X_OK):
            return Path(base)
    raise StartRefused("no short directory for a socket: set TMPDIR to one that can be written")


def _user_runtime() -> str | None:
    """XDG_RUNTIME_DIR if it is what it should be: ours, and nobody else's."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        state = os.stat(base)
    except OSError:
        return None
    private = stat.S_ISDIR(state.st_mode) and stat.S_IMODE(state.st_mode) == 0o700
    return base if private and state.st_uid == os.getuid() else None
