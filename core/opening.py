"""Opens what has to do with the ledger: its schema, a worker's journal, the scribe."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote, urlsplit

from core.errors import LedgerUnavailable, StartRefused
from core.ledger.journal import Journal
from core.ledger.migrating import migrate
from core.scribe import Scribe
from core.settings import Settings, masked_url
from core.store.events import EventStream

log = logging.getLogger("stockade.ledger")


async def prepare_ledger(settings: Settings) -> None:
    """Brings the schema up to date, if the owner is named. Raises StartRefused."""
    if settings.postgres_owner_dsn is None:
        return
    role = urlsplit(settings.postgres_dsn or "").username or ""
    try:
        await migrate(settings.postgres_owner_dsn, unquote(role))
    except LedgerUnavailable as error:
        raise StartRefused(f"{masked_url(settings.postgres_owner_dsn)}: {error}") from None


@asynccontextmanager
async def open_journal(settings: Settings) -> AsyncIterator[Journal | None]:
    """The ledger of ``settings.postgres_dsn``; None without one. One that is away now may come
    back: then whatever asks it says so. Raises StartRefused for one that cannot be used."""
    if settings.postgres_dsn is None:
        yield None
        return
    journal = Journal(settings.postgres_dsn, settings.ledger_timeout_seconds)
    try:
        try:
            await journal.open()
        except LedgerUnavailable as error:
            log.error("%s", error)
        yield journal
    finally:
        await journal.close()


@asynccontextmanager
async def open_scribe(settings: Settings) -> AsyncIterator[Scribe]:
    """The scribe of the store and the ledger that the settings name. Raises StartRefused."""
    if settings.valkey_url is None or settings.postgres_dsn is None:
        raise StartRefused("the scribe needs both a valkey_url and a postgres_dsn")
    stream = EventStream(settings.valkey_url, settings.store_timeout_seconds)
    try:
        async with open_journal(settings) as journal:
            assert journal is not None
            yield Scribe(
                stream, journal, 1000 * settings.key_window_seconds,
                1000 * settings.goods_key_window_seconds,
            )  # fmt: skip
    finally:
        await stream.close()
