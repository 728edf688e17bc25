"""One run from beginning to end: a service, its stock, the crowd, the audit."""

from __future__ import annotations

import asyncio
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import orjson
from msgspec.structs import replace

from loadtest import demand
from loadtest.audit import audit
from loadtest.book import Book
from loadtest.client import Call, Client
from loadtest.fleet import Fleet
from loadtest.generator import Task
from loadtest.limit import WARM_S, Step, judged, search
from loadtest.live import Live, Snapshot
from loadtest.measure import Measured, Meter
from loadtest.orders import NotAnOrderLog
from loadtest.pools import read_pools
from loadtest.report import Look, Run
from loadtest.service import Running, own_service
from loadtest.settings import Settings
from loadtest.sight import snapshot
from loadtest.stocking import Supply, Survey, must_be_empty, stock_up, survey
from loadtest.stockroom import Stockroom, working
from loadtest.tally import Tally
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
        _running(target, settings) as service,
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
            log=None if log is None else str(log),
            first_s=0.0 if plan is None else plan.first_s,
            plenty=plan is not None and _plenty(settings, supply),
            warm_s=WARM_S if settings.searches else 0.0,
        )
        stockroom = Stockroom(outside, book, settings, id)
        with Live(scenario) as live:
            async with _watching(outside, book, service) as looks, working(stockroom):
                crowd = _Crowd(task, book, looks, live, plan.baskets if plan else settings.buyers)
                await crowd.all()
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
        tally=crowd.tally,
        measured=crowd.measured,
        audit=audited,
        looks=looks,
        processes=settings.processes,
        restocked=stockroom.restocked,
        counted=stockroom.counted,
        steps=crowd.steps,
        knee=crowd.knee,
        log=log,
        plan=plan,
    )


@dataclass(slots=True)
class _Crowd:
    """All fleets of a run: one, or one for each step of a search."""

    task: Task
    book: Book
    looks: list[Look]
    live: Live
    baskets: int
    measured: Measured = field(default_factory=Measured)
    tally: Tally = field(default_factory=Tally)
    steps: list[Step] = field(default_factory=list)
    knee: float = 0.0

    async def all(self) -> None:
        """One, or as many as a search takes."""
        settings = self.task.settings
        if settings.searches:
            self.steps, self.knee = await search(settings.rate, self.step)
        else:
            await self.come(settings)

    async def come(self, settings: Settings) -> Fleet:
        """Let one come to its end."""
        fleet = Fleet(replace(self.task, settings=settings), self.book)

        def look() -> Snapshot:
            last = self.looks[-1] if self.looks else None
            since_ns = self.task.zero_ns or fleet.began_ns
            return snapshot(
                fleet.measured,
                max(0.0, (time.monotonic_ns() - since_ns) / 1e9),
                fleet.baskets / max(1, settings.buyers or self.baskets),
                None if last is None else (last.on_hand, last.available),
            )

        fleet.see = lambda _: self.live.show(look)
        await fleet.run()
        elapsed_s = self.tally.elapsed_s + fleet.tally.elapsed_s
        self.measured.merge(fleet.measured)
        self.tally.merge(fleet.tally)
        self.tally.elapsed_s = elapsed_s
        self.task.zero_ns = self.task.zero_ns or fleet.began_ns
        return fleet

    async def step(self, baskets: float) -> Step:
        """One step of a search: so many baskets a second, that were not there before."""
        settings = self.task.settings
        count = max(1, round(baskets * settings.step_seconds))
        fleet = await self.come(
            replace(
                settings,
                buyers=count,
                seconds=settings.step_seconds,
                seed=settings.seed + self.task.first,
            )
        )
        self.task.first += count
        return judged(fleet, settings)


def _running(target: Target, settings: Settings) -> AbstractAsyncContextManager[Running]:
    """The service that is named, or one of the harness's own."""
    return nullcontext(Running(target.url)) if target.url else own_service(settings.workers)


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
