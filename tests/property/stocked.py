"""The machine's shelves: how an example begins and ends, policy, receipts, and what gets lost."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from core.model import ChannelSpec, Key, LocationSpec, Receive, ReceiveLine, SkuSpec
from core.service import Service
from tests.model import DONE, Answer
from tests.property.draws import (
    CHANNELS,
    SKUS,
    channel_specs,
    channels,
    engines,
    keyings,
    picks,
    receipts,
    sku_specs,
)
from tests.property.driven import SEEN, Driven


def _receive(request: Receive, service: Service, key: Key) -> Awaitable[Any]:
    return service.stock.receive(request, [key])


class Stocked(Driven):
    """What its keepers may do in a warehouse."""

    # --- opening -------------------------------------------------------------------------------

    @initialize(
        count=st.integers(2, 3), staleness_ms=st.sampled_from([0, 0, 3]), reaping=st.booleans(),
        specs=st.tuples(channel_specs(), channel_specs(), channel_specs()),
        skus=st.tuples(sku_specs(), sku_specs()), stock=st.lists(receipts, min_size=1, max_size=4),
    )  # fmt: skip
    def open(
        self,
        count: int,
        staleness_ms: int,
        reaping: bool,
        specs: tuple[ChannelSpec, ...],
        skus: tuple[SkuSpec, ...],
        stock: list[list[ReceiveLine]],
    ) -> None:
        self.run(self.shop.open(count, staleness_ms))
        if not reaping:
            self.run(self.shop.stop_reapers())
        self.set_location(0, "north", True)
        for name, spec in zip(CHANNELS, specs, strict=True):
            self.set_channel(0, name, spec)
        for sku, sku_spec in zip(SKUS, skus, strict=True):
            self.set_sku(1, sku, sku_spec)
        for number, each in enumerate(stock):
            self.receive(number, each, False)

    def teardown(self) -> None:
        try:
            for service in self.shop.services:
                for name, count in service.lane.counts.items():
                    SEEN[name.replace("ReserveStep:", "")] += count
            self.run(self.shop.close())
        finally:
            self.runner.close()

    # --- policy and stock ----------------------------------------------------------------------

    @rule(engine=engines, name=channels, spec=channel_specs())
    def set_channel(self, engine: int, name: str, spec: ChannelSpec) -> None:
        before = self.model.copy()
        result = self.ask(self.service(engine).catalogue.put_channel(name, spec))

        def apply() -> Answer:
            self.model.put_channel(name, spec)
            return DONE

        self.step(result, apply)
        assert result.created is (name not in before.channels)

    @rule(engine=engines, name=st.just("north"), sells=st.sampled_from([True, True, False]))
    def set_location(self, engine: int, name: str, sells: bool) -> None:
        work = self.service(engine).catalogue.put_location(name, LocationSpec(sells))

        def apply() -> Answer:
            self.model.put_location(name, sells)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, sku=st.sampled_from(SKUS), spec=sku_specs())
    def set_sku(self, engine: int, sku: str, spec: SkuSpec) -> None:
        work = self.service(engine).catalogue.put_sku(sku, spec)

        def apply() -> Answer:
            self.model.put_sku(sku, spec)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, receipt=receipts, keyed=keyings)
    def receive(self, engine: int, receipt: list[ReceiveLine], keyed: bool) -> None:
        keys = [self.key() if keyed else None for _ in receipt]
        results = self.ask(self.service(engine).stock.receive(Receive(receipt), keys))

        def apply() -> Answer:
            for line in receipt:
                self.model.receive(line.sku, line.location, line.quantity)
            return DONE

        self.step(results, apply)
        for line, key, result in zip(receipt, keys, results, strict=True):
            assert result.error is None
            assert not result.replayed
            if key is not None:
                pool = f"{line.sku}@{line.location}"
                self.journal.append((partial(_receive, Receive([line])), key, pool))

    @rule(pick=picks, share=st.sampled_from([0, 1, 3]))
    def lose(self, pick: int, share: int) -> None:
        """A pool is found empty, and some of what it has promised missing."""
        if not self.found.rows:
            return
        name = sorted(self.found.rows)[pick % len(self.found.rows)]
        row = self.found.rows[name]
        promised = sum(quota.reserved + quota.committed for quota in row.quotas.values())
        units = min(share, promised - row.deficit)
        lost = self.run(self.shop.lose(name, row, units))

        def apply() -> Answer:
            if lost:
                sku, location = name.split("@")
                self.model.lose((sku, location), units)
            return DONE

        self.step(None, apply)
        SEEN["deficit"] += units > 0 and lost
