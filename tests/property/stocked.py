"""The machine's shelves: how an example begins and ends, policy, and what happens to stock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from msgspec.structs import replace

from core.errors import ChannelInUse, InsufficientStock
from core.model import Amend, AmendLine, Commit, Fulfil, Key, PartLine, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.settings import Settings
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
from tests.counted import counted
from tests.property.draws import (
    CHANNELS,
    SKUS,
    channel_specs,
    channels,
    demands,
    engines,
    keyings,
    location_specs,
    locations,
    reallocations,
    receipts,
    sku_specs,
    skus,
)
from tests.property.driven import SEEN, Driven
from tests.shelves import DONE, Answer


def _ask_stock(verb: str, request: Any, service: Service, key: Key | None) -> Awaitable[Any]:
    return getattr(service.stock, verb)(request, [key])  # type: ignore[no-any-return]


class Stocked(Driven):
    """What its keepers may do in a warehouse."""

    # --- opening -------------------------------------------------------------------------------

    @initialize(
        count=st.integers(2, 3), staleness_ms=st.sampled_from([0, 0, 3]), reaping=st.booleans(),
        specs=st.tuples(channel_specs(), channel_specs(), channel_specs()),
        policies=st.tuples(sku_specs(), sku_specs()),
        stock=st.lists(receipts, min_size=1, max_size=4),
        baskets=st.lists(st.tuples(demands(), st.integers(0, 4)), min_size=1, max_size=4),
    )  # fmt: skip
    def open(
        self,
        count: int,
        staleness_ms: int,
        reaping: bool,
        specs: tuple[ChannelSpec, ...],
        policies: tuple[SkuSpec, ...],
        stock: list[list[ReceiveLine]],
        baskets: list[tuple[Reserve, int]],
    ) -> None:
        self.run(self.shop.open(count, staleness_ms))
        if not reaping:
            self.run(self.shop.stop_reapers())
        first, catalogue = self.service(0), self.service(1).catalogue
        self.run(catalogue.put_location("north", LocationSpec()))
        for name, spec in zip(CHANNELS, specs, strict=True):
            self.run(catalogue.put_channel(name, spec))
        for sku, policy in zip(SKUS, policies, strict=True):
            self.run(catalogue.put_sku(sku, policy))
        for receipt in stock:
            self.run(first.stock.receive(Receive(receipt), [None] * len(receipt)))
        self.at_once(self.run(self.shop.all([self._first(*basket) for basket in baskets])))

    async def _first(self, request: Reserve, steps: int) -> Receipt:
        """A reservation that is there from the beginning: reserved, paid, shipped in part or whole,
        or shipped in part and then amended."""
        engine, first = self.service(1).engine, request.lines[0]
        if steps in (2, 4):  # twice as much of the first line, so that something stays open
            request = replace(request, lines=[first, *request.lines])
        receipt = await self.service(0).engine.reserve(request)
        if steps:
            await engine.commit(receipt.id, Commit())
        if steps in (2, 4):
            part = PartLine(first.sku, 1)
            await engine.fulfil(receipt.id, Fulfil([part]), self.key())
        if steps == 3:
            await engine.fulfil(receipt.id, Fulfil())
        if steps == 4:
            await engine.amend(receipt.id, Amend([AmendLine(first.sku, 2)]))
        return receipt

    def teardown(self) -> None:
        try:
            for service in self.shop.services:
                for name, count in counted(service).items():
                    SEEN[name.replace("reserve:", "")] += count
            self.run(self.shop.close())
        finally:
            self.runner.close()

    # --- policy --------------------------------------------------------------------------------

    @rule(engine=engines, name=channels, spec=channel_specs())
    def set_channel(self, engine: int, name: str, spec: ChannelSpec) -> None:
        before = self.model.copy()
        result = self.ask(self.service(engine).catalogue.put_channel(name, spec))

        def apply() -> Answer:
            self.model.put_channel(name, spec)
            return DONE

        self.step(result, apply)
        assert result.created is (name not in before.channels)

    @rule(engine=engines, name=channels, sure=st.sampled_from([True, False, False]))
    def delete_channel(self, engine: int, name: str, sure: bool) -> None:
        if not sure:
            return  # else there were hardly ever any channels
        result = self.ask(self.service(engine).catalogue.delete_channel(name))
        self.step(result, lambda: self.model.delete_channel(name), last=True)
        SEEN["channel in use"] += isinstance(result, ChannelInUse)

    @rule(engine=engines, name=st.just("north"), spec=location_specs)
    def set_location(self, engine: int, name: str, spec: LocationSpec) -> None:
        work = self.service(engine).catalogue.put_location(name, spec)

        def apply() -> Answer:
            self.model.put_location(name, spec)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, on=st.sampled_from([True, False, False, False]))
    def protect(self, engine: int, on: bool) -> None:
        service = self.service(engine)
        work = service.protection.switch(on, "a drill", "ann")

        def apply() -> Answer:
            self.model.protect(Settings().protect_safety if on else None)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, sku=skus, spec=sku_specs())
    def set_sku(self, engine: int, sku: str, spec: SkuSpec) -> None:
        work = self.service(engine).catalogue.put_sku(sku, spec)
        self.step(self.ask(work), lambda: self.model.put_sku(sku, spec))

    # --- stock ---------------------------------------------------------------------------------

    @rule(engine=engines, receipt=receipts, keyed=keyings)
    def receive(self, engine: int, receipt: list[ReceiveLine], keyed: bool) -> None:
        keys = [self.key() if keyed else None for _ in receipt]
        results = self.ask(self.service(engine).stock.receive(Receive(receipt), keys))

        def apply() -> Answer:
            for line in receipt:
                self.model.receive((line.sku, line.location), line.quantity)
            return DONE

        self.step(results, apply)
        for line, key, result in zip(receipt, keys, results, strict=True):
            assert result.error is None
            assert not result.replayed
            if key is not None:
                self._remember("receive", Receive([line]), key, f"{line.sku}@{line.location}")

    def _remember(self, verb: str, request: Any, key: Key, pool: str) -> None:
        self.journal.append((partial(_ask_stock, verb, request), key, pool))

    def move_stock(
        self, verb: str, engine: int, request: Any, pool: str, keyed: bool,
        apply: Callable[[], Answer],
    ) -> StockResult:  # fmt: skip
        """A request of one line, which ends as the model says."""
        key, due = self.key() if keyed else None, bool(self.due)
        found: list[StockResult] = self.ask(_ask_stock(verb, request, self.service(engine), key))
        (result,) = found
        # A line that is refused does not wait for what is due; a demand does.
        early = due and isinstance(result.error, InsufficientStock)
        self.step(result, lambda: None if early else apply())
        if result.error is None:
            place = (pool.split("@")[0], pool.split("@")[1])
            assert result.pool is not None
            assert due or result.pool.version == self.model.pools[place].version
            assert result.pool.on_hand == self.model.pools[place].on_hand
            if key is not None:
                self._remember(verb, request, key, pool)
        return result

    @rule(
        engine=engines, sku=skus, location=locations, keyed=keyings,
        delta=st.sampled_from([-5, -2, -1, -1, 1, 2]),
        account=st.sampled_from(["sellable", "sellable", "damaged", "quarantine"]),
    )  # fmt: skip
    def adjust(
        self, engine: int, sku: str, location: str, keyed: bool, delta: int, account: Any
    ) -> None:
        request = Adjust([AdjustLine(sku, location, delta, account)], reason="found broken")
        self.move_stock(
            "adjust", engine, request, f"{sku}@{location}", keyed,
            lambda: self.model.adjust((sku, location), delta, account),
        )  # fmt: skip

    @rule(
        engine=engines, sku=skus, location=locations, keyed=keyings,
        found=st.sampled_from(["none", "less", "promised", "few", "right", "more"]),
        condition=st.sampled_from(["", "", "", "on_hand", "version", "stale"]),
    )  # fmt: skip
    def count(
        self, engine: int, sku: str, location: str, keyed: bool, found: str, condition: str
    ) -> None:
        """All that lies there, or less than is promised; perhaps only if nothing has changed."""
        pool = self.model.pool((sku, location))
        here = pool.on_hand
        promised = sum(quota.reserved + quota.committed for quota in pool.quotas.values())
        counted = {
            "none": 0, "less": here - 1, "promised": promised, "few": promised - 2, "right": here,
            "more": here + 2,
        }[found]  # fmt: skip
        line = CountLine(
            sku, location, max(0, counted),
            here + (condition == "stale") if condition in ("on_hand", "stale") else None,
            pool.version if condition == "version" and not self.due else None,  # else it expires
        )
        self.move_stock(
            "count", engine, Count([line]), f"{sku}@{location}", keyed,
            lambda: self.model.count(
                (sku, location), line.counted, line.if_on_hand, line.if_version
            ),
        )  # fmt: skip

    @rule(
        engine=engines, sku=skus, here=locations, there=locations, keyed=keyings,
        units=st.sampled_from([1, 1, 2, 3, 7]),
    )  # fmt: skip
    def transfer(
        self, engine: int, sku: str, here: str, there: str, keyed: bool, units: int
    ) -> None:
        request = Transfer([TransferLine(sku, here, there, units)])
        self.move_stock(
            "transfer", engine, request, f"{sku}@{here}", keyed,
            lambda: self.model.transfer(sku, here, there, units),
        )  # fmt: skip

    @rule(engine=engines, line=reallocations(), keyed=keyings)
    def reallocate(self, engine: int, line: ReallocateLine, keyed: bool) -> None:
        place = line.sku, line.location
        before = self.model.pool(place).version

        def apply() -> Answer:
            if line.source is None or line.target is None:
                return self.model.reallocate_by_policy(place)
            units = line.quantity if isinstance(line.quantity, int) else None
            return self.model.reallocate(place, line.source, line.target, units)

        self.move_stock("reallocate", engine, Reallocate([line]), "@".join(place), keyed, apply)
        if line.by and self.model.pool(place).version > before:
            SEEN["reallocation by policy"] += 1
