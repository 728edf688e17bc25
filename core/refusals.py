"""What a planner's "no" means to the caller: errors made of lines, names and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import (
    InsufficientStock,
    InvalidRequest,
    StockadeError,
    UnknownLocation,
    UnknownSku,
)
from core.kernel._policy import Policy, Sku
from core.model import NAME_RULE, SKU_RULE, is_name, is_sku
from core.ops import ReceiveOp


def insufficient(shortfalls: list[tuple[Any, ...]]) -> InsufficientStock:
    """The failing lines of a demand."""
    lines = []
    for _, sku, location, requested, available, _, limited_by in shortfalls:
        line = {"sku": sku}
        if location is not None:
            line["location"] = location
        line |= {"requested": requested, "available": available, "limited_by": limited_by}
        lines.append(line)
    return InsufficientStock(lines=lines)


def unknown_sku(
    lines: list[Any], known: Mapping[str, Sku], first: int = 0
) -> StockadeError:
    """Lines of SKUs that do not exist, or that break the grammar.

    ``first``: the number that the first of the lines has in its request.
    """
    wrong = [
        (f"/lines/{number}/sku", SKU_RULE)
        for number, line in enumerate(lines, first)
        if not is_sku(line.sku)
    ]
    if wrong:
        return InvalidRequest(errors=wrong)
    return UnknownSku(
        lines=[
            {"sku": line.sku, "requested": line.quantity, "available": 0}
            for line in lines
            if line.sku not in known or not known[line.sku].number
        ]
    )


def unknown_locations(lines: list[Any], policy: Policy) -> StockadeError:
    """Locations of a demand that do not exist, or that break the grammar."""
    wrong, unknown = [], []
    for number, line in enumerate(lines):
        named = [("location", line.location)] if line.location is not None else []
        named += [(f"locations/{at}", name) for at, name in enumerate(line.locations or ())]
        for member, name in named:
            if name in policy.locations:
                continue
            if not is_name(name):
                wrong.append((f"/lines/{number}/{member}", NAME_RULE))
            unknown.append(name)
    if wrong:
        return InvalidRequest(errors=wrong)
    return unknown_location(unknown)


def unknown_location(names: Iterable[str]) -> UnknownLocation:
    """Locations that do not exist."""
    named = ", ".join(dict.fromkeys(names))
    return UnknownLocation(f"There is no location {named}; PUT /v1/locations/{{name}} makes one")


def too_much(op: ReceiveOp) -> InvalidRequest:
    """A receipt that an account cannot hold."""
    detail = f"Expected less: {op.sku} at {op.location} would hold more than 2^53 units"
    return InvalidRequest(detail, [(f"/lines/{op.index}/quantity", detail)])
