"""``python -m bench peers``: the product beside what shops write themselves, at one durability.

Every contestant reserves one unit per call, called by the same loop in one process; all have an
fsync before they answer. Grants and refusals are measured apart. A contestant that grants more
than there is, or whose rows do not add up to what it granted, voids the run.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from bench.callers import Call, Measured, drive
from bench.contestants import Ask, Contestant, LuaScript, Stockade, WatchMulti
from bench.postgres_peers import ConditionalUpdate, ForUpdate, SkipLocked
from bench.stores import private_store, sku_names
from core.embedded.postgres import EmbeddedPostgres

SKUS_MANY = 10_000
CALLERS = (1, 32, 256)
SECONDS = 1.0
WARM_SECONDS = 0.5
UNITS = 1_000_000  # of each SKU, where there shall be enough
RACED = 64  # units of the hot SKU that all callers race for before its refusals are measured


class Oversold(Exception):
    """A contestant granted what was not there, or does not know what it granted."""


class Condition(NamedTuple):
    """What is asked of every contestant."""

    skus: int
    callers: int
    granted: bool

    def __str__(self) -> str:
        where = "one hot SKU" if self.skus == 1 else f"uniform over {self.skus:,} SKUs"
        callers = "1 caller" if self.callers == 1 else f"{self.callers} callers"
        return f"{where}, {callers}, {'granted' if self.granted else 'refused'}"


def conditions(many: int) -> list[Condition]:
    """All of them: what is granted first."""
    return [
        Condition(skus, callers, granted)
        for granted in (True, False)
        for skus in (1, many)
        for callers in CALLERS
    ]


class Result(NamedTuple):
    """Calls per second of each contestant, one per round; the first is the product."""

    condition: Condition
    rates: dict[str, list[float]]
    connections: dict[str, int]  # that did best for the contestants with a choice


async def peers(rounds: int, many: int = SKUS_MANY) -> AsyncIterator[Result]:
    """Every condition, the contestants in turns; ``many``: SKUs, where it is not the hot one."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-bench-"))
        server = EmbeddedPostgres(Path(directory))
        stack.push_async_callback(server.stop)
        await server.start()
        ours = await stack.enter_async_context(private_store())
        theirs = await stack.enter_async_context(private_store())
        contestants: list[Contestant] = [
            Stockade(ours), LuaScript(theirs), WatchMulti(theirs),
            *(
                kind(server.owner_dsn, server.superuser_dsn)
                for kind in (ConditionalUpdate, ForUpdate, SkipLocked)
            ),
        ]  # fmt: skip
        for condition in conditions(many):
            chosen = {each.name: await _best(each, condition) for each in contestants}
            rates: dict[str, list[float]] = {each.name: [] for each in contestants}
            for _ in range(rounds):
                for each in contestants:
                    found = await measure(each, condition, chosen[each.name])
                    rates[each.name].append(found.rate)
            connections = {
                each.name: chosen[each.name]
                for each in contestants
                if len(each.sizes(condition.callers)) > 1
            }
            yield Result(condition, rates, connections)


async def _best(contestant: Contestant, condition: Condition) -> int:
    """The number of connections that the contestant is fastest with, by a window of each."""
    sizes = contestant.sizes(condition.callers)
    if len(sizes) == 1:
        return sizes[0]
    rates = {size: (await measure(contestant, condition, size)).rate for size in sizes}
    return max(rates, key=rates.__getitem__)


async def measure(contestant: Contestant, condition: Condition, connections: int) -> Measured:
    """One contestant in one condition, from the start, and recounted. Raises Oversold.

    The window begins when all is connected and has been asked for a while.
    """
    names = sku_names(condition.skus)
    if condition.granted:
        units = min(UNITS, contestant.units_max // condition.skus)
    else:
        units = RACED if condition.skus == 1 else 0
    await contestant.stock(names, units)
    async with contestant.open(names, connections) as ask:
        granted = 0
        if not condition.granted and units:
            granted = await race(ask, names[0], condition.callers)
            if granted != units:
                raise Oversold(f"{contestant.name} granted {granted} of {units} units")
        answers: list[int] = []
        calls = [
            _caller(ask, names, number * len(names) // condition.callers, condition, answers)
            for number in range(condition.callers)
        ]
        measured = await drive(calls, SECONDS, warm_seconds=WARM_SECONDS)
    if condition.granted:
        granted = len(answers)
    await check(contestant, names, units, granted)
    return measured


async def race(ask: Ask, sku: str, callers: int) -> int:
    """All callers take what there is until they are refused: how many units were granted."""

    async def caller() -> int:
        granted = 0
        while await ask(sku):
            granted += 1
        return granted

    return sum(await asyncio.gather(*(caller() for _ in range(callers))))


async def check(contestant: Contestant, names: list[str], units: int, granted: int) -> None:
    """Its own rows, added up. Raises Oversold."""
    held = await contestant.recount(names)
    for sku, (free, reserved, in_rows) in held.items():
        if free < 0 or reserved != in_rows or free + reserved != units:
            raise Oversold(f"{contestant.name}: {sku} had {units}, now {held[sku]}")
    if sum(each.in_rows for each in held.values()) != granted:
        raise Oversold(f"{contestant.name} does not hold the {granted} units that it granted")


def _caller(ask: Ask, names: list[str], at: int, condition: Condition, answers: list[int]) -> Call:
    """Goes through the SKUs in turn. Raises Oversold for an answer that cannot be right."""
    wanted, count = condition.granted, len(names)

    async def call() -> None:
        nonlocal at
        sku = names[at % count]
        at += 1
        if await ask(sku) is not wanted:
            raise Oversold(f"{sku}: {'refused' if wanted else 'granted'}, in {condition}")
        answers.append(1)

    return call
