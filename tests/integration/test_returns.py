"""Returns: shipped units that come back, on a real store. Every test is audited."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import (
    InvalidQuantity,
    InvalidRequest,
    InvalidState,
    KeyRequired,
    KeyReused,
    StaleVersion,
    UnknownLocation,
)
from core.model import Cancel, Commit, Fulfil, Line, PartLine, Release, Reserve, Return, ReturnLine
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys
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
)


async def shipped(service: Service, quantity: int = 3, **more: Any) -> str:
    """A reservation of ``tee`` that was shipped."""
    id = (await service.engine.reserve(demand(quantity=quantity, **more))).id
    await service.engine.commit(id, Commit())
    await service.engine.fulfil(id, Fulfil())
    return id


def back(quantity: int, *line: Any) -> Return:
    """A return of ``tee``."""
    return Return([ReturnLine("tee", quantity, *line)])


async def pool(service: Service, location: str = "main") -> Any:
    pools = (await service.stock.read(["tee"]))[0].pools
    return next(each for each in pools if each.location == location)


async def test_what_came_back_is_sold_again(worker: Service) -> None:
    """As a receipt: by floors and shares; until all of it is back."""
    await furnish(worker, {"tee": 10}, web=ChannelSpec(floor_share=0.5))
    id = await shipped(worker, 6)
    assert await accounts(worker) == (0, 0, 0, 4, 4)
    one = await worker.engine.return_(id, back(2), key(1))
    assert await accounts(worker) == (1, 0, 0, 5, 6)
    assert (one.reservation().state, one.reservation().lines[0].returned) == ("fulfilled", 2)
    assert one.version == 4
    all_back = await worker.engine.return_(id, back(4), key(2))
    assert (all_back.reservation().state, all_back.reservation().lines[0].returned) == (
        "returned", 6,
    )  # fmt: skip
    assert await accounts(worker) == (3, 0, 0, 7, 10)
    with pytest.raises(InvalidQuantity) as caught:
        await worker.engine.return_(id, back(1), key(3))
    assert caught.value.lines == [{"sku": "tee", "requested": 1, "available": 0}]


async def test_what_is_not_sold_again_lies_apart(worker: Service) -> None:
    """Lines are keyed by SKU, location and disposition; the same ones are summed."""
    await furnish(worker, {"tee": 5})
    id = await shipped(worker, 5)
    request = Return(
        [
            ReturnLine("tee", 1, None, None, "damaged"),
            ReturnLine("tee", 1, "main", None, "quarantine"),
            ReturnLine("tee", 1, None, None, "damaged"),
        ],
        "rma 7",
    )
    await worker.engine.return_(id, request, key(1))
    now = await pool(worker)
    assert (now.damaged, now.quarantine, now.shared, now.on_hand) == (2, 1, 0, 3)
    with pytest.raises(InvalidQuantity) as caught:
        await worker.engine.return_(
            id, Return([ReturnLine("tee", 2), ReturnLine("tee", 1, "main")]), key(2)
        )
    assert caught.value.lines == [{"sku": "tee", "requested": 2, "available": 1}]


async def test_units_come_back_elsewhere(worker: Service, store: Store) -> None:
    """Also where the SKU had no pool yet; and not where nothing is taken back."""
    await worker.catalogue.put_location("annex", LocationSpec())
    await worker.catalogue.put_location("outlet", LocationSpec(returns=False))
    await furnish(worker, {"tee": 4})
    id = await shipped(worker, 3)
    await worker.engine.return_(id, back(1, None, "annex"), key(1))
    assert (await pool(worker, "annex")).shared == 1
    assert (await pool(worker)).on_hand == 1
    before = picture(store)
    with pytest.raises(InvalidRequest) as caught:
        await worker.engine.return_(id, back(1, None, "outlet"), key(2))
    assert caught.value.errors[0][0] == "/lines/0/to"
    with pytest.raises(UnknownLocation):
        await worker.engine.return_(id, back(1, None, "moon"), key(2))
    with pytest.raises(InvalidRequest):
        await worker.engine.return_(id, back(1, None, "shared"), key(2))
    assert picture(store) == before
    await worker.catalogue.put_location("main", LocationSpec(returns=False))
    with pytest.raises(InvalidRequest) as caught:  # it would go back where it left
        await worker.engine.return_(id, back(1), key(2))
    assert caught.value.errors[0][0] == "/lines/0/to"
    await worker.engine.return_(id, back(1, None, "annex", "quarantine"), key(2))
    assert (await pool(worker, "annex")).quarantine == 1


async def test_lines_are_served_in_their_order(worker: Service) -> None:
    """Those with a location first, the others in the order of the reservation's lines."""
    for name in ("north", "south"):
        await worker.catalogue.put_location(name, LocationSpec())
    await furnish(worker, {"tee": 0}, web=ChannelSpec(locations=["north", "south"]))
    arrived = [ReceiveLine("tee", "north", 2), ReceiveLine("tee", "south", 3)]
    await worker.stock.receive(Receive(arrived), [None] * 2)
    id = (await worker.engine.reserve(Reserve("web", [Line("tee", 5)]))).id
    await worker.engine.commit(id, Commit())
    await worker.engine.fulfil(id, Fulfil())
    request = Return([ReturnLine("tee", 2), ReturnLine("tee", 2, "north")])
    done = await worker.engine.return_(id, request, key(1))
    found = {line.location: line.returned for line in done.reservation().lines}
    assert found == {"north": 2, "south": 2}
    with pytest.raises(InvalidQuantity) as caught:
        await worker.engine.return_(id, back(1, "north"), key(2))
    assert caught.value.lines == [
        {"sku": "tee", "location": "north", "requested": 1, "available": 0}
    ]
    with pytest.raises(InvalidQuantity) as caught:  # what is refused leaves the rest as it is
        await worker.engine.return_(
            id, Return([ReturnLine("tee", 1), ReturnLine("tee", 2, "south")]), key(3)
        )
    assert caught.value.lines == [
        {"sku": "tee", "location": "south", "requested": 2, "available": 1}
    ]


