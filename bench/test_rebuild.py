"""A rebuild, for pytest-benchmark: 5,000 SKUs and as many live reservations, each with a key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from bench.rebuilding import Ledger, open_ledger, rebuilt
from bench.stores import Store, private_store

ROWS = 5_000
ROUNDS = 7


@pytest.fixture
def servers() -> Iterator[tuple[asyncio.Runner, Store, Ledger]]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        storing, recording = private_store(), open_ledger()
        store = runner.run(storing.__aenter__())
        ledger = runner.run(recording.__aenter__())
        try:
            yield runner, store, ledger
        finally:
            runner.run(recording.__aexit__(None, None, None))
            runner.run(storing.__aexit__(None, None, None))


def test_rebuild(benchmark: Any, servers: tuple[asyncio.Runner, Store, Ledger]) -> None:
    runner, store, ledger = servers

    def fill() -> None:
        runner.run(ledger.fill(ROWS, ROWS, int(store.admin.time()[0]) * 1000))
        store.admin.flushall(asynchronous=False)
        store.tidy()

    report = benchmark.pedantic(
        lambda: runner.run(rebuilt(store, ledger)), setup=fill, rounds=ROUNDS, warmup_rounds=1
    )
    assert (report.counts["pools"], report.counts["reservations"]) == (ROWS, ROWS)
