"""The ledger's schema: made step by step, by its owner alone, and what the service may not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from importlib import resources

import asyncpg
import pytest

from core.embedded.postgres import Addresses, EmbeddedPostgres
from core.errors import StartRefused
from core.ledger import migrating
from core.ledger.journal import Journal
from core.ledger.migrating import Migration, migrate, migrations
from tests.ledgered import Ledger

ROLE = "stockade"
APPENDED = ("movement", "balance", "reservation_version", "policy_version")
ADDED = (*APPENDED, "audit")  # of which the last has no months
# What a schema is, as PostgreSQL itself says it; the book of migrations is no part of it.
PICTURE = """
SELECT format('%s %s %s %s %s', c.relname, c.relkind, c.reloptions, pg_get_partkeydef(c.oid),
  obj_description(c.oid))
FROM pg_class c WHERE c.relnamespace = 'stockade'::regnamespace AND c.relname !~ '^migration'
UNION ALL
SELECT format('%s.%s %s %s %s %s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
  a.attnotnull, a.attstorage, a.attidentity, a.attcollation::regcollation)
    || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = 'stockade'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
  AND c.relkind IN ('r', 'p') AND c.relname <> 'migration'
UNION ALL
SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid))
FROM pg_constraint
WHERE connamespace = 'stockade'::regnamespace AND conrelid::regclass::text !~ 'migration$'
UNION ALL
SELECT indexdef FROM pg_indexes WHERE schemaname = 'stockade' AND tablename <> 'migration'
UNION ALL
SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'stockade'::regnamespace
"""


@pytest.fixture
async def owner(ledger: Ledger) -> AsyncIterator[asyncpg.Connection]:
    """The owner of a ledger whose schema is up to date."""
    connection = await asyncpg.connect(ledger.owner_dsn)
    yield connection
    await connection.close()


async def test_the_schema_is_the_sum_of_its_migrations(owner: asyncpg.Connection) -> None:
    """What a reader is shown and what is made by steps are one, down to the last CHECK."""
    made = {row[0] for row in await owner.fetch(PICTURE)}
    text = (resources.files("core.ledger") / "schema.sql").read_text()
    await owner.execute("ALTER SCHEMA stockade RENAME TO made; CREATE SCHEMA stockade")
    await owner.execute(f"SET search_path TO stockade; {text}; RESET search_path")
    shown = {row[0] for row in await owner.fetch(PICTURE)}
    assert len(shown) > 100
    assert shown == made


async def test_many_who_start_at_once_migrate_once(
    ledger_dsns: Addresses, owner: asyncpg.Connection
) -> None:
    await owner.execute("DROP SCHEMA stockade CASCADE")
    versions = await asyncio.gather(*(migrate(ledger_dsns.owner_dsn, ROLE) for _ in range(5)))
    assert set(versions) == {len(migrations())}
    applied = await owner.fetch("SELECT number, checksum FROM stockade.migration ORDER BY number")
    assert [tuple(row) for row in applied] == [(m.number, m.checksum) for m in migrations()]


async def test_a_migration_that_fails_leaves_nothing_behind(
    ledger_dsns: Addresses, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = len(migrations()) + 1
    broken = [*migrations(), Migration(number, "broken", "CREATE TABLE half (x int); SELECT 1/0")]
    monkeypatch.setattr(migrating, "migrations", lambda: broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(ledger_dsns.owner_dsn, ROLE)
    assert await owner.fetchval("SELECT to_regclass('stockade.half')") is None
    assert await owner.fetchval("SELECT max(number) FROM stockade.migration") == number - 1


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE stockade.migration SET checksum = 'x' WHERE number = 2", "migration 2 .* changed"),
        ("INSERT INTO stockade.migration VALUES (999, 'later', 'x')", "has schema 999"),
    ],
)
async def test_a_schema_that_is_not_ours_is_left_alone(
    ledger_dsns: Addresses, owner: asyncpg.Connection, statement: str, told: str
) -> None:
    await owner.execute(statement)
    with pytest.raises(StartRefused, match=told):
        await migrate(ledger_dsns.owner_dsn, ROLE)


@pytest.mark.parametrize("table", [*ADDED, "movement_2031_01"])
@pytest.mark.parametrize("right", ["UPDATE", "UPDATE (position)", "DELETE", "TRUNCATE"])
async def test_a_role_that_may_change_the_past_is_refused(
    ledger: Ledger, owner: asyncpg.Connection, table: str, right: str
) -> None:
    """Of any table of what happened, of a month alone, of a column alone."""
    await ledger.journal.fetch("open_month", date(2031, 1, 1))
    await ledger.journal.open()
    await owner.execute(f"GRANT {right} ON stockade.{table} TO {ROLE}")
    with pytest.raises(StartRefused, match="may change what happened"):
        await ledger.journal.open()


async def test_the_role_that_owns_is_refused(ledger: Ledger) -> None:
    journal = Journal(ledger.owner_dsn, 10.0)
    with pytest.raises(StartRefused, match="may change what happened"):
        await journal.open()
    await journal.close()


async def test_a_database_that_cannot_have_every_text_is_refused(
    postgres: EmbeddedPostgres,
) -> None:
    admin = await asyncpg.connect(postgres.superuser_dsn)
    await admin.execute(
        "CREATE DATABASE narrow OWNER stockade_owner TEMPLATE template0 "
        "ENCODING 'LATIN1' LOCALE 'C'"
    )
    journal = Journal(postgres.addresses("narrow").dsn, 10.0)
    with pytest.raises(StartRefused, match="LATIN1"):
        await journal.open()
    await journal.close()
    await admin.execute("DROP DATABASE narrow WITH (FORCE)")
    await admin.close()


async def test_a_month_opens_beside_who_reads(ledger: Ledger) -> None:
    """A backup or a reconciliation at the turn of a month keeps nobody waiting."""
    reader = await asyncpg.connect(ledger.dsn)
    async with reader.transaction(isolation="repeatable_read", readonly=True):
        for table in APPENDED:
            await reader.fetch(f"SELECT FROM stockade.{table}")
        async with ledger.journal.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '1s'")
            await connection.execute("SELECT stockade.open_month('2031-12-31')")
            await connection.execute("SELECT stockade.open_month('2031-12-01')")
    await reader.close()
    bounds = await ledger.fetch(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_class c "
        "WHERE c.relispartition AND c.relkind = 'r' ORDER BY 1"
    )
    assert [row["relname"] for row in bounds] == sorted(f"{table}_2031_12" for table in APPENDED)
    for row in bounds:
        assert "2031-12-01 00:00:00+00" in row["bound"]
        assert "2032-01-01 00:00:00+00" in row["bound"]
