"""A private Valkey under a data directory, as the service and the tests start it.

The server listens on a Unix socket alone, in a directory that nobody else can enter. It writes
every change to its disk before it answers, and finds its data again at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from core import slices
from core.embedded import guard
from core.embedded.find import find_server
from core.embedded.server import ANSWER_SECONDS, EmbeddedServer, machine_memory_bytes

LOG_REWRITE_MIN_BYTES = 512 * 2**20
STOP_SECONDS = 8.0  # it closes its log of writes on SIGTERM
# A script allocates and frees hundreds of small strings at once; glibc keeps only 7 of a size at
# hand. With 8,000 the server commits about a fifth more reservations a second. Its hashes are met
# at random, so on huge pages (where the machine gives them on request) it needs a tenth less time,
# and forks in a third of it; what a fork copies is no more. Other C libraries ignore this.
_MALLOC = "glibc.malloc.tcache_count=8000:glibc.malloc.hugetlb=1"
Appendfsync = Literal["always", "everysec", "no"]

log = logging.getLogger("stockade.embedded")


class EmbeddedValkey(EmbeddedServer):
    """One private Valkey, at ``url`` while it runs.

    ``appendfsync`` other than ``always`` is for tests of a store that is too weak.
    """

    name = "the private store"
    lock_name = "lock"
    log_name = "valkey.log"
    socket_name = "valkey.sock"
    patience_seconds = ANSWER_SECONDS

    def __init__(
        self,
        data: Path,
        *,
        binary: Path | None = None,
        maxmemory_bytes: int | None = None,
        appendfsync: Appendfsync = "always",
    ) -> None:
        super().__init__(data)
        self._binary = binary
        self._maxmemory_bytes = maxmemory_bytes
        self._appendfsync = appendfsync

    @property
    def url(self) -> str:
        """The server's address, as the ``valkey_url`` setting takes it."""
        return _url(self.socket)

    def _order(self) -> guard.Order:
        return guard.Order(
            service_pid=os.getpid(),
            data=str(self.data),
            lock=self.lock_name,
            log=self.log_name,
            directory="valkey",
            runtime=str(self._runtime),
            sockets=[self.socket_name],
            command=[str(find_server(self._binary)), *self._options()],
            environ={"GLIBC_TUNABLES": _MALLOC},
            stop=[(signal.SIGTERM, STOP_SECONDS)],
        )

    def _runs(self, pid: int) -> None:
        if why := slices.shorten(pid):
            log.info("the private store has no short slices: %s", why)

    async def _answers(self, deadline: asyncio.Timeout) -> bool:
        """One PING."""
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


def find_running(data: Path) -> str | None:
    """The address of the private Valkey that runs on ``data`` now, or None."""
    socket = EmbeddedValkey.running_socket(data)
    return None if socket is None else _url(socket)


def _url(socket: Path) -> str:
    return f"unix://{quote(str(socket))}"


def is_private(url: str) -> bool:
    """True for the address of a private Valkey: the service's alone, to do with as it must."""
    parts = urlsplit(url)
    parent = Path(unquote(parts.path)).parent.name
    return parts.scheme == "unix" and parent.startswith(guard.RUNTIME_PREFIX)
