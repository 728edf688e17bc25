"""Makes a service ready for a run: locations, channels, SKUs, and the stock it will sell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import msgspec
import orjson

from loadtest.book import Book, PoolKey, Rule
from loadtest.client import Answer, Call, Client, Problem, Refused, StockPage, each
from loadtest.live import Progress
from loadtest.orders import Dirt, read

RECEIPT_LINES = 1000  # the contract's limit
RECEIVERS = 4  # as many thousand lines at once keep a service busy; more would only wait in it
BUSY_LINE = 503
SHARE_ONE = 1_000_000
FLOOR_MILLIONTHS = 700_000  # of a location's receipts; the rest is shared, so that both are used


class _Result(msgspec.Struct):
    status: int
    problem: Problem | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


@dataclass(slots=True)
class Supply:
    """What a run finds.

    ``locations``: channel → where it sells; ``floors``: channel → millionths of a receipt set aside
    for it; ``rules``: what else is set for it; ``arriving``: the units of each pool.
    """

    locations: dict[str, list[str]]
    floors: dict[str, int]
    arriving: dict[PoolKey, int]
    rules: dict[str, Rule] = field(default_factory=dict)

    def shares(self) -> dict[str, dict[str, int]]:
        """Location → channel → its share of a receipt there, in millionths."""
        shares: dict[str, dict[str, int]] = {}
        for channel, locations in self.locations.items():
            for location in locations:
                shares.setdefault(location, {})[channel] = self.floors[channel]
        return shares


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

    def supply(self, stock: Decimal) -> Supply:
        """``stock`` times what the log asks for."""
        locations = {channel: list(places) for channel, places in self.channels.items()}
        return Supply(locations, self.floors(), dict(receipts(self.demand, stock)))


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
        yield pool, quantity


async def must_be_empty(client: Client) -> None:
    """Raises Refused if the service has stock: what a log names could be somebody's."""
    page = (await client.must(Call("read", "GET", "/v1/stock?limit=1"), 200)).decode(StockPage)
    if page.items:
        raise Refused("the service has stock already; a replay can only audit a fresh one")


async def stock_up(client: Client, supply: Supply, run: str, concurrency: int) -> Book:
    """Set everything up and receive the stock; the book of what was acknowledged.

    Raises Refused if the service refuses any of it.
    """
    book = Book(supply.shares(), supply.rules)
    for phase, calls in _settings(supply, run).items():
        progress = Progress(phase, len(calls))

        async def put(call: Call, progress: Progress = progress) -> None:
            await client.must(call, 200, 201)
            progress.step()

        await each(calls, put, concurrency)

    book.received = dict.fromkeys(supply.arriving, 0)
    arriving = {pool: units for pool, units in supply.arriving.items() if units}
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
            busy_lines=busy_lines,
        )
        for (pool, units), result in zip(lines, answer.decode(_Results).results, strict=True):
            if result.status != 200:
                raise Refused(f"receive {units} of {pool}: {result.status} {result.problem}")
            book.received[pool] = units
        progress.step(len(lines))

    await each(enumerate(_batches(arriving)), receive, min(concurrency, RECEIVERS))
    return book


def busy_lines(answer: Answer) -> bool:
    """True if the service had no room for some of the lines and asks to repeat them."""
    return any(result.status == BUSY_LINE for result in answer.decode(_Results).results)


def _settings(supply: Supply, run: str) -> dict[str, list[Call]]:
    """Per phase the calls that set a service up; within a phase their order is free."""

    def put(path: str, body: object) -> Call:
        return Call("put", "PUT", path, orjson.dumps(body), f"{run}-put-{path}")

    return {
        "locations": [put(f"/v1/locations/{name}", {}) for name in supply.shares()],
        "channels": [
            put(f"/v1/channels/{name}", _channel(supply, name)) for name in supply.locations
        ],
        "skus": [
            put(f"/v1/skus/{quote(sku, safe='')}", {})
            for sku in dict.fromkeys(sku for sku, _ in supply.arriving)
        ],
    }


def _channel(supply: Supply, name: str) -> dict[str, object]:
    rule = supply.rules.get(name, Rule())
    spec: dict[str, object] = {
        "floor_share": supply.floors[name] / SHARE_ONE,
        "borrow": rule.borrow,
        "locations": supply.locations[name],
    }
    if rule.ceiling is not None:
        spec["ceiling_share"] = rule.ceiling / SHARE_ONE
    return spec


def _batches(arriving: dict[PoolKey, int]) -> Iterator[list[tuple[PoolKey, int]]]:
    lines = iter(arriving.items())
    while batch := list(islice(lines, RECEIPT_LINES)):
        yield batch
