"""Reserving in process, for pytest-benchmark: 256 callers at once, one reservation each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from bench.callers import CALLERS, Call, reserve_calls
from bench.mixed import mixed_calls
from bench.stores import Store, fill, private_store
from core.service import Service

SKUS = 1_000
ROUNDS = 100
WARM_ROUNDS = 10


class World:
    """A store with 1,000 SKUs and a worker on it, in an event loop that tests step by hand."""

    def __init__(self, runner: asyncio.Runner, service: Service, names: list[str]) -> None:
        self.runner = runner
        self.service = service
        self.names = names

    def all_at_once(self, benchmark: Any, calls: list[Call]) -> None:
        """Times one call of each caller, all in the air together."""

        async def once() -> None:
            await asyncio.gather(*(call() for call in calls))

        benchmark.pedantic(
            lambda: self.runner.run(once()), rounds=ROUNDS, warmup_rounds=WARM_ROUNDS
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        storing = private_store()
        store: Store = runner.run(storing.__aenter__())
        names = runner.run(fill(store, SKUS))
        serving = store.open()
        service = runner.run(serving.__aenter__())
        try:
            yield World(runner, service, names)
        finally:
            runner.run(serving.__aexit__(None, None, None))
            runner.run(storing.__aexit__(None, None, None))


@pytest.mark.parametrize("keyed", [False, True], ids=["no-key", "with-key"])
@pytest.mark.parametrize("skus", [1, SKUS], ids=["hot", "uniform"])
def test_reserve(benchmark: Any, world: World, skus: int, keyed: bool) -> None:
    calls = reserve_calls(world.service.engine, world.names[:skus], CALLERS, keyed)
    world.all_at_once(benchmark, calls)


def test_mix(benchmark: Any, world: World) -> None:
    """Half reserves, a quarter commits, the rest releases and fulfils."""
    world.all_at_once(benchmark, mixed_calls(world.service.engine, world.names, CALLERS))
