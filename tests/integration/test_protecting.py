"""Protect mode: hard walls and fewer reservations in all workers, exact, kept, and undone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from core import throttle
from core.auditing.variance import ORDERS_ALARM
from core.engine import Engine
from core.errors import InsufficientStock, Overloaded
from core.feed import Wanted
from core.happenings import Happening
from core.model import Amend, AmendLine, Commit, Release
from core.policy_model import ChannelSpec, Mode
from core.protecting import ALARM
from tests.ledgered import Ledger
from tests.rebuilt import Open, opened
from tests.workers import (
    PATIENCE_SECONDS,
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    row,
    until,
)

__all__ = ["opened"]

ALL = Wanted(frozenset(), frozenset(), frozenset())
HALF = {"web": ChannelSpec(floor_share=0.5), "store": ChannelSpec(floor_share=0.2)}


async def refused(engine: Engine, quantity: int) -> Any:
    """Why so many cannot be had."""
    with pytest.raises(InsufficientStock) as told:
        await engine.reserve(demand(quantity=quantity))
    return told.value.lines[0]["limited_by"]


async def test_walls_are_hard_for_all_workers_at_once_and_as_before_afterwards(
    workers: Workers, store_url: str, store: Store
) -> None:
    """Nothing moves by itself: what is in ``shared`` is withheld, and there again."""
    one, other = [await workers(store_url, reaper=False, staleness_ms=0) for _ in range(2)]
    await furnish(one, {"tee": 10}, **HALF)
    held = await other.engine.reserve(demand(quantity=6))  # five own, one borrowed
    before = row(store, "tee@main")
    mode = await one.protection.switch(True, "a drill", "ann")
    assert (mode.version, mode.protect, mode.reason, mode.by) == (1, True, "a drill", "ann")
    assert row(store, "tee@main") == before
    assert await refused(other.engine, 1) == "channel_quota"
    found = (await other.stock.availability("web", ["tee"])).items[0]
    assert found.available == 0
    assert other.readiness()["mode"] == one.readiness()["mode"] == mode
    await other.engine.amend(held.id, Amend([AmendLine("tee", 6)]))  # what is held may be kept
    await other.engine.commit(held.id, Commit())
    with pytest.raises(InsufficientStock):
        await other.engine.amend(held.id, Amend([AmendLine("tee", 7)]))
    assert (await other.catalogue.channel("web")).spec.borrow
    assert (await other.protection.switch(False, "over", "ann")).version == 2
    assert (await one.engine.reserve(demand(quantity=2))).version == 1
    assert one.readiness()["mode"].protect is False


async def test_the_last_units_are_left_whoever_asks_and_sold_afterwards(
    workers: Workers, store_url: str
) -> None:
    """The number is the mode's, not that of who plans, and plans that meet do not pass it."""
    one = await workers(store_url, reaper=False, protect_safety=2)
    crew = [one, *[await workers(store_url, reaper=False, protect_safety=0) for _ in range(2)]]
    await furnish(one, {"tee": 20}, **HALF)  # web has ten, the store four
    assert (await one.protection.switch(True, "a drill", "ann")).safety == 2
    pool = (await crew[1].stock.read(["tee"]))[0].pools[0]
    assert {name: each.available for name, each in pool.channels.items()} == {"web": 8, "store": 2}
    found = await asyncio.gather(
        *(crew[n % 3].engine.reserve(demand()) for n in range(60)), return_exceptions=True
    )
    granted = [each for each in found if not isinstance(each, BaseException)]
    assert len(granted) == 8
    assert {type(each) for each in found} == {type(granted[0]), InsufficientStock}
    seen = (await crew[2].stock.availability("web", ["tee"])).items[0]
    assert seen.available == 0
    await crew[1].engine.amend(granted[0].id, Amend([AmendLine("tee", 1)]))
    with pytest.raises(InsufficientStock):
        await crew[1].engine.amend(granted[0].id, Amend([AmendLine("tee", 2)]))
    sold = demand(quantity=11, state="committed", shortage="record")  # a fact takes what it must
    await crew[2].engine.reserve(sold)
    assert (await crew[1].protection.switch(False, "over", "ann")).safety == 0


async def test_a_recorded_sale_in_the_same_plan_does_not_lift_the_bound(
    workers: Workers, store_url: str, store: Store
) -> None:
    """Planned on a row that another worker has changed: then both are planned anew."""
    one = await workers(store_url, reaper=False, protect_safety=5, staleness_ms=60_000)
    other = await workers(store_url, reaper=False, staleness_ms=0)
    await furnish(one, {"tee": 11}, web=ChannelSpec(floor_share=1.0))
    await one.protection.switch(True, "", "ann")
    await one.engine.reserve(demand())
    await other.engine.reserve(demand())  # four may be had now, and one believes five
    sold = demand(quantity=4, state="committed", shortage="record")
    asked, _ = await asyncio.gather(
        one.engine.reserve(demand(quantity=5)), one.engine.reserve(sold), return_exceptions=True
    )
    assert isinstance(asked, InsufficientStock)
    assert "web@5,2,4,0" in row(store, "tee@main")


async def test_what_is_held_is_not_exchanged_for_what_is_kept(
    workers: Workers, store_url: str, store: Store
) -> None:
    worker = await workers(store_url, reaper=False, protect_safety=5, staleness_ms=0)
    await furnish(worker, {"tee": 10}, web=ChannelSpec(floor_share=0.5))
    own = await worker.engine.reserve(demand(quantity=5))
    lent = await worker.engine.reserve(demand(quantity=3))
    await worker.engine.release(own.id, Release())
    await worker.protection.switch(True, "", "ann")
    for quantity in (3, 2):
        await worker.engine.amend(lent.id, Amend([AmendLine("tee", quantity)]))
        assert f"web@5,{quantity}," in row(store, "tee@main")
    with pytest.raises(InsufficientStock):
        await worker.engine.amend(lent.id, Amend([AmendLine("tee", 3)]))


