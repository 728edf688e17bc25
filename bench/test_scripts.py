"""The scripts alone on a real Valkey, for pytest-benchmark: a pipeline out, its replies back.

Plan and packing are done before, nobody waits in a loop, and ``appendfsync`` is ``no``: what is
measured is a write and a read of a socket, Lua, and the log without fsync.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from bench.worlds import Scripts, World

ROUNDS = 100
OPS = 128
PAGE = 60


@pytest.fixture(scope="module")
def scripts(world: World) -> Iterator[Scripts]:
    world.store.admin.config_set("appendfsync", "no")
    scripts = Scripts(world)
    try:
        yield scripts
    finally:
        scripts.close()


@pytest.mark.parametrize("count", [1, 16, OPS])
def test_reserve(benchmark: Any, scripts: Scripts, count: int) -> None:
    """Of one hot SKU."""
    names = scripts.world.names[:1] * count
    scripts.time(benchmark, lambda: scripts.prepare(lambda: scripts.world.demands(names)), ROUNDS)


def test_reserve_with_keys(benchmark: Any, scripts: Scripts) -> None:
    """Of one hot SKU, each under an idempotency key."""
    names = scripts.world.names[:1] * OPS
    scripts.time(
        benchmark, lambda: scripts.prepare(lambda: scripts.world.demands(names, True)), ROUNDS
    )


def test_reserve_uniform(benchmark: Any, scripts: Scripts) -> None:
    """As many SKUs as demands."""
    world = scripts.world
    scripts.time(
        benchmark, lambda: scripts.prepare(lambda: world.demands(world.next_skus(OPS))), ROUNDS
    )


@pytest.mark.parametrize("verb", ["commit", "release"])
def test_settle(benchmark: Any, scripts: Scripts, verb: str) -> None:
    """128 reservations, each of another SKU."""
    world = scripts.world
    asked: list[asyncio.Future[list[Any]]] = []

    def prepare() -> None:
        ids = scripts.reserved(world.next_skus(OPS))
        scripts.prepare(lambda: asked.append(world.settles(verb, ids)))

    scripts.time(benchmark, prepare, ROUNDS)
    assert {code for each in asked for code, _ in each.result()} == {"done"}


def test_availability(benchmark: Any, scripts: Scripts) -> None:
    """A look at the entries and rows of 60 SKUs."""
    world = scripts.world

    def submit() -> None:
        names = world.next_skus(PAGE)
        for name in names:
            world.lane.snapshot.doubt(name)
        world.reads(names)

    scripts.time(benchmark, lambda: scripts.prepare(submit), ROUNDS)
