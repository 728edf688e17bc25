"""Policy changes while two workers sell: from the answer on, nobody grants by the old policy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.channels import Sweep
from core.errors import InsufficientStock, StockadeError, UnknownChannel
from core.model import Release
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store.shard import Shard
from tests.workers import Store, Workers, demand, furnish

OPEN = ChannelSpec(floor_share=0.5)
CHANGES: dict[str, tuple[ChannelSpec, dict[str, Any]]] = {
    # what is put, and a demand that the policy before it would grant
    "borrow": (ChannelSpec(floor_share=0.5, borrow=False), {"quantity": 510}),
    "ceiling": (ChannelSpec(floor_share=0.5, ceiling_units=40), {"quantity": 41}),
    "locations": (ChannelSpec(floor_share=0.5, locations=["annex"]), {"sku": "cap"}),
    "split": (ChannelSpec(floor_share=0.5, split=False, locations=["main", "annex"]),
              {"quantity": 1_010}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
async def test_it_is_exact_from_the_answer_on(
    store_url: str, store: Store, workers: Workers, change: str
) -> None:
    """Both workers sell without a pause; the audit holds each grant to the policy of its moment."""
    pair = [await workers(store_url, staleness_ms=0) for _ in range(2)]
    one = pair[0]
    await one.catalogue.put_location("annex", LocationSpec())
    before = ChannelSpec(floor_share=0.5, locations=["main", "annex"])
    await furnish(one, {"tee": 1_000, "cap": 1_000}, web=before, store=ChannelSpec())
    await one.stock.receive(Receive([ReceiveLine("tee", "annex", 1_000)]), [None])
    spec, asked = CHANGES[change]
    done = asyncio.Event()
    rounds = 0

    async def sell(service: Service) -> None:
        nonlocal rounds
        while not done.is_set():
            try:
                held = await service.engine.reserve(demand())
            except InsufficientStock:
                continue
            await service.engine.release(held.id, Release())
            rounds += 1

    async def granted(service: Service) -> bool:
        try:
            held = await service.engine.reserve(demand(**asked))
        except StockadeError:
            return False
        await service.engine.release(held.id, Release())
        return True

    selling = [asyncio.create_task(sell(each)) for each in pair for _ in range(8)]
    for turn in range(6):
        service = pair[turn % 2]
        await service.catalogue.put_channel("web", spec)
        assert await asyncio.gather(*(granted(each) for each in pair * 3)) == [False] * 6
        await service.catalogue.put_channel("web", before)
        assert [await granted(each) for each in pair] == [True] * 2
    seen = rounds
    done.set()
    await asyncio.gather(*selling)
    assert seen > 50


@pytest.mark.usefixtures("unasked")
async def test_a_crowd_for_a_channel_that_is_new_asks_once(
    store_url: str, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it cost the store anything to be asked for one that there is not."""
    one, other = [await workers(store_url, reaper=False, staleness_ms=0) for _ in range(2)]
    await furnish(one, {"tee": 1_000})
    await one.catalogue.put_channel("app", ChannelSpec())

    looks = 0
    look = Shard.policy_number

    async def counted(shard: Shard) -> tuple[str, int]:
        nonlocal looks
        looks += 1
        return await look(shard)

    monkeypatch.setattr(Shard, "policy_number", counted)
    asked = [other.engine.reserve(demand(channel="app")) for _ in range(500)]
    asked += [other.engine.reserve(demand(channel="none")) for _ in range(500)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(each) for each in answers[:500]} == {Receipt}
    assert {type(each) for each in answers[500:]} == {UnknownChannel}
    assert 0 < looks < 20  # one by one they would be a thousand


async def test_a_closed_channel_is_closed_to_all_at_once(
    store_url: str, store: Store, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers sell of a channel that is deleted again and again: open units keep it, and it
    sells on; the audit finds nothing that was taken while it was closed."""
    check, looked = Sweep.check, []

    async def only_closed(sweep: Sweep) -> None:
        """Sees the units only once it is closed, as if they had been taken in between."""
        if sweep in looked:
            await check(sweep)
        looked.append(sweep)

    pair = [await workers(store_url, staleness_ms=0) for _ in range(2)]
    await furnish(pair[0], {"tee": 1_000}, web=OPEN, store=ChannelSpec())
    keeper = await pair[0].engine.reserve(demand())
    done = asyncio.Event()
    ends: list[str] = []

    async def sell(service: Service) -> None:
        while not done.is_set():
            try:
                held = await service.engine.reserve(demand())
            except StockadeError as error:
                ends.append(error.code)
                await asyncio.sleep(0)
                continue
            await service.engine.release(held.id, Release())
            ends.append("granted")

    selling = [asyncio.create_task(sell(each)) for each in pair for _ in range(4)]
    monkeypatch.setattr(Sweep, "check", only_closed)
    for turn in range(10):
        with pytest.raises(StockadeError) as refused:
            await pair[turn % 2].catalogue.delete_channel("web")
        assert refused.value.code == "channel_in_use"
    done.set()
    await asyncio.gather(*selling)
    assert set(ends) == {"granted", "unknown_channel"}
    await pair[0].engine.release(keeper.id, Release())
    await pair[1].catalogue.delete_channel("web")
