"""Races with one right end, each driven to the place where it is decided.

``test_machine`` meets them by chance; here each is made to happen, told from the lane's counts, and
the store is audited afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.errors import (
    Expired,
    InsufficientStock,
    InvalidQuantity,
    InvalidState,
    KeyReused,
    StockadeError,
)
from core.model import (
    Amend,
    AmendLine,
    Available,
    Cancel,
    Commit,
    Fulfil,
    Key,
    Line,
    PartLine,
    Release,
    Reserve,
)
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuChannel, SkuSpec
from core.service import Service
from core.stock_model import Count, CountLine, Receive, ReceiveLine
from tests.counted import counted
from tests.shop import Shop, key_of


@pytest.fixture
async def shop(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """Two engines on an empty store that do nothing and refuse nothing unasked; audited."""
    monkeypatch.setattr("core.protecting.TURN_SECONDS", 3_600.0)
    async with Shop(store_url, tmp_path) as opened:
        await opened.open(2)
        await opened.stop_reapers()
        yield opened
        await opened.audit()


async def furnish(shop: Shop, units: int, spec: ChannelSpec | None = None) -> None:
    """Channel ``web``, and ``units`` of ``tee`` in ``main``; both engines have seen the pool."""
    first, second = shop.services
    await first.catalogue.put_channel("web", spec or ChannelSpec())
    await first.catalogue.put_sku("tee", SkuSpec())
    if units:
        await receive(first, units)
    for service in (first, second):
        with pytest.raises(InsufficientStock):
            await service.engine.reserve(demand(units + 1))


async def receive(service: Service, units: int, location: str = "main") -> None:
    """Units of ``tee`` arrive."""
    lines = [ReceiveLine("tee", location, units)]
    (result,) = await service.stock.receive(Receive(lines), [None])
    assert result.error is None


def demand(quantity: int = 1, channel: str = "web", **more: Any) -> Reserve:
    """A demand of ``tee``."""
    return Reserve(channel, [Line("tee", quantity)], **more)


def counts(shop: Shop) -> Counter[str]:
    """What the lanes of all engines have seen."""
    return counted(*shop.services)


def codes(results: Sequence[Any]) -> Counter[str]:
    """How many callers were told what."""
    for result in results:
        assert not isinstance(result, BaseException) or isinstance(result, StockadeError), result
    return Counter(r.code if isinstance(r, StockadeError) else "done" for r in results)


async def test_the_last_unit_has_one_buyer_and_the_loser_replans(shop: Shop) -> None:
    await furnish(shop, 1)
    results = await shop.all([s.engine.reserve(demand()) for s in shop.services])
    assert codes(results) == {"done": 1, "insufficient_stock": 1}
    assert counts(shop)["reserve:conflict"] == 1


async def test_what_fits_on_the_changed_row_is_rebased(shop: Shop) -> None:
    await furnish(shop, 10)
    results = await shop.all([s.engine.reserve(demand()) for s in shop.services])
    assert codes(results) == {"done": 2}
    assert counts(shop)["reserve:applied"] == counts(shop)["reserve:rebased"] == 1
    assert counts(shop)["reserve:conflict"] == 0


async def test_a_ceiling_is_not_passed_by_a_rebase(shop: Shop) -> None:
    await furnish(shop, 10, ChannelSpec(ceiling_units=3))
    results = await shop.all([s.engine.reserve(demand(2)) for s in shop.services])
    assert codes(results) == {"done": 1, "insufficient_stock": 1}
    refusal = next(r for r in results if isinstance(r, InsufficientStock))
    assert refusal.lines[0]["limited_by"] == "channel_ceiling"
    assert refusal.lines[0]["available"] == 1


async def test_a_channel_that_another_engine_changed_is_planned_as_it_is(shop: Shop) -> None:
    await furnish(shop, 10)
    first, second = shop.services
    await first.catalogue.put_channel("web", ChannelSpec(borrow=False))
    with pytest.raises(InsufficientStock) as refused:
        await second.engine.reserve(demand())
    assert refused.value.lines[0]["limited_by"] == "channel_quota"
    assert counts(shop)["reserve:policy"] == 1


async def test_a_receipt_is_allotted_by_the_policy_of_that_moment(shop: Shop) -> None:
    await furnish(shop, 0)
    first, second = shop.services
    await receive(second, 1)
    await first.catalogue.put_channel("web", ChannelSpec(floor_share=1.0))
    await receive(second, 10)
    (stock,) = await second.stock.read(["tee"])
    assert stock.pools[0].channels["web"].free == 10


async def test_a_receipt_is_allotted_by_the_sku_of_that_moment(shop: Shop) -> None:
    await furnish(shop, 1)
    first, second = shop.services
    await first.catalogue.put_sku("tee", SkuSpec(channels={"web": SkuChannel(floor_share=1.0)}))
    await receive(second, 10)
    (stock,) = await second.stock.read(["tee"])
    assert stock.pools[0].channels["web"].free == 10
    assert counts(shop)["stock:conflict"] == 1


async def test_a_sku_that_was_changed_twice_elsewhere_does_not_hold_up_a_receipt(
    shop: Shop,
) -> None:
    await furnish(shop, 10)
    first, second = shop.services
    for safety in (1, 2):
        await first.catalogue.put_sku("tee", SkuSpec(safety))
    await receive(second, 1)
    assert codes([await second.engine.reserve(demand(9))]) == {"done": 1}


async def test_a_sku_may_name_what_another_engine_has_just_made(shop: Shop) -> None:
    await furnish(shop, 1)
    first, second = shop.services
    await first.catalogue.put_location("north", LocationSpec())
    await second.catalogue.put_sku("tee", SkuSpec(safety_by_location={"north": 1}))
    await first.catalogue.put_channel("store", ChannelSpec())
    await receive(first, 1)  # its row has met a policy that the other engine does not know
    await second.catalogue.put_sku("tee", SkuSpec())
    assert (await first.catalogue.sku("tee")).safety_by_location == {}
    assert (await first.stock.availability("web", ["tee"])).items == [Available("tee", 2)]


async def test_one_key_at_two_engines_is_one_reservation(shop: Shop) -> None:
    await furnish(shop, 10)
    key = key_of(1)
    results = await shop.all([s.engine.reserve(demand(), key) for s in shop.services])
    assert codes(results) == {"done": 2}
    assert len({result.id for result in results}) == 1
    assert sorted(result.replayed for result in results) == [False, True]
    assert counts(shop)["reserve:known"] == 1
    with pytest.raises(KeyReused):
        await shop.services[0].engine.reserve(demand(2), Key(key.field, b"x" * 22))


async def test_one_key_twice_at_one_engine_is_refused_twice(shop: Shop) -> None:
    await furnish(shop, 1)
    first = shop.services[0]
    results = await shop.all([first.engine.reserve(demand(2), key_of(1)) for _ in range(3)])
    assert codes(results) == {"insufficient_stock": 3}


async def test_a_late_commit_wins_what_is_there(shop: Shop) -> None:
    await furnish(shop, 1)
    first, second = shop.services
    held = await first.engine.reserve(demand())
    assert await shop.pass_deadline(held.id)
    paid = await second.engine.commit(held.id, Commit())
    assert paid.reacquired
    assert paid.reservation().state == "committed"


async def test_a_late_commit_loses_what_is_gone(shop: Shop) -> None:
    await furnish(shop, 1)
    first, second = shop.services
    held = await first.engine.reserve(demand())
    assert await shop.pass_deadline(held.id)
    assert codes([await second.engine.reserve(demand())]) == {"done": 1}
    with pytest.raises(Expired) as lost:
        await first.engine.commit(held.id, Commit())
    assert lost.value.lines[0]["available"] == 0


@pytest.mark.parametrize("units", [2, 5])
@pytest.mark.parametrize("same_engine", [True, False])
async def test_two_late_commits_take_the_units_once(
    shop: Shop, same_engine: bool, units: int
) -> None:
    """And both are told that it is paid, also when nothing is left for the second to take."""
    await furnish(shop, units)
    first, second = shop.services
    held = await first.engine.reserve(demand(2))
    assert await shop.pass_deadline(held.id)
    payers = [first, first if same_engine else second]
    results = await shop.all([s.engine.commit(held.id, Commit()) for s in payers])
    assert codes(results) == {"done": 2}
    (stock,) = await first.stock.read(["tee"])
    assert (stock.pools[0].channels["web"].committed, stock.pools[0].shared) == (2, units - 2)


@pytest.mark.parametrize("round", range(4))
async def test_payer_reaper_and_rival_agree_who_has_the_unit(shop: Shop, round: int) -> None:
    await furnish(shop, 1)
    first, second = shop.services
    held = await first.engine.reserve(demand())
    assert await shop.pass_deadline(held.id)
    works = [
        first.engine.commit(held.id, Commit()),
        second.lane.tidy(),
        second.engine.reserve(demand()),
        first.engine.reserve(demand()),
    ]
    results = await shop.all(works[round:] + works[:round])
    told = Counter(codes([result for result in results if result is not None]))
    assert told["done"] == 1, told
    (stock,) = await first.stock.read(["tee"])
    web = stock.pools[0].channels["web"]
    assert (web.reserved + web.committed, stock.pools[0].shared) == (1, 0)


async def test_of_racing_verbs_one_wins_and_all_agree(shop: Shop) -> None:
    await furnish(shop, 3)
    first, second = shop.services
    held = await first.engine.reserve(demand(3))
    results = await shop.all([
        first.engine.commit(held.id, Commit()), second.engine.release(held.id, Release()),
        second.engine.commit(held.id, Commit()), first.engine.release(held.id, Release()),
    ])  # fmt: skip
    assert codes(results) == {"done": 2, "invalid_state": 2}
    state = (await first.engine.reservation(held.id)).reservation().state
    ended = {"committed": (0, 2), "released": (1, 3)}[state]
    assert all(isinstance(results[index], Receipt) for index in ended)


async def test_shipping_and_cancelling_share_out_what_is_open(shop: Shop) -> None:
    await furnish(shop, 9)
    first, second = shop.services
    held = await first.engine.reserve(demand(9))
    await first.engine.commit(held.id, Commit())
    await shop.all([
        first.engine.fulfil(held.id, Fulfil(), key_of(1)),
        second.engine.cancel(held.id, Cancel(), key_of(2)),
    ])  # fmt: skip
    line = (await first.engine.reservation(held.id)).reservation().lines[0]
    assert sorted((line.fulfilled, line.cancelled)) == [0, 9]


@pytest.mark.parametrize("round", range(4))
async def test_cancelling_one_races_shipping_three(shop: Shop, round: int) -> None:
    """One of them wins, and the other is told what is left."""
    await furnish(shop, 3)
    first, second = shop.services
    held = await first.engine.reserve(demand(3))
    await first.engine.commit(held.id, Commit())
    works = [
        first.engine.cancel(held.id, Cancel([PartLine("tee", 1)]), key_of(1)),
        second.engine.fulfil(held.id, Fulfil([PartLine("tee", 3)]), key_of(2)),
    ]
    results = await shop.all(works if round % 2 else works[::-1])
    (line,) = (await first.engine.reservation(held.id)).reservation().lines
    (refusal,) = [result for result in results if isinstance(result, StockadeError)]
    if line.fulfilled:
        assert (line.fulfilled, line.cancelled) == (3, 0)
        assert isinstance(refusal, InvalidState)
        assert refusal.state == "fulfilled"
        assert refusal.lines == [{"sku": "tee", "requested": 1, "available": 0}]
    else:
        assert (line.fulfilled, line.cancelled) == (0, 1)
        assert isinstance(refusal, InvalidQuantity)
        assert refusal.lines == [{"sku": "tee", "requested": 3, "available": 2}]


async def test_an_amend_that_grows_races_a_rival_for_the_last_unit(shop: Shop) -> None:
    """One has it; an amend that is refused leaves the basket as it was."""
    await furnish(shop, 2)
    first, second = shop.services
    held = await first.engine.reserve(demand(1))
    results = await shop.all([
        first.engine.amend(held.id, Amend([AmendLine("tee", 2)])),
        second.engine.reserve(demand(1)),
    ])  # fmt: skip
    assert codes(results) == {"done": 1, "insufficient_stock": 1}
    now = (await first.engine.reservation(held.id)).reservation()
    grown = isinstance(results[0], Receipt)
    assert [line.quantity for line in now.lines] == [1 + grown]
    assert now.version == 1 + grown


async def test_an_amend_follows_the_policy_of_that_moment(shop: Shop) -> None:
    """Another engine has just given the channel a second location."""
    await furnish(shop, 1)
    first, second = shop.services
    await first.catalogue.put_location("north", LocationSpec())
    await receive(first, 4, "north")
    held = await second.engine.reserve(demand(1))
    await first.catalogue.put_channel("web", ChannelSpec(locations=["main", "north"]))
    now = await second.engine.amend(held.id, Amend([AmendLine("tee", 5)]))
    taken = [(line.location, line.quantity) for line in now.reservation().lines]
    assert taken == [("main", 1), ("north", 4)]


async def test_what_is_sold_out_in_fact_is_sold_to_nobody_else(shop: Shop) -> None:
    """A sale is recorded while others buy: it always stands, and nobody gets a unit twice."""
    await furnish(shop, 3)
    first, second = shop.services
    sale = demand(3, state="committed", shortage="record")
    results = await shop.all([
        first.engine.reserve(demand(2)), second.engine.reserve(sale),
        first.engine.reserve(demand(1)), second.engine.reserve(demand(1)),
    ])  # fmt: skip
    assert isinstance(results[1], Receipt)
    (stock,) = await first.stock.read(["tee"])
    (pool,) = stock.pools
    receipts = [result for result in results if isinstance(result, Receipt)]
    bought = sum(line.quantity for each in receipts for line in each.reservation().lines)
    assert (pool.on_hand, pool.shared, pool.deficit) == (3, 0, bought - 3)


async def test_two_counts_at_once_are_both_heard(shop: Shop) -> None:
    """Neither is written over the other; one that names what it saw may be too late."""
    await furnish(shop, 5)
    first, second = shop.services
    results = await shop.all([
        service.stock.count(Count([CountLine("tee", "main", left, if_on_hand=5)]), [None])
        for service, left in ((first, 4), (second, 3))
    ])  # fmt: skip
    told = codes([result.error or result.pool for (result,) in results])
    assert told["stale_version"] == 1
    (stock,) = await first.stock.read(["tee"])
    assert stock.pools[0].on_hand in (3, 4)


@pytest.mark.parametrize("gone_seconds", [0, 60, 600])
async def test_units_are_free_right_after_the_deadline_with_no_reaper(
    shop: Shop, gone_seconds: int
) -> None:
    """However long nobody has tidied: the refusal looks first, the buyer gets the units."""
    await furnish(shop, 2)
    first, second = shop.services
    for _ in range(2):
        held = await first.engine.reserve(demand())
        assert await shop.pass_deadline(held.id, 1000 * gone_seconds)
    assert codes([await second.engine.reserve(demand(2))]) == {"done": 1}

