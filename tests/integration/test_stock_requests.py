"""Many lines of stock, each on its own: what is refused, what is replayed, what is bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import (
    InvalidRequest,
    KeyReused,
    StockadeError,
    UnknownChannel,
    UnknownLocation,
    UnknownSku,
)
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock import StockResult
from core.stock_model import (
    Adjust,
    AdjustLine,
    Count,
    CountLine,
    Reallocate,
    ReallocateLine,
    Receive,
    ReceiveLine,
    Transfer,
    TransferLine,
)
from core.store import keys
from tests.stocking import adjust, count, held, reallocate, transfer
from tests.workers import Store, furnish, key, picture


@pytest.fixture
async def shop(worker: Service) -> Service:
    """Ten tees and five caps at ``main``, half of them web's; an ``annex`` that ``app`` sells."""
    await worker.catalogue.put_location("annex", LocationSpec())
    channels = {"web": ChannelSpec(floor_share=0.5), "app": ChannelSpec(locations=["annex"])}
    await furnish(worker, {"tee": 10, "cap": 5}, **channels)
    return worker


def codes(results: list[StockResult]) -> list[str]:
    """What became of lines, in a word each."""
    return [result.error.code if result.error else "done" for result in results]


async def test_each_line_is_on_its_own(shop: Service) -> None:
    """What is wrong with one stops none of the others, in any verb."""
    results = await shop.stock.adjust(
        Adjust([
            AdjustLine("tee", "main", -1), AdjustLine("none", "main", 1),
            AdjustLine("tee", "nowhere", 1), AdjustLine("cap", "main", -6),
            AdjustLine("a b", "main", 1), AdjustLine("tee", "Main", 1),
            AdjustLine("cap", "main", -5), AdjustLine("tee", "main", 1),
        ]),
        [None] * 8,
    )  # fmt: skip
    assert codes(results) == [
        "done", "unknown_sku", "unknown_location", "insufficient_stock", "validation_failed",
        "validation_failed", "done", "done",
    ]  # fmt: skip
    assert [r.pool.on_hand for r in results if r.pool] == [10, 0, 10]
    errors: list[Any] = [result.error for result in results]
    assert errors[1].lines == [{"sku": "none", "requested": 1, "available": 0}]
    assert [each.errors[0][0] for each in errors[4:6]] == ["/lines/4/sku", "/lines/5/location"]


@pytest.mark.parametrize(
    ("line", "error", "member"),
    [
        (TransferLine("tee", "main", "main", 1), InvalidRequest, "to_location"),
        (TransferLine("tee", "main", "Annex", 1), InvalidRequest, "to_location"),
        (TransferLine("tee", "m@in", "annex", 1), InvalidRequest, "from_location"),
        (TransferLine("tee", "main", "north", 1), UnknownLocation, ""),
        (TransferLine("tee", "north", "main", 1), UnknownLocation, ""),
        (TransferLine("sock", "main", "annex", 1), UnknownSku, ""),
        (ReallocateLine("tee", "main", "shared", "shared", 1), InvalidRequest, "to"),
        (ReallocateLine("tee", "main", "web", "web", "all"), InvalidRequest, "to"),
        (ReallocateLine("tee", "main", "nobody", "nobody", 1), InvalidRequest, "to"),
        (ReallocateLine("tee", "main", "shared", "deficit", 1), InvalidRequest, "to"),
        (ReallocateLine("tee", "main", "outside", "shared", 1), InvalidRequest, "from"),
        (ReallocateLine("tee", "main", "free:web", "shared", 1), InvalidRequest, "from"),
        (ReallocateLine("tee", "main", "reserved:web", "shared", 1), InvalidRequest, "from"),
        (ReallocateLine("tee", "main", "committed", "shared", "all"), InvalidRequest, "from"),
        (ReallocateLine("tee", "main", "shared", "committed:web", 1), InvalidRequest, "to"),
        (ReallocateLine("tee", "main", "shared", "nobody", 1), UnknownChannel, ""),
        (ReallocateLine("tee", "main", "nobody", "shared", 1), UnknownChannel, ""),
        (ReallocateLine("tee", "main", "shared", "app", 1), InvalidRequest, "to"),
        (ReallocateLine("tee", "north", "shared", "web", 1), UnknownLocation, ""),
    ],
)
async def test_names_that_do_not_fit(
    shop: Service, store: Store, line: Any, error: type[StockadeError], member: str
) -> None:
    """Nothing is written for them."""
    before = picture(store)
    if isinstance(line, TransferLine):
        results = await shop.stock.transfer(Transfer([line]), [key(1)])
    else:
        results = await shop.stock.reallocate(Reallocate([line]), [key(1)])
    found = results[0].error
    assert type(found) is error
    if isinstance(found, InvalidRequest):
        assert found.errors == [(f"/lines/0/{member}", found.detail)]
        promised = str(line).count("reserved") + str(line).count("committed")
        assert ("Only unsold units" in found.detail) == bool(promised)
    assert picture(store) == before


