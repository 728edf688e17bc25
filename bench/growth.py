"""Does a reservation cost more when there is more: SKUs, live reservations; and its memory.

Cost is the time per reservation over the same 1,000 SKUs with 256 callers. Two stores stand side by
side, a small and a large one, and take turns; the small one is put back each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from bench.callers import CALLERS, drive, fresh_key, reserve_calls
from bench.stores import CHANNEL, Store, fill, private_store
from bench.table import Figure
from core.engine import Engine
from core.errors import StockadeError
from core.model import Line, Reserve
from core.store import keys

SKUS = 1_000
SKUS_MANY = 1_000_000
LIVE = 10_000
LIVE_MANY = 1_000_000
WEIGHED = 200_000  # reservations whose memory is measured
HOLD_SECONDS = 3_600  # longer than all of it takes
GROUP = 1_000  # demands of one request while a store is filled
SECONDS = 1.0


async def growth(rounds: int) -> AsyncIterator[Figure]:
    """Cost with more SKUs, cost with more reservations, bytes per reservation."""
    for name, prepare, small, large in (
        ("SKUs present", fill, SKUS, SKUS_MANY),
        ("live", _with_live, LIVE, LIVE_MANY),
    ):
        async with private_store() as few, private_store() as many:
            names = await prepare(few, small)
            await prepare(many, large)
            many.tidy()
            few.keep()
            costs, base = [], []
            for _ in range(rounds):
                few.reset()
                few.tidy()
                base.append(await _cost_us(few, names))
                costs.append(await _cost_us(many, names))
        title = f"growth: us per reservation, {large:,} vs {small:,} {name}"
        yield Figure(title, costs, base, 1.25, at_most=True)
    async with private_store() as store:
        names = await fill(store, SKUS)
        for keyed, bar in ((False, 200), (True, 400)):
            with_events, bare = await _bytes_each(store, names, keyed)
            kind = "with key" if keyed else "no key"
            yield Figure(
                f"memory: bytes per live reservation, {kind}", [bare], bar=bar, at_most=True,
                note=f"record and deadline{' and key' if keyed else ''}, one line, no reference; "
                f"{with_events:.0f} with its part of the event stream, until that is trimmed",
            )  # fmt: skip


async def _with_live(store: Store, count: int) -> list[str]:
    names = await fill(store, SKUS)
    async with store.open() as service:
        await _reserve(service.engine, names, count, False)
    return names


async def _reserve(engine: Engine, names: list[str], count: int, keyed: bool) -> None:
    """``count`` live reservations of one line, in turn over the SKUs."""
    for start in range(0, count, GROUP):
        requests = [
            Reserve(CHANNEL, [Line(names[at % len(names)], 1)], ttl_seconds=HOLD_SECONDS)
            for at in range(start, start + GROUP)
        ]
        used = [fresh_key() if keyed else None for _ in requests]
        for result in await engine.reserve_batch(requests, used):
            if isinstance(result, StockadeError):
                raise result


async def _cost_us(store: Store, names: list[str]) -> float:
    """Microseconds per reservation over the first 1,000 SKUs."""
    async with store.open() as service:
        calls = reserve_calls(service.engine, names[:SKUS], CALLERS, False)
        return 1e6 / (await drive(calls, SECONDS)).rate


async def _bytes_each(store: Store, names: list[str], keyed: bool) -> tuple[float, float]:
    """What one live reservation adds to the server's memory, with events and without."""
    store.reset()
    before = store.used_bytes()
    async with store.open() as service:
        await _reserve(service.engine, names, WEIGHED, keyed)
    whole = store.used_bytes() - before
    store.admin.xtrim(keys.EVENTS, maxlen=0, approximate=False)
    bare = store.used_bytes() - before
    return whole / WEIGHED, bare / WEIGHED
