"""PostgreSQL behind a proxy that loses what it is told to, or lets nobody through for long."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from core.embedded.postgres import Addresses, EmbeddedPostgres
from tests.faults.callers import Client
from tests.faults.proxy import Kind, Proxy
from tests.faults.stage import Stage
from tests.processes import until

AT_STORE = ("memory", "fsync")
LIMIT_BYTES = 2**20  # the least that can be set
HOUR_RESERVATIONS = 3_600 * 200
SCALE = 300  # of an hour's backlog, what a test makes
# A machine with 8 GiB: half of it is the store's, and a quarter of that may be events.
ROOM_BYTES = 2**30

Open = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    """Before the ledger's server."""
    made = Proxy(postgres.socket)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def staged(place: Path, proxy: Proxy, ledger_dsns: Addresses) -> AsyncIterator[Open]:
    """Starts services whose ledger is behind the proxy; migrations go past it."""
    opened: list[Stage] = []
    database = ledger_dsns.dsn.partition("?")[0].rpartition("/")[2]

    async def start(**environ: str) -> Stage:
        opened.append(await asyncio.to_thread(
            Stage, place,
            STOCKADE_POSTGRES_DSN=f"postgresql://stockade@127.0.0.1:{proxy.port}/{database}",
            STOCKADE_POSTGRES_OWNER_DSN=ledger_dsns.owner_dsn, **environ,
        ))  # fmt: skip
        return opened[-1]

    yield start
    for stage in opened:
        await asyncio.to_thread(stage.close)


async def test_the_answer_to_a_commit_is_lost(
    staged: Open, proxy: Proxy, dice: random.Random
) -> None:
    """Or the COMMIT itself; only the mark tells, and each event is written once."""
    stage = await staged()
    callers = stage.callers(dice.random())
    for _ in range(4):
        await asyncio.to_thread(callers.more, dice.randrange(5, 50), *AT_STORE)
        kinds: tuple[Kind, ...] = ("cut reply", "cut reply", "lose request")
        kind = dice.choice(kinds)
        struck = proxy.arm(kind, b"COMMIT;", reset=dice.random() < 0.5)
        async with asyncio.timeout(30):
            await struck.wait()
        stage.faults += 1
    await asyncio.to_thread(callers.more, 5, "ledger")
    print(await asyncio.to_thread(stage.check, callers, dice))


@pytest.mark.proof
async def test_too_long_a_backlog_refuses_reserves_alone(
    staged: Open, proxy: Proxy, dice: random.Random
) -> None:
    """Until then everything but the ledger's level goes on; what is promised can be kept; and it
    comes back by itself."""
    stage = await staged(STOCKADE_BACKLOG_BYTES=str(LIMIT_BYTES))
    callers = stage.callers(dice.random())
    await asyncio.to_thread(callers.more, 20, "ledger")
    proxy.refusing = True
    proxy.cut()
    stage.faults += 1

    def away() -> None:
        client = Client(lambda: stage.url)
        lines = [{"sku": "tee-0", "quantity": 1}]
        body = {"channel": "web", "lines": lines, "durability": "memory"}

        def verb(name: str, id: str) -> int:
            reply = client.post(f"/v1/reservations/{id}/{name}", {}, f"{name}-{id}")
            assert reply is not None
            return reply.status  # the first answer is the one: it is no time to be refused

        for n in range(3):
            reply = client.insist("/v1/reservations", body, f"{n}")
            assert reply.status == 201, reply
            held.append(str(reply.body["id"]))
        callers.more(20, "ledger_unavailable none")
        callers.more(2, "ledger_unavailable unknown")
        lag = {}

        def too_long() -> bool:  # each worker looks twice a second, and any of them may answer
            lag.update(stage.readiness()["ledger"]["lag"])
            return bool(lag["too_long"])

        until(too_long, "the backlog is too long")
        assert LIMIT_BYTES < lag["bytes"] < 3 * LIMIT_BYTES

        def refused() -> bool:
            reply = client.post("/v1/reservations", body, f"{len(held)}")
            assert reply is not None
            if reply.status == 503:
                assert (reply.body["code"], reply.body["outcome"]) == ("ledger_unavailable", "none")
                return True
            held.append(str(reply.body["id"]))
            return False

        until(refused, "reserves are refused")
        one, two, three = held[:3]
        assert [verb("commit", one), verb("fulfil", one), verb("release", two)] == [200] * 3
        assert [verb("commit", three), verb("cancel", three)] == [200] * 2
        print(f"refused with {lag} in the store")
        stage.told_of(client, *held)
        client.close()

    held: list[str] = []
    await asyncio.to_thread(away)
    proxy.refusing = False
    await asyncio.to_thread(callers.more, 40, *AT_STORE)
    await asyncio.to_thread(callers.more, 5, "ledger")
    print(await asyncio.to_thread(stage.check, callers, dice))


@pytest.mark.proof
async def test_an_hour_without_the_ledger_is_caught_up(
    staged: Open, proxy: Proxy, dice: random.Random
) -> None:
    """At 200 reservations a second, each with what becomes of it: its events have room in the store
    of a small machine, and are in the ledger again soon, while business goes on. A part of an
    hour's is made; the whole follows from its bytes."""
    stage = await staged(STOCKADE_BACKLOG_BYTES=str(ROOM_BYTES))
    proxy.refusing = True
    proxy.cut()
    stage.faults += 1
    callers = stage.callers(dice.random(), ledger=False)
    there = HOUR_RESERVATIONS // SCALE

    def made() -> None:
        until(lambda: callers.reservations() >= there, f"{there} reservations", 300.0)

    await asyncio.to_thread(made)
    lag = (await asyncio.to_thread(stage.readiness))["ledger"]["lag"]
    reservations = callers.reservations()
    each = lag["bytes"] / reservations
    started = time.monotonic()
    proxy.refusing = False

    def caught_up() -> None:
        until(lambda: stage.readiness()["ledger"]["lag"]["events"] < 50, "the ledger has it", 60.0)

    await asyncio.to_thread(caught_up)
    took = time.monotonic() - started
    rate = (callers.reservations()) / took
    hour = each * HOUR_RESERVATIONS
    print(
        f"{reservations} reservations are {lag['events']} events of {lag['bytes']} bytes, "
        f"{each:.0f} bytes each: an hour's are {hour / 2**20:.0f} MiB. Caught up in {took:.1f} s "
        f"beside business, {rate:.0f} reservations/s: an hour's in {HOUR_RESERVATIONS / rate:.0f} s"
    )
    assert hour < ROOM_BYTES
    assert rate > 2 * 200
    print(await asyncio.to_thread(stage.check, callers, dice))
