"""The ledger's schema: applied once, in order, by its owner; never by the service."""

from __future__ import annotations

import asyncio
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from core.embedded.postgres import Addresses
from core.errors import LedgerUnavailable, StartRefused
from core.ledger import migrating
from core.ledger.journal import Journal
from core.opening import open_journal, prepare_ledger
from core.settings import Settings
from tests.ledgered import Ledger

# What a schema is: its tables, columns, constraints, indexes, functions, and what each may hold.
CATALOG = {
    "columns": """
        SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default,
          collation_name
        FROM information_schema.columns
        WHERE table_schema = 'stockade' AND table_name <> 'migration' ORDER BY 1, 2""",
    "constraints": """
        SELECT c.relname, pg_get_constraintdef(x.oid) FROM pg_constraint x
        JOIN pg_class c ON c.oid = x.conrelid
        WHERE x.connamespace = 'stockade'::regnamespace AND c.relname <> 'migration'
        ORDER BY 1, 2""",
    "indexes": """
        SELECT tablename, regexp_replace(indexdef, 'INDEX \\S+ ON', 'INDEX ON') FROM pg_indexes
        WHERE schemaname = 'stockade' AND tablename <> 'migration' ORDER BY 1, 2""",
    "functions": """
        SELECT proname, prosrc, prosecdef, proconfig FROM pg_proc
        WHERE pronamespace = 'stockade'::regnamespace ORDER BY 1""",
    "storage": """
        SELECT c.relname, c.reloptions, c.relkind, pg_get_partkeydef(c.oid), a.attname, a.attstorage
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'stockade'::regnamespace AND c.relkind IN ('r', 'p')
          AND c.relname <> 'migration' ORDER BY 1, 5""",
    "comments": """
        SELECT c.relname, obj_description(c.oid) FROM pg_class c
        WHERE c.relnamespace = 'stockade'::regnamespace AND c.relkind IN ('r', 'p')
          AND c.relname <> 'migration' ORDER BY 1""",
}  # fmt: skip


async def catalog(dsn: str) -> dict[str, list[Any]]:
    """What is in the schema of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        return {
            what: [tuple(row) for row in await connection.fetch(query)]
            for what, query in CATALOG.items()
        }
    finally:
        await connection.close()


async def test_the_schema_to_be_read_is_the_sum_of_the_migrations(
    ledger: Ledger, ledger_dsns: Addresses
) -> None:
    made = await catalog(ledger.owner_dsn)
    assert made["columns"]
    assert made["functions"]
    connection = await asyncpg.connect(ledger.owner_dsn)
    await connection.execute("DROP SCHEMA stockade CASCADE; CREATE SCHEMA stockade")
    text = (resources.files("core.ledger") / "schema.sql").read_text()
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path TO stockade")
        await connection.execute(text)
    await connection.close()
    assert await catalog(ledger.owner_dsn) == made


async def test_many_who_migrate_at_once_do_it_once(ledger_dsns: Addresses) -> None:
    """And again at every start, where it changes nothing."""
    versions = await asyncio.gather(
        *(migrating.migrate(ledger_dsns.owner_dsn, "stockade") for _ in range(4))
    )
    newest = len(migrating.migrations())
    assert versions == [newest] * 4
    before = await catalog(ledger_dsns.owner_dsn)
    await migrating.migrate(ledger_dsns.owner_dsn, "stockade")
    assert await catalog(ledger_dsns.owner_dsn) == before
    journal = Journal(ledger_dsns.dsn, 5.0)
    assert (await journal.open()).startswith("postgresql ")
    await journal.close()


async def test_a_migration_that_fails_leaves_nothing_behind(
    ledger_dsns: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrating.migrations()
    broken = migrating.Migration(len(known) + 1, "broken", "CREATE TABLE half (x int); SELECT 1/0")
    monkeypatch.setattr(migrating, "migrations", lambda: [*known, broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrating.migrate(ledger_dsns.owner_dsn, "stockade")
    monkeypatch.undo()
    assert await migrating.migrate(ledger_dsns.owner_dsn, "stockade") == len(known)
    tables = {row[0] for row in (await catalog(ledger_dsns.owner_dsn))["columns"]}
    assert "half" not in tables


async def test_a_migration_that_was_changed_or_is_not_known_stops(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrating.migrations()
    changed = [msgspec.structs.replace(known[0], text=known[0].text + "-- more\n"), *known[1:]]
    for others, told in ((changed, "was changed after"), (known[:-1], "this version knows")):
        monkeypatch.setattr(migrating, "migrations", lambda others=others: others)
        with pytest.raises(StartRefused, match=told):
            await migrating.migrate(ledger.owner_dsn, "stockade")


async def test_a_ledger_that_cannot_be_used_is_refused_in_one_line(
    ledger_dsns: Addresses, tmp_path: Path
) -> None:
    """Without its schema, with a role that may change what happened, or with none of that name."""
    named = Settings(data=tmp_path, postgres_dsn=ledger_dsns.dsn)
    with pytest.raises(StartRefused, match="STOCKADE_POSTGRES_OWNER_DSN"):
        async with open_journal(named):
            pass
    await prepare_ledger(named)  # without an owner there is nothing that it could do
    with pytest.raises(StartRefused, match="the ledger has schema 0"):
        async with open_journal(named):
            pass
    both = msgspec.structs.replace(named, postgres_owner_dsn=ledger_dsns.owner_dsn)
    await prepare_ledger(both)
    async with open_journal(both) as journal:
        assert journal is not None
        assert await journal.mark() is None
    owner = msgspec.structs.replace(named, postgres_dsn=ledger_dsns.owner_dsn)
    with pytest.raises(StartRefused, match="may change what happened"):
        async with open_journal(owner):
            pass
    with pytest.raises(StartRefused, match="create the role first"):
        await migrating.migrate(ledger_dsns.owner_dsn, "nobody_knows")
    with pytest.raises(StartRefused, match="cannot be granted"):
        await migrating.migrate(ledger_dsns.owner_dsn, 'x"; DROP SCHEMA stockade')
    with pytest.raises(StartRefused, match="may not migrate"):
        await migrating.migrate(ledger_dsns.dsn, "stockade")


async def test_a_ledger_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    """A worker starts all the same; whoever migrates does not."""
    away = f"postgresql://stockade@/stockade?host={tmp_path}"
    settings = Settings(data=tmp_path, postgres_dsn=away, postgres_owner_dsn=away)
    async with open_journal(settings) as journal:
        assert journal is not None
        with pytest.raises(LedgerUnavailable):
            await journal.mark()
    with pytest.raises(StartRefused, match="does not answer"):
        await prepare_ledger(settings)
