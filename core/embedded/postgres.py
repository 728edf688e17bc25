"""A private PostgreSQL under a data directory, as the service and the tests start it.

The server listens on a Unix socket alone, in a directory that nobody else can enter. The database
has an owner, who migrates, and the service's role, which owns nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from core.embedded import cluster, guard
from core.embedded.find import find_postgres
from core.embedded.server import ANSWER_SECONDS, EmbeddedServer, machine_memory_bytes
from core.errors import StartRefused

PORT = 5432  # only a part of the socket's name
START_SECONDS = 120.0  # for the first answer: a slow disk takes its time to make a cluster
# Connections: 64 workers with 4 each, the scribe, commands, and somebody who looks.
CONNECTIONS_MAX = 64 * 4 + 32
SHARED_BUFFERS_MIN_BYTES = 32 * 2**20
SHARED_BUFFERS_MAX_BYTES = 512 * 2**20
# SIGINT ends sessions and writes everything out; SIGQUIT leaves that to the next start, and after
# 5 s of it the server kills those of its children that hang.
STOP_SECONDS = 20.0
QUIT_SECONDS = 6.0
_PROTOCOL = 196_608  # 3.0
_STARTING_UP = b"57P03"


class Addresses(NamedTuple):
    """The two DSNs of a ledger: the service's role, and the owner, who migrates."""

    dsn: str
    owner_dsn: str


class EmbeddedPostgres(EmbeddedServer):
    """One private PostgreSQL, at ``dsn`` and ``owner_dsn`` while it runs.

    One that ``stands_back`` leaves the machine to others where it can, as a ledger should. Without
    ``fsync`` it is faster and loses data with the machine: for tests.
    """

    name = "the private PostgreSQL"
    lock_name = "postgres.lock"
    log_name = "postgres.log"
    socket_name = f".s.PGSQL.{PORT}"
    patience_seconds = START_SECONDS

    def __init__(
        self,
        data: Path,
        *,
        bindir: Path | None = None,
        fsync: bool = True,
        stands_back: bool = False,
    ) -> None:
        super().__init__(data)
        self._bindir = bindir
        self._fsync = fsync
        self._stands_back = stands_back

    @property
    def dsn(self) -> str:
        """For the service: a role that owns nothing."""
        return self.addresses().dsn

    @property
    def owner_dsn(self) -> str:
        """For migrations: the owner of the database, which is no superuser either."""
        return self.addresses().owner_dsn

    @property
    def superuser_dsn(self) -> str:
        """For whoever makes other databases, as the tests do."""
        return _dsn(self.socket, cluster.SUPERUSER, "postgres")

    def addresses(self, database: str = cluster.DATABASE) -> Addresses:
        """Both DSNs of a database."""
        return _addresses(self.socket, database)

    def _order(self) -> guard.Order:
        binaries = find_postgres(self._bindir)
        order = cluster.Order(
            data=str(self.data),
            runtime=str(self._runtime),
            binaries=str(binaries.directory),
            major=binaries.major,
            options=self._options(),
            fsync=self._fsync,
            stands_back=self._stands_back,
        )
        return guard.Order(
            service_pid=os.getpid(),
            data=str(self.data),
            lock=self.lock_name,
            log=self.log_name,
            directory="",
            runtime=str(self._runtime),
            sockets=[self.socket_name, f"{self.socket_name}.lock"],
            command=[sys.executable, "-I", "-S", cluster.__file__, json.dumps(order._asdict())],
            environ={},
            stop=[(signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, QUIT_SECONDS)],
        )

    async def _answers(self, deadline: asyncio.Timeout) -> bool:
        """One log-in as the service: the roles and the database are there as well."""
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
        except OSError:
            return False
        try:
            writer.write(_login(cluster.SERVICE_ROLE, cluster.DATABASE))
            kind = b""
            while kind not in (b"Z", b"E"):  # ready for a query, or an error
                kind = await reader.readexactly(1)
                size = int.from_bytes(await reader.readexactly(4), "big")
                body = await reader.readexactly(size - 4)
            writer.write(b"X\0\0\0\4")  # good-bye
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if kind == b"Z":
            return True
        fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
        if fields.get(b"C") != _STARTING_UP:
            told = fields.get(b"M", b"").decode(errors="replace")
            raise StartRefused(f"{self.name} lets the service not in: {told}")
        deadline.reschedule(asyncio.get_running_loop().time() + ANSWER_SECONDS)
        return False

    def _can_be_reached(self, base: Path) -> bool:
        """Root's server is run by another user, who must be able to pass all that is above."""
        if os.getuid() != 0:
            return super()._can_be_reached(base)
        resolved = base.resolve()
        return all(path.stat().st_mode & 0o001 for path in (resolved, *resolved.parents))

    def _options(self) -> list[str]:
        """What every PostgreSQL from 15 on knows."""
        buffers_bytes = min(
            max(machine_memory_bytes() // 16, SHARED_BUFFERS_MIN_BYTES), SHARED_BUFFERS_MAX_BYTES
        )
        directory = str(self._runtime).replace('"', '""')
        options = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{directory}"',
            "unix_socket_permissions": "0700",
            "max_connections": str(CONNECTIONS_MAX),
            "shared_buffers": f"{buffers_bytes // 2**20}MB",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "synchronous_commit": "on",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "logging_collector": "off",  # standard error is the guard's, whose log is bounded
            "log_destination": "stderr",
            "log_checkpoints": "off",
            "jit": "off",  # it costs more than it saves on short statements
        }
        return [text for name, value in options.items() for text in ("-c", f"{name}={value}")]


def find_running(data: Path) -> Addresses | None:
    """The addresses of the private PostgreSQL that runs on ``data`` now, or None."""
    socket = EmbeddedPostgres.running_socket(data)
    return None if socket is None else _addresses(socket, cluster.DATABASE)


def is_private(dsn: str) -> bool:
    """True for a DSN of a private PostgreSQL: the service's alone."""
    hosts = parse_qs(urlsplit(dsn).query).get("host", [])
    return len(hosts) == 1 and Path(hosts[0]).name.startswith(guard.RUNTIME_PREFIX)


def _addresses(socket: Path, database: str) -> Addresses:
    return Addresses(
        _dsn(socket, cluster.SERVICE_ROLE, database), _dsn(socket, cluster.OWNER_ROLE, database)
    )


def _dsn(socket: Path, role: str, database: str) -> str:
    return f"postgresql://{role}@/{database}?host={quote(str(socket.parent))}&port={PORT}"


def _login(role: str, database: str) -> bytes:
    """The first message of a connection."""
    words = ("user", role, "database", database, "application_name", "stockade start")
    body = _PROTOCOL.to_bytes(4, "big") + b"".join(w.encode() + b"\0" for w in words) + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body
