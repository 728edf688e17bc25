"""Load in a closed loop: callers that each wait for their answer and ask again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from bench.stores import CHANNEL
from core.engine import Engine
from core.model import Key, Line, Reserve

Call = Callable[[], Awaitable[object]]

CALLERS = 256
WARM_SECONDS = 0.2
_numbers = count()


@dataclass(frozen=True)
class Measured:
    """What a window of time saw."""

    ops: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.ops / self.seconds


async def drive(
    calls: list[Call],
    seconds: float,
    *,
    warm_seconds: float = WARM_SECONDS,
    on_edge: Callable[[], None] = lambda: None,
) -> Measured:
    """Lets every caller ask in a loop; what is answered in the window after the warm-up counts.

    ``on_edge`` is called at both edges of the window.
    """
    done = 0
    going = True

    async def caller(call: Call) -> None:
        nonlocal done, going
        try:
            while going:
                await call()
                done += 1
        finally:
            going = False  # one that fails ends them all, also those that miss a cancellation

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(caller(call))
        await asyncio.sleep(warm_seconds)
        on_edge()
        first, since = done, time.perf_counter()
        await asyncio.sleep(seconds)
        last, until = done, time.perf_counter()
        on_edge()
        going = False
    return Measured(last - first, until - since)


def fresh_key() -> Key:
    """An idempotency key that was never used: 22 characters each, as the hashes are."""
    return Key(b"%022d" % next(_numbers), b"fingerprint-of-22-byte")


def reserve_calls(engine: Engine, names: list[str], callers: int, keyed: bool) -> list[Call]:
    """Callers that reserve one unit: of one SKU, or each going through all of them in turn."""

    def caller(start: int) -> Call:
        at = start * len(names) // callers

        async def call() -> None:
            nonlocal at
            line = Line(names[at % len(names)], 1)
            at += 1
            await engine.reserve(Reserve(CHANNEL, [line]), fresh_key() if keyed else None)

        return call

    return [caller(number) for number in range(callers)]
