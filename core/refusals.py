"""What a planner's "no" means to the caller: errors made of lines, names and limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core.errors import (
    InsufficientStock,
    InvalidRequest,
    StaleVersion,
    StockadeError,
    UnknownChannel,
    UnknownLocation,
    UnknownSku,
)
from core.kernel._policy import Policy, Sku
from core.model import NAME_RULE, SKU_RULE, is_name, is_sku
from core.ops import ReserveOp, StockLine, StockOp
from core.stock_model import CountLine, ReallocateLine


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


def unknown_sku(lines: list[Any], known: Mapping[str, Sku]) -> StockadeError:
    """Lines of SKUs that do not exist, or that break the grammar."""
    wrong = [
        (f"/lines/{number}/sku", SKU_RULE)
        for number, line in enumerate(lines)
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


def poolless(op: ReserveOp, policy: Policy, skus: Mapping[str, Sku]) -> list[tuple[str, str]]:
    """(SKU, first location) of the lines that have no pool where they may be taken."""
    order = policy.specs[op.channel].locations
    places = []
    for line in op.lines:
        wanted = [line.location] if line.location else line.locations or order
        if not set(wanted).intersection(skus[line.sku].locations):
            places.append((line.sku, wanted[0]))
    return list(dict.fromkeys(places))


# --- stock: of many lines each has its own -------------------------------------------------------

MOVABLE = ("shared", "safety", "damaged", "quarantine")  # beside the channels
PROMISED = ("reserved", "committed")
ACCOUNT_RULE = "Expected a channel, or shared, safety, damaged or quarantine"
UNSOLD_RULE = "Only unsold units can be moved; promised ones go with their reservation"


def _amount(line: StockLine) -> tuple[str, int]:
    """The member of a line that says how many units it is about, and how many."""
    for name in ("quantity", "delta", "counted"):
        units = getattr(line, name, None)
        if isinstance(units, int):
            return name, abs(units)
    return "quantity", 0


def same_place(op: StockOp) -> InvalidRequest | None:
    """A transfer onto itself, a reallocation to where the units are."""
    line = op.line
    if len(op.locations) == 2 and op.locations[0] == op.locations[1]:
        member, detail = "to_location", "Expected another location than from_location"
    elif isinstance(line, ReallocateLine) and line.by is None and line.source == line.target:
        member, detail = "to", "Expected another account than from"
    else:
        return None
    return InvalidRequest(detail, [(f"/lines/{op.index}/{member}", detail)])


def unknown_stock(op: StockOp) -> StockadeError:
    """A line of a SKU that does not exist, or that breaks the grammar."""
    if not is_sku(op.sku):
        return InvalidRequest(SKU_RULE, [(f"/lines/{op.index}/sku", SKU_RULE)])
    _, units = _amount(op.line)
    return UnknownSku(lines=[{"sku": op.sku, "requested": units, "available": 0}])


def wrong_names(op: StockOp, policy: Policy) -> StockadeError | None:
    """Locations and accounts of a line that do not exist or do not fit this policy."""
    at = f"/lines/{op.index}"
    members = ("from_location", "to_location") if len(op.locations) == 2 else ("location",)
    missing = []
    for member, name in zip(members, op.locations, strict=True):
        if name in policy.locations:
            continue
        if not is_name(name):
            return InvalidRequest(NAME_RULE, [(f"{at}/{member}", NAME_RULE)])
        missing.append(name)
    if missing:
        return unknown_location(missing)
    line = op.line
    if not isinstance(line, ReallocateLine):
        return None
    for member, account in (("from", line.source), ("to", line.target)):
        if account is None or account in MOVABLE:
            continue
        spec = policy.specs.get(account)
        if spec is None or (member == "to" and spec.closed):  # closed: it is being deleted
            promised = account.partition(":")[0] in PROMISED
            if promised or not is_name(account):
                rule = UNSOLD_RULE if promised else ACCOUNT_RULE
                return InvalidRequest(rule, [(f"{at}/{member}", rule)])
            return UnknownChannel(
                f"There is no channel {account}; PUT /v1/channels/{{name}} makes one"
            )
        if member == "to" and line.location not in spec.locations:
            detail = f"{account} does not sell from {line.location}"
            return InvalidRequest(detail, [(f"{at}/to", detail)])
    return None


def unlike(line: CountLine, on_hand: int, version: int) -> StaleVersion | None:
    """A count of something else than what is there now."""
    if line.if_on_hand is not None and line.if_on_hand != on_hand:
        return StaleVersion(f"On hand are {on_hand}, not {line.if_on_hand}; count again")
    if line.if_version is not None and line.if_version != version:
        return StaleVersion(f"The version is {version}, not {line.if_version}; count again")
    return None


def short_of(op: StockOp, available: int) -> InsufficientStock:
    """More than can be moved or taken away."""
    _, units = _amount(op.line)
    detail = {
        "adjust": "Fewer lie there than are to leave; count what is there",
        "transfer": "Only unsold units can be transferred; lines says how many there are",
    }.get(op.verb, "The account holds fewer; lines says how many")
    line = {"sku": op.sku, "location": op.locations[0], "requested": units}
    return InsufficientStock(detail, [line | {"available": available, "limited_by": "on_hand"}])


def too_much(op: StockOp) -> InvalidRequest:
    """More than an account can hold."""
    member, _ = _amount(op.line)
    detail = f"Expected less: {op.sku} at {op.locations[-1]} would hold more than 2^53 units"
    return InvalidRequest(detail, [(f"/lines/{op.index}/{member}", detail)])
