"""Verbs on part of a reservation: lines, locations, counters, races. Every test is audited."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from core.errors import InvalidQuantity, InvalidState, KeyRequired
from core.model import Cancel, Commit, Fulfil, Line, PartLine, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from tests.workers import Store, Workers, accounts, demand, furnish, key


async def paid(service: Service, quantity: int) -> str:
    id = (await service.engine.reserve(demand(quantity=quantity))).id
    await service.engine.commit(id, Commit())
    return id


async def test_repeated_lines_are_summed_and_pinned_ones_come_first(worker: Service) -> None:
    """However the lines are written, the same units move."""
    for name in ("north", "south"):
        await worker.catalogue.put_location(name, LocationSpec())
    await furnish(worker, {"tee": 0}, web=ChannelSpec(locations=["north", "south"]))
    arrived = [ReceiveLine("tee", "north", 2), ReceiveLine("tee", "south", 2)]
    await worker.stock.receive(Receive(arrived), [None] * 2)
    id = (await worker.engine.reserve(Reserve("web", [Line("tee", 4)]))).id
    await worker.engine.commit(id, Commit())
    lines = [PartLine("tee", 1), PartLine("tee", 1, "north"), PartLine("tee", 1, "north")]
    done = await worker.engine.fulfil(id, Fulfil(lines), key(1))
    found = {line.location: line.fulfilled for line in done.reservation().lines}
    assert found == {"north": 2, "south": 1}
    with pytest.raises(InvalidQuantity) as caught:
        await worker.engine.cancel(id, Cancel([PartLine("tee", 1), PartLine("tee", 1)]), key(2))
    assert caught.value.lines == [{"sku": "tee", "requested": 2, "available": 1}]
    lines = [PartLine("tee", 1), PartLine("tee", 2, "south")]
    with pytest.raises(InvalidQuantity) as caught:  # what is refused leaves the rest as it is
        await worker.engine.cancel(id, Cancel(lines), key(3))
    assert caught.value.lines == [
        {"sku": "tee", "location": "south", "requested": 2, "available": 1}
    ]
    with pytest.raises(KeyRequired):
        await worker.engine.cancel(id, Cancel([PartLine("tee", 1)]))


async def test_parts_in_any_order_end_in_the_same_accounts(worker: Service, store: Store) -> None:
    """Own units ship first and borrowed ones go back first, in every order and grouping."""
    verbs = {"f1": ("fulfil", [1]), "f2": ("fulfil", [1, 1]), "c1": ("cancel", [1]),
             "c2": ("cancel", [2])}  # fmt: skip
    orders = list(itertools.permutations(verbs))
    skus = [f"sku-{number}" for number in range(len(orders))]
    await furnish(worker, dict.fromkeys(skus, 10), web=ChannelSpec(floor_share=0.4))
    for sku, order in zip(skus, orders, strict=True):
        id = (await worker.engine.reserve(demand(sku, 7))).id
        await worker.engine.commit(id, Commit())
        for name in order:
            verb, units = verbs[name]
            lines = [PartLine(sku, each) for each in units]
            if verb == "fulfil":
                await worker.engine.fulfil(id, Fulfil(lines), key(f"{sku}{name}"))
            else:
                await worker.engine.cancel(id, Cancel(lines), key(f"{sku}{name}"))
    # Four own and three borrowed: three own ones shipped, the borrowed ones came back.
    assert {await accounts(worker, sku) for sku in skus} == {(0, 0, 1, 6, 7)}


async def test_a_cancel_races_the_packer(store_url: str, store: Store, workers: Workers) -> None:
    """Cancel one against fulfil three of three: one wins, the other is told what is left."""
    one, other = await workers(store_url), await workers(store_url)
    await furnish(one, {"tee": 100})
    winners = set()
    for turn in range(20):
        id = await paid(one, 3)
        cancel = one.engine.cancel(id, Cancel([PartLine("tee", 1)]), key(f"c{turn}"))
        fulfil = other.engine.fulfil(id, Fulfil([PartLine("tee", 3)]), key(f"f{turn}"))
        both = [cancel, fulfil] if turn % 2 else [fulfil, cancel]
        results = await asyncio.gather(*both, return_exceptions=True)
        won = [each for each in results if isinstance(each, Receipt)]
        (lost,) = [each for each in results if not isinstance(each, Receipt)]
        assert len(won) == 1
        winners.add(won[0].reservation().state)
        if won[0].reservation().state == "committed":  # the packer is told that two are left
            assert isinstance(lost, InvalidQuantity)
            assert lost.lines == [{"sku": "tee", "requested": 3, "available": 2}]
            await other.engine.fulfil(id, Fulfil(), key(f"rest{turn}"))
        else:
            assert isinstance(lost, InvalidState)
            assert lost.state == "fulfilled"
    assert (await accounts(one))[1:3] == (0, 0)
