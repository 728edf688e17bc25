"""Reserving in process: one hot SKU against redis-py and the ceiling, and 10,000 SKUs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from statistics import median

from bench.callers import CALLERS, drive, reserve_calls
from bench.ceiling import SECONDS, Calls, against_ceiling
from bench.peers import own_script, redis_py
from bench.stores import Store, fill, private_store
from bench.table import Figure

UNIFORM_SKUS = 10_000


async def ceiling_figure(name: str, store: Store, calls: Calls, rounds: int, bar: float) -> Figure:
    """Alternations of the product and its ceiling."""
    found = [await against_ceiling(store, calls) for _ in range(rounds)]
    return Figure(
        name,
        [recording.alone.rate for recording, _ in found],
        [ceiling.rate for _, ceiling in found],
        bar,
        note=f"{median(recording.batch for recording, _ in found):.0f} operations per pipeline",
    )


async def hot(rounds: int) -> AsyncIterator[Figure]:
    """One hot SKU: redis-py, ceiling, and the ceiling of twice the callers."""
    async with private_store() as store:
        names = await fill(store, 1)
        for keyed in (False, True):
            kind = "with key" if keyed else "no key"
            calls = partial(reserve_calls, names=names, callers=CALLERS, keyed=keyed)
            more = partial(reserve_calls, names=names, callers=2 * CALLERS, keyed=keyed)
            ours, peers, same, ceilings, wider, batches, wide = [], [], [], [], [], [], []
            for _ in range(rounds):
                recording, ceiling = await against_ceiling(store, calls)
                ours.append(recording.alone.rate)
                ceilings.append(ceiling.rate)
                batches.append(recording.batch)
                store.reset()
                store.tidy()
                async with redis_py(store, names[0], CALLERS, keyed) as theirs:
                    peers.append((await drive(theirs, SECONDS)).rate)
                store.reset()
                async with own_script(store, names[0], CALLERS, keyed) as theirs:
                    same.append((await drive(theirs, SECONDS)).rate)
                recording, ceiling = await against_ceiling(store, more)
                wider.append(ceiling.rate)
                wide.append(recording.batch)
            yield Figure(
                f"hot, {kind}: vs one EVALSHA each, redis-py", ours, same, 10, 20,
                note="the same script and writes, one reservation per call",
            )  # fmt: skip
            yield Figure(
                f"hot, {kind}: vs a plain script each, redis-py", ours, peers,
                note="as a user would write it: fewer writes, no event, no version",
            )  # fmt: skip
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
                store, calls, rounds, 0.5,
            )  # fmt: skip
