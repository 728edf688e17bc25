"""The ledger: how fast the scribe catches up, and what HTTP keeps while it works beside."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import orjson

from bench.callers import CALLERS, fresh_key
from bench.http import (
    CONNECTIONS,
    IN_STOCK,
    LAG_SAMPLE_SECONDS,
    PATH,
    Wrk,
    ask,
    body,
    caught_up,
    latency,
    scribe_of,
    starlette_echo,
    stopped,
    wrk,
)
from bench.http import stockade as serving
from bench.stores import CHANNEL, LOCATION, UNITS, Store, private_store, sku_names
from bench.table import Figure
from core.embedded.postgres import EmbeddedPostgres
from core.ledger.journal import Journal
from core.ledger.migrating import migrate
from core.model import Line, Reserve
from core.policy_model import ChannelSpec, SkuSpec
from core.scribe import Scribe
from core.stock_model import Receive, ReceiveLine
from core.store.events import EventStream

RESERVATIONS = 60_000  # of one round
UNIFORM_SKUS = 10_000
CHUNK = 500  # SKUs that are made at once
HOUR_MS, WEEK_MS = 3_600_000, 604_800_000


@asynccontextmanager
async def open_ledger(directory: Path) -> AsyncIterator[Journal]:
    """A private PostgreSQL, as the service runs it, with the schema and nothing in it."""
    server = EmbeddedPostgres(directory)
    await server.start()
    try:
        await migrate(server.owner_dsn, "stockade")
        journal = Journal(server.dsn, 60.0)
        yield journal
        await journal.close()
    finally:
        await server.stop()


async def stock(store: Store, names: list[str]) -> None:
    """A channel and a pool per SKU, by events as a shop makes them."""
    async with store.open() as service:
        await service.catalogue.put_channel(CHANNEL, ChannelSpec(floor_share=0.7))
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            await asyncio.gather(*(service.catalogue.put_sku(name, SkuSpec()) for name in chunk))
            lines = [ReceiveLine(name, LOCATION, UNITS) for name in chunk]
            await service.stock.receive(Receive(lines), [None] * len(chunk))


async def reserve(store: Store, names: list[str], count: int) -> None:
    """Fills the stream with reservations of one line, each with a key and a reference."""
    async with store.open() as service:
        numbers, skus = iter(range(count)), cycle(names)

        async def caller() -> None:
            for number in numbers:
                request = Reserve(CHANNEL, [Line(next(skus), 1)], reference=f"cart-{number}")
                await service.engine.reserve(request, fresh_key())

        await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def scribe(rounds: int) -> AsyncIterator[Figure]:
    """Reservations per second that the scribe carries, alone, out of a stream that is full."""
    for kind, count in (("one hot SKU", 1), (f"uniform over {UNIFORM_SKUS:,} SKUs", UNIFORM_SKUS)):
        rates = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(prefix="stockade-bench-") as directory:
                async with private_store() as store, open_ledger(Path(directory)) as journal:
                    rates.append(await _carried(store, journal, sku_names(count)))
        yield Figure(f"scribe, {kind}: reservations/s", rates, [], 20_000, 40_000)


async def _carried(store: Store, journal: Journal, names: list[str]) -> float:
    stream = EventStream(store.url, 10.0)
    writer = Scribe(stream, journal, HOUR_MS, WEEK_MS)
    try:
        await stock(store, names)
        while await writer.turn(wait=False):
            pass
        await reserve(store, names, RESERVATIONS)
        since = time.perf_counter()
        while await writer.turn(wait=False):
            pass
        return RESERVATIONS / (time.perf_counter() - since)
    finally:
        await stream.close()


async def http_with_ledger(rounds: int) -> AsyncIterator[Figure]:
    """Reserves over HTTP with the scribe at work beside them, and with it standing still."""
    if shutil.which("wrk") is None:
        print("http_ledger is left out: wrk is not installed (apt install wrk)", file=sys.stderr)
        return
    beside: list[Wrk] = []
    alone: list[Wrk] = []
    echoed: list[Wrk] = []
    with ExitStack() as stack:
        port, data = stack.enter_context(serving())
        echo = stack.enter_context(starlette_echo())
        pid, one = scribe_of(data), body(IN_STOCK)
        for _ in range(rounds):
            beside.append(wrk(port, PATH, one, CONNECTIONS))
            caught_up(port)
            with stopped(pid):
                alone.append(wrk(port, PATH, one, CONNECTIONS))
            caught_up(port)
            echoed.append(wrk(echo, PATH, one, CONNECTIONS))
    echoes = [seen.rate for seen in echoed]
    yield Figure(
        f"http reserve with the ledger running, wrk -c{CONNECTIONS}: vs Starlette echo",
        [seen.rate for seen in beside], echoes, 0.5, 0.8, note=latency(beside),
    )  # fmt: skip
    yield Figure(
        "    the same with the scribe standing still: vs Starlette echo",
        [seen.rate for seen in alone], echoes, note=latency(alone),
    )  # fmt: skip


def lag(seconds: float, rate: float) -> None:
    """By hand: the ledger's lag while reservations come in at a steady rate.

    ``python -c 'from bench.ledger import lag; lag(300, 5000)'`` posts batches of 50.
    """
    with serving() as (port, _):
        payload = orjson.dumps({"reservations": [orjson.loads(body(IN_STOCK))] * 50})
        started = time.perf_counter()
        sent, seen, sampled = 0, [], started
        while (now := time.perf_counter()) < started + seconds:
            if sent < (now - started) * rate:
                ask(port, "POST", f"{PATH}/batch", payload)
                sent += 50
            elif now > sampled + LAG_SAMPLE_SECONDS:
                sampled = now
                seen.append(ask(port, "GET", "/readyz", b"")[1]["ledger"]["lag"])
            else:
                time.sleep(0.001)
    events = sorted(each["events"] for each in seen)
    late = sorted(each["seconds"] for each in seen)
    print(
        f"{sent / seconds:,.0f} reservations/s for {seconds:g} s; lag in events: median "
        f"{events[len(events) // 2]}, p99 {events[len(events) * 99 // 100]}, max {events[-1]}; in "
        f"seconds: median {late[len(late) // 2]:g}, max {late[-1]:g}"
    )
