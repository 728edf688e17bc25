"""Makes a fresh service ready for a log: locations, channels, SKUs, and the stock it will sell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import msgspec
import orjson

from loadtest.book import Book, PoolKey
from loadtest.client import Answer, Call, Client, Problem, Refused, StockPage, each
from loadtest.orders import Dirt, read
from loadtest.progress import Progress

RECEIPT_LINES = 1000  # the contract's limit
RECEIVERS = 4  # as many thousand lines at once keep a service busy; more would only wait in it
BUSY_LINE = 503
FLOOR_MILLIONTHS = 700_000  # of a location's receipts; the rest is shared, so that both are used


class _Result(msgspec.Struct):
    status: int
    problem: Problem | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


@dataclass(slots=True)
class Survey:
    """What a log asks for: the demand of each pool, and who sells where."""

    baskets: int = 0
    reservations: int = 0
    lines: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    demand: dict[PoolKey, int] = field(default_factory=dict)
    channels: dict[str, dict[str, None]] = field(default_factory=dict)
    dirt: Dirt = field(default_factory=Dirt)

    def sellers(self) -> dict[str, list[str]]:
        """Location → the channels that sell there."""
        sellers: dict[str, list[str]] = {}
        for channel, locations in self.channels.items():
            for location in locations:
                sellers.setdefault(location, []).append(channel)
        return sellers

    def floors(self) -> dict[str, int]:
        """Channel → the share of receipts set aside for it, in millionths.

        Channels that meet at a location divide what is set aside there.
        """
        sellers = self.sellers()
        return {
            channel: FLOOR_MILLIONTHS // max(len(sellers[location]) for location in locations)
            for channel, locations in self.channels.items()
        }

    def shares(self) -> dict[str, dict[str, int]]:
        """Location → channel → its share of a receipt there, in millionths."""
        floors = self.floors()
        return {
            location: {channel: floors[channel] for channel in channels}
            for location, channels in self.sellers().items()
        }


def survey(path: Path, limit: int | None) -> Survey:
    """Read the log once, up to ``limit`` baskets."""
    found = Survey()
    for basket in read(path, found.dirt, limit):
        if not found.baskets:
            found.first_s = basket.time_s
        found.baskets += 1
        found.reservations += sum(1 for _ in basket.parts())
        found.lines += len(basket.lines)
        found.last_s = basket.time_s
        locations = found.channels.setdefault(basket.channel, {})
        for line in basket.lines:
            locations[line.location] = None
            pool = line.sku, line.location
            found.demand[pool] = found.demand.get(pool, 0) + line.quantity
    return found


def receipts(demand: dict[PoolKey, int], stock: Decimal) -> Iterator[tuple[PoolKey, int]]:
    """``stock`` times the demand of each pool, rounded so that all together it is exact."""
    wanted = given = 0
    for pool, units in demand.items():
        wanted += units
        quantity = int(wanted * stock) - given
        given += quantity
        if quantity:
            yield pool, quantity


async def stock_up(
    client: Client, plan: Survey, stock: Decimal, run: str, concurrency: int
) -> Book:
    """Set everything up and receive the stock; the book of what was acknowledged.

    Raises Refused if the service has stock already, or refuses any of it.
    """
    page = (await client.must(Call("read", "GET", "/v1/stock?limit=1"), 200)).decode(StockPage)
    if page.items:
        raise Refused("the service has stock already; a replay can only audit a fresh one")
    book = Book(plan.shares())
    for phase, calls in _settings(plan, run).items():
        progress = Progress(phase, len(calls))

        async def put(call: Call, progress: Progress = progress) -> None:
            await client.must(call, 200, 201)
            progress.step()

        await each(calls, put, concurrency)

    arriving = dict(receipts(plan.demand, stock))
    progress = Progress("stock", len(arriving))

    async def receive(batch: tuple[int, list[tuple[PoolKey, int]]]) -> None:
        number, lines = batch
        body = [{"sku": sku, "location": at, "quantity": units} for (sku, at), units in lines]
        answer = await client.must(
            Call(
                "receive",
                "POST",
                "/v1/stock/receive",
                orjson.dumps({"lines": body, "reference": run}),
                f"{run}-receive-{number}",
            ),
            200,
            busy_lines=_busy_lines,
        )
        for (pool, units), result in zip(lines, answer.decode(_Results).results, strict=True):
            if result.status != 200:
                raise Refused(f"receive {units} of {pool}: {result.status} {result.problem}")
            book.received[pool] = units
        progress.step(len(lines))

    await each(enumerate(_batches(arriving)), receive, min(concurrency, RECEIVERS))
    return book


def _busy_lines(answer: Answer) -> bool:
    """True if the service had no room for some of the lines and asks to repeat them."""
    return any(result.status == BUSY_LINE for result in answer.decode(_Results).results)


def _settings(plan: Survey, run: str) -> dict[str, list[Call]]:
    """Per phase the calls that set a service up; within a phase their order is free."""

    def put(path: str, body: object) -> Call:
        return Call("put", "PUT", path, orjson.dumps(body), f"{run}-put-{path}")

    floors = plan.floors()
    return {
        "locations": [put(f"/v1/locations/{name}", {}) for name in plan.sellers()],
        "channels": [
            put(
                f"/v1/channels/{name}",
                {"floor_share": floors[name] / 1_000_000, "locations": list(locations)},
            )
            for name, locations in plan.channels.items()
        ],
        "skus": [
            put(f"/v1/skus/{quote(sku, safe='')}", {})
            for sku in dict.fromkeys(sku for sku, _ in plan.demand)
        ],
    }


def _batches(arriving: dict[PoolKey, int]) -> Iterator[list[tuple[PoolKey, int]]]:
    lines = iter(arriving.items())
    while batch := list(islice(lines, RECEIPT_LINES)):
        yield batch
