"""A channel goes: closed, then out of all pools, then out of the policy; or it stays whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core import channels
from core.errors import (
    ChannelInUse,
    Expired,
    InsufficientStock,
    InvalidState,
    StaleVersion,
    StockUnavailable,
    UnknownChannel,
)
from core.model import Available, Cancel, Commit, Extend, Fulfil, Release, Return, ReturnLine
from core.policy_model import ChannelSpec, LocationSpec, SkuChannel, SkuSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys, scripts
from core.store.shard import Shard
from tests.workers import Store, Workers, demand, furnish, key, make_due, picture, receive, row

SPLIT = {
    "web": ChannelSpec(floor_share=0.7, borrow=False, ceiling_units=100),
    "store": ChannelSpec(floor_share=0.3),
}


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store; every refusal asks."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    return one, await workers(store_url, reaper=False, staleness_ms=0)


def named(store: Store, channel: str) -> list[bytes]:
    """Pools whose rows name the channel."""
    rows = store.hgetall(keys.POOLS)
    return sorted(pool for pool, text in rows.items() if b" %s@" % channel.encode() in text)


async def test_what_is_left_of_its_quota_becomes_shared(worker: Service, store: Store) -> None:
    await worker.catalogue.put_location("annex", LocationSpec())
    places = SPLIT | {"web": ChannelSpec(floor_share=0.7, locations=["main", "annex"])}
    await furnish(worker, {"tee": 10, "cap": 7, "hat": 0}, **places)
    await worker.stock.receive(Receive([ReceiveLine("hat", "annex", 10)]), [None])
    assert named(store, "web") == [b"cap@main", b"hat@annex", b"tee@main"]
    await worker.catalogue.delete_channel("web")
    assert named(store, "web") == []
    tee, hat = await worker.stock.read(["tee", "hat"])
    assert tee.available == {"store": 10}
    assert (tee.pools[0].shared, tee.pools[0].channels["store"].free) == (7, 3)
    assert (hat.pools[0].shared, hat.available) == (10, {"store": 0})
    assert [channel.name for channel in await worker.catalogue.channels()] == ["store"]
    for gone in (
        worker.catalogue.channel("web"), worker.catalogue.delete_channel("web"),
        worker.engine.reserve(demand()), worker.stock.availability("web", ["tee"]),
        worker.stock.read(["tee"], "web"),
    ):  # fmt: skip
        with pytest.raises(UnknownChannel):
            await gone
    await worker.engine.reserve(demand("tee", 10, "store"))
    await receive(worker, {"tee": 10, "cap": 10})  # its floor is nobody's now
    assert (await worker.stock.read(["tee"]))[0].pools[0].channels.keys() == {"store"}
    assert named(store, "web") == []


async def test_a_channel_of_that_name_begins_anew(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 10}, **SPLIT)
    held = await worker.engine.reserve(demand(quantity=3))
    await worker.engine.release(held.id, Release())
    await worker.catalogue.delete_channel("web")
    put = await worker.catalogue.put_channel("web", ChannelSpec())
    assert (put.created, put.value.version) == (True, 1)
    assert (await worker.stock.availability("web", ["tee"])).items == [Available("tee", 7)]
    await worker.engine.reserve(demand(quantity=7))


async def test_old_orders_give_nothing_to_the_ceiling_of_a_new_one(worker: Service) -> None:
    """What was sold under the deleted channel's ceiling comes back, and its allowance does not."""
    capped = ChannelSpec(ceiling_units=5)
    await furnish(worker, {"tee": 20}, web=capped)
    sold = await worker.engine.reserve(demand(quantity=5, state="fulfilled"))
    await worker.catalogue.delete_channel("web")
    await worker.catalogue.put_channel("web", capped)
    await worker.engine.reserve(demand())
    await worker.engine.return_(sold.id, Return([ReturnLine("tee", 5)]), key("back"))
    with pytest.raises(InsufficientStock) as refused:
        await worker.engine.reserve(demand(quantity=5))
    assert refused.value.lines[0]["available"] == 4
    await worker.engine.reserve(demand(quantity=4))


@pytest.mark.parametrize("verb", ["reserve", "commit"])
async def test_open_units_keep_it_and_nothing_was_moved(
    worker: Service, store: Store, verb: str
) -> None:
    """409 says where; the channel is open again and whole."""
    await furnish(worker, {"cap": 10, "tee": 10}, **SPLIT)
    held = await worker.engine.reserve(demand(quantity=2))
    if verb == "commit":
        await worker.engine.commit(held.id, Commit())
    rows = store.hgetall(keys.POOLS)
    before = await worker.catalogue.channel("web")
    with pytest.raises(ChannelInUse) as refused:
        await worker.catalogue.delete_channel("web")
    assert refused.value.lines == [
        {"sku": "tee", "location": "main", "requested": 2, "available": 0}
    ]
    assert "2 in tee at main" in str(refused.value)
    assert store.hgetall(keys.POOLS) == rows
    after = await worker.catalogue.channel("web")
    assert after.spec == before.spec
    assert (await worker.engine.reserve(demand("cap", 7))).version == 1
    assert (await worker.stock.read(["cap"]))[0].available["web"] == 0


