"""What a channel can take, as it was seen within the last second; and stock page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from core import availability, stock
from core.clock import monotonic_ms
from core.errors import InvalidRequest, Overloaded, StockUnavailable, UnknownChannel, UnknownSku
from core.lane import Lane
from core.model import Available, Release, timestamp
from core.policy_model import ChannelSpec, LocationSpec, SkuChannel, SkuSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys, wording
from core.store.shard import Shard
from tests.workers import Store, Workers, demand, frozen, furnish, receive, row, until

MINUTE_MS = 60_000


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store."""
    return await workers(store_url, reaper=False), await workers(store_url, reaper=False)


async def units(service: Service, *skus: str, channel: str = "web") -> list[int]:
    """What the channel can take of each."""
    found = await service.stock.availability(channel, list(skus))
    assert [item.sku for item in found.items] == list(skus)
    return [item.available for item in found.items]


def age(service: Service, ms: float) -> None:
    """All that this worker saw was seen that much longer ago."""
    for sku in service.lane.snapshot.skus.values():
        sku.seen_at -= ms
    for seen in service.lane.snapshot.rows.values():
        seen.seen_at -= ms
    service.lane.planner.policy_seen_ms -= ms


@pytest.fixture
def slow_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is fresh is so for a minute: however slow the machine is, only ``age`` makes it old."""
    monkeypatch.setattr(availability, "FRESH_MS", MINUTE_MS)


@pytest.mark.usefixtures("slow_second")
async def test_what_was_seen_a_moment_ago_is_not_asked_again(worker: Service) -> None:
    """One look for all that wait, then none for a second."""
    await furnish(worker, {"tee": 5, "cap": 3})
    pipelines = worker.lane.counts["pipelines"]
    age(worker, MINUTE_MS + 1_000)
    found = await asyncio.gather(*(units(worker, "tee", "cap") for _ in range(50)))
    assert found == [[5, 3]] * 50
    assert worker.lane.counts["pipelines"] == pipelines + 1
    for _ in range(50):
        assert await units(worker, "cap", "tee") == [3, 5]
    assert worker.lane.counts["pipelines"] == pipelines + 1
    age(worker, MINUTE_MS)
    assert await units(worker, "tee") == [5]
    assert worker.lane.counts["pipelines"] == pipelines + 2


@pytest.mark.usefixtures("slow_second")
async def test_an_answer_says_since_when_it_holds(worker: Service) -> None:
    """``as_of`` is the oldest that anything in the answer was seen, in the server's time."""
    await furnish(worker, {"tee": 5, "cap": 3})
    age(worker, MINUTE_MS + 1_000)
    began = monotonic_ms()
    await units(worker, "cap")
    ended = monotonic_ms()
    age(worker, 30_000)
    before = monotonic_ms()
    found = await worker.stock.availability("web", ["tee", "cap"])  # tee alone is looked at
    assert began - 30_000 <= found.seen_ms <= ended - 30_000
    assert (await worker.stock.availability("web", ["tee"])).seen_ms >= before  # policy and all
    assert abs(worker.stock.time_ms(found.seen_ms) - worker.lane.clock.now_ms(found.seen_ms)) <= 2
    assert datetime.fromisoformat(timestamp(worker.stock.time_ms(0))).tzinfo == UTC


async def test_a_worker_sees_what_it_has_acknowledged(worker: Service) -> None:
    await furnish(worker, {"tee": 5})
    assert await units(worker, "tee") == [5]
    held = await worker.engine.reserve(demand(quantity=2))
    assert await units(worker, "tee") == [3]
    await worker.engine.release(held.id, Release())
    assert await units(worker, "tee") == [5]
    await receive(worker, {"tee": 4})
    assert await units(worker, "tee") == [9]
    await worker.catalogue.put_sku("tee", SkuSpec(safety_stock=2))
    assert await units(worker, "tee") == [7]
    await worker.catalogue.put_channel("web", ChannelSpec(ceiling_units=4))
    assert await units(worker, "tee") == [4]


async def test_what_others_did_is_seen_within_a_second(pair: tuple[Service, Service]) -> None:
    one, other = pair
    await furnish(one, {"tee": 5})
    assert await units(other, "tee") == [5]
    await one.engine.reserve(demand(quantity=2))
    began = monotonic_ms()
    asked = began
    while await units(other, "tee") == [5]:
        assert asked - began <= availability.FRESH_MS
        await asyncio.sleep(0.002)
        asked = monotonic_ms()
    assert await units(other, "tee") == [3]


