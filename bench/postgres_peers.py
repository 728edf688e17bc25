"""What a shop would write with asyncpg: three ways to reserve one unit in PostgreSQL.

``synchronous_commit`` and ``fsync`` are on. The pool has the best size of POOLS, as whoever runs
such a shop would find by trying.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg

from bench.contestants import UNITS_MAX, Ask, Held

POOLS = (8, 16, 32, 64)

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE IF NOT EXISTS shop.stock (
  sku text PRIMARY KEY, available int NOT NULL, reserved int NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS shop.unit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, sku text NOT NULL, reservation uuid);
CREATE INDEX IF NOT EXISTS unit_free ON shop.unit (sku) WHERE reservation IS NULL;
CREATE TABLE IF NOT EXISTS shop.reservation (
  id uuid PRIMARY KEY, sku text NOT NULL, quantity int NOT NULL, expires_at timestamptz NOT NULL);
CREATE INDEX IF NOT EXISTS reservation_expires_at ON shop.reservation (expires_at);
"""
EMPTY = "TRUNCATE shop.stock, shop.unit, shop.reservation"
RECORD = """
INSERT INTO shop.reservation VALUES ($1, $2, 1, now() + interval '15 minutes')
"""
UPDATE = """
WITH taken AS (
  UPDATE shop.stock SET available = available - 1, reserved = reserved + 1
  WHERE sku = $2 AND available >= 1 RETURNING sku)
INSERT INTO shop.reservation SELECT $1, sku, 1, now() + interval '15 minutes' FROM taken
RETURNING id
"""
LOCK = "SELECT available FROM shop.stock WHERE sku = $1 FOR UPDATE"
TAKE = "UPDATE shop.stock SET available = available - 1, reserved = reserved + 1 WHERE sku = $1"
SKIP = """
WITH taken AS (
  UPDATE shop.unit SET reservation = $1
  WHERE id = (SELECT id FROM shop.unit WHERE sku = $2 AND reservation IS NULL
              LIMIT 1 FOR UPDATE SKIP LOCKED)
  RETURNING sku)
INSERT INTO shop.reservation SELECT $1, sku, 1, now() + interval '15 minutes' FROM taken
RETURNING id
"""
ROWS = "SELECT sku, sum(quantity)::int AS units FROM shop.reservation GROUP BY sku"
UNITS = """
SELECT sku, count(*) FILTER (WHERE reservation IS NULL), count(reservation)
FROM shop.unit GROUP BY sku
"""


class _Postgres:
    """A database of its own schema; ``counted`` has how a SKU's free and reserved units are read,
    ``fill`` how they come there."""

    units_max = UNITS_MAX
    counted = "SELECT sku, available, reserved FROM shop.stock"
    fill = "INSERT INTO shop.stock SELECT sku, $2::int FROM unnest($1::text[]) sku"

    def __init__(self, dsn: str, superuser_dsn: str) -> None:
        self._dsn = dsn
        self._superuser_dsn = superuser_dsn  # for checkpoints alone

    async def stock(self, names: list[str], units: int) -> None:
        connection = await asyncpg.connect(self._dsn)
        await connection.execute(SCHEMA)
        await connection.execute(EMPTY)
        await connection.execute(self.fill, names, units)
        await connection.execute("VACUUM ANALYZE shop.stock, shop.unit, shop.reservation")
        await connection.close()
        superuser = await asyncpg.connect(self._superuser_dsn)
        await superuser.execute("CHECKPOINT")
        await superuser.close()

    def sizes(self, callers: int) -> tuple[int, ...]:
        return tuple(size for size in POOLS if size <= callers) or (callers,)

    async def recount(self, names: list[str]) -> dict[str, Held]:
        connection = await asyncpg.connect(self._dsn)
        async with connection.transaction(isolation="repeatable_read"):
            in_rows = {row["sku"]: row["units"] for row in await connection.fetch(ROWS)}
            counted = await connection.fetch(self.counted)
        await connection.close()
        found = {sku: Held(free, taken, in_rows.get(sku, 0)) for sku, free, taken in counted}
        return {name: found.get(name, Held(0, 0, in_rows.get(name, 0))) for name in names}

    @asynccontextmanager
    async def open(self, names: list[str], connections: int) -> AsyncIterator[Ask]:
        async with asyncpg.create_pool(
            self._dsn, min_size=connections, max_size=connections
        ) as pool:

            async def ask(sku: str) -> bool:
                async with pool.acquire() as connection:
                    return await self._reserve(connection, sku)

            yield ask

    async def _reserve(self, connection: asyncpg.pool.PoolConnectionProxy, sku: str) -> bool:
        raise NotImplementedError


class ConditionalUpdate(_Postgres):
    """UPDATE … WHERE available >= 1 and the reservation's row, in one statement."""

    name = "PG UPDATE"

    async def _reserve(self, connection: asyncpg.pool.PoolConnectionProxy, sku: str) -> bool:
        return await connection.fetchval(UPDATE, uuid4(), sku) is not None


class ForUpdate(_Postgres):
    """SELECT … FOR UPDATE, a decision, two writes."""

    name = "PG FOR UPDATE"

    async def _reserve(self, connection: asyncpg.pool.PoolConnectionProxy, sku: str) -> bool:
        async with connection.transaction():
            if await connection.fetchval(LOCK, sku) < 1:
                return False
            await connection.execute(TAKE, sku)
            await connection.execute(RECORD, uuid4(), sku)
        return True


class SkipLocked(_Postgres):
    """One row per unit; FOR UPDATE SKIP LOCKED takes one that nobody else is taking."""

    name = "PG SKIP LOCKED"
    units_max = 50_000
    counted = UNITS
    fill = """
    INSERT INTO shop.unit (sku)
    SELECT sku FROM unnest($1::text[]) sku, generate_series(1, $2::int)
    """

    async def _reserve(self, connection: asyncpg.pool.PoolConnectionProxy, sku: str) -> bool:
        return await connection.fetchval(SKIP, uuid4(), sku) is not None
