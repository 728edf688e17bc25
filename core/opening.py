"""Opens what has to do with the ledger: its schema, a worker's journal, the scribe, a rebuild."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import time
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from core.auditing.auditor import Auditor
from core.auditing.nightly import Nightly
from core.embedded import postgres, valkey
from core.errors import LedgerUnavailable, StartRefused
from core.forgetting import Forgetting
from core.ledger.audit import Files
from core.ledger.journal import Journal, Mark
from core.ledger.keys import KeyTable
from core.ledger.migrating import migrate
from core.ledger.reading import Reading
from core.ledger.rebuilding import Report
from core.meters import Meters
from core.rebuild import Rebuild, Tell
from core.scribe import Scribe
from core.settings import Settings, masked_url
from core.store.events import EventStream
from core.store.rebuilding import Refill
from core.store.survey import Survey
from core.trust import ahead, lost
from core.watch import Watch

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


class Audit(NamedTuple):
    """What reconciling works with."""

    auditor: Auditor
    survey: Survey
    files: Files


@asynccontextmanager
async def open_audit(settings: Settings) -> AsyncIterator[Audit]:
    """Reconciling of the store and the ledger that the settings name. Raises StartRefused."""
    if settings.valkey_url is None or settings.postgres_dsn is None:
        raise StartRefused("reconciling needs both a valkey_url and a postgres_dsn")
    survey = Survey(settings.valkey_url, settings.store_timeout_seconds)
    try:
        async with open_journal(settings) as journal:
            assert journal is not None
            files = Files(journal)
            yield Audit(Auditor(survey, files), survey, files)
    finally:
        await survey.close()


@asynccontextmanager
async def open_nightly(settings: Settings) -> AsyncIterator[Nightly | None]:
    """Reconciling once a night, if the settings want it."""
    if settings.reconcile_at is None:
        yield None
        return
    async with open_audit(settings) as audit:
        yield Nightly(audit.auditor, audit.files, time.fromisoformat(settings.reconcile_at))


@asynccontextmanager
async def open_forgetting(settings: Settings) -> AsyncIterator[Forgetting | None]:
    """Forgetting whose reservations were that ended long ago, if the settings want it. Raises
    StartRefused."""
    if settings.customer_retention_days is None:
        yield None
        return
    async with open_journal(settings) as journal:
        if journal is None:
            raise StartRefused("no ledger: postgres_dsn is not set")
        yield Forgetting(journal, settings.customer_retention_days)


@asynccontextmanager
async def open_watch(settings: Settings, meters: Meters) -> AsyncIterator[Watch]:
    """Who looks at the ledger for the metrics. Raises StartRefused."""
    async with open_journal(settings) as journal:
        assert journal is not None, "who watches has a scribe beside him"
        yield Watch(journal, meters)


@asynccontextmanager
async def open_reading(settings: Settings) -> AsyncIterator[Reading]:
    """Who asks the ledger of ``settings.postgres_dsn``. Raises StartRefused."""
    async with open_journal(settings) as journal:
        if journal is None:
            raise StartRefused("no ledger: postgres_dsn is not set")
        yield Reading(journal)


@asynccontextmanager
async def open_key_table(settings: Settings) -> AsyncIterator[KeyTable]:
    """The API keys of the ledger of ``settings.postgres_dsn``. Raises StartRefused."""
    async with open_journal(settings) as journal:
        if journal is None:
            raise StartRefused("API keys are kept in the ledger: set postgres_dsn")
        yield KeyTable(journal)


@asynccontextmanager
async def _open_both(settings: Settings) -> AsyncIterator[tuple[EventStream, Journal]]:
    """The store's stream and the ledger that the settings name. Raises StartRefused."""
    if settings.valkey_url is None or settings.postgres_dsn is None:
        raise StartRefused("this needs both a valkey_url and a postgres_dsn")
    stream = EventStream(settings.valkey_url, settings.store_timeout_seconds)
    try:
        async with open_journal(settings) as journal:
            assert journal is not None
            yield stream, journal
    finally:
        await stream.close()


def servers_are_ours(settings: Settings) -> bool:
    """True if store and ledger are both private, so that one may be made again from the other
    without anybody being asked. A ledger that was named may be another service's, by a slip of the
    DSN: a rebuild would take that one's store away from it."""
    own_store = valkey.is_private(settings.valkey_url or "")
    return own_store and postgres.is_private(settings.postgres_dsn or "")


@asynccontextmanager
async def open_scribe(
    settings: Settings, meters: Meters | None = None
) -> AsyncIterator[Scribe]:
    """The scribe of the store and the ledger that the settings name. Raises StartRefused.

    It rebuilds a lost store by itself if both servers are private.
    """
    async with _open_both(settings) as (stream, journal):
        yield Scribe(
            stream, journal, *_windows_ms(settings),
            rebuild=(lambda: _rebuild(settings, stream, journal))
            if servers_are_ours(settings) else None,
            meters=meters or Meters(),
        )  # fmt: skip


async def rebuild(settings: Settings, force: bool, tell: Tell) -> Report | None:
    """Makes the store again from the ledger; None if it has all that the ledger has, unless
    ``force``. Raises StartRefused, RebuildRefused, Unavailable."""
    async with _open_both(settings) as (stream, journal):
        mark = await journal.mark()
        if mark is not None and force:
            await _check_worth(stream, mark)
        elif mark is not None:
            found = await stream.position()
            why = ahead(found.epoch, mark)
            if why and not found.rebuilding:
                raise StartRefused(why)
            if not lost(found.epoch, found.seq, found.rebuilding, mark):
                return None
        return await _rebuild(settings, stream, journal, tell)


async def _check_worth(stream: EventStream, mark: Mark) -> None:
    """Refuses to make a store that has something what a ledger is that never had anything."""
    found = await stream.position()
    if mark.position or not found.seq or found.rebuilding:
        return
    first = await stream.read(mark.epoch, 0, 1, wait=False)
    if [(entry.epoch, entry.seq) for entry in first] != [(mark.epoch, 1)]:
        raise StartRefused(
            "the ledger is empty and the store is not: nothing would be left of it; restore a "
            "backup of the ledger first"
        )


async def _rebuild(
    settings: Settings, stream: EventStream, journal: Journal, tell: Tell = lambda *_: None
) -> Report:
    assert settings.valkey_url is not None
    refill = Refill(settings.valkey_url, settings.store_timeout_seconds)
    try:
        return await Rebuild(
            stream, refill, journal, _windows_ms(settings), settings.move_deadlines, tell,
            count_live=settings.customer_live_reservations is not None,
        ).run()  # fmt: skip
    finally:
        await refill.close()


def _windows_ms(settings: Settings) -> tuple[int, int]:
    return 1000 * settings.key_window_seconds, 1000 * settings.goods_key_window_seconds
