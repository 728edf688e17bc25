"""A store that is frozen, slow, killed or out of memory, and what callers are told meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from core.embedded.valkey import EmbeddedValkey
from core.errors import Overloaded, StockUnavailable, Unavailable
from core.model import Cancel, Commit, Extend, Fulfil, Release
from core.ops import Receipt
from core.policy_model import ChannelSpec, SkuSpec
from core.reaper import Reaper
from core.stock_model import Receive, ReceiveLine
from core.store import keys
from tests.workers import (
    Workers,
    accounts,
    client,
    demand,
    frozen,
    furnish,
    key,
    make_due,
    record,
    until,
)

Fresh = Callable[..., Awaitable[EmbeddedValkey]]


# --- frozen and slow ---------------------------------------------------------------------------


async def test_a_frozen_store_is_unknown_and_then_found_again(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """Time-outs, no storm of retries; thawed, it serves at once and no stale batch is done."""
    server = await fresh_valkey()
    service = await workers(server.url, store_timeout_seconds=0.5)
    await furnish(service, {"tee": 10})
    plain = client(server.url)
    with frozen(plain):
        pipelines = service.lane.counts["pipelines"]
        sent = asyncio.ensure_future(service.engine.reserve(demand(quantity=2), key(1)))
        await until(lambda: service.lane.counts["pipelines"] > pipelines, "sent")
        waited = asyncio.ensure_future(service.engine.reserve(demand()))
        unknown, none = await asyncio.gather(sent, waited, return_exceptions=True)
        assert isinstance(unknown, StockUnavailable)
        assert isinstance(none, StockUnavailable)
        assert (unknown.outcome, none.outcome) == ("unknown", "none")
        assert service.lane.counts["pipelines"] == pipelines + 1
        with pytest.raises(StockUnavailable):
            await service.stock.read(["tee"])
    await until(lambda: service.readiness()["ready"], "ready again")
    again = await service.engine.reserve(demand(quantity=2), key(1))
    assert again.replayed is (again.id == unknown.reservation)
    assert (await accounts(service))[1] == 2
    plain.close()


async def test_a_pause_shorter_than_the_time_out_is_only_slow(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """Nothing is sent twice."""
    server = await fresh_valkey()
    service = await workers(server.url)
    await furnish(service, {"tee": 10})
    plain = client(server.url)
    plain.execute_command("CLIENT", "PAUSE", "300", "ALL")
    receipts = await asyncio.gather(*(service.engine.reserve(demand()) for _ in range(5)))
    assert len({receipt.id for receipt in receipts}) == 5
    assert service.lane.counts["resent"] == 0
    plain.close()


# --- killed ------------------------------------------------------------------------------------


async def test_every_acknowledged_change_survives_a_kill(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """SIGKILL under load, twice, and a restart on the same data: nothing acknowledged is lost."""
    server = await fresh_valkey()
    service = await workers(server.url)
    await furnish(service, {"tee": 100_000})
    done: dict[str, str] = {}
    counts: Counter[str] = Counter()
    enough = asyncio.Event()

    async def insist(call: Callable[[], Awaitable[Receipt]]) -> Receipt:
        """The client that API.md asks for: the same request again, under the same key."""
        while True:
            try:
                return await call()
            except Unavailable as error:
                counts[error.outcome] += 1
                await until(lambda: service.readiness()["ready"], "ready again")

    async def buyer(number: int) -> None:
        while not enough.is_set():
            number += 64
            receipt = await insist(partial(service.engine.reserve, demand(), key(number)))
            id = receipt.id
            done[id] = "R"
            if number % 2:
                await insist(partial(service.engine.commit, id, Commit()))
                done[id] = "C"
            counts["orders"] += 1

    load = [asyncio.ensure_future(buyer(number)) for number in range(64)]
    for _ in range(2):
        before = counts["orders"]
        await until(lambda: counts["orders"] > before + 500, "business")  # noqa: B023
        plain = client(server.url)
        pid = int(plain.info("server")["process_id"])
        plain.close()
        os.kill(pid, signal.SIGKILL)
        await server.wait()
        await server.stop()
        await server.start()
    before = counts["orders"]
    await until(lambda: counts["orders"] > before + 500, "business again")
    enough.set()
    await asyncio.gather(*load)
    print(counts)
    plain = client(server.url)
    for id, state in done.items():
        assert record(plain, id)[0] == state
    held = sum(plain.hlen(name) for name in plain.keys("{s0}:rsv:*"))
    assert held == len(done) == counts["orders"]
    plain.close()


# --- out of memory -----------------------------------------------------------------------------


async def test_without_memory_what_is_promised_can_still_be_kept(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """Reserve and receive are refused with nothing done; all that settles goes on."""
    server = await fresh_valkey()
    service = await workers(server.url, reaper=False, staleness_ms=0)
    await furnish(service, {"tee": 20}, web=ChannelSpec())
    engine, plain = service.engine, client(server.url)
    ids = [(await engine.reserve(demand(), key(n))).id for n in range(8)]
    await engine.commit(ids[0], Commit())
    await engine.commit(ids[1], Commit())
    before = await accounts(service)
    plain.config_set("maxmemory", 1_000_000)  # less than it uses
    with pytest.raises(StockUnavailable) as refused:
        await engine.reserve(demand(), key(99))
    assert refused.value.outcome == "none"
    line = Receive([ReceiveLine("tee", "main", 1)])
    error = (await service.stock.receive(line, [None]))[0].error
    assert isinstance(error, StockUnavailable)
    assert error.outcome == "none"
    assert await accounts(service) == before
    await engine.fulfil(ids[0], Fulfil(), key("f"))
    await engine.cancel(ids[1], Cancel(), key("c"))
    await engine.commit(ids[2], Commit(), key("k"))
    await engine.release(ids[3], Release(), key("r"))
    await engine.extend(ids[4], Extend(1800), key("e"))
    plain.config_set("maxmemory", 0)  # the test's own hand on the deadline needs some
    make_due(plain, ids[5])
    plain.config_set("maxmemory", 1_000_000)
    await service.lane.tidy()
    assert record(plain, ids[5])[0] == "X"
    await engine.commit(ids[5], Commit())
    await service.catalogue.put_sku("cap", SkuSpec())
    assert [record(plain, id)[0] for id in ids] == list("FKCLRCRR")
    plain.config_set("maxmemory", 0)
    await engine.reserve(demand(), key(99))
    assert (await service.stock.receive(line, [None]))[0].error is None
    plain.close()


async def test_reserves_end_before_the_memory_does(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """From 90 % on the lane refuses them by itself, until there is room again."""
    server = await fresh_valkey()
    service = await workers(server.url, reaper=False)
    await furnish(service, {"tee": 20})
    held = await service.engine.reserve(demand())
    reaper, plain = Reaper(service.lane, service._shard, service.backlog, 10**9), client(server.url)
    used = int(plain.info("memory")["used_memory"])
    for share, full in ((0.5, False), (0.95, True), (0.5, False)):
        plain.config_set("maxmemory", int(used / share))
        await reaper.turn()
        assert service.readiness()["store"]["memory_full"] is full
        if full:
            errors = plain.info("errorstats")
            with pytest.raises(Overloaded) as refused:
                await service.engine.reserve(demand())
            assert refused.value.outcome == "none"
            await service.engine.commit(held.id, Commit())
            assert plain.info("errorstats") == errors  # the store was not even asked
        else:
            await service.engine.reserve(demand())
    assert int(plain.hget(keys.META, "seq") or 0) > 0
    plain.close()
