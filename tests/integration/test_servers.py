"""The servers that a command works with: named, running, or private for its own time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from api.servers import open_postgres, open_store
from core.embedded import postgres, valkey
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.valkey import EmbeddedValkey
from core.settings import Settings
from tests.databases import ask

Fresh = Callable[..., Awaitable[EmbeddedValkey]]


async def test_those_that_are_named_are_taken(tmp_path: Path) -> None:
    settings = Settings(
        data=tmp_path / "data", valkey_url="redis://h", postgres_dsn="postgresql://h/d"
    )
    async with open_store(settings) as first, open_postgres(first) as second:
        assert second == settings
    assert not (tmp_path / "data").exists()


async def test_those_of_a_running_service_are_found_and_left_running(
    fresh_valkey: Fresh, postgres: EmbeddedPostgres
) -> None:
    store = await fresh_valkey()
    async with open_store(Settings(data=store.data)) as settings:
        assert settings.valkey_url == store.url
    assert valkey.find_running(store.data) == store.url
    async with open_postgres(Settings(data=postgres.data)) as settings:
        assert (settings.postgres_dsn, settings.postgres_owner_dsn) == postgres.addresses()
    assert await ask(postgres.dsn, "SELECT 1") == 1


async def test_else_they_are_started_and_stopped_again(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_store(Settings(data=data)) as first, open_postgres(first) as settings:
        assert settings.valkey_url == valkey.find_running(data)
        assert settings.postgres_dsn is not None
        assert settings.postgres_owner_dsn is not None
        assert await ask(settings.postgres_dsn, "SELECT current_user::text") == "stockade"
        owner = await ask(settings.postgres_owner_dsn, "SELECT current_user::text")
        assert owner == "stockade_owner"
    assert valkey.find_running(data) is None
    assert postgres.find_running(data) is None
