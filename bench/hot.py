"""Reserving in process: one hot SKU against redis-py and the ceiling, and 10,000 SKUs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from statistics import median

from bench.callers import CALLERS, Call, drive, reserve_calls
from bench.ceiling import record, replay
from bench.peers import redis_py
from bench.stores import Store, fill, private_store
from bench.table import Figure
from core.engine import Engine

UNIFORM_SKUS = 10_000
SECONDS = 1.0  # of a window: recorded bytes are good for two

Calls = Callable[[Engine], list[Call]]


async def against_ceiling(store: Store, calls: Calls) -> tuple[float, float, float]:
    """One alternation: (ours, ceiling, operations per pipeline)."""
    store.reset()
    store.tidy()
    recording = await record(store, calls, SECONDS)
    ceiling = replay(store, recording)
    return recording.measured.rate, ceiling.rate, recording.batch


async def ceiling_figure(
    name: str, store: Store, calls: Calls, rounds: int, bar: float | None, aim: float | None
) -> Figure:
    """Alternations of the product and its ceiling."""
    found = [await against_ceiling(store, calls) for _ in range(rounds)]
    ours, ceilings, batches = (list(column) for column in zip(*found, strict=True))
    note = f"{median(batches):.0f} operations per pipeline"
    return Figure(name, ours, ceilings, bar, aim, note=note)


async def hot(rounds: int) -> AsyncIterator[Figure]:
    """One hot SKU: redis-py, ceiling, and the ceiling of twice the callers."""
    async with private_store() as store:
        names = await fill(store, 1)
        for keyed in (False, True):
            kind = "with key" if keyed else "no key"
            calls = partial(reserve_calls, names=names, callers=CALLERS, keyed=keyed)
            more = partial(reserve_calls, names=names, callers=2 * CALLERS, keyed=keyed)
            ours, peers, ceilings, wider, batches, wide = [], [], [], [], [], []
            for _ in range(rounds):
                rate, ceiling, batch = await against_ceiling(store, calls)
                ours.append(rate)
                ceilings.append(ceiling)
                batches.append(batch)
                store.reset()
                store.tidy()
                async with redis_py(store, names[0], CALLERS, keyed) as theirs:
                    peers.append((await drive(theirs, SECONDS)).rate)
                _, ceiling, batch = await against_ceiling(store, more)
                wider.append(ceiling)
                wide.append(batch)
            yield Figure(f"hot, {kind}: vs one EVALSHA each, redis-py", ours, peers, 10, 20)
            yield Figure(
                f"hot, {kind}: vs ceiling", ours, ceilings, 0.5, 0.8,
                note=f"{median(batches):.0f} reservations per pipeline",
            )  # fmt: skip
            yield Figure(
                f"hot, {kind}: vs ceiling of twice the callers", ours, wider,
                note=f"the ceiling with {median(wide):.0f} reservations per pipeline",
            )  # fmt: skip


async def uniform(rounds: int) -> AsyncIterator[Figure]:
    """The same over 10,000 SKUs in turn, with keys and without."""
    async with private_store() as store:
        names = await fill(store, UNIFORM_SKUS)
        for keyed in (False, True):
            kind = "with key" if keyed else "no key"
            calls = partial(reserve_calls, names=names, callers=CALLERS, keyed=keyed)
            yield await ceiling_figure(
                f"uniform over {UNIFORM_SKUS:,} SKUs, {kind}: vs ceiling",
                store, calls, rounds, 0.5, None,
            )  # fmt: skip
