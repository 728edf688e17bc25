"""Once a night, whoever runs it: when it is time, by one process, and again if it was broken off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta

import pytest

from core.auditing.auditor import Auditor
from core.auditing.nightly import Nightly
from core.errors import LedgerUnavailable
from core.service import Service
from core.store import keys
from tests.ledgered import Ledger
from tests.reconciled import Reconciler, edit_row, open_shop
from tests.workers import Store, Workers, until

NIGHT = datetime(2026, 11, 26, 3, 30, tzinfo=UTC)


class Clock:
    """The time of day, as the test has it."""

    def __init__(self) -> None:
        self.at = NIGHT

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def reconciler(
    worker: Service, store_url: str, ledger: Ledger
) -> AsyncIterator[Reconciler]:
    await open_shop(worker)
    await ledger.catch_up(store_url)
    opened = Reconciler(store_url, ledger)
    yield opened
    await opened.close()


def nightly(reconciler: Reconciler, clock: Clock) -> Nightly:
    auditor = Auditor(reconciler.survey, reconciler.files, 5.0)
    return Nightly(auditor, reconciler.files, time(3, 30), clock)


async def nights(reconciler: Reconciler) -> list[date | None]:
    return [each.night for each in await reconciler.files.reconciliations(None, 100)]


async def test_once_a_night_and_a_little_late(reconciler: Reconciler, clock: Clock) -> None:
    one = nightly(reconciler, clock)
    for minutes, due in ((-1, False), (0, True), (1, False), (59, False), (61, False)):
        clock.at = NIGHT + timedelta(minutes=minutes)
        assert (await one.look() is not None) == due, minutes
    for days, minutes, due in ((1, 60, True), (2, 61, False), (3, 0, True)):
        clock.at = NIGHT + timedelta(days=days, minutes=minutes)
        assert (await one.look() is not None) == due, days
    assert await nights(reconciler) == [date(2026, 11, 29), date(2026, 11, 27), date(2026, 11, 26)]


async def test_of_many_processes_one_does_it(reconciler: Reconciler, clock: Clock) -> None:
    many = [nightly(reconciler, clock) for _ in range(8)]
    found = await asyncio.gather(*(one.look() for one in many))
    assert len([run for run in found if run is not None]) == 1
    assert await nights(reconciler) == [date(2026, 11, 26)]


async def test_what_it_finds_is_told(
    reconciler: Reconciler, clock: Clock, store: Store, workers: Workers,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Two nights above 1 % are an alarm."""
    edit_row(store, "tee@main", shared=20)
    one = nightly(reconciler, clock)
    with caplog.at_level(logging.INFO, "stockade.reconcile"):
        run = await one.look()
        assert f"reconciliation {run}: watch, 1 differences in 3 pools" in caplog.text
        # The first one is a day old now.
        await reconciler.ledger.fetch(
            "UPDATE stockade.reconciliation SET finished_at = finished_at - interval '1 day'"
        )
        clock.at += timedelta(days=1)
        run = await one.look()
        assert f"reconciliation {run}: alarm" in caplog.text
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR"]
    edit_row(store, "tee@main", shared=-20)
    clock.at += timedelta(days=1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "stockade.reconcile"):
        await one.look()
    assert [each.levelname for each in caplog.records] == ["INFO"]


async def test_a_server_that_is_away_is_tried_again(
    reconciler: Reconciler, clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is told once, and done as soon as it can be."""
    monkeypatch.setattr("core.auditing.nightly.LOOK_SECONDS", 0.01)
    mark, asked = reconciler.files.mark, 0

    async def away() -> None:
        nonlocal asked
        asked += 1
        raise LedgerUnavailable("the ledger does not answer: gone")

    monkeypatch.setattr(reconciler.files, "mark", away)
    running = asyncio.create_task(nightly(reconciler, clock).run())
    await until(lambda: asked > 3, "it tries again")
    assert caplog.text.count("did not come to its end: the ledger does not answer: gone") == 1
    assert await nights(reconciler) == []
    monkeypatch.setattr(reconciler.files, "mark", mark)
    done: list[date | None] = []
    while not done:
        done = await nights(reconciler)
    assert done == [date(2026, 11, 26)]
    running.cancel()
    assert store.hget(keys.META, "mark") is not None


async def test_what_was_broken_off_is_begun_anew(
    reconciler: Reconciler, clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first try saw, and is gone since, is no difference of the night."""
    finish, asked = reconciler.files.finish, 0

    async def away(*args: object) -> float:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise LedgerUnavailable("the ledger does not answer: gone")
        return await finish(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(reconciler.files, "finish", away)
    edit_row(store, "tee@main", shared=20)
    one, other = nightly(reconciler, clock), nightly(reconciler, clock)
    with pytest.raises(LedgerUnavailable):
        await one.look()
    assert await other.look() is None  # it cannot know that the first one gave up
    edit_row(store, "tee@main", shared=-20)
    run = await one.look()
    assert run is not None
    assert await nights(reconciler) == [date(2026, 11, 26)]
    (done,) = await reconciler.files.reconciliations(None, 1)
    assert (done.id, done.differences) == (run, 0)
    assert await one.look() is None
