"""Baskets that change, in process: amends, and verbs on parts of a basket, vs their ceilings."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import cycle

from bench.callers import CALLERS, Call, drive, fresh_key
from bench.ceiling import SECONDS
from bench.hot import ceiling_figure
from bench.stores import CHANNEL, fill, private_store
from bench.table import Figure
from core.engine import Engine
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Fulfil,
    Line,
    PartLine,
    Release,
    Reserve,
)

SKUS = 1_000
QUANTITY = 4


def amend_calls(engine: Engine, names: list[str], callers: int) -> list[Call]:
    """Callers that each change one basket up and down, with a key each time."""

    def caller(number: int) -> Call:
        name = names[number * len(names) // callers]
        quantities = cycle((2, 1))
        reservation = ""

        async def call() -> None:
            nonlocal reservation
            if not reservation:
                reservation = (await engine.reserve(Reserve(CHANNEL, [Line(name, 1)]))).id
                return
            lines = [AmendLine(name, next(quantities))]
            await engine.amend(reservation, Amend(lines), fresh_key())

        return call

    return [caller(number) for number in range(callers)]


def anew_calls(engine: Engine, names: list[str], callers: int) -> list[Call]:
    """What a caller without amend does: release the basket and reserve another."""

    def caller(number: int) -> Call:
        name = names[number * len(names) // callers]
        quantities = cycle((1, 2))
        reservation = ""

        async def call() -> None:
            nonlocal reservation
            if reservation:
                await engine.release(reservation, Release(), fresh_key())
            line = Line(name, next(quantities))
            reservation = (await engine.reserve(Reserve(CHANNEL, [line]), fresh_key())).id

        return call

    return [caller(number) for number in range(callers)]


def part_calls(engine: Engine, names: list[str], callers: int) -> list[Call]:
    """Reserve four, pay, cancel one, ship two, ship the last: five calls an order."""

    def caller(number: int) -> Call:
        at = number * len(names) // callers
        turn = number
        reservation = ""

        async def call() -> None:
            nonlocal at, turn, reservation
            name = names[at % len(names)]
            step = turn % 5 if reservation else 0
            turn = turn + 1 if reservation else 1
            if step == 0:
                line = Line(name, QUANTITY)
                reservation = (await engine.reserve(Reserve(CHANNEL, [line]), fresh_key())).id
            elif step == 1:
                await engine.commit(reservation, Commit(), fresh_key())
            elif step == 2:
                await engine.cancel(reservation, Cancel([PartLine(name, 1)]), fresh_key())
            else:
                units = 2 if step == 3 else 1
                await engine.fulfil(reservation, Fulfil([PartLine(name, units)]), fresh_key())
                at += step == 4

        return call

    return [caller(number) for number in range(callers)]


async def changes(rounds: int) -> AsyncIterator[Figure]:
    """Over 1,000 SKUs, with keys."""
    async with private_store() as store:
        names = await fill(store, SKUS)
        calls = partial(amend_calls, names=names, callers=CALLERS)
        yield await ceiling_figure(
            f"amend over {SKUS:,} SKUs, with key: vs ceiling", store, calls, rounds, 0.4
        )
        amends: list[float] = []
        anew: list[float] = []
        for _ in range(rounds):
            for found, make in ((amends, amend_calls), (anew, anew_calls)):
                store.reset()
                store.tidy()
                async with store.open() as service:
                    driven = drive(make(service.engine, names, CALLERS), SECONDS)
                    found.append((await driven).rate)
        yield Figure("amend: baskets changed/s vs release and reserve", amends, anew)
        calls = partial(part_calls, names=names, callers=CALLERS)
        yield await ceiling_figure(
            f"orders in parts over {SKUS:,} SKUs, with keys: vs ceiling", store, calls, rounds, 0.4
        )
