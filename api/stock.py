"""The verbs of stock, stock as it is, and availability."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec import UNSET, Struct, UnsetType, structs

from api import wire
from api.call import JSON, Call, Reply
from api.problems import Problem, problem
from api.reservations import REPLAYED
from api.wire import Body, Page, Parameters
from core.errors import StockadeError
from core.model import (
    NAME_RULE,
    SKU_RULE,
    Available,
    Key,
    Pool,
    SkuStock,
    Timestamp,
    is_name,
    is_sku,
    timestamp,
)
from core.stock_model import Adjust, Count, Reallocate, Receive, Transfer

if TYPE_CHECKING:
    from core.stock import StockResult

SKUS_MAX = 200  # of one read: what a page of a shop shows

TEXT = ("reference", "reason")
RECEIVE = Body(Receive, TEXT)
ADJUST = Body(Adjust, TEXT)
COUNT = Body(Count, TEXT)
TRANSFER = Body(Transfer, TEXT)
REALLOCATE = Body(Reallocate, TEXT)

T = TypeVar("T", Receive, Adjust, Count, Transfer, Reallocate)


class StockOne(Struct, frozen=True):
    """One line of a request as it would be if sent alone: what its key stands for."""

    line: Struct
    reference: str | None
    reason: str | None
    occurred_at: str | None


class StockLineResult(Struct, frozen=True):
    """What became of one line: the pool as it is now, or a problem.

    Of a transfer ``pool`` is the one at ``from_location``, ``to_pool`` the one at ``to_location``.
    """

    status: int
    pool: Pool | UnsetType = UNSET
    to_pool: Pool | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class StockResults(Struct, frozen=True):
    """What became of the lines, in their order."""

    results: list[StockLineResult]


class Availability(Struct, frozen=True):
    """What a channel can take. None of it was seen before ``as_of``."""

    channel: str
    as_of: Timestamp
    items: list[Available]


async def receive(call: Call) -> Reply:
    """``POST /v1/stock/receive``: units that arrived."""
    return await _change(call, b"/v1/stock/receive", RECEIVE, call.stock.receive)


async def adjust(call: Call) -> Reply:
    """``POST /v1/stock/adjust``: units that were found or lost."""
    return await _change(call, b"/v1/stock/adjust", ADJUST, call.stock.adjust)


async def count(call: Call) -> Reply:
    """``POST /v1/stock/count``: what was counted."""
    return await _change(call, b"/v1/stock/count", COUNT, call.stock.count)


async def transfer(call: Call) -> Reply:
    """``POST /v1/stock/transfer``: unsold units to other locations."""
    return await _change(call, b"/v1/stock/transfer", TRANSFER, call.stock.transfer)


async def reallocate(call: Call) -> Reply:
    """``POST /v1/stock/reallocate``: unsold units to other accounts."""
    return await _change(call, b"/v1/stock/reallocate", REALLOCATE, call.stock.reallocate)


async def _change(
    call: Call,
    path: bytes,
    body: Body[T],
    change: Callable[[T, Sequence[Key | None]], Awaitable[list[StockResult]]],
) -> Reply:
    """Each line on its own, with the header's key and the line's number."""
    sent, request = body.read_new(call)
    keys: list[Key | None] = [None] * len(request.lines)
    if sent is not None:
        owner = call.owner
        at = None if request.occurred_at is None else request.occurred_at.isoformat()
        for index, line in enumerate(request.lines):
            one = StockOne(line, request.reference, request.reason, at)
            keys[index] = wire.scoped(owner, b"POST", path, b"%b#%d" % (sent, index), one)
    return _stock_reply(call, await change(request, keys))


def _stock_reply(call: Call, outcomes: Sequence[StockResult]) -> Reply:
    """What became of each line; replayed if all of them had happened before."""
    channels = call.caller.channels
    results: list[StockLineResult] = []
    for outcome in outcomes:
        if outcome.error is not None:
            document = problem(outcome.error, call.instance)
            results.append(StockLineResult(document.status, problem=document))
        elif outcome.pool is not None:
            to_pool = UNSET if outcome.to_pool is None else _seen(outcome.to_pool, channels)
            results.append(StockLineResult(200, _seen(outcome.pool, channels), to_pool))
        else:
            raise StockadeError
    replayed = all(outcome.replayed for outcome in outcomes)
    headers = [JSON, REPLAYED] if replayed else [JSON]
    return 200, headers, wire.encode(StockResults(results))


def _seen(pool: Pool, channels: frozenset[str] | None) -> Pool:
    """A pool as who is bound to these channels sees it."""
    if channels is None:
        return pool
    return structs.replace(
        pool, channels={name: own for name, own in pool.channels.items() if name in channels}
    )


def _stock_seen(stock: SkuStock, channels: frozenset[str] | None) -> SkuStock:
    """The same for all pools of a SKU."""
    if channels is None:
        return stock
    available = {name: units for name, units in stock.available.items() if name in channels}
    return SkuStock(stock.sku, available, [_seen(pool, channels) for pool in stock.pools])


async def read(call: Call) -> Reply:
    """``GET /v1/stock/{sku}``, of one channel if asked for."""
    channel = Parameters(call, once=("channel",)).one("channel")
    if channel is not None and not is_name(channel):
        raise wire.invalid("?channel", NAME_RULE)
    sku = path_sku(call)
    if channel is not None:
        call.check_channel(channel)
    (stock,) = await call.stock.read([sku], channel)
    return 200, [JSON], wire.encode(_stock_seen(stock, call.caller.channels))


async def read_many(call: Call) -> Reply:
    """``GET /v1/stock``: the SKUs asked for, or a page of all of them."""
    parameters = Parameters(call, once=("cursor", "limit"), many=("sku",))
    skus = parameters.skus("sku", SKUS_MAX)
    after, limit = parameters.page()
    if skus and ("cursor" in parameters or "limit" in parameters):
        raise wire.invalid("?sku", "Expected SKUs, or a cursor and a limit, not both")
    following: str | None = None
    if skus:
        items = await call.stock.read(skus)
    else:
        items, following = await call.stock.page(after, limit)
    seen = [_stock_seen(each, call.caller.channels) for each in items]
    page = Page[SkuStock](seen, wire.cursor(following))
    return 200, [JSON], wire.encode(page)


async def availability(call: Call) -> Reply:
    """``GET /v1/availability``, for product pages."""
    parameters = Parameters(call, once=("channel", "by_location"), many=("sku",))
    channel = parameters.one("channel")
    if channel is None or not is_name(channel):
        raise wire.invalid("?channel", NAME_RULE)
    skus = parameters.each("sku", SKUS_MAX)  # one that is known is valid
    if not skus:
        raise wire.invalid("?sku", "Expected at least one SKU")
    call.check_channel(channel)
    found = await call.stock.availability(channel, skus, parameters.flag("by_location"))
    as_of = timestamp(call.stock.time_ms(found.seen_ms))
    headers = [JSON, (b"cache-control", b"max-age=1")]
    return 200, headers, wire.encode(Availability(channel, as_of, found.items))


def path_sku(call: Call) -> str:
    """The SKU in the path. Raises InvalidRequest."""
    if not is_sku(call.parameter):
        raise wire.invalid("{sku}", SKU_RULE)
    return call.parameter
