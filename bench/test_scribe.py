"""The scribe, for pytest-benchmark: a stream of 2,000 reservations carried into the ledger."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.ledger import HOUR_MS, WEEK_MS, open_ledger, reserve, stock
from bench.stores import private_store, sku_names
from core.scribe import Scribe
from core.store.events import EventStream

RESERVATIONS = 2_000
ROUNDS = 10
UNIFORM_SKUS = 1_000


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.mark.parametrize("skus", [1, UNIFORM_SKUS], ids=["hot", "uniform"])
def test_carry(benchmark: Any, runner: asyncio.Runner, skus: int) -> None:
    names = sku_names(skus)
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as directory:
        storing, books = private_store(), open_ledger(Path(directory))
        store = runner.run(storing.__aenter__())
        journal = runner.run(books.__aenter__())
        stream = EventStream(store.url, 10.0)
        writer = Scribe(stream, journal, HOUR_MS, WEEK_MS)

        async def carry() -> None:
            while await writer.turn(wait=False):
                pass

        runner.run(stock(store, names))
        runner.run(carry())
        try:
            benchmark.pedantic(
                lambda: runner.run(carry()),
                setup=lambda: runner.run(reserve(store, names, RESERVATIONS)),
                rounds=ROUNDS,
                warmup_rounds=1,
            )
        finally:
            runner.run(stream.close())
            runner.run(books.__aexit__(None, None, None))
            runner.run(storing.__aexit__(None, None, None))
