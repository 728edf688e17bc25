"""The lane, for pytest-benchmark: 128 ops handed over at once, without a caller for each.

From the queue through plan, script and fsync to the answer; what callers' tasks cost is seen in
``test_engine`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.worlds import SKUS, World
from core.ops import Receipt

OPS = 128
PAGE = 60
ROUNDS = 100


@pytest.mark.parametrize("skus", [1, SKUS], ids=["hot", "uniform"])
def test_reserve(benchmark: Any, world: World, skus: int) -> None:
    async def once() -> list[Any]:
        names = world.names[:1] * OPS if skus == 1 else world.next_skus(OPS)
        return await world.demands(names)

    receipts = world.time(benchmark, once, ROUNDS)
    assert all(isinstance(each, Receipt) for each in receipts)


def test_commit(benchmark: Any, world: World) -> None:
    """Of reservations on as many SKUs, each of another round."""
    made: list[list[str]] = []

    async def reserve() -> None:
        for _ in range(ROUNDS + 5):
            made.append([each.id for each in await world.demands(world.next_skus(OPS))])

    world.runner.run(reserve())
    ids: Iterator[list[str]] = iter(made)

    async def once() -> list[Any]:
        return await world.settles("commit", next(ids))

    answers = world.time(benchmark, once, ROUNDS)
    assert {code for code, _ in answers} == {"done"}


def test_availability(benchmark: Any, world: World) -> None:
    """A page of 60 SKUs that were seen within the last second: nothing is asked."""

    async def once() -> Any:
        return await world.reads(world.names[:PAGE])

    assert len(world.time(benchmark, once, ROUNDS).items) == PAGE
