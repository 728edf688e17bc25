"""What tests ask a private PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg

from core.embedded.postgres import EmbeddedPostgres


async def ask(dsn: str, sql: str) -> Any:
    """The one value that a statement gives."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def keep(server: EmbeddedPostgres) -> None:
    """Have the owner write something that must be found again."""
    await ask(server.owner_dsn, "CREATE TABLE kept AS SELECT 42 AS answer")


async def kept(server: EmbeddedPostgres) -> bool:
    """True if that is there."""
    return bool(await ask(server.owner_dsn, "SELECT answer = 42 FROM kept"))


def cluster_of(data: Path) -> Path:
    """Where the cluster of a data directory is, wherever this machine lets it be."""
    elsewhere = data / "postgres.at"
    return Path(elsewhere.read_text().strip()) if elsewhere.exists() else data / "postgres"


def postmaster(socket: Path) -> int:
    """The process that listens on a server's socket."""
    return int(socket.with_name(socket.name + ".lock").read_text().split()[0])
