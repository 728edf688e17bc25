"""Ledgers that cannot be used, each with the one line that says why."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import msgspec
import pytest

from core.embedded.postgres import Addresses
from core.errors import LedgerUnavailable, StartRefused
from core.ledger import migrating
from core.opening import open_journal, prepare_ledger, servers_are_ours
from core.settings import Settings
from tests.ledgered import Ledger


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


def test_a_named_ledger_is_nobody_s_to_take(ledger_dsns: Addresses, tmp_path: Path) -> None:
    """By itself a store is rebuilt only where both servers are private: a ledger that was named may
    be another service's."""
    ours = Settings(
        data=tmp_path, valkey_url="unix:///run/stockade-0123/valkey.sock",
        postgres_dsn=ledger_dsns.dsn,
    )  # fmt: skip
    assert servers_are_ours(ours)
    for name, address in (
        ("valkey_url", "redis://10.0.0.7:6379"),
        ("postgres_dsn", "postgresql://stockade@db/stockade"),
        ("postgres_dsn", "postgresql://stockade@/stockade?host=/var/run/postgresql"),
    ):
        assert not servers_are_ours(msgspec.structs.replace(ours, **{name: address}))
    assert not servers_are_ours(msgspec.structs.replace(ours, postgres_dsn=None))


async def test_a_month_may_open_while_a_command_migrates(ledger: Ledger) -> None:
    """A command that starts beside a service grants again what is granted, and waits its turn."""
    owner = await asyncpg.connect(ledger.owner_dsn)
    try:
        opening = owner.transaction()
        await opening.start()
        await owner.execute("SELECT stockade.open_month('2031-01-01')")
        migrated = asyncio.ensure_future(migrating.migrate(ledger.owner_dsn, "stockade"))
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        async with asyncio.timeout(20):
            while not migrated.done() and not await owner.fetchval(waits):
                pass
        assert not migrated.done()
        await opening.commit()
        assert await migrated == len(migrating.migrations())
    finally:
        owner.terminate()
