"""Requests about stock: units that arrive, are adjusted, counted, moved.

As ``core.model``: decoded straight into these structs, and the OpenAPI document is made of them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, field

from core.model import (
    QUANTITY_MAX,
    STOCK_LINES_MAX,
    Name,
    Quantity,
    Request,
    Sku,
    Text,
    Whole,
)

EPOCH, MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
# Earlier and later times are mistakes, and some of them have no year that a calendar could write.
OCCURRED_END: Final = datetime(9999, 1, 1, tzinfo=UTC)


class StockRequest(Request, frozen=True, kw_only=True):
    """What all requests about stock have beside their lines."""

    reference: Text | None = None
    reason: Text | None = None
    occurred_at: Annotated[datetime, Meta(tz=True)] | None = None

    def __post_init__(self) -> None:
        if self.occurred_at and not EPOCH <= self.occurred_at < OCCURRED_END:
            raise ValueError("Expected an `occurred_at` from 1970 to 9998")


class ReceiveLine(Request, frozen=True, gc=False):
    """Units that arrived."""

    sku: Sku
    location: Name
    quantity: Quantity


class Receive(StockRequest, frozen=True):
    """``POST /v1/stock/receive``."""

    lines: Annotated[list[ReceiveLine], Meta(min_length=1, max_length=STOCK_LINES_MAX)]


class AdjustLine(Request, frozen=True, gc=False):
    """Units that were found, or lost if ``delta`` is negative."""

    sku: Sku
    location: Name
    delta: Annotated[
        int, Meta(ge=-QUANTITY_MAX, le=QUANTITY_MAX, extra_json_schema={"not": {"const": 0}})
    ]
    account: Literal["sellable", "damaged", "quarantine"] = "sellable"

    def __post_init__(self) -> None:
        if not self.delta:
            raise ValueError("Expected a `delta` that is not 0")


class Adjust(StockRequest, frozen=True):
    """``POST /v1/stock/adjust``."""

    lines: Annotated[list[AdjustLine], Meta(min_length=1, max_length=STOCK_LINES_MAX)]


class CountLine(Request, frozen=True, gc=False):
    """All that was found there, damaged and quarantine included; if you like, only while what is
    there is still what you saw."""

    sku: Sku
    location: Name
    counted: Whole
    if_on_hand: Whole | None = None
    if_version: Whole | None = None


class Count(StockRequest, frozen=True):
    """``POST /v1/stock/count``."""

    lines: Annotated[list[CountLine], Meta(min_length=1, max_length=STOCK_LINES_MAX)]


class TransferLine(Request, frozen=True, gc=False):
    """Unsold units that go to another location."""

    sku: Sku
    from_location: Name
    to_location: Name
    quantity: Quantity


class Transfer(StockRequest, frozen=True):
    """``POST /v1/stock/transfer``."""

    lines: Annotated[list[TransferLine], Meta(min_length=1, max_length=STOCK_LINES_MAX)]


class ReallocateLine(Request, frozen=True, gc=False):
    """Unsold units that go to another account, or ``by`` policy: ``shared`` as if it had just
    arrived. An account is a channel, ``shared``, ``safety``, ``damaged`` or ``quarantine``."""

    sku: Sku
    location: Name
    source: Annotated[str, Meta(min_length=1, max_length=64)] | None = field(
        name="from", default=None
    )
    target: Annotated[str, Meta(min_length=1, max_length=64)] | None = field(
        name="to", default=None
    )
    quantity: Quantity | Literal["all"] | None = None
    by: Literal["policy"] | None = None

    def __post_init__(self) -> None:
        named = [each is not None for each in (self.source, self.target, self.quantity)]
        if (any(named) if self.by else not all(named)):
            raise ValueError("Expected `from`, `to` and `quantity`, or `by` alone")


class Reallocate(StockRequest, frozen=True):
    """``POST /v1/stock/reallocate``."""

    lines: Annotated[list[ReallocateLine], Meta(min_length=1, max_length=STOCK_LINES_MAX)]


class OpenLine(Struct, frozen=True, gc=False):
    """A pool is wanted, be it empty: a recorded sale is told of one."""

    sku: str
    location: str
