"""A mix of verbs in process against its ceiling: 50 % reserve, 25 commit, 15 release, 10 fulfil."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from functools import partial

from bench.callers import CALLERS, Call
from bench.hot import ceiling_figure
from bench.stores import CHANNEL, fill, private_store
from bench.table import Figure
from core.engine import Engine
from core.model import Commit, Fulfil, Line, Release, Reserve

SKUS = 1_000
CYCLE = "RCRLRCFRCRLRCRFRCRLR"  # 10, 5, 3 and 2 of 20; two stay reserved, three committed


def mixed_calls(engine: Engine, names: list[str], callers: int) -> list[Call]:
    """Callers that each go through the cycle with reservations of their own, oldest first."""

    def caller(number: int) -> Call:
        turn = number
        at = number * len(names) // callers
        reserved: deque[str] = deque()
        committed: deque[str] = deque()

        async def call() -> None:
            nonlocal turn, at
            verb = CYCLE[turn % len(CYCLE)]
            turn += 1
            if verb == "C" and reserved:
                reservation = reserved.popleft()
                await engine.commit(reservation, Commit())
                committed.append(reservation)
            elif verb == "L" and reserved:
                await engine.release(reserved.popleft(), Release())
            elif verb == "F" and committed:
                await engine.fulfil(committed.popleft(), Fulfil())
            else:  # also where a caller that starts in mid-cycle has nothing yet
                line = Line(names[at % len(names)], 1)
                at += 1
                reserved.append((await engine.reserve(Reserve(CHANNEL, [line]))).id)

        return call

    return [caller(number) for number in range(callers)]


async def mix(rounds: int) -> AsyncIterator[Figure]:
    """Over 1,000 SKUs in turn, without keys."""
    async with private_store() as store:
        names = await fill(store, SKUS)
        calls = partial(mixed_calls, names=names, callers=CALLERS)
        name = f"mix R50 C25 L15 F10 over {SKUS:,} SKUs: vs ceiling"
        yield await ceiling_figure(name, store, calls, rounds, 0.4)