async def test_what_is_due_keeps_no_channel(worker: Service, store: Store) -> None:
    """An unpaid basket past its deadline is expired first, though no reaper runs."""
    await furnish(worker, {"tee": 10}, **SPLIT)
    held = await worker.engine.reserve(demand(quantity=2))
    make_due(store, held.id)
    await worker.catalogue.delete_channel("web")
    assert (await worker.engine.reservation(held.id)).reservation().state == "expired"
    assert row(store, "tee@main").split(" ")[3].startswith("7,")


async def test_what_ended_stays_readable_and_gets_nothing(worker: Service, store: Store) -> None:
    """Records of the channel keep their answers; no verb brings it back into a pool."""
    await furnish(worker, {"tee": 10}, **SPLIT)
    ids = {}
    for name in ("released", "expired", "cancelled", "fulfilled"):
        ids[name] = (await worker.engine.reserve(demand())).id
    await worker.engine.release(ids["released"], Release())
    make_due(store, ids["expired"])
    for name in ("cancelled", "fulfilled"):
        await worker.engine.commit(ids[name], Commit())
    await worker.engine.cancel(ids["cancelled"], Cancel())
    await worker.engine.fulfil(ids["fulfilled"], Fulfil())
    await worker.catalogue.delete_channel("web")
    for state, id in ids.items():
        assert (await worker.engine.reservation(id)).reservation().state == state
    with pytest.raises(Expired, match="give the money back"):
        await worker.engine.commit(ids["expired"], Commit())
    with pytest.raises(Expired, match="give the money back"):
        await worker.engine.commit(ids["released"], Commit(late="reacquire"))
    for state, id in ids.items():
        with pytest.raises(InvalidState) as refused:
            await worker.engine.extend(id, Extend(60))
        assert refused.value.state == state
    done = await worker.engine.fulfil(ids["fulfilled"], Fulfil())
    assert done.reservation().state == "fulfilled"
    assert (await worker.engine.cancel(ids["cancelled"], Cancel())).version
    assert (await worker.engine.release(ids["released"], Release())).version
    assert named(store, "web") == []


async def test_what_came_back_from_a_deleted_channel_is_sold_again(
    worker: Service, store: Store
) -> None:
    await furnish(worker, {"tee": 10}, **SPLIT)
    held = await worker.engine.reserve(demand(quantity=2))
    await worker.engine.commit(held.id, Commit())
    await worker.engine.fulfil(held.id, Fulfil())
    await worker.catalogue.delete_channel("web")
    lines = [ReturnLine("tee", 1, disposition="restock")]
    back = await worker.engine.return_(held.id, Return(lines), key("back"))
    assert back.reservation().lines[0].returned == 1
    assert named(store, "web") == []
    assert (await worker.stock.read(["tee"]))[0].available == {"store": 9}


async def test_only_a_version_that_was_seen_is_deleted(worker: Service) -> None:
    await furnish(worker, {"tee": 1}, **SPLIT)
    version = (await worker.catalogue.put_channel("web", ChannelSpec())).value.version
    with pytest.raises(StaleVersion):
        await worker.catalogue.delete_channel("web", version - 1)
    assert not (await worker.catalogue.channel("web")).spec.closed
    await worker.catalogue.delete_channel("web", version)
    with pytest.raises(UnknownChannel):
        await worker.catalogue.delete_channel("web", version)


async def test_a_sku_keeps_its_own_floors_for_it_without_effect(
    worker: Service, store: Store
) -> None:
    """Deleting a channel changes no SKU's policy, and such a policy may be put again."""
    own = SkuSpec(channels={"web": SkuChannel(floor_units=5, ceiling_units=9)})
    await furnish(worker, {"tee": 0}, **SPLIT)
    await worker.catalogue.put_sku("tee", own)
    await receive(worker, {"tee": 10})
    await worker.catalogue.delete_channel("web")
    view = await worker.catalogue.sku("tee")
    assert view.channels == own.channels
    again = SkuSpec(safety_stock=1, channels=view.channels)
    assert (await worker.catalogue.put_sku("tee", again)).value.safety_stock == 1
    with pytest.raises(Exception, match="no such channel"):
        await worker.catalogue.put_sku("cap", own)
    await receive(worker, {"tee": 10})
    (pool,) = (await worker.stock.read(["tee"]))[0].pools
    assert (pool.shared, pool.safety, pool.channels["store"].free) == (19, 1, 0)
    assert named(store, "web") == []