async def test_a_channel_gives_up_what_lies_where_it_no_longer_sells(shop: Service) -> None:
    await shop.catalogue.put_channel("web", ChannelSpec(locations=["annex"]))
    assert held(await reallocate(shop, "web", "shared", "all")) == {"shared": 10}
    with pytest.raises(InvalidRequest, match="web does not sell from main"):
        await reallocate(shop, "shared", "web", 1)


async def test_a_channel_that_is_being_deleted_is_given_nothing(shop: Service) -> None:
    """What it still has may be moved away."""
    await shop.catalogue._set_closed("web", True)
    with pytest.raises(UnknownChannel):
        await reallocate(shop, "shared", "web", 1)
    assert held(await adjust(shop, 2)) == {"free:web": 5, "shared": 7}
    assert held(await reallocate(shop, "web", "shared", "all")) == {"shared": 12}


async def test_a_channel_may_be_called_reserved(shop: Service) -> None:
    await shop.catalogue.put_channel("reserved", ChannelSpec())
    pool = await reallocate(shop, "shared", "reserved", 2)
    assert pool.channels["reserved"].free == 2


@pytest.mark.parametrize(
    ("call", "on_hand"),
    [
        (lambda shop, k: adjust(shop, 3, key=k), 13),
        (lambda shop, k: adjust(shop, -3, key=k), 7),
        (lambda shop, k: adjust(shop, 3, "damaged", key=k), 13),
        (lambda shop, k: count(shop, 4, key=k), 4),
        (lambda shop, k: count(shop, 10, key=k), 10),
        (lambda shop, k: transfer(shop, 4, key=k), 6),
        (lambda shop, k: reallocate(shop, "web", "shared", 4, key=k), 10),
        (lambda shop, k: reallocate(shop, None, None, None, by="policy", key=k), 10),
    ],
)
async def test_a_key_stands_for_what_was_done(
    store_url: str, workers: Any, shop: Service, store: Store, call: Any, on_hand: int
) -> None:
    """Once, at whichever worker; the answer is the pool as it is now; another body is refused."""
    await call(shop, key(1))
    before = store.hgetall(keys.POOLS), store.xlen(keys.EVENTS)
    other = await workers(store_url, reaper=False)
    for service in (shop, other):
        again = await call(service, key(1))
        pool = again[0] if isinstance(again, tuple) else again
        assert pool.on_hand == on_hand
        with pytest.raises(KeyReused):
            await call(service, key(1, "another"))
    assert (store.hgetall(keys.POOLS), store.xlen(keys.EVENTS)) == before
    await adjust(other, 1)
    again = await call(shop, key(1))
    assert (again[0] if isinstance(again, tuple) else again).on_hand == on_hand + 1


