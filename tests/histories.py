"""A random history of a shop: what callers and people in the warehouse do, at once; refusals are a
part of it. Every verb that the ledger knows happens in it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal

from core.errors import StockadeError
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Line,
    PartLine,
    Release,
    Reserve,
    Return,
    ReturnLine,
)
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
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
from tests.workers import Store, key, make_due

State = Literal["reserved", "committed", "fulfilled"]
Shortage = Literal["refuse", "record"]
Back = Literal["restock", "damaged", "quarantine"]

SKUS = ("tee", "tee-m", "cap", "mug#1")  # one begins as another does
LOCATIONS = ("main", "back")
CHANNELS = {
    "web": ChannelSpec(floor_share=0.5, ceiling_share=0.9, locations=["main", "back"]),
    "store": ChannelSpec(floor_share=0.2, borrow=False),
    "gone": ChannelSpec(floor_units=1),
}
REFERENCES = ("order-1", "order 2", "a\\b", "=1+1", "%41 é")


SALES: tuple[tuple[State, Shortage], ...] = (
    ("reserved", "refuse"), ("reserved", "refuse"), ("reserved", "refuse"),
    ("committed", "refuse"), ("committed", "record"), ("fulfilled", "record"),
)  # fmt: skip
BACK: tuple[Back, ...] = ("restock", "damaged", "quarantine")
FOUND: tuple[Literal["sellable", "damaged"], ...] = ("sellable", "damaged")


class History:
    """Makes one. ``held``: the ids of all reservations that there ever were."""

    def __init__(self, worker: Service, store: Store, seed: int) -> None:
        self.worker = worker
        self.store = store
        self.dice = random.Random(seed)
        self.held: list[str] = []
        self.refused = 0
        self._count = 0

    async def open(self) -> None:
        """Channels, places, SKUs, and a first stock."""
        await self.worker.catalogue.put_location("back", LocationSpec())
        for name, spec in CHANNELS.items():
            await self.worker.catalogue.put_channel(name, spec)
        for sku in SKUS:
            await self.worker.catalogue.put_sku(sku, SkuSpec(safety_stock=2))
        lines = [ReceiveLine(sku, at, 20) for sku in SKUS for at in LOCATIONS]
        await self._lines(self.worker.stock.receive, Receive(lines, reference="delivery-1"))
        await self._first()
        await self._first_stock()

    async def _first(self) -> None:
        """One customer who does all that customers do."""
        engine = self.worker.engine
        one = (await engine.reserve(Reserve("store", [Line("cap", 2)]))).id
        self.held.append(one)
        await engine.amend(one, Amend([AmendLine("cap", 1), AmendLine("tee", 2)]))
        await engine.extend(one, Extend(1_000))
        await engine.commit(one, Commit(reference="paid"))
        await engine.cancel(one, Cancel([PartLine("tee", 1)], "too dear"), self._key())
        await engine.fulfil(one, Fulfil())
        await engine.return_(one, self._return("cap"), self._key())
        other = (await engine.reserve(Reserve("web", [Line("cap", 1)]))).id
        self.held.append(other)
        await engine.release(other, Release())

    async def _first_stock(self) -> None:
        """And all that is done with stock: by chance alone a verb may never find what it needs."""
        stock = self.worker.stock
        await self._lines(stock.adjust, Adjust([AdjustLine("tee", "main", -1, "sellable")]))
        await self._lines(stock.count, Count([CountLine("tee", "back", 19)]))
        await self._lines(stock.transfer, Transfer([TransferLine("tee", "main", "back", 1)]))
        line = ReallocateLine("tee", "main", "shared", "web", 1)
        await self._lines(stock.reallocate, Reallocate([line]))

    async def run(self, verbs: int, callers: int = 4) -> None:
        """``verbs`` of them, of ``callers`` at once."""

        async def caller() -> None:
            for _ in range(verbs // callers):
                self._count += 1
                try:
                    await self.dice.choice((self._sell, self._sell, self._change, self._stock))()
                except StockadeError:
                    self.refused += 1

        await asyncio.gather(*(caller() for _ in range(callers)))

    async def close(self) -> None:
        """What happens to policy: a lower safety stock, a channel that is given up."""
        await self.worker.catalogue.put_sku("tee", SkuSpec(safety_stock=0))
        await self._lines(self.worker.stock.receive, Receive([ReceiveLine("tee", "main", 9)]))
        await self.worker.catalogue.delete_channel("gone")

    # --- customers -------------------------------------------------------------------------------

    async def _sell(self) -> None:
        dice = self.dice
        lines = [
            Line(sku, dice.randint(1, 3)) for sku in dice.sample(SKUS, dice.choice((1, 1, 2)))
        ]
        state, shortage = dice.choice(SALES)
        request = Reserve(
            dice.choice(("web", "web", "store")),
            lines,
            reference=dice.choice((None, *REFERENCES)),
            customer=dice.choice((None, "c-1", "c 2")),
            partial=state == "reserved" and dice.random() < 0.3,
            state=state,
            shortage=shortage,
        )
        receipt = await self.worker.engine.reserve(request, self._key())
        self.held.append(receipt.id)

    async def _change(self) -> None:
        if not self.held:
            return
        dice, engine = self.dice, self.worker.engine
        one = dice.choice(self.held[-20:])
        sku = dice.choice((await engine.reservation(one)).reservation().lines).sku
        verbs: list[Callable[[], Awaitable[Any]]] = [
            lambda: engine.commit(one, Commit(reference=dice.choice((None, "paid")))),
            lambda: engine.commit(one, Commit()),
            lambda: engine.release(one, Release()),
            lambda: engine.extend(one, Extend(dice.randint(100, 2_000))),
            lambda: engine.amend(one, Amend([AmendLine(sku, dice.randint(1, 3))])),
            lambda: engine.cancel(one, Cancel([PartLine(sku, 1)], "too dear"), self._key()),
            lambda: engine.cancel(one, Cancel()),
            lambda: engine.fulfil(one, Fulfil([PartLine(sku, 1)], "parcel 1"), self._key()),
            lambda: engine.fulfil(one, Fulfil()),
            lambda: engine.return_(one, self._return(sku), self._key()),
            lambda: self._late(one),
        ]
        await dice.choice(verbs)()

    def _return(self, sku: str) -> Return:
        kind = self.dice.choice(BACK)
        return Return([ReturnLine(sku, 1, to="main", disposition=kind)], "rma-1")

    async def _late(self, id: str) -> None:
        """The deadline passes, and then somebody pays; or it is somebody else who wants it."""
        if (await self.worker.engine.reservation(id)).reservation().state == "reserved":
            make_due(self.store, id)
        if self.dice.random() < 0.5:
            await self.worker.engine.commit(id, Commit(), self._key())

    # --- the warehouse ---------------------------------------------------------------------------

    async def _stock(self) -> None:
        dice, stock = self.dice, self.worker.stock
        sku, at = dice.choice(SKUS), dice.choice(LOCATIONS)
        other = LOCATIONS[1 - LOCATIONS.index(at)]
        note: dict[str, Any] = {
            "reference": dice.choice((None, "delivery-1", "-2 \\ n")),
            "reason": dice.choice((None, "=found")),
            "occurred_at": dice.choice((None, datetime(2004, 1, 15, 12, 3, 33, 988_000, UTC))),
        }
        account = dice.choice(FOUND)
        verbs: list[Callable[[], Awaitable[Any]]] = [
            lambda: self._lines(
                stock.receive, Receive([ReceiveLine(sku, at, dice.randint(1, 9))], **note)
            ),
            lambda: self._lines(
                stock.adjust,
                Adjust([AdjustLine(sku, at, dice.choice((-2, 3)), account)], **note),
            ),
            lambda: self._lines(
                stock.count, Count([CountLine(sku, at, dice.randint(0, 12))], **note)
            ),
            lambda: self._lines(
                stock.transfer, Transfer([TransferLine(sku, at, other, 2)], **note)
            ),
            lambda: self._lines(
                stock.reallocate,
                Reallocate([ReallocateLine(sku, at, "shared", "web", 1)], **note),
            ),
        ]
        await dice.choice(verbs)()

    async def _lines(self, verb: Callable[..., Awaitable[list[Any]]], request: Any) -> None:
        for result in await verb(request, [None] * len(request.lines)):
            if result.error is not None:
                raise result.error

    def _key(self) -> Any:
        self._count += 1
        return key(f"h{self._count}")


async def history(worker: Service, store: Store, seed: int, verbs: int) -> History:
    """A whole one."""
    made = History(worker, store, seed)
    await made.open()
    await made.run(verbs)
    await made.close()
    return made