async def test_switching_again_takes_another_number(workers: Workers, store_url: str) -> None:
    one = await workers(store_url, reaper=False, protect_safety=5)
    other = await workers(store_url, reaper=False, protect_safety=1)
    assert (await one.protection.switch(True, "a drill", "ann")).safety == 5
    mode = await other.protection.switch(True, "less of it", "bob")
    assert (mode.version, mode.safety, mode.by) == (2, 1, "bob")


async def test_who_keeps_nothing_back_sells_all_of_its_own(
    workers: Workers, store_url: str
) -> None:
    worker = await workers(store_url, reaper=False, protect_safety=0)
    await furnish(worker, {"tee": 10}, **HALF)
    await worker.protection.switch(True, "", "ann")
    await worker.engine.reserve(demand(quantity=5))
    assert (await accounts(worker))[:2] == (0, 5)


async def test_a_refusal_names_the_safety_stock(workers: Workers, store_url: str) -> None:
    worker = await workers(store_url, reaper=False, protect_safety=3)
    await furnish(worker, {"tee": 4}, web=ChannelSpec(floor_share=1.0))
    await worker.protection.switch(True, "", "ann")
    assert await refused(worker.engine, 2) == "safety_stock"
    await worker.engine.reserve(demand())


async def test_many_who_switch_switch_once(workers: Workers, store_url: str) -> None:
    crew = [await workers(store_url, reaper=False) for _ in range(3)]
    found = await asyncio.gather(*(each.protection.switch(True, "", "b") for each in crew))
    assert {mode.version for mode in found} == {1}
    assert (await crew[0].protection.switch(True, "again", "c")).by == "b"


async def test_fewer_reservations_are_taken_and_every_commit(
    workers: Workers, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "monotonic_ms", lambda: 0.0)
    worker = await workers(store_url, reaper=False, protect_rate=4, workers=2)
    await furnish(worker, {"tee": 100}, **HALF)
    held = [await worker.engine.reserve(demand()) for _ in range(20)]
    await worker.protection.switch(True, "", "ann")
    for _ in range(2):  # of four for two workers
        await worker.engine.reserve(demand())
    with pytest.raises(Overloaded) as told:
        await worker.engine.reserve(demand())
    assert told.value.outcome == "none"
    for each in held:
        await worker.engine.commit(each.id, Commit())
    await worker.protection.switch(False, "", "ann")
    for _ in range(10):
        await worker.engine.reserve(demand())


async def test_an_idle_worker_hears_of_it(workers: Workers, store_url: str) -> None:
    idle, other = [await workers(store_url, reaper=False) for _ in range(2)]
    await other.protection.switch(True, "", "ann")
    await until(lambda: idle.mode.protect, "it heard")


async def test_three_oversold_orders_pull_it_and_only_more_pull_it_again(
    opened: Open, store_url: str, ledger: Ledger
) -> None:
    worker = await opened()
    await furnish(worker, {"tee": 1}, **HALF)

    async def oversell(times: int) -> Mode:
        for _ in range(times):
            sold = demand(quantity=2, state="committed", shortage="record")
            await worker.engine.reserve(sold)
        await ledger.catch_up(store_url)
        await worker.protection.look()
        return await worker.protection.mode()

    assert await oversell(ORDERS_ALARM - 1) == Mode()
    pulled = await oversell(1)
    assert (pulled.protect, pulled.by, pulled.orders) == (True, ALARM, ORDERS_ALARM)
    assert pulled.reason == "3 orders wait for units that are not there"
    normal = await worker.protection.switch(False, "they are on their way", "ann")
    assert await oversell(0) == normal
    assert (await oversell(1)).orders == ORDERS_ALARM + 1


async def test_the_alarm_only_tells_where_protecting_would_stop_a_channel(
    opened: Open, store_url: str, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await opened()
    await furnish(worker, {"tee": 1}, web=ChannelSpec(floor_share=0.5), store=ChannelSpec())
    for _ in range(ORDERS_ALARM):
        await worker.engine.reserve(demand(quantity=2, state="committed", shortage="record"))
    await ledger.catch_up(store_url)
    for _ in range(2):
        await worker.protection.look()
    assert await worker.protection.mode() == Mode()
    assert caplog.text.count("`stockade mode protect` would stop store, which has no floor") == 1


async def test_a_rebuild_brings_it_back_and_who_listens_hears_of_it(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    worker = await opened()
    await furnish(worker, {"tee": 10}, **HALF)
    mode = await worker.protection.switch(True, "a drill", "ann")
    await ledger.catch_up(store_url)
    store.flushall()
    await ledger.rebuilding(store_url).run()
    again = await opened()
    assert again.readiness()["mode"] == mode
    assert await refused(again.engine, 6) == "channel_quota"
    found: list[Happening] = []
    async with again.feed.subscribe(ALL, (0, 0)) as listener:
        while not any(each.type == "policy.changed" and each.subject == "mode/protect"
                      for each in found):  # fmt: skip
            found += await listener.next(PATIENCE_SECONDS)
    event = json.loads(found[-1].encode(people=True))
    assert event["data"]["policy"]["reason"] == "a drill"
    assert event["data"]["version"] == 1
