"""Amend: the open units of a basket as they shall be, on a real store. Every test is audited."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from core.errors import (
    Expired,
    HoldLimit,
    InsufficientStock,
    InvalidRequest,
    InvalidState,
    KeyReused,
    StaleVersion,
    UnknownLocation,
    UnknownReservation,
    UnknownSku,
)
from core.model import Amend, AmendLine, Cancel, Commit, Fulfil, Line, PartLine, Release, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock_model import Count, CountLine, Receive, ReceiveLine
from core.store import keys
from core.store.shard import Shard
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    make_due,
    picture,
    record,
    row,
    server_ms,
)

NOBODY = "01930000-0000-7000-8000-000000000000"


def to(**units: int) -> Amend:
    """An amend to so many units of these SKUs."""
    return Amend([AmendLine(sku, quantity) for sku, quantity in units.items()])


def lines(receipt: Receipt) -> list[tuple[Any, ...]]:
    """(sku, location, own, borrowed, fulfilled, cancelled) of a reservation's lines."""
    return [
        (x.sku, x.location, x.own, x.borrowed, x.fulfilled, x.cancelled)
        for x in receipt.reservation().lines
    ]


async def test_a_basket_goes_up_and_down(worker: Service) -> None:
    await furnish(worker, {"tee": 10}, web=ChannelSpec(floor_share=0.4))
    held = await worker.engine.reserve(demand(quantity=3))
    was = held.reservation()
    more = await worker.engine.amend(held.id, to(tee=6))
    assert lines(more) == [("tee", "main", 4, 2, 0, 0)]
    assert await accounts(worker) == (0, 6, 0, 4, 10)
    less = await worker.engine.amend(held.id, to(tee=1))
    assert lines(less) == [("tee", "main", 1, 0, 0, 0)]
    assert await accounts(worker) == (3, 1, 0, 6, 10)
    now = less.reservation()
    assert (now.version, now.state, now.id) == (3, "reserved", held.id)
    assert (now.expires_at, now.created_at) == (was.expires_at, was.created_at)
    assert now.updated_at >= was.updated_at
    assert (await worker.engine.reservation(held.id)).record == less.record


async def test_own_hold_never_blocks_the_own_basket(worker: Service) -> None:
    """All there is, is ours: it may be planned again, under a ceiling too."""
    await furnish(worker, {"tee": 5}, web=ChannelSpec(ceiling_units=5))
    held = await worker.engine.reserve(demand(quantity=5))
    again = await worker.engine.amend(held.id, to(tee=5))
    assert lines(again) == lines(held)
    assert again.version == 2
    with pytest.raises(InsufficientStock) as caught:
        await worker.engine.amend(held.id, to(tee=6))
    assert caught.value.lines == [
        {"sku": "tee", "requested": 6, "available": 5, "limited_by": "on_hand"}
    ]
    await worker.engine.amend(held.id, to(tee=2))
    assert await accounts(worker) == (0, 2, 0, 3, 5)
    assert (await worker.stock.read(["tee"]))[0].pools[0].channels["web"].ceiling_left == 3


async def test_lines_are_swapped_added_and_removed(worker: Service) -> None:
    await furnish(worker, {"tee": 5, "cap": 5, "mug": 5})
    held = await worker.engine.reserve(Reserve("web", [Line("tee", 2), Line("cap", 2)]))
    now = await worker.engine.amend(held.id, to(mug=4, cap=1))
    assert lines(now) == [("mug", "main", 0, 4, 0, 0), ("cap", "main", 0, 1, 0, 0)]
    for sku, left in (("tee", 5), ("cap", 4), ("mug", 1)):
        assert (await accounts(worker, sku))[3] == left
    # The same SKU twice is summed.
    twice = Amend([AmendLine("tee", 1), AmendLine("tee", 2)])
    assert lines(await worker.engine.amend(held.id, twice)) == [("tee", "main", 0, 3, 0, 0)]
    await worker.engine.release(held.id, Release())
    for sku in ("tee", "cap", "mug"):
        assert await accounts(worker, sku) == (0, 0, 0, 5, 5)


async def test_a_refused_amend_leaves_all_as_it_was(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 5, "cap": 1}, web=ChannelSpec(max_hold_seconds=1000))
    id = (await worker.engine.reserve(demand(quantity=3))).id
    before = picture(store)
    wrong: list[tuple[type[Exception], Amend]] = [
        (InsufficientStock, to(tee=2, cap=2)),
        (InsufficientStock, to(tee=6)),
        (UnknownSku, to(tee=2, hat=1)),
        (UnknownLocation, Amend([AmendLine("tee", 1, "moon")])),
        (InvalidRequest, Amend([AmendLine("t ee", 1)])),
        (InvalidRequest, Amend([AmendLine("tee", 1, "shared")])),
        (HoldLimit, Amend([AmendLine("tee", 1)], 2_000)),
    ]
    for error, request in wrong:
        with pytest.raises(error):
            await worker.engine.amend(id, request)
        assert picture(store) == before, request
    with pytest.raises(StaleVersion):
        await worker.engine.amend(id, to(tee=1), None, 7)
    with pytest.raises(UnknownReservation):
        await worker.engine.amend(NOBODY, to(tee=1))
    assert picture(store) == before


