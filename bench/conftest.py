"""What the benchmarks under pytest share: the calibration beside each, and a worker to measure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from bench import calibration
from bench.stores import Store, fill, private_store
from bench.worlds import SKUS, World


@pytest.fixture(autouse=True)
def _calibrated(benchmark: Any) -> Iterator[None]:
    """Notes in every benchmark what the calibration loop took just before it and just after."""
    before = calibration.seconds()
    yield
    benchmark.extra_info["calibration_seconds"] = (before + calibration.seconds()) / 2


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A store of its own with 1,000 SKUs, and a worker on it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        storing = private_store()
        store: Store = runner.run(storing.__aenter__())
        try:
            names = runner.run(fill(store, SKUS))
            serving = store.open()
            service = runner.run(serving.__aenter__())
            try:
                yield World(runner, store, service, names)
            finally:
                runner.run(serving.__aexit__(None, None, None))
        finally:
            runner.run(storing.__aexit__(None, None, None))
