"""Use cases in process, for pytest-benchmark: 256 callers at once, one call each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bench.callers import CALLERS, Call, reserve_calls
from bench.mixed import mixed_calls
from bench.worlds import SKUS, World

ROUNDS = 100
WARM_ROUNDS = 10


def all_at_once(world: World, benchmark: Any, calls: list[Call]) -> None:
    """Times one call of each caller, all in the air together."""

    async def once() -> None:
        await asyncio.gather(*(call() for call in calls))

    world.time(benchmark, once, ROUNDS, WARM_ROUNDS)


@pytest.mark.parametrize("keyed", [False, True], ids=["no-key", "with-key"])
@pytest.mark.parametrize("skus", [1, SKUS], ids=["hot", "uniform"])
def test_reserve(benchmark: Any, world: World, skus: int, keyed: bool) -> None:
    calls = reserve_calls(world.service.engine, world.names[:skus], CALLERS, keyed)
    all_at_once(world, benchmark, calls)


def test_mix(benchmark: Any, world: World) -> None:
    """Half reserves, a quarter commits, the rest releases and fulfils."""
    all_at_once(world, benchmark, mixed_calls(world.service.engine, world.names, CALLERS))