async def test_a_later_deadline_comes_along(worker: Service, store: Store) -> None:
    """As in extend: never an earlier one; and it expires by the new one."""
    await furnish(worker, {"tee": 5}, web=ChannelSpec(ttl_seconds=100, max_hold_seconds=1000))
    held = await worker.engine.reserve(demand(quantity=1))
    old = int(held.record.split(b" ")[3])
    same = await worker.engine.amend(held.id, Amend([AmendLine("tee", 2)], 10))
    assert int(same.record.split(b" ")[3]) == old
    began = server_ms(store)
    later = await worker.engine.amend(held.id, Amend([AmendLine("tee", 2)], 500))
    deadline = int(later.record.split(b" ")[3])
    assert began + 500_000 <= deadline <= server_ms(store) + 500_000
    assert held.id.encode() in store.lrange(keys.due_at(deadline // 1000), 0, -1)
    make_due(store, held.id)
    await worker.lane.tidy()
    assert (await worker.engine.reservation(held.id)).reservation().state == "expired"
    assert await accounts(worker) == (0, 0, 0, 5, 5)


async def test_what_is_committed_is_amended_without_a_deadline(worker: Service) -> None:
    """Shipped and cancelled units stay out; what is left later goes as it would have gone."""
    await furnish(worker, {"tee": 12}, web=ChannelSpec(floor_share=0.5))
    held = await worker.engine.reserve(demand(quantity=8))
    await worker.engine.commit(held.id, Commit(reference="paid"))
    await worker.engine.fulfil(held.id, Fulfil([PartLine("tee", 2)]), key("f"))
    await worker.engine.cancel(held.id, Cancel([PartLine("tee", 1)]), key("c"))
    assert await accounts(worker) == (0, 0, 5, 5, 10)
    with pytest.raises(InvalidRequest) as caught:
        await worker.engine.amend(held.id, Amend([AmendLine("tee", 1)], 100))
    assert caught.value.errors[0][0] == "/ttl_seconds"
    now = await worker.engine.amend(held.id, Amend([AmendLine("tee", 9)], None, "order-2"))
    # 2 shipped of its own, 1 cancelled that was borrowed; 4 own and 5 borrowed ones are open.
    assert lines(now) == [("tee", "main", 6, 6, 2, 1)]
    assert await accounts(worker) == (0, 0, 9, 1, 10)
    now_is = now.reservation()
    assert (now_is.state, now_is.reference, now_is.expires_at) == ("committed", "order-2", None)
    assert now_is.committed_at is not None
    await worker.engine.cancel(held.id, Cancel([PartLine("tee", 6)]), key("d"))
    assert await accounts(worker) == (1, 0, 3, 6, 10)  # five borrowed ones, then one own
    done = await worker.engine.fulfil(held.id, Fulfil())
    assert lines(done) == [("tee", "main", 6, 6, 5, 7)]
    with pytest.raises(InvalidState) as over:
        await worker.engine.amend(held.id, to(tee=1))
    assert over.value.state == "fulfilled"


async def test_a_ceiling_that_began_anew_makes_a_second_line(worker: Service) -> None:
    """What was held keeps the old one, what comes on top spends the new one; each gets back its
    own, the new one first."""
    await furnish(worker, {"tee": 20}, web=ChannelSpec(ceiling_units=10))
    held = await worker.engine.reserve(demand(quantity=4))
    await worker.engine.commit(held.id, Commit())
    await worker.engine.fulfil(held.id, Fulfil([PartLine("tee", 1)]), key("f"))
    await worker.catalogue.put_channel("web", ChannelSpec(ceiling_units=6))
    now = await worker.engine.amend(held.id, to(tee=5))
    assert lines(now) == [("tee", "main", 1, 3, 1, 0), ("tee", "main", 0, 2, 0, 0)]

    async def left() -> int | None:
        return (await worker.stock.read(["tee"]))[0].pools[0].channels["web"].ceiling_left

    assert await left() == 4
    await worker.engine.cancel(held.id, Cancel([PartLine("tee", 2)]), key("c"))
    assert await left() == 4, "they had spent the old one"
    again = await worker.engine.amend(held.id, to(tee=1))
    assert lines(again) == [("tee", "main", 1, 3, 1, 2)]
    assert await left() == 6
    await worker.engine.fulfil(held.id, Fulfil())
    assert await accounts(worker) == (0, 0, 0, 18, 18)


async def test_units_stay_where_they_are_if_they_can(worker: Service) -> None:
    """Present locations first; a line may move if it must, and a pinned one goes where it says."""
    for name in ("north", "south"):
        await worker.catalogue.put_location(name, LocationSpec())
    await furnish(worker, {"tee": 0}, web=ChannelSpec(locations=["north", "south"]))
    await arrive(worker, north=2, south=6)
    held = await worker.engine.reserve(Reserve("web", [Line("tee", 3)]))
    assert [line[1] for line in lines(held)] == ["south"]
    stays = await worker.engine.amend(held.id, to(tee=1))
    assert lines(stays) == [("tee", "south", 0, 1, 0, 0)]
    pinned = await worker.engine.amend(held.id, Amend([AmendLine("tee", 2, "north")]))
    assert lines(pinned) == [("tee", "north", 0, 2, 0, 0)]
    spread = await worker.engine.amend(held.id, to(tee=8))
    assert sorted(lines(spread)) == [("tee", "north", 0, 2, 0, 0), ("tee", "south", 0, 6, 0, 0)]


async def arrive(service: Service, **units: int) -> None:
    """Units of ``tee`` arrive at these locations."""
    received = [ReceiveLine("tee", place, quantity) for place, quantity in units.items()]
    results = await service.stock.receive(Receive(received), [None] * len(received))
    assert [each.error for each in results] == [None] * len(received)


async def test_states_that_cannot_be_amended_say_which(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 9})
    engine = worker.engine
    due, gone, released, cancelled = [(await engine.reserve(demand())).id for _ in range(4)]
    make_due(store, due)
    make_due(store, gone)
    await engine.release(released, Release())
    await engine.commit(cancelled, Commit())
    await engine.cancel(cancelled, Cancel())
    for id, state in (
        (due, "expired"), (gone, "expired"), (released, "released"), (cancelled, "cancelled"),
    ):  # fmt: skip
        with pytest.raises(InvalidState) as caught:
            await engine.amend(id, to(tee=1))
        assert caught.value.state == state
        if id == due:
            await worker.lane.tidy()


async def test_a_key_amends_once(worker: Service, store: Store) -> None:
    """A repeat is answered with what is now, also when the state would forbid it by then."""
    await furnish(worker, {"tee": 9})
    id = (await worker.engine.reserve(demand())).id
    first = await worker.engine.amend(id, to(tee=3), key("k", "3"))
    assert (first.version, first.replayed) == (2, False)
    again = await worker.engine.amend(id, to(tee=3), key("k", "3"), 1)
    assert (again.version, again.replayed) == (2, True)
    with pytest.raises(KeyReused):
        await worker.engine.amend(id, to(tee=4), key("k", "4"))
    await worker.engine.release(id, Release())
    late = await worker.engine.amend(id, to(tee=3), key("k", "3"))
    assert (late.reservation().state, late.replayed) == ("released", True)
    twins = [worker.engine.amend(id, to(tee=1), key("refused")) for _ in range(3)]
    results = await asyncio.gather(*twins, return_exceptions=True)
    assert [type(each) for each in results] == [InvalidState] * 3


async def test_twins_with_one_key_amend_once(worker: Service) -> None:
    await furnish(worker, {"tee": 9})
    id = (await worker.engine.reserve(demand())).id
    twins = [worker.engine.amend(id, to(tee=4), key("k")) for _ in range(5)]
    receipts = await asyncio.gather(*twins)
    assert {receipt.version for receipt in receipts} == {2}
    assert sorted(receipt.replayed for receipt in receipts) == [False, True, True, True, True]


async def test_two_workers_amend_one_basket(store_url: str, store: Store, workers: Workers) -> None:
    """Each is planned on the record as it was read: none is lost, none done twice."""
    one, other = await workers(store_url), await workers(store_url)
    await furnish(one, {"tee": 6})
    id = (await one.engine.reserve(demand())).id

    def met() -> int:
        return sum(each.lane.meters.scripts["replan", "stale"] for each in (one, other))

    turn = 0
    while turn < 15 or not met():
        assert turn < 150, "they never met"
        wanted = [1 + (turn + n) % 6 for n in range(4)]
        await asyncio.gather(
            *(
                service.engine.amend(id, to(tee=units))
                for service, units in zip((one, other) * 2, wanted, strict=True)
            )
        )
        turn += 1
        assert int(record(store, id).split(" ")[1]) == 1 + 4 * turn


async def test_an_amend_races_the_other_verbs(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Amend against commit, release and a demand for the same last units: all of it is lawful."""
    one, other = await workers(store_url), await workers(store_url)
    await furnish(one, {"tee": 12}, web=ChannelSpec(floor_share=0.5, ceiling_share=0.9))
    for turn in range(20):
        id = (await one.engine.reserve(demand(quantity=2))).id
        verbs = [
            one.engine.amend(id, to(tee=4)),
            other.engine.commit(id, Commit()) if turn % 2 else other.engine.release(id, Release()),
            other.engine.reserve(demand(quantity=1)),
            other.engine.amend(id, to(tee=1)),
        ]
        results = await asyncio.gather(*verbs, return_exceptions=True)
        for result in results:
            assert isinstance(result, Receipt | InsufficientStock | InvalidState), result
        if isinstance(results[2], Receipt):
            await one.engine.release(results[2].id, Release())
        if record(store, id)[0] == "C":
            await other.engine.cancel(id, Cancel())
        elif record(store, id)[0] == "R":
            await other.engine.release(id, Release())
    assert (await accounts(one))[1:3] == (0, 0)


async def test_an_amend_pays_a_deficit_with_what_it_gives_back(
    worker: Service, store: Store
) -> None:
    """A count found fewer than are promised: what shrinks is not for sale again."""
    await furnish(worker, {"tee": 6}, web=ChannelSpec(floor_share=0.5))
    held = await worker.engine.reserve(demand(quantity=6))
    await shrink(worker, 4)
    assert row(store, "tee@main").split(" ")[3] == "0,0,0,0,2,0"
    now = await worker.engine.amend(held.id, to(tee=3))
    assert lines(now) == [("tee", "main", 3, 0, 0, 0)]
    assert row(store, "tee@main").split(" ")[3] == "1,0,0,0,0,0"
    assert await accounts(worker) == (0, 3, 0, 1, 4)


async def shrink(service: Service, counted: int) -> None:
    """A count of ``tee`` at ``main``."""
    results = await service.stock.count(Count([CountLine("tee", "main", counted)]), [None])
    assert [each.error for each in results] == [None]


async def test_an_amend_of_a_channel_that_is_gone(worker: Service) -> None:
    await furnish(worker, {"tee": 5})
    id = (await worker.engine.reserve(demand())).id
    await worker.engine.release(id, Release())
    await worker.catalogue.delete_channel("web")
    await worker.catalogue.put_sku("cap", SkuSpec())
    with pytest.raises(InvalidState):
        await worker.engine.amend(id, to(tee=1))
    with pytest.raises(Expired):
        await worker.engine.commit(id, Commit("reacquire"))


async def test_what_is_asked_first_is_answered_first(worker: Service, store: Store) -> None:
    """422, 404, 412, 409: names come before versions and states, and what is wrong before all."""
    await furnish(worker, {"tee": 9})
    held, ended, paid = [(await worker.engine.reserve(demand())).id for _ in range(3)]
    await worker.engine.release(ended, Release())
    await worker.engine.commit(paid, Commit())
    nowhere = Amend([AmendLine("tee", 1, "nowhere")])
    for id, version in ((held, 7), (ended, None), (ended, 7), (paid, 7)):
        with pytest.raises(UnknownSku) as unknown:
            await worker.engine.amend(id, to(tee=1, hat=2), None, version)
        assert unknown.value.lines == [{"sku": "hat", "requested": 2, "available": 0}]
        with pytest.raises(UnknownLocation):
            await worker.engine.amend(id, nowhere, None, version)
    with pytest.raises(UnknownSku):
        await worker.engine.amend(held, replace(to(hat=1), ttl_seconds=3_601))
    for request in (replace(to(tee=1), ttl_seconds=9), replace(to(hat=1), ttl_seconds=9)):
        with pytest.raises(InvalidRequest, match="no deadline"):
            await worker.engine.amend(paid, request, None, 7)
    before = picture(store)
    with pytest.raises(StaleVersion):
        await worker.engine.amend(ended, to(tee=1), None, 7)
    with pytest.raises(InvalidState):
        await worker.engine.amend(ended, to(tee=1))
    assert picture(store) == before


async def test_known_names_are_not_asked_for(
    worker: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(worker, {"tee": 9})
    id = (await worker.engine.reserve(demand())).id

    async def asked(*_: Any) -> Any:
        raise AssertionError("an amend of known names costs no read of its own")

    monkeypatch.setattr(Shard, "skus", asked)
    monkeypatch.setattr(Shard, "policy", asked)
    await worker.engine.amend(id, Amend([AmendLine("tee", 2, "main")]))