async def test_twins_under_way_are_one(shop: Service) -> None:
    """The same key twice in a batch: the second gets what the first did."""
    pools = await asyncio.gather(*(adjust(shop, 3, key=key(1)) for _ in range(5)))
    assert {pool.on_hand for pool in pools} == {13}
    results = await asyncio.gather(
        count(shop, 2, key=key(2)), count(shop, 3, key=key(2, "other")), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == ["Pool", "KeyReused"]


async def test_a_refused_line_keeps_no_key(shop: Service) -> None:
    """Nothing happened: with units there the same key does it."""
    with pytest.raises(StockadeError):
        await transfer(shop, 11, key=key(1))
    await adjust(shop, 1)
    assert (await transfer(shop, 11, key=key(1)))[1].on_hand == 11


async def test_lines_of_one_pool_are_done_in_their_order(shop: Service) -> None:
    """Each on what the one before leaves, also what rests on a version or a quantity."""
    (seen,) = (await shop.stock.read(["tee"]))[0].pools
    results = await shop.stock.count(
        Count([
            CountLine("tee", "main", 8, if_on_hand=10), CountLine("tee", "main", 6, if_on_hand=8),
            CountLine("tee", "main", 5, if_on_hand=8), CountLine("tee", "annex", 1),
            CountLine("cap", "main", 5),
            CountLine("tee", "annex", 3, if_on_hand=1, if_version=1),
            CountLine("tee", "main", 4, if_version=seen.version),
        ]),
        [None] * 7,
    )  # fmt: skip
    assert codes(results) == ["done", "done", "stale_version", "done", "done", "done",
                              "stale_version"]  # fmt: skip
    assert [r.pool.on_hand for r in results if r.pool] == [6, 6, 3, 5, 3]
    moved = await shop.stock.transfer(
        Transfer([
            TransferLine("tee", "main", "annex", 6), TransferLine("tee", "main", "annex", 1),
            TransferLine("tee", "annex", "main", 9),
        ]),
        [None] * 3,
    )  # fmt: skip
    assert codes(moved) == ["done", "done", "done"] or codes(moved)[1] == "insufficient_stock"
    assert sum(p.on_hand for p in (await shop.stock.read(["tee"]))[0].pools) == 9


async def test_what_cannot_be_held_is_refused(shop: Service) -> None:
    """An account ends at 2^53 − 1, in every verb."""
    await count(shop, 2**53 - 1)
    for account in ("sellable", "damaged"):
        with pytest.raises(InvalidRequest, match="more than 2\\^53") as refused:
            await adjust(shop, 1, account)
        assert refused.value.errors[0][0] == "/lines/0/delta"
    await adjust(shop, 1, location="annex")
    with pytest.raises(InvalidRequest) as refused:
        await transfer(shop, 1, source="annex", target="main")
    assert refused.value.errors[0][0] == "/lines/0/quantity"
    assert (await count(shop, 0)).on_hand == 0


async def test_a_thousand_transfers_are_two_scripts(shop: Service, store: Store) -> None:
    """Two thousand pools, half of them new: demands that come meanwhile find room beside them."""
    names = [f"sku-{number:04d}" for number in range(1_000)]
    for at in range(0, 1_000, 100):
        await asyncio.gather(*(
            shop.catalogue.put_sku(name, SkuSpec()) for name in names[at : at + 100]
        ))  # fmt: skip
    arrived = await shop.stock.receive(
        Receive([ReceiveLine(name, "main", 2) for name in names]), [None] * 1_000
    )
    assert {result.error for result in arrived} == {None}
    events = store.xlen(keys.EVENTS)
    moved = await shop.stock.transfer(
        Transfer([TransferLine(name, "main", "annex", 1) for name in names]), [None] * 1_000
    )
    assert {result.error for result in moved} == {None}
    assert {r.to_pool.on_hand for r in moved if r.to_pool} == {1}
    assert store.xlen(keys.EVENTS) == events + 2


async def test_a_pool_is_opened_once(store_url: str, workers: Any, shop: Service) -> None:
    """Also by many at once, at two workers."""
    other = await workers(store_url, reaper=False)
    calls = [service.stock.open_pool("tee", "annex") for service in (shop, other) * 5]
    await asyncio.gather(*calls)
    pools = (await other.stock.read(["tee"]))[0].pools
    assert [(pool.location, pool.on_hand) for pool in pools] == [("main", 10), ("annex", 0)]
    assert pools[1].version == 1
    with pytest.raises(UnknownSku):
        await shop.stock.open_pool("sock", "annex")
    with pytest.raises(UnknownLocation):
        await shop.stock.open_pool("tee", "north")


async def test_what_was_said_stands_with_its_movements(shop: Service, store: Store) -> None:
    """Reference, reason and time of the request are words of each movement."""
    request = Adjust([AdjustLine("cap", "main", -1)], reference="truck 7", reason="a=b c")
    await shop.stock.adjust(request, [None])
    (_, fields), *_ = store.xrevrange(keys.EVENTS, count=1)
    assert fields[b"m"] == b"adjust cap@main shared outside 1 truck%207 a=b%20c -"
