"""The servers of a service: named in its settings, found on its data directory, or private."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from core.embedded import postgres, valkey
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.valkey import EmbeddedValkey
from core.opening import prepare_ledger
from core.settings import Settings


def private_store(settings: Settings) -> EmbeddedValkey:
    """A private Valkey as the settings want it, not started yet."""
    return EmbeddedValkey(
        settings.data,
        binary=settings.valkey_bin,
        maxmemory_bytes=settings.valkey_maxmemory_bytes,
    )


def private_postgres(settings: Settings, *, stands_back: bool = False) -> EmbeddedPostgres:
    """A private PostgreSQL as the settings want it, not started yet. It ``stands_back`` where
    there is more to do than to write and read the ledger."""
    return EmbeddedPostgres(settings.data, bindir=settings.postgres_bin, stands_back=stands_back)


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Settings]:
    """The settings with the address of a store: the one named, the one that runs on the data
    directory, or a private one that is started for now."""
    async with AsyncExitStack() as stack:
        url = settings.valkey_url or valkey.find_running(settings.data)
        if url is None:
            server = private_store(settings)
            stack.push_async_callback(server.stop)
            await server.start()
            url = server.url
        yield msgspec.structs.replace(settings, valkey_url=url)


@asynccontextmanager
async def open_postgres(settings: Settings) -> AsyncIterator[Settings]:
    """The same for the ledger's database."""
    if settings.postgres_dsn is not None:
        yield settings
        return
    async with AsyncExitStack() as stack:
        addresses = postgres.find_running(settings.data)
        if addresses is None:
            server = private_postgres(settings)
            stack.push_async_callback(server.stop)
            await server.start()
            addresses = server.addresses()
        yield with_postgres(settings, addresses)


@asynccontextmanager
async def open_ledger(settings: Settings) -> AsyncIterator[Settings]:
    """The same, with its schema up to date if it is a private one."""
    async with open_postgres(settings) as opened:
        if settings.postgres_dsn is None:
            await prepare_ledger(opened)
        yield opened


def with_postgres(settings: Settings, addresses: postgres.Addresses) -> Settings:
    """The settings with the addresses of a private PostgreSQL."""
    return msgspec.structs.replace(
        settings, postgres_dsn=addresses.dsn, postgres_owner_dsn=addresses.owner_dsn
    )
