"""Hypothesis strategies of the machine: policies, receipts and demands that collide often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from core.model import AmendLine, Line, PartLine, Reserve, ReturnLine
from core.policy_model import ChannelSpec, LocationSpec, SkuChannel, SkuSpec
from core.stock_model import ReallocateLine, ReceiveLine

SKUS = ("cup", "tee")
LOCATIONS = ("main", "north")
CHANNELS = ("market", "store", "web")
TTLS = (600, 900, 1800)  # none passes while an example runs: deadlines are moved by hand
MAX_HOLD_SECONDS = 7_200

channels = st.sampled_from(CHANNELS)
skus = st.sampled_from(SKUS)
locations = st.sampled_from(LOCATIONS)
pins = st.sampled_from([None, None, *LOCATIONS])
engines = st.integers(0, 2)
picks = st.integers(0, 63)
keyings = st.sampled_from([True, True, False])
quantities = st.sampled_from([1, 1, 1, 2, 2, 3, 5])
floors: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {}, {}, {"floor_share": 0.3}, {"floor_share": 0.333333}, {"floor_units": 1}, {"floor_units": 2},
])  # fmt: skip
ceilings: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {}, {}, {"ceiling_units": 2}, {"ceiling_units": 4}, {"ceiling_share": 0.4},
])  # fmt: skip


@st.composite
def channel_specs(draw: st.DrawFn) -> ChannelSpec:
    """A channel; no three of them have more than all of a location."""
    return ChannelSpec(
        **draw(floors), **draw(ceilings), borrow=draw(st.sampled_from([True, True, False])),
        split=draw(st.booleans()), max_hold_seconds=MAX_HOLD_SECONDS,
        locations=draw(st.sampled_from([["main"], ["main", "north"], ["north", "main"]])),
    )  # fmt: skip


@st.composite
def sku_specs(draw: st.DrawFn) -> SkuSpec:
    """A SKU's policy: safety stock, and sometimes floors and ceilings of its own."""
    named = draw(st.lists(channels, unique=True, max_size=2))
    return SkuSpec(
        draw(st.sampled_from([0, 0, 1, 3])),
        draw(st.sampled_from([{}, {}, {"north": 2}])),
        {name: SkuChannel(**draw(floors), **draw(ceilings)) for name in named},
    )


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """A line that is free, pinned, or has an order of its own."""
    order = draw(st.sampled_from([None, None, ["north"], ["north", "main"]]))
    pin = None if order else draw(pins)
    return Line(draw(skus), draw(quantities), pin, order)


@st.composite
def demands(draw: st.DrawFn) -> Reserve:
    """A reserve request."""
    return Reserve(
        draw(channels), draw(st.lists(lines(), min_size=1, max_size=3)),
        ttl_seconds=draw(st.sampled_from([None, *TTLS])),
        reference=draw(st.sampled_from([None, "order-7", "größe 42 @ -"])),
        customer=draw(st.sampled_from([None, "c-9"])),
        partial=draw(st.sampled_from([False, False, True])), split=draw(st.booleans()),
    )  # fmt: skip


@st.composite
def sales(draw: st.DrawFn) -> Reserve:
    """What was sold elsewhere already: recorded whatever there is, or asked for like any other."""
    shortage: Any = draw(st.sampled_from(["record", "record", "refuse"]))
    return Reserve(
        draw(channels), draw(st.lists(lines(), min_size=1, max_size=2)),
        reference=draw(st.sampled_from([None, "market 12"])), split=draw(st.booleans()),
        partial=shortage == "refuse" and draw(st.booleans()),
        state=draw(st.sampled_from(["committed", "committed", "fulfilled"])), shortage=shortage,
    )  # fmt: skip


@st.composite
def reallocations(draw: st.DrawFn) -> ReallocateLine:
    """Units that change hands, or what is shared by policy."""
    sku, location = draw(skus), draw(locations)
    if draw(st.integers(0, 2)) == 0:
        return ReallocateLine(sku, location, by="policy")
    accounts = ["shared", "safety", "damaged", "quarantine", *CHANNELS]
    source = draw(st.sampled_from(["shared", "shared", *accounts]))
    target = draw(st.sampled_from([*CHANNELS, *accounts]))
    return ReallocateLine(sku, location, source, target, draw(st.sampled_from([1, 2, "all"])))


location_specs = st.builds(
    LocationSpec, st.sampled_from([True, True, False]), st.sampled_from([True, True, True, False])
)

receipts = st.lists(
    st.builds(ReceiveLine, skus, locations, st.integers(1, 9)),
    min_size=1, max_size=2, unique_by=lambda line: (line.sku, line.location),
)  # fmt: skip

parts = st.none() | st.lists(
    st.builds(PartLine, skus, quantities, st.sampled_from([None, *LOCATIONS])),
    min_size=1, max_size=2, unique_by=lambda line: (line.sku, line.location),
)  # fmt: skip

amendments = st.lists(
    st.builds(AmendLine, skus, st.sampled_from([1, 1, 1, 2, 3]), pins),
    min_size=1, max_size=3, unique_by=lambda line: (line.sku, line.location),
)  # fmt: skip

returns = st.lists(
    st.builds(
        ReturnLine, skus, st.sampled_from([1, 1, 1, 2]), pins,
        st.sampled_from([None, "main", "north", "north"]),
        st.sampled_from(["restock", "restock", "restock", "damaged", "quarantine"]),
    ),
    min_size=1, max_size=2,
    unique_by=lambda line: (line.sku, line.location, line.to, line.disposition),
)  # fmt: skip


def targets(part_lines: Sequence[PartLine] | None) -> list[tuple[str, int]] | None:
    """Parts as the model takes them."""
    if part_lines is None:
        return None
    return [
        (f"{line.sku}@{line.location}" if line.location else line.sku, line.quantity)
        for line in part_lines
    ]
