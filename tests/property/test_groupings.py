"""What must not depend on the order of verbs, nor on how they are cut, on a real store.

Each example does the same to two new SKUs, in two ways, and compares what is left of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InsufficientStock
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Fulfil,
    Line,
    PartLine,
    Release,
    Reserve,
    Return,
    ReturnLine,
)
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock_model import Adjust, AdjustLine, Count, CountLine, Receive, ReceiveLine
from tests.shop import Shop, key_of

T = TypeVar("T")
LOCATIONS = ("main", "north")
fewer = settings(
    max_examples=settings().max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Counter:
    """One engine, and SKUs that nobody has touched."""

    def __init__(self, runner: asyncio.Runner, service: Service) -> None:
        self._runner = runner
        self.service = service
        self.engine = service.engine
        self._numbers = count()

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            async with asyncio.timeout(20.0):
                return await work

        return self._runner.run(wait())

    def new_sku(self) -> str:
        sku = f"tee-{next(self._numbers)}"
        self.run(self.service.catalogue.put_sku(sku, SkuSpec()))
        return sku

    def key(self) -> Any:
        return key_of(next(self._numbers))

    def receive(self, sku: str, units: int, location: str = "main") -> None:
        lines = [ReceiveLine(sku, location, units)]
        (result,) = self.run(self.service.stock.receive(Receive(lines), [None]))
        assert result.error is None

    def state(self, sku: str) -> list[Any]:
        """All accounts of a SKU, location by location, but the version."""
        (stock,) = self.run(self.service.stock.read([sku]))
        return [
            {name: getattr(pool, name) for name in pool.__struct_fields__}
            | {"sku": "", "version": 0}
            for pool in stock.pools
        ]


@pytest.fixture
def counter(store_url: str, tmp_path: Path) -> Iterator[Counter]:
    """One engine on an empty store with ``main`` and ``north``; the store is audited after all."""
    shop = Shop(store_url, tmp_path)
    with asyncio.Runner() as runner:
        runner.run(shop.open(1))
        try:
            (service,) = shop.services
            runner.run(service.catalogue.put_location("north", LocationSpec()))
            yield Counter(runner, service)
            runner.run(shop.audit())
        finally:
            runner.run(shop.close())


@st.composite
def cuttings(draw: st.DrawFn) -> tuple[int, list[list[tuple[str, int]]]]:
    """A quantity, and two ways to ship, cancel and take back parts of it that come to the same."""
    shipped, cancelled = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    back, kept = draw(st.integers(0, shipped)), draw(st.integers(0, 2))
    ways = []
    for _ in range(2):
        units = draw(st.permutations(["fulfil"] * shipped + ["cancel"] * cancelled))
        steps: list[tuple[str, int]] = []
        for verb in units:  # equal neighbours may go as one
            if steps and steps[-1][0] == verb and draw(st.booleans()):
                steps[-1] = verb, steps[-1][1] + 1
            else:
                steps.append((verb, 1))
        for _ in range(back):  # each when something is out, now or later
            last = [at for at in range(1, len(steps) + 1) if _out(steps, at)]
            steps.insert(draw(st.sampled_from(last)), ("return", 1))
        ways.append(steps)
    return shipped + cancelled + kept, ways


def _out(steps: list[tuple[str, int]], at: int) -> bool:
    """True if one more may come back before step ``at``, and all later returns still can."""
    tried = [*steps[:at], ("return", 1), *steps[at:]]
    out = 0
    for verb, units in tried:
        out += units * ((verb == "fulfil") - (verb == "return"))
        if out < 0:
            return False
    return True


@fewer
@given(
    cutting=cuttings(), own=st.integers(0, 6), spare=st.integers(0, 3), missing=st.integers(0, 3),
    ceiling=st.booleans(),
)  # fmt: skip
def test_parts_in_any_order_and_grouping_end_in_the_same_accounts(
    counter: Counter,
    cutting: tuple[int, list[list[tuple[str, int]]]],
    own: int,
    spare: int,
    missing: int,
    ceiling: bool,
) -> None:
    """Unless units are missing and come back to quarantine: then what was shipped before they came
    back was there after all, and what is shipped later may be they."""
    quantity, ways = cutting
    if not quantity or (missing and any(verb == "return" for verb, _ in ways[0])):
        return
    spec = ChannelSpec(floor_units=own, ceiling_units=20 if ceiling else None)
    counter.run(counter.service.catalogue.put_channel("web", spec))
    ends = []
    for steps in ways:
        sku = counter.new_sku()
        counter.receive(sku, quantity + spare)
        held = counter.run(counter.engine.reserve(Reserve("web", [Line(sku, quantity)])))
        counter.run(counter.engine.commit(held.id, Commit()))
        counted = CountLine(sku, "main", max(0, quantity + spare - missing))
        counter.run(counter.service.stock.count(Count([counted]), [None]))
        for verb, units in steps:
            counter.run(_part(counter, held.id, verb, sku, units))
        shown = counter.run(counter.engine.reservation(held.id)).reservation()
        (line,) = shown.lines
        ends.append((
            counter.state(sku), shown.state, line.own, line.borrowed, line.fulfilled,
            line.cancelled, line.returned,
        ))  # fmt: skip
    assert ends[0] == ends[1], ways


def _part(counter: Counter, id: str, verb: str, sku: str, units: int) -> Awaitable[Receipt]:
    engine, key = counter.engine, counter.key()
    if verb == "fulfil":
        return engine.fulfil(id, Fulfil([PartLine(sku, units)]), key)
    if verb == "cancel":
        return engine.cancel(id, Cancel([PartLine(sku, units)]), key)
    line = ReturnLine(sku, units, disposition="quarantine")
    return engine.return_(id, Return([line]), key)


@fewer
@given(
    stock=st.lists(
        st.tuples(st.sampled_from(LOCATIONS), st.integers(1, 5)), min_size=1, max_size=4
    ),
    other=st.integers(0, 3), first=st.integers(1, 5), then=st.integers(1, 8),
    pin=st.sampled_from([None, None, *LOCATIONS]), floor=st.integers(0, 3),
    ceiling=st.sampled_from([None, 4, 7]), split=st.booleans(),
)  # fmt: skip
def test_an_amend_is_release_and_reserve_with_nobody_between(
    counter: Counter, stock: list[tuple[str, int]], other: int, first: int, then: int,
    pin: str | None, floor: int, ceiling: int | None, split: bool,
) -> None:  # fmt: skip
    """With no deficit, and with the present locations first."""
    spec = ChannelSpec(
        floor_units=floor, ceiling_units=ceiling, split=split, locations=["north", "main"]
    )
    counter.run(counter.service.catalogue.put_channel("web", spec))
    ends = []
    for amends in (True, False):
        sku = counter.new_sku()
        for location, units in stock:
            counter.receive(sku, units, location)
        try:
            if other:
                counter.run(counter.engine.reserve(Reserve("web", [Line(sku, other)])))
            held = counter.run(counter.engine.reserve(Reserve("web", [Line(sku, first)])))
        except InsufficientStock:
            return
        present = [line.location for line in held.reservation().lines]
        try:
            if amends:
                lines = [AmendLine(sku, then, pin)]
                held = counter.run(counter.engine.amend(held.id, Amend(lines)))
            else:
                counter.run(counter.engine.release(held.id, Release()))
                order = None if pin else list(dict.fromkeys([*present, *spec.locations]))
                line = Line(sku, then, pin, order)
                held = counter.run(counter.engine.reserve(Reserve("web", [line])))
        except InsufficientStock as error:
            ends.append([each["available"] for each in error.lines])
            continue
        taken = [(x.location, x.own, x.borrowed) for x in held.reservation().lines]
        ends.append([taken, counter.state(sku)])
    assert ends[0] == ends[1]


def test_70_30_holds_over_a_hundred_receipts_of_one_unit(counter: Counter) -> None:
    """Whether a unit is delivered, found, or counted: never more than half a unit off."""
    put = counter.service.catalogue.put_channel
    counter.run(put("store", ChannelSpec(floor_share=0.3)))
    counter.run(put("web", ChannelSpec(floor_share=0.7)))
    sku, stock = counter.new_sku(), counter.service.stock
    for number in range(1, 101):
        if number % 3 == 0:
            counter.run(stock.adjust(Adjust([AdjustLine(sku, "main", 1)]), [None]))
        elif number % 3 == 1:
            counter.run(stock.count(Count([CountLine(sku, "main", number)]), [None]))
        else:
            counter.receive(sku, 1)
        (pool,) = counter.state(sku)
        assert abs(pool["channels"]["web"].free - 0.7 * number) <= 0.5
        assert pool["channels"]["web"].free + pool["channels"]["store"].free == number


@fewer
@given(steps=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=6))
def test_a_ceiling_of_40_percent_holds_while_orders_ship(
    counter: Counter, steps: list[tuple[int, int]]
) -> None:
    """A channel that ships at once gets no more than its part of all that came."""
    spec = ChannelSpec(ceiling_share=0.4)
    counter.run(counter.service.catalogue.put_channel("web", spec))
    sku = counter.new_sku()
    arrived = sold = 0
    for units, quantity in steps:
        counter.receive(sku, units)
        arrived += units
        while True:
            request = Reserve("web", [Line(sku, quantity)], partial=True, state="fulfilled")
            try:
                receipt = counter.run(counter.engine.reserve(request))
            except InsufficientStock:
                break
            sold += sum(line.fulfilled for line in receipt.reservation().lines)
        assert sold == 4 * arrived // 10