@pytest.mark.usefixtures("slow_second")
async def test_rows_under_way_count_as_they_are_going_to_be(store: Store, worker: Service) -> None:
    """A hot SKU is hardly ever without a plan under way: its page costs no look."""
    await furnish(worker, {"tee": 500})
    assert await units(worker, "tee") == [500]
    with frozen(store):
        running = [asyncio.ensure_future(worker.engine.reserve(demand())) for _ in range(200)]
        await until(lambda: worker.lane._flights, "a plan under way")
        planned = worker.lane.snapshot.rows[b"tee@main"]
        assert planned.planned > planned.round
        pipelines = worker.lane.counts["pipelines"]
        assert (await units(worker, "tee"))[0] < 500
        assert worker.lane.counts["pipelines"] == pipelines
        planned.seen_at -= MINUTE_MS + 1_000  # then what is expected is no evidence
        waiting = asyncio.ensure_future(units(worker, "tee"))
        await asyncio.sleep(0)
        assert len(worker.lane.queues.reads) == 1
    await waiting
    await asyncio.gather(*running)
    assert await units(worker, "tee") == [300]


async def test_by_location_and_what_is_not_sold_there(worker: Service) -> None:
    for name, spec in (("annex", LocationSpec()), ("outlet", LocationSpec(sells=False))):
        await worker.catalogue.put_location(name, spec)
    web = ChannelSpec(floor_share=0.5, locations=["annex", "main", "outlet"])
    await furnish(worker, {"tee": 10, "cap": 0}, web=web, store=ChannelSpec(borrow=False))
    lines = [ReceiveLine("tee", place, 4) for place in ("annex", "outlet")]
    await worker.stock.receive(Receive(lines), [None] * 2)
    found = await worker.stock.availability("web", ["tee", "cap"], True)
    assert found.items == [
        Available("tee", 14, {"main": 10, "annex": 4, "outlet": 0}), Available("cap", 0, {}),
    ]  # fmt: skip
    store = await worker.stock.availability("store", ["tee"], True)
    assert store.items == [Available("tee", 0, {"main": 0})]
    assert [spec.available["web"] for spec in await worker.stock.read(["tee", "cap"])] == [14, 0]


async def test_the_unknown_is_looked_up_and_told_at_once(pair: tuple[Service, Service]) -> None:
    """All that are unknown are named; what another worker has just made is found."""
    one, other = pair
    with pytest.raises(UnknownChannel):
        await units(other, "tee")
    await furnish(one, {"tee": 5})
    assert await units(other, "tee") == [5]
    with pytest.raises(UnknownSku) as refused:
        await units(other, "tee", "cap", "hat")
    assert refused.value.lines == [{"sku": "cap"}, {"sku": "hat"}]
    await furnish(one, {"cap": 1})
    assert await units(other, "tee", "cap") == [5, 1]
    await one.catalogue.put_channel("store", ChannelSpec())
    assert await units(other, "cap", channel="store") == [1]
    with pytest.raises(InvalidRequest) as invalid:
        await units(other, "tee", "a b")
    assert [pointer for pointer, _ in invalid.value.errors] == ["?sku"]
    assert "a b" not in other.lane.snapshot.skus


async def test_a_row_of_a_newer_policy_is_read_with_it(pair: tuple[Service, Service]) -> None:
    """Another worker's row may name a channel that this one has not heard of."""
    one, other = pair
    await furnish(one, {"tee": 10})
    assert await units(other, "tee") == [10]
    await one.catalogue.put_channel("store", ChannelSpec(floor_share=0.5, borrow=False))
    await receive(one, {"tee": 10})
    age(other, 5_000)
    assert await units(other, "tee") == [15]
    await one.catalogue.put_sku("tee", SkuSpec(channels={"web": SkuChannel(ceiling_units=3)}))
    age(other, 5_000)
    assert await units(other, "tee") == [3]


async def test_a_corrupt_row_fails_those_who_ask_for_it_alone(
    store_url: str, store: Store, workers: Workers
) -> None:
    worker = await workers(store_url, reaper=False, audited=False)
    await furnish(worker, {"tee": 5, "cap": 3})
    good = row(store, "tee@main")
    store.hset(keys.POOLS, "tee@main", "what")
    age(worker, 5_000)
    with pytest.raises(StockUnavailable):
        await units(worker, "cap", "tee")
    assert await units(worker, "cap") == [3]
    store.hset(keys.POOLS, "tee@main", good)
    age(worker, 5_000)
    assert await units(worker, "cap", "tee") == [3, 5]


