"""What was sold elsewhere already: committed or fulfilled at once, refused or recorded short."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import InsufficientStock, InvalidRequest, UnknownLocation, UnknownSku
from core.model import Amend, AmendLine, Cancel, Commit, Fulfil, Key, Line, PartLine, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.store import keys
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    picture,
    receive,
    record,
    row,
)


def sold(quantity: int = 1, state: Any = "committed", channel: str = "web", **line: Any) -> Reserve:
    """A sale that is recorded, come what may."""
    return Reserve(channel, [Line("tee", quantity, **line)], state=state, shortage="record")


async def pool(service: Service, location: str = "main") -> Any:
    pools = (await service.stock.read(["tee"]))[0].pools
    return next(each for each in pools if each.location == location)


async def test_a_sale_that_is_paid_has_no_deadline(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 5}, web=ChannelSpec(floor_share=0.4))
    receipt = await worker.engine.reserve(demand(quantity=3, state="committed"))
    now = receipt.reservation()
    assert (now.state, now.version, now.expires_at) == ("committed", 1, None)
    assert now.committed_at == now.created_at == now.updated_at
    assert await accounts(worker) == (0, 0, 3, 2, 5)
    assert not list(store.scan_iter("{s0}:due:*"))
    with pytest.raises(InsufficientStock) as caught:  # a decision, not a fact
        await worker.engine.reserve(demand(quantity=3, state="committed"))
    assert caught.value.lines[0]["available"] == 2
    part = await worker.engine.reserve(demand(quantity=3, state="committed", partial=True))
    assert part.reservation().lines[0].quantity == 2
    await worker.engine.cancel(receipt.id, Cancel([PartLine("tee", 2)]), key("c"))
    assert await accounts(worker) == (1, 0, 3, 1, 5)


async def test_a_sale_that_is_handed_over_leaves_at_once(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 5}, web=ChannelSpec(floor_share=0.4))
    receipt = await worker.engine.reserve(demand(quantity=3, state="fulfilled"), key("k"))
    now = receipt.reservation()
    assert (now.state, now.lines[0].fulfilled, now.expires_at) == ("fulfilled", 3, None)
    assert (now.lines[0].own, now.lines[0].borrowed) == (2, 1)
    assert await accounts(worker) == (0, 0, 0, 2, 2)
    assert store.lrange(worker.lane.done_list, 0, -1) == [receipt.id.encode()]
    again = await worker.engine.reserve(demand(quantity=3, state="fulfilled"), key("k"))
    assert (again.id, again.replayed) == (receipt.id, True)
    assert (await worker.engine.fulfil(receipt.id, Fulfil())).version == 1


async def test_a_recorded_sale_takes_what_it_must(worker: Service) -> None:
    """Own, shared, safety, the others' quotas; what is missing is a deficit, paid by a receipt."""
    walls = {"web": ChannelSpec(borrow=False, floor_share=0.3), "app": ChannelSpec(floor_share=0.2)}
    await furnish(worker, {"tee": 0}, **walls)
    await worker.catalogue.put_sku("tee", SkuSpec(safety_stock=2))
    await receive(worker, {"tee": 12})
    receipt = await worker.engine.reserve(sold(15))
    line = receipt.reservation().lines[0]
    assert (line.quantity, line.own, line.borrowed, line.short) == (15, 3, 12, 3)
    now = await pool(worker)
    assert (now.deficit, now.safety, now.shared, now.on_hand) == (3, 0, 0, 12)
    assert now.channels["app"].free == 0
    with pytest.raises(InsufficientStock):
        await worker.engine.reserve(demand())
    await receive(worker, {"tee": 2})
    assert (await pool(worker)).deficit == 1
    await worker.engine.cancel(receipt.id, Cancel([PartLine("tee", 4)]), key("c"))
    now = await pool(worker)
    assert (now.deficit, now.shared, now.channels["web"].committed) == (0, 3, 11)


async def test_units_that_were_not_there_are_handed_over(worker: Service) -> None:
    """They were there after all: the deficit closes as they leave."""
    await furnish(worker, {"tee": 1})
    receipt = await worker.engine.reserve(sold(3, "fulfilled"))
    now = await pool(worker)
    assert (now.on_hand, now.deficit) == (0, 0)
    line = receipt.reservation().lines[0]
    assert (line.fulfilled, line.short) == (3, 2)
    assert b'"short":2' in receipt.encode()
    whole = await worker.engine.reserve(sold(1, "committed"))
    assert (await pool(worker)).deficit == 1
    await worker.engine.fulfil(whole.id, Fulfil())
    assert (await pool(worker)).deficit == 0


async def test_a_sale_is_recorded_where_nothing_ever_lay(worker: Service, store: Store) -> None:
    """The pool is opened: where it is pinned, or at the channel's first location."""
    for name in ("north", "south"):
        await worker.catalogue.put_location(name, LocationSpec())
    await furnish(worker, {"tee": 0}, web=ChannelSpec(locations=["north", "south"]))
    first = await worker.engine.reserve(sold(2))
    assert [(x.location, x.short) for x in first.reservation().lines] == [("north", 2)]
    await worker.engine.reserve(sold(1, location="south"))
    assert (await pool(worker, "south")).deficit == 1
    assert row(store, "tee@north").split(" ")[3] == "0,0,0,0,2,0"
    before = picture(store)
    with pytest.raises(UnknownLocation):
        await worker.engine.reserve(sold(1, location="moon"))
    hat = Reserve("web", [Line("hat", 1)], state="committed", shortage="record")
    with pytest.raises(UnknownSku):
        await worker.engine.reserve(hat)
    assert picture(store) == before


