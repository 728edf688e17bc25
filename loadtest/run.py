"""One run from beginning to end: a service, its stock, the crowd, the audit."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import orjson

from loadtest import demand
from loadtest.audit import audit
from loadtest.book import Book
from loadtest.client import Call, Client
from loadtest.fleet import Fleet
from loadtest.generator import Task
from loadtest.live import Live, Snapshot
from loadtest.measure import Meter
from loadtest.orders import NotAnOrderLog
from loadtest.pools import read_pools
from loadtest.report import Look, Run
from loadtest.service import Running, own_service
from loadtest.settings import Settings
from loadtest.sight import snapshot
from loadtest.stocking import Supply, Survey, must_be_empty, stock_up, survey
from loadtest.stockroom import Stockroom, working
from loadtest.transport import reach

LOOKERS = 16  # connections of who sets up, looks on and audits
LOOK_S = 1.0
WATCHED_SKUS = 100


@dataclass(slots=True)
class Target:
    """Where to run: a service, with a key if it asks for one; without a URL one is started."""

    url: str | None = None
    key: str | None = None


async def run(scenario: str, settings: Settings, target: Target, log: Path | None = None) -> Run:
    """Run ``scenario``; a replay has a ``log``."""
    id, started_at = secrets.token_hex(4), datetime.now(UTC)
    plan = None if log is None else _survey(log, settings)
    supply = demand.supply(settings, id) if plan is None else plan.supply(settings.stock)
    async with (
        nullcontext(Running(target.url))
        if target.url
        else own_service(settings.workers) as service,
        _client(service.url, target.key, LOOKERS) as outside,
    ):
        version = await _version(outside)
        print(f"run {id} against {service.url}, seed {settings.seed}", flush=True)
        began_s = time.monotonic()
        if plan is not None:
            await must_be_empty(outside)
        book = await stock_up(outside, supply, id, LOOKERS)
        setup_s = time.monotonic() - began_s
        task = Task(
            url=service.url,
            key=target.key,
            run=id,
            settings=settings,
            part=0,
            parts=settings.processes,
            shares=book.shares,
            rules=book.rules,
        )
        if plan is not None:
            task.log, task.first_s = str(log), plan.first_s
            task.plenty = _plenty(settings, supply)
        fleet = Fleet(task, book)
        stockroom = Stockroom(outside, book, settings, id)
        baskets = settings.buyers if plan is None else plan.baskets
        async with _watching(outside, book, service) as looks, working(stockroom):
            with _shown(scenario, fleet, baskets, looks):
                await fleet.run()
        audited = await audit(
            outside, book, LOOKERS, random.Random(settings.seed), settings.ledger_seconds
        )
    return Run(
        scenario=scenario,
        id=id,
        service_version=version,
        started_at=started_at,
        setup_s=setup_s,
        settings=settings,
        tally=fleet.tally,
        measured=fleet.measured,
        audit=audited,
        looks=looks,
        processes=settings.processes,
        restocked=stockroom.restocked,
        counted=stockroom.counted,
        log=log,
        plan=plan,
    )


def _running(target: Target, settings: Settings) -> AbstractAsyncContextManager[Running]:
    """The service that is named, or one of the harness's own."""
    return nullcontext(Running(target.url)) if target.url else own_service(settings.workers)


@contextmanager
def _shown(scenario: str, fleet: Fleet, baskets: int, looks: list[Look]) -> Iterator[None]:
    """The run at the terminal, whenever its processes tell what they saw."""

    def look() -> Snapshot:
        stock = (looks[-1].on_hand, looks[-1].available) if looks else None
        elapsed_s = max(0.0, (time.monotonic_ns() - fleet.began_ns) / 1e9)
        return snapshot(fleet.measured, elapsed_s, fleet.baskets / max(baskets, 1), stock)

    with Live(scenario) as live:
        fleet.see = lambda _: live.show(look)
        yield


def _survey(log: Path, settings: Settings) -> Survey:
    plan = survey(log, settings.limit or None)
    for line in plan.dirt.malformed:
        print(f"{log}: {line}", file=sys.stderr)
    if not plan.baskets:
        raise NotAnOrderLog(f"{log}: no basket has anything to sell")
    return plan


def _plenty(settings: Settings, supply: Supply) -> bool:
    """With all the demand received and nobody else selling there, nothing may be refused."""
    return settings.stock >= 1 and all(len(sellers) == 1 for sellers in supply.shares().values())


@asynccontextmanager
async def _client(base: str, key: str | None, connections: int) -> AsyncIterator[Client]:
    async with reach(base, connections, key) as transport:
        yield Client(transport, random.Random(), Meter())


@asynccontextmanager
async def _watching(client: Client, book: Book, service: Running) -> AsyncIterator[list[Look]]:
    """Looks at the stock of the most wanted SKUs, once a second."""
    looks: list[Look] = []
    skus = [sku for sku, _ in islice(book.received, WATCHED_SKUS)]
    began_s = time.monotonic()

    async def watch() -> None:
        while True:
            pools = (await read_pools(client, skus, book.shares)).values()
            quota: dict[str, int] = {}
            for pool in pools:
                for name, channel in pool.channels.items():
                    quota[name] = quota.get(name, 0) + channel.free
            shared = sum(pool.shared for pool in pools)
            looks.append(
                Look(
                    at_s=time.monotonic() - began_s,
                    on_hand=sum(pool.on_hand for pool in pools),
                    available=shared + sum(quota.values()),
                    quota=quota,
                    memory_mib=service.memory_mib(),
                )
            )
            await asyncio.sleep(LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield looks
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _version(client: Client) -> str:
    answer = await client.must(Call("read", "GET", "/openapi.json"), 200)
    return str(orjson.loads(answer.body)["info"]["version"])