async def test_who_can_never_be_answered_is_sent_away(
    worker: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many pools, too many looks, too many who wait: each has its bound."""
    await furnish(worker, {"tee": 5})
    monkeypatch.setattr(availability, "TURNS_MAX", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Lane, "_landed", forgetful(Lane._landed))
        age(worker, 5_000)
        with pytest.raises(Overloaded):
            await units(worker, "tee")
    assert await units(worker, "tee") == [5]
    assert not worker.lane.queues.waiting()
    monkeypatch.setattr(availability, "POOLS_MAX", 0)
    with pytest.raises(InvalidRequest, match="fewer"):
        await units(worker, "tee")
    monkeypatch.setattr(worker.lane, "_queue_limit", 0)
    age(worker, 5_000)
    with pytest.raises(Overloaded):
        await units(worker, "tee")


def forgetful(landed: Any) -> Any:
    """A lane that forgets what it saw before it answers anybody."""

    def land(lane: Any, flight: Any, replies: Any) -> None:
        send, lane._send = lane._send, lambda: None
        landed(lane, flight, replies)
        lane._send = send
        lane.snapshot.skus.clear()
        lane.snapshot.rows.clear()
        lane._send()

    return land


async def test_reads_wait_for_a_store_that_is_away(worker: Service, store: Store) -> None:
    """What was seen a moment ago is answered; for the rest callers wait and are not forgotten."""
    await furnish(worker, {"tee": 5})
    assert await units(worker, "tee") == [5]
    store.client_kill_filter(_type="normal", skipme=True)
    assert await units(worker, "tee") == [5]
    age(worker, 5_000)
    assert await units(worker, "tee") == [5]


# --- lists ---------------------------------------------------------------------------------------


async def pages(service: Service, limit: int) -> list[list[str]]:
    """All SKUs, page by page."""
    found: list[list[str]] = []
    after: str | None = ""
    while after is not None:
        items, after = await service.stock.page(after, limit)
        found.append([item.sku for item in items])
    return found


async def test_pages_are_complete_and_in_order_while_skus_are_added(
    worker: Service, store: Store
) -> None:
    """Nothing that was there at the start is missing or twice, and no hash is scanned."""
    await furnish(worker, {"tee": 5})
    there = [f"s{number:05d}" for number in range(0, 20_000, 2)]
    entry = wording.sku_entry(1, (), SkuSpec())
    store.hset(keys.SKUS, mapping=dict.fromkeys(there, entry))
    store.zadd(keys.CATALOG, dict.fromkeys(there, 0))
    added: list[str] = []
    done = asyncio.Event()

    async def add() -> None:
        """Between and around those that are there, all the time."""
        number = 1
        while not done.is_set():
            added.append(f"s{number:05d}")
            await worker.catalogue.put_sku(added[-1], SkuSpec())
            number = (number + 7_918) % 20_000

    store.config_resetstat()
    adding = asyncio.create_task(add())
    found = await pages(worker, 1_000)
    done.set()
    await adding
    names = [sku for page in found for sku in page]
    assert names == sorted(set(names))
    assert set(there) | {"tee"} <= set(names) <= set(there) | {"tee"} | set(added)
    assert added
    assert all(len(page) == 1_000 for page in found[:-1])
    assert not {
        name for name in store.info("commandstats") if name.split("_")[1] in {
            "hscan", "scan", "zscan", "hgetall", "hkeys", "keys",
        }
    } - {"cmdstat_hgetall"}  # the policy's, which is small


async def test_a_page_is_bounded_by_pools_as_well(
    worker: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of SKUs that lie in many places ends early, and goes on where it ended."""
    places = ["main", "annex", "outlet"]
    for place in places[1:]:
        await worker.catalogue.put_location(place, LocationSpec())
    skus = [f"s{number}" for number in range(8)]
    await furnish(worker, dict.fromkeys(skus, 1))
    lines = [ReceiveLine(sku, place, 1) for sku in skus for place in places[1:]]
    await worker.stock.receive(Receive(lines), [None] * len(lines))
    asked: list[int] = []
    rows = Shard.rows

    async def counted(shard: Shard, pools: Sequence[str]) -> Any:
        asked.append(len(pools))
        return await rows(shard, pools)

    monkeypatch.setattr(Shard, "rows", counted)
    monkeypatch.setattr(stock, "PAGE_POOLS_MAX", 7)
    monkeypatch.setattr(stock, "POOLS_AT_ONCE", 4)
    assert await pages(worker, 1_000) == [skus[0:2], skus[2:4], skus[4:6], skus[6:8]]
    assert max(asked) <= 6  # a portion ends with the SKU that fills it
    assert await pages(worker, 1) == [[sku] for sku in skus]
    monkeypatch.setattr(stock, "PAGE_POOLS_MAX", 1)
    assert await pages(worker, 1_000) == [[sku] for sku in skus]
    (found,) = await worker.stock.read(["s3"])
    assert [pool.location for pool in found.pools] == ["main", "annex", "outlet"]