async def test_a_restock_gives_its_allowance_back(worker: Service) -> None:
    """To the ceiling that was spent, where it was spent, and only if it is sold again."""
    await worker.catalogue.put_location("annex", LocationSpec())
    await furnish(worker, {"tee": 10}, web=ChannelSpec(ceiling_share=0.5))
    id = await shipped(worker, 4)

    async def left() -> int:
        units = (await pool(worker)).channels["web"].ceiling_left
        assert units is not None
        return int(units)

    assert await left() == 1
    await worker.engine.return_(id, back(1, None, "annex"), key(1))
    assert await left() == 2
    await worker.engine.return_(id, back(1, None, None, "damaged"), key(2))
    assert await left() == 2
    await worker.catalogue.put_channel("web", ChannelSpec(ceiling_units=3))
    await worker.engine.return_(id, back(1), key(3))
    assert await left() == 3  # it began anew
    await worker.catalogue.delete_channel("web")
    await worker.engine.return_(id, back(1), key(4))
    assert (await pool(worker)).on_hand == 9


async def test_a_return_pays_a_deficit_first(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 5})
    id = await shipped(worker, 2)
    held = (await worker.engine.reserve(demand(quantity=3))).id
    await worker.engine.commit(held, Commit())
    await worker.engine.reserve(
        Reserve("web", [Line("tee", 2)], state="committed", shortage="record")
    )
    assert (await pool(worker)).deficit == 2
    await worker.engine.return_(id, back(1), key(1))
    assert ((await pool(worker)).deficit, (await pool(worker)).shared) == (1, 0)


async def test_states_that_have_nothing_to_return(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 9})
    engine = worker.engine
    held, due, released, cancelled, paid = [(await engine.reserve(demand())).id for _ in range(5)]
    make_due(store, due)
    await engine.release(released, Release())
    for id in (cancelled, paid):
        await engine.commit(id, Commit())
    await engine.cancel(cancelled, Cancel())
    for id, state in (
        (held, "reserved"), (due, "expired"), (released, "released"), (cancelled, "cancelled"),
    ):  # fmt: skip
        with pytest.raises(InvalidState) as caught:
            await engine.return_(id, back(1), key(id))
        assert caught.value.state == state
    with pytest.raises(InvalidQuantity) as over:  # not shipped yet
        await engine.return_(paid, back(1), key("p"))
    assert over.value.lines == [{"sku": "tee", "requested": 1, "available": 0}]
    with pytest.raises(KeyRequired):
        await engine.return_(paid, back(1))


async def test_what_is_partly_shipped_comes_back_while_the_rest_is_open(worker: Service) -> None:
    """The state follows from the counters: committed while anything is open, then returned."""
    await furnish(worker, {"tee": 9})
    id = (await worker.engine.reserve(demand(quantity=4))).id
    await worker.engine.commit(id, Commit())
    await worker.engine.fulfil(id, Fulfil([PartLine("tee", 2)]), key("f"))
    with pytest.raises(StaleVersion):
        await worker.engine.return_(id, back(2), key("r"), 2)
    part = await worker.engine.return_(id, back(2), key("r"), 3)
    assert part.reservation().state == "committed"
    done = await worker.engine.cancel(id, Cancel())
    assert done.reservation().state == "returned"
    assert await accounts(worker) == (0, 0, 0, 9, 9)


async def test_a_key_returns_once_and_is_kept_long(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 9})
    id = await shipped(worker, 3)
    request = back(1)
    first = await worker.engine.return_(id, request, key("k", 1))
    twins = [worker.engine.return_(id, request, key("k", 1)) for _ in range(4)]
    for again in await asyncio.gather(*twins):
        assert (again.version, again.replayed) == (first.version, True)
    with pytest.raises(KeyReused):
        await worker.engine.return_(id, back(2), key("k", 2))
    fields = [store.hexists(name, key("k").field) for name in worker.lane.long_window]
    assert any(fields)
    assert id.encode() in store.lrange(worker.lane.done_list, 0, -1)
    assert (
        store.lrange(keys.done_at(worker.lane.now_ms // keys.HOUR_MS), 0, -1).count(id.encode())
        == 2
    )  # it ended when it was shipped, and again when something came back


async def test_two_workers_take_back_no_more_than_was_shipped(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Returns of one reservation and receipts of its SKU meet: none is lost, none counted twice."""
    one, other = await workers(store_url), await workers(store_url)
    await furnish(one, {"tee": 60}, web=ChannelSpec(floor_share=0.7))
    ids = [await shipped(one, 4) for _ in range(10)]
    for turn, id in enumerate(ids):
        calls: list[Any] = [
            service.engine.return_(id, back(2), key(f"{turn}-{n}"))
            for n, service in enumerate((one, other, one))
        ]
        calls.append(other.stock.receive(Receive([ReceiveLine("tee", "main", 1)]), [None]))
        results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        *returns, received = results
        assert received[0].error is None
        assert sorted(type(each).__name__ for each in returns) == [
            InvalidQuantity.__name__, Receipt.__name__, Receipt.__name__,
        ]  # fmt: skip
        assert record(store, id).split(" ")[0] == "T"
    assert (await accounts(one))[4] == 60 + len(ids)
