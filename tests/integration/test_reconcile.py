"""Reconciling: nothing is found where nothing is wrong, whoever works meanwhile; and whatever is
wrong is found, named, kept as one case, and gone when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.service import Service
from tests.ledgered import Ledger, audit_ledger
from tests.reconciled import Reconciler, crowd, open_shop
from tests.workers import Workers

RUNS = 6


@pytest.fixture
async def reconciler(store_url: str, ledger: Ledger) -> AsyncIterator[Reconciler]:
    opened = Reconciler(store_url, ledger)
    yield opened
    await opened.close()


async def test_nothing_is_found_under_load(
    worker: Service, workers: Workers, store_url: str, ledger: Ledger, reconciler: Reconciler,
    seed: int,
) -> None:  # fmt: skip
    """Two workers and a scribe go on while it looks again and again, incrementally and whole."""
    scribe = ledger.scribe(store_url)
    writing = asyncio.create_task(scribe.run())
    await open_shop(worker)
    other = await workers(store_url, reaper=False, staleness_ms=0)
    over = asyncio.Event()
    working = [
        asyncio.create_task(crowd(each, seed + i, until=over.is_set))
        for i, each in enumerate((worker, other))
    ]
    positions: list[int] = []
    while len(positions) < RUNS:
        done, cases = await reconciler.run(whole=len(positions) % 2 == 1)
        assert cases == []
        if done.position:
            positions.append(done.position)
    over.set()
    assert sum(await asyncio.gather(*working)) > 100
    assert sorted(set(positions)) == positions, "the ledger went on between all of them"
    await audit_ledger(ledger.dsn, store_url)
    done, cases = await reconciler.run()
    assert (cases, done.pools, done.variance_rate, done.status) == ([], 3, 0.0, "normal")
    assert done.reservations > 50
    writing.cancel()