@pytest.mark.parametrize(
    ("members", "pointer"),
    [
        ({"shortage": "record"}, "/shortage"),
        ({"state": "committed", "ttl_seconds": 9}, "/ttl_seconds"),
        ({"state": "fulfilled", "shortage": "record", "ttl_seconds": 9}, "/ttl_seconds"),
    ],
)
async def test_what_cannot_be_a_fact(
    worker: Service, members: dict[str, Any], pointer: str
) -> None:
    await furnish(worker, {"tee": 5})
    with pytest.raises(InvalidRequest) as caught:
        await worker.engine.reserve(demand(**members))
    assert caught.value.errors[0][0] == pointer


async def test_facts_and_demands_in_one_batch(worker: Service, store: Store) -> None:
    """Some in one script, some whose pools must be opened first; each has its own answer."""
    await furnish(worker, {"tee": 4})
    await worker.catalogue.put_sku("cap", SkuSpec())
    cap = Reserve("web", [Line("cap", 1)], state="fulfilled", shortage="record")
    requests = [demand(quantity=2), sold(3), demand(quantity=1, state="fulfilled"), cap]
    keyed: list[Key | None] = [key(n) for n in range(4)]
    results = await worker.engine.reserve_batch(requests, keyed)
    states = [each.reservation().state for each in results if isinstance(each, Receipt)]
    short = [each for each in results if isinstance(each, InsufficientStock)]
    assert len(states) + len(short) == 4
    assert {"committed", "fulfilled"} <= set(states)
    dated = [each for each in results if isinstance(each, Receipt) and each.record[:1] == b"R"]
    for each in dated:
        second = int(each.record.split(b" ")[3]) // 1000
        assert each.id.encode() in b" ".join(store.lrange(keys.due_at(second), 0, -1))
    again = await worker.engine.reserve_batch(requests, keyed)
    assert [each.id for each in again if isinstance(each, Receipt) and each.replayed] == [
        each.id for each in results if isinstance(each, Receipt)
    ]


async def test_two_workers_record_sales_of_the_same_units(
    store_url: str, store: Store, workers: Workers
) -> None:
    """A promotion and a marketplace at once: every fact stands, no demand is oversold."""
    one, other = await workers(store_url), await workers(store_url)
    await furnish(one, {"tee": 30}, web=ChannelSpec(floor_share=0.5), app=ChannelSpec())
    calls: list[Any] = []
    for n in range(12):
        calls.append(one.engine.reserve(demand(quantity=2)))
        calls.append(other.engine.reserve(sold(2, ("committed", "fulfilled")[n % 2], "app")))
        calls.append(other.engine.reserve(demand(quantity=1, channel="app")))
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    facts = results[1::3]
    assert all(isinstance(each, Receipt) for each in facts), facts
    assert all(isinstance(each, Receipt | InsufficientStock) for each in results)
    assert {record(store, each.id)[0] for each in facts} == {"C", "F"}


async def test_a_recorded_sale_is_amended(worker: Service) -> None:
    """What was short stays missing, as far as it is still in the basket."""
    await furnish(worker, {"tee": 2})
    id = (await worker.engine.reserve(sold(5))).id
    now = await worker.engine.amend(id, Amend([AmendLine("tee", 4)]))
    assert now.reservation().lines[0].quantity == 4
    assert now.reservation().lines[0].short == 3
    assert ((await pool(worker)).deficit, (await pool(worker)).on_hand) == (2, 2)
    with pytest.raises(InsufficientStock):
        await worker.engine.amend(id, Amend([AmendLine("tee", 5)]))
    now = await worker.engine.amend(id, Amend([AmendLine("tee", 2)]))
    assert now.reservation().lines[0].short == 2
    await worker.engine.commit(id, Commit())
    await worker.engine.cancel(id, Cancel())
    assert await accounts(worker) == (0, 0, 0, 2, 2)


async def test_what_a_ceiling_still_allowed_comes_back_to_it(worker: Service, store: Store) -> None:
    """A sale past the ceiling is two lines: what was spent of it, and what it did not reach."""
    await furnish(worker, {"tee": 20}, web=ChannelSpec(ceiling_units=5))
    receipt = await worker.engine.reserve(sold(6))
    assert record(store, receipt.id).endswith(" tee@main@0,5,0,0,0,1 tee@main@0,1")
    with pytest.raises(InsufficientStock) as caught:
        await worker.engine.reserve(demand())
    assert caught.value.lines[0]["limited_by"] == "channel_ceiling"
    await worker.engine.cancel(receipt.id, Cancel([PartLine("tee", 2)]), key(1))
    assert (await pool(worker)).channels["web"].ceiling_left == 2
    await worker.engine.cancel(receipt.id, Cancel())
    assert (await pool(worker)).channels["web"].ceiling_left == 5
    await worker.engine.reserve(demand(quantity=5))


async def test_a_repeat_opens_no_pool_where_the_channel_sells_by_now(
    worker: Service, store: Store
) -> None:
    await worker.catalogue.put_location("annex", LocationSpec())
    await worker.catalogue.put_channel("web", ChannelSpec(locations=["annex"]))
    await worker.catalogue.put_sku("cap", SkuSpec())
    sale = Reserve("web", [Line("cap", 1)], state="committed", shortage="record")
    first = await worker.engine.reserve(sale, key("sale"))
    await worker.catalogue.put_channel("web", ChannelSpec(locations=["main"]))
    before = picture(store)
    again = await worker.engine.reserve(sale, key("sale"))
    assert (again.id, again.replayed) == (first.id, True)
    assert picture(store) == before
