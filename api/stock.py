"""Receive, stock and availability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct, UnsetType

from api import wire
from api.call import JSON, Call, Reply
from api.problems import Problem, problem
from api.reservations import REPLAYED
from api.wire import Body, Page, Parameters
from core.errors import StockadeError
from core.model import (
    NAME_RULE,
    SKU_RULE,
    Key,
    Pool,
    Receive,
    ReceiveLine,
    SkuStock,
    Timestamp,
    is_name,
    is_sku,
    timestamp,
)

if TYPE_CHECKING:
    from core.stock import StockResult

SKUS_MAX = 200  # of one read: what a page of a shop shows

RECEIVE = Body(Receive, ("reference", "reason"))


class ReceiveOne(Struct, frozen=True):
    """One line of a receive as it would be if sent alone: what its key stands for."""

    line: ReceiveLine
    reference: str | None
    reason: str | None
    occurred_at: str | None


class StockLineResult(Struct, frozen=True):
    """What became of one line: the pool as it is now, or a problem."""

    status: int
    pool: Pool | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class StockResults(Struct, frozen=True):
    """What became of the lines, in their order."""

    results: list[StockLineResult]


class Available(Struct, frozen=True):
    """What a channel can take of one SKU; per location if that was asked for."""

    sku: str
    available: int
    by_location: dict[str, int] | UnsetType = UNSET


class Availability(Struct, frozen=True):
    """What a channel can take, at ``as_of``."""

    channel: str
    as_of: Timestamp
    items: list[Available]


async def receive(call: Call) -> Reply:
    """``POST /v1/stock/receive``: each line on its own."""
    sent, request = RECEIVE.read(call)
    keys = _line_keys(sent, request)
    return _stock_reply(await call.stock.receive(request, keys), call.instance)


def _line_keys(sent: bytes | None, request: Receive) -> list[Key | None]:
    """The key of each line: the header's with the line's number."""
    if sent is None:
        return [None] * len(request.lines)
    occurred_at = None if request.occurred_at is None else request.occurred_at.isoformat()
    return [
        wire.scoped(
            b"POST",
            b"/v1/stock/receive",
            b"%b#%d" % (sent, index),
            ReceiveOne(line, request.reference, request.reason, occurred_at),
        )
        for index, line in enumerate(request.lines)
    ]


def _stock_reply(outcomes: Sequence[StockResult], instance: str) -> Reply:
    """What became of each line; replayed if all of them had happened before."""
    results: list[StockLineResult] = []
    for outcome in outcomes:
        if outcome.error is not None:
            document = problem(outcome.error, instance)
            results.append(StockLineResult(document.status, problem=document))
        elif outcome.pool is not None:
            results.append(StockLineResult(200, outcome.pool))
        else:
            raise StockadeError
    replayed = all(outcome.replayed for outcome in outcomes)
    headers = [JSON, REPLAYED] if replayed else [JSON]
    return 200, headers, wire.encode(StockResults(results))


async def read(call: Call) -> Reply:
    """``GET /v1/stock/{sku}``, of one channel if asked for."""
    channel = Parameters(call, once=("channel",)).one("channel")
    if channel is not None and not is_name(channel):
        raise wire.invalid("?channel", NAME_RULE)
    (stock,) = await call.stock.read([path_sku(call)], channel)
    return 200, [JSON], wire.encode(stock)


async def read_many(call: Call) -> Reply:
    """``GET /v1/stock``: the SKUs asked for, or a page of all of them."""
    parameters = Parameters(call, once=("cursor", "limit"), many=("sku",))
    skus = parameters.skus("sku", SKUS_MAX)
    after, limit = parameters.page()
    if skus and ("cursor" in parameters or "limit" in parameters):
        raise wire.invalid("?sku", "Expected SKUs, or a cursor and a limit, not both")
    if skus:
        page = Page[SkuStock](await call.stock.read(skus), None)
    else:
        items, following = await call.stock.page(after, limit)
        page = Page[SkuStock](items, wire.cursor(following))
    return 200, [JSON], wire.encode(page)


async def availability(call: Call) -> Reply:
    """``GET /v1/availability``, for product pages."""
    parameters = Parameters(call, once=("channel", "by_location"), many=("sku",))
    channel = parameters.one("channel")
    if channel is None or not is_name(channel):
        raise wire.invalid("?channel", NAME_RULE)
    skus = parameters.skus("sku", SKUS_MAX)
    if not skus:
        raise wire.invalid("?sku", "Expected at least one SKU")
    by_location = parameters.flag("by_location")
    items = [
        Available(sku, available, places if by_location else UNSET)
        for sku, available, places in await call.stock.availability(channel, skus)
    ]
    as_of = timestamp(call.stock.now_ms)
    headers = [JSON, (b"cache-control", b"max-age=1")]
    return 200, headers, wire.encode(Availability(channel, as_of, items))


def path_sku(call: Call) -> str:
    """The SKU in the path. Raises InvalidRequest."""
    if not is_sku(call.parameter):
        raise wire.invalid("{sku}", SKU_RULE)
    return call.parameter
