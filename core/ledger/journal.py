"""The only voice to PostgreSQL: a small pool of connections, and the single reads of a worker.

Every failure is a LedgerUnavailable. Nothing here relies on a session: a pooler in transaction
mode (PgBouncer) may hand out another one for each transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
from msgspec import Struct

from core.errors import StartRefused
from core.ledger import migrating, queries
from core.ledger.answering import answering

SHARD = 0
CONNECTIONS_MAX = 4  # of one process
IDLE_SECONDS = 300.0
VERSION_MIN = 15
Connection = asyncpg.pool.PoolConnectionProxy


class Mark(Struct, frozen=True):
    """How far the stream is in the ledger.

    ``position``: of the last row; ``policy``: the number of the channels' policy then; ``time_ms``:
    of the last event; ``seen_ms``: when the store was last seen with nothing more in it.
    """

    epoch: int
    seq: int
    position: int
    policy: int
    time_ms: int
    seen_ms: int


class Journal:
    """The ledger as one process reaches it; connects when it is first asked."""

    def __init__(self, dsn: str, timeout_seconds: float) -> None:
        self._dsn = dsn
        self._timeout_seconds = timeout_seconds
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> str:
        """Connects, and says what answers. Raises StartRefused for a ledger that cannot be used,
        LedgerUnavailable for one that does not answer."""
        async with self.connection() as connection:
            version = connection.get_server_version()
            if version.major < VERSION_MIN:
                raise StartRefused(
                    f"the ledger is PostgreSQL {version.major}; Stockade needs {VERSION_MIN}"
                )
            encoding = connection.get_settings().server_encoding
            if encoding != "UTF8":
                raise StartRefused(
                    f"the ledger's database is in {encoding}, which cannot have every reference; "
                    "make it anew with ENCODING 'UTF8'"
                )
            newest = len(migrating.migrations())
            try:
                found = await connection.fetchval(queries.get("schema_version"))
            except asyncpg.UndefinedTableError:
                found = 0
            except (asyncpg.InvalidSchemaNameError, asyncpg.InsufficientPrivilegeError) as error:
                raise StartRefused(f"the ledger cannot be read: {error}") from None
            if found != newest:
                raise StartRefused(
                    f"the ledger has schema {found}, this version needs {newest}: set "
                    "STOCKADE_POSTGRES_OWNER_DSN to the role that owns it, and start again"
                )
            if await connection.fetchval(queries.get("may_change_the_past")):
                raise StartRefused(
                    "postgres_dsn: its role may change what happened; name one that is neither a "
                    "superuser nor the owner of the ledger"
                )
            return f"postgresql {version.major}.{version.micro}"

    async def close(self) -> None:
        """Closes all connections, whatever they are doing."""
        if self._pool is not None:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection from the pool. What goes wrong with the server is a LedgerUnavailable."""
        with answering():
            pool = self._pool or await self._open_pool()
            async with pool.acquire(timeout=self._timeout_seconds) as connection:
                yield connection

    async def _open_pool(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=CONNECTIONS_MAX,
                    max_inactive_connection_lifetime=IDLE_SECONDS,
                    timeout=self._timeout_seconds,
                    command_timeout=self._timeout_seconds,
                    statement_cache_size=0,  # PgBouncer: the next statement may meet another server
                )
            return self._pool

    async def fetch(self, name: str, *args: object) -> list[asyncpg.Record]:
        """All rows of a named query."""
        async with self.connection() as connection:
            return await connection.fetch(queries.get(name), *args)

    async def change(self, name: str, *args: object) -> int:
        """Runs a named UPDATE; how many rows it changed."""
        async with self.connection() as connection:
            done = await connection.execute(queries.get(name), *args)
        return int(done.rpartition(" ")[2])

    async def mark(self) -> Mark | None:
        """How far the ledger is; None if it never saw this shard."""
        found = await self.fetch("mark", SHARD)
        return Mark(*found[0]) if found else None

    async def rows(self, pools: Sequence[str]) -> dict[str, str]:
        """Rows of pools (``sku@location``) as of the mark; those that it has."""
        places = [pool.split("@") for pool in pools]
        found = await self.fetch(
            "rows", list(pools), [sku for sku, _ in places], [location for _, location in places]
        )
        return {row["pool"]: row["row"] for row in found}

    async def accepted(self) -> dict[tuple[int, int, str], str]:
        """The reasons of changes that no event explains and that somebody accepted, by epoch, seq
        and pool."""
        rows = await self.fetch("accepted_drift")
        return {(row["epoch"], row["seq"], row["pool"]): row["reason"] for row in rows}

    async def record(self, reservation_id: str) -> bytes | None:
        """A reservation's record as of the mark."""
        found = await self.fetch("record", reservation_id)
        return found[0]["record"].encode() if found else None

