"""A refusal needs no write and may be a little old; own acknowledgements are always seen."""

from __future__ import annotations

import asyncio

import pytest

from core.clock import monotonic_ms
from core.errors import InsufficientStock, UnknownSku
from core.model import Commit, Release
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from tests.workers import Workers, demand, furnish, receive


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store; every refusal asks."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    return one, await workers(store_url, reaper=False, staleness_ms=0)


async def test_a_refusal_is_no_older_than_was_said(store_url: str, workers: Workers) -> None:
    """A demand that begins later than that after a receipt was acknowledged sees its units."""
    staleness_ms = 40
    one = await workers(store_url, reaper=False, staleness_ms=staleness_ms)
    other = await workers(store_url, reaper=False)
    await furnish(other, {"tee": 0})
    for _ in range(10):
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
        await receive(other, {"tee": 1})
        acknowledged_ms = monotonic_ms()
        while True:
            began_ms = monotonic_ms()
            try:
                await one.engine.reserve(demand())
            except InsufficientStock:
                assert began_ms <= acknowledged_ms + staleness_ms
                await asyncio.sleep(0)
                continue
            break



async def test_a_refusal_may_be_as_old_as_was_said(store_url: str, workers: Workers) -> None:
    """With staleness, a refusal rests on what was seen that long ago at most, and needs no call."""
    one = await workers(store_url, reaper=False, staleness_ms=60_000)
    await furnish(one, {"tee": 0, "cap": 5})
    await one.engine.reserve(demand("cap"))
    with pytest.raises(InsufficientStock):
        await one.engine.reserve(demand())
    pipelines = one.lane.counts["pipelines"]
    for _ in range(20):
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
    assert one.lane.counts["pipelines"] == pipelines
    assert one.lane.counts["refused"] == 21


async def test_without_staleness_every_refusal_asks(pair: tuple[Service, Service]) -> None:
    """Units that another worker has received are seen by the very next demand."""
    one, other = pair
    await furnish(one, {"tee": 0})
    for _ in range(5):
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
        await receive(other, {"tee": 1})
        await one.engine.reserve(demand())
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())


async def test_a_worker_sees_what_it_has_acknowledged(store_url: str, workers: Workers) -> None:
    """However stale a refusal may be: own receipts and own releases count at once."""
    one = await workers(store_url, reaper=False, staleness_ms=1_000)
    await furnish(one, {"tee": 0})
    for _ in range(10):
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
        await receive(one, {"tee": 1})
        held = await one.engine.reserve(demand())
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
        await one.engine.release(held.id, Release())
        await one.engine.commit((await one.engine.reserve(demand())).id, Commit())


async def test_a_new_sku_and_channel_are_known_to_all_at_once(
    pair: tuple[Service, Service],
) -> None:
    """What one worker created, another one finds, also where it was told before: unknown."""
    one, other = pair
    await furnish(one, {"tee": 1})
    with pytest.raises(UnknownSku):
        await other.engine.reserve(demand("cap"))
    await one.catalogue.put_sku("cap", SkuSpec())
    await receive(one, {"cap": 1})
    await one.catalogue.put_location("annex", LocationSpec())
    await one.catalogue.put_channel("store", ChannelSpec(locations=["main", "annex"]))
    assert (await other.engine.reserve(demand("cap", channel="store"))).version == 1
    results = await other.stock.receive(Receive([ReceiveLine("cap", "annex", 1)]), [None])
    assert results[0].error is None