async def test_a_put_while_it_sweeps_wins(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is opened meanwhile, and may have units again in what was swept, is not removed."""
    one, other = pair
    await furnish(one, {f"s{number}": 10 for number in range(4)}, **SPLIT)
    monkeypatch.setattr(channels, "ROWS_A_SCRIPT", 1)
    run = Shard.run
    drops = 0

    async def opened(shard: Shard, chosen: scripts.Script, names: Any, args: Any) -> Any:
        nonlocal drops
        drops += chosen is scripts.DROP
        if drops == 3 and chosen is scripts.DROP:
            await other.catalogue.put_channel("web", SPLIT["web"])
            await receive(other, {"s0": 10})
        return await run(shard, chosen, names, args)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "run", opened)
        with pytest.raises(ChannelInUse, match="opened again"):
            await one.catalogue.delete_channel("web")
    assert not (await one.catalogue.channel("web")).spec.closed
    await one.engine.reserve(demand("s0", 7))
    await one.engine.reserve(demand("s3", 7))


async def test_a_row_that_cannot_be_read_leaves_it_open(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 10}, **SPLIT)
    corrupt = row(store, "tee@main").replace("web@7", "web@x")
    good = row(store, "tee@main")
    store.hset(keys.POOLS, "tee@main", corrupt)
    with pytest.raises(StockUnavailable):
        await worker.catalogue.delete_channel("web")
    store.hset(keys.POOLS, "tee@main", good)
    assert not (await worker.catalogue.channel("web")).spec.closed
    await worker.catalogue.delete_channel("web")
    assert named(store, "web") == []


# --- while others sell ---------------------------------------------------------------------------


async def test_while_others_sell_it_goes_all_the_same(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that change all the time are met one by one; nobody's units are lost."""
    one, other = pair
    monkeypatch.setattr(channels, "SKUS_A_TURN", 7)
    skus = [f"s{number:02d}" for number in range(40)]
    await furnish(one, dict.fromkeys(skus, 400), **SPLIT)
    sold = 0
    done = asyncio.Event()

    async def sell(service: Service, start: int) -> None:
        nonlocal sold
        number = start
        while not done.is_set():
            number += 1
            held = await service.engine.reserve(demand(skus[number % 40], 1, "store"))
            if number % 3:
                await service.engine.release(held.id, Release())
            else:
                sold += 1

    selling = [asyncio.create_task(sell(each, 11 * n)) for n in range(4) for each in pair]
    await other.catalogue.delete_channel("web")
    assert named(store, "web") == []
    done.set()
    await asyncio.gather(*selling)
    found = await one.stock.read(skus)
    assert sum(each.available["store"] for each in found) == 40 * 400 - sold


async def test_two_at_once_agree(pair: tuple[Service, Service], store: Store) -> None:
    one, other = pair
    await furnish(one, {f"s{number}": 10 for number in range(30)}, **SPLIT)
    results = await asyncio.gather(
        one.catalogue.delete_channel("web"), other.catalogue.delete_channel("web"),
        return_exceptions=True,
    )  # fmt: skip
    assert all(each is None or isinstance(each, UnknownChannel) for each in results)
    assert None in results
    assert named(store, "web") == []


async def test_others_may_change_the_policy_meanwhile(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep goes on with the new one, from where it was."""
    one, other = pair
    monkeypatch.setattr(channels, "SKUS_A_TURN", 4)
    await furnish(one, {f"s{number}": 10 for number in range(24)}, **SPLIT)
    run = Shard.run
    drops = 0

    async def changed(shard: Shard, chosen: scripts.Script, names: Any, args: Any) -> Any:
        nonlocal drops
        drops += chosen is scripts.DROP
        if chosen is scripts.DROP and drops in (2, 4):
            spec = ChannelSpec(floor_share=0.1, ttl_seconds=drops)
            await other.catalogue.put_channel("store", spec)
        return await run(shard, chosen, names, args)

    monkeypatch.setattr(Shard, "run", changed)
    await one.catalogue.delete_channel("web")
    assert named(store, "web") == []
    assert drops == 6 + 2


async def test_an_unused_channel_writes_no_rows(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 10}, web=ChannelSpec(), idle=ChannelSpec(locations=["main"]))
    await worker.engine.reserve(demand())
    before = picture(store)[keys.POOLS]
    await worker.catalogue.delete_channel("idle")
    assert picture(store)[keys.POOLS] == before
