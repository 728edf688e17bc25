"""What happens to the stock while it is sold: more arrives, and what lies there is counted."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import accumulate

import msgspec
import orjson

from loadtest import demand
from loadtest.arrivals import steady, times
from loadtest.book import Book
from loadtest.client import Call, Client, Pool, Problem, Refused
from loadtest.pools import read_pools
from loadtest.settings import Settings
from loadtest.stocking import busy_lines

RESTOCK_SHARE = 0.1  # of what a pool had at the start
AGAIN_S = 30.0  # for so long a pool is counted anew that was sold from meanwhile
STALE = 412


class _Result(msgspec.Struct):
    status: int
    pool: Pool | None = None
    problem: Problem | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


class Stockroom:
    """Restocks and counts of one run, booked as they are acknowledged."""

    def __init__(self, client: Client, book: Book, settings: Settings, run: str) -> None:
        self.counted = self.restocked = self.given_up = 0
        self._client = client
        self._book = book
        self._settings = settings
        self._run = run
        self._dice = random.Random(f"stockroom {settings.seed}")
        self._shares = list(accumulate(demand.popularity(settings)))

    async def work(self) -> None:
        """All of it, spread over the time in which the crowd comes."""
        settings = self._settings
        await asyncio.gather(
            self._keep(settings.restocks, self._restock), self._keep(settings.counts, self._count)
        )

    async def _keep(self, count: int, act: Callable[[int], Awaitable[None]]) -> None:
        began_s = time.monotonic()
        moments = times(count, self._settings.seconds, steady, self._dice)
        for number, moment in enumerate(moments):
            await asyncio.sleep(began_s + moment - time.monotonic())
            await act(number)

    async def _restock(self, number: int) -> None:
        """More of what is wanted most arrives."""
        [at] = self._dice.choices(range(self._settings.skus), cum_weights=self._shares)
        pool = self._pool(at)
        units = max(1, round(self._book.received[pool] * RESTOCK_SHARE))
        line = {"sku": pool[0], "location": pool[1], "quantity": units}
        result = await self._ask("receive", line, f"restock-{number}")
        if result.status != 200:
            raise Refused(f"receive {units} of {pool}: {result.status} {result.problem}")
        self._book.arrived[pool] = self._book.arrived.get(pool, 0) + units
        self.restocked += 1

    async def _count(self, number: int) -> None:
        """Somebody counts a pool and finds one less than there should be, one more, or all of it.

        What was sold from meanwhile is counted again; a unit is missing only where one is unsold.
        """
        pool = self._pool(self._dice.randrange(self._settings.skus))
        off = self._dice.choice((-1, 0, 0, 1))
        give_up_s = time.monotonic() + AGAIN_S
        for attempt in itertools.count():
            if time.monotonic() > give_up_s:
                break
            found = (await read_pools(self._client, [pool[0]], {pool[1]})).get(pool)
            if found is None:  # nothing ever came there
                return
            unsold = found.shared + sum(channel.free for channel in found.channels.values())
            wrong = off if unsold else max(off, 0)
            line = {
                "sku": pool[0],
                "location": pool[1],
                "counted": found.on_hand + wrong,
                "if_version": found.version,
            }
            result = await self._ask("count", line, f"count-{number}-{attempt}")
            if result.status == STALE:
                continue
            if result.status != 200:
                raise Refused(f"count {pool}: {result.status} {result.problem}")
            booked = self._book.lost if wrong < 0 else self._book.arrived
            booked[pool] = booked.get(pool, 0) + abs(wrong)
            self.counted += 1
            return
        self.given_up += 1

    def _pool(self, number: int) -> tuple[str, str]:
        return demand.sku(self._run, number), demand.location(self._run)

    async def _ask(self, verb: str, line: dict[str, object], key: str) -> _Result:
        body = orjson.dumps({"lines": [line], "reason": "load test"})
        call = Call(verb, "POST", f"/v1/stock/{verb}", body, f"{self._run}-{key}")
        answer = await self._client.must(call, 200, busy_lines=busy_lines)
        return answer.decode(_Results).results[0]


@asynccontextmanager
async def working(stockroom: Stockroom) -> AsyncIterator[None]:
    """While the crowd buys, and to its own end; who is interrupted leaves the rest."""
    task = asyncio.create_task(stockroom.work())
    try:
        yield
    except BaseException:
        task.cancel()
        raise
    await task
