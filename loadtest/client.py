"""Speaks to the service as any client would: HTTP, kept connections, retries under the same key.

The shapes of the answers are the harness's own, so that it judges the service from outside.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import msgspec
from yarl import URL

from loadtest.histogram import Histogram

PATIENCE_S = 30.0  # how long one call is tried before its outcome counts as unknown
BACKOFF_FIRST_S = 0.02
BACKOFF_LAST_S = 1.0
ATTEMPT_S = 20.0  # receiving a thousand lines on a busy machine stays far below it
BUSY = 429

T = TypeVar("T")


class Unanswered(Exception):
    """A call got no answer within the patience; whether it had an effect is not known."""


class Refused(Exception):
    """The service refused a call that the harness cannot go on without."""


class Line(msgspec.Struct, gc=False):
    """A line of a reservation, as answered."""

    sku: str
    location: str
    quantity: int
    own: int
    borrowed: int
    fulfilled: int
    cancelled: int
    returned: int

    @property
    def open(self) -> int:
        """Units that are still promised."""
        return self.quantity - self.fulfilled - self.cancelled

    @property
    def away(self) -> int:
        """Units that were shipped and did not come back."""
        return self.fulfilled - self.returned


class Reservation(msgspec.Struct):
    """A reservation, as answered."""

    id: str
    state: str
    version: int
    channel: str
    lines: list[Line]


class PoolChannel(msgspec.Struct, gc=False):
    """A channel's accounts of a pool, as answered."""

    free: int
    reserved: int
    committed: int
    available: int


class Pool(msgspec.Struct):
    """A pool, as answered."""

    location: str
    on_hand: int
    safety: int
    shared: int
    damaged: int
    quarantine: int
    deficit: int
    channels: dict[str, PoolChannel]


class SkuStock(msgspec.Struct):
    """The pools of a SKU, as answered."""

    sku: str
    pools: list[Pool]


class StockPage(msgspec.Struct):
    """A page of the stock, as answered."""

    items: list[SkuStock]
    next_cursor: str | None


class ProblemLine(msgspec.Struct):
    """A line that a refusal is about."""

    limited_by: str = "unnamed"


class Problem(msgspec.Struct):
    """A problem document, as answered."""

    code: str = "unnamed"
    detail: str = ""
    lines: list[ProblemLine] = []


@dataclass(frozen=True, slots=True)
class Call:
    """One request to be made, and made again in the same words if need be."""

    verb: str
    method: str
    path: str
    body: bytes = b""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    replayed: bool

    def decode(self, kind: type[T]) -> T:
        """The body as ``kind``."""
        return msgspec.json.decode(self.body, type=kind)

    def problem(self) -> Problem:
        """The body as a problem, also when it is none."""
        try:
            return self.decode(Problem)
        except msgspec.DecodeError:
            return Problem(detail=self.body[:200].decode("utf-8", "replace"))


class Client:
    """Makes calls and keeps their latencies, from first sending to final answer, in ``latency``.

    ``retries`` counts attempts that had to be repeated, by status or by what broke.
    """

    def __init__(self, session: aiohttp.ClientSession, rng: random.Random) -> None:
        self._session = session
        self._rng = rng
        self.latency_us: dict[str, Histogram] = {}
        self.retries: Counter[str] = Counter()

    async def call(self, call: Call, busy_lines: Callable[[Answer], bool] | None = None) -> Answer:
        """The final answer to ``call``; raises Unanswered when there is none.

        Lines that stand on their own can be busy one by one: while ``busy_lines`` says so of an
        answer, the whole call is repeated, and the key keeps what is done from being done twice.
        """
        started_ns = time.monotonic_ns()
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                answer, wait_s = await self._attempt(call)
                trouble = str(answer.status)
                if answer.status == 200 and busy_lines is not None and busy_lines(answer):
                    trouble = "busy lines"
                elif answer.status < 500 and answer.status != BUSY:
                    histogram = self.latency_us.setdefault(call.verb, Histogram())
                    histogram.record((time.monotonic_ns() - started_ns) // 1000)
                    return answer
            except (aiohttp.ClientError, OSError) as error:
                trouble, wait_s = type(error).__name__, 0.0
            self.retries[trouble] += 1
            wait_s = max(wait_s, backoff_s * self._rng.uniform(0.5, 1.0))
            if (time.monotonic_ns() - started_ns) / 1e9 + wait_s > PATIENCE_S:
                raise Unanswered(f"{call.method} {call.path}: {trouble} for {PATIENCE_S:g} s")
            await asyncio.sleep(wait_s)
            backoff_s = min(BACKOFF_LAST_S, 2 * backoff_s)

    async def must(
        self, call: Call, *statuses: int, busy_lines: Callable[[Answer], bool] | None = None
    ) -> Answer:
        """The answer to ``call``; raises Refused if its status is none of ``statuses``."""
        answer = await self.call(call, busy_lines)
        if answer.status not in statuses:
            problem = answer.problem()
            raise Refused(
                f"{call.method} {call.path}: {answer.status} {problem.code} {problem.detail}"
            )
        return answer

    async def _attempt(self, call: Call) -> tuple[Answer, float]:
        """An answer, and for how many seconds it asks to be left alone."""
        headers = {"Content-Type": "application/json"} if call.body else {}
        if call.key is not None:
            headers["Idempotency-Key"] = call.key
        url = URL(call.path, encoded=True)
        async with self._session.request(
            call.method, url, data=call.body or None, headers=headers
        ) as response:
            body = await response.read()
            after = response.headers.get("Retry-After", "")
            wait_s = float(after) if after.isdecimal() else 0.0
            replayed = response.headers.get("Idempotent-Replayed") == "true"
            return Answer(response.status, body, replayed), wait_s


@asynccontextmanager
async def connect(url: str, concurrency: int, rng: random.Random) -> AsyncIterator[Client]:
    """A client of the service at ``url`` with at most ``concurrency`` connections."""
    connector = aiohttp.TCPConnector(limit=concurrency, keepalive_timeout=60)
    timeout = aiohttp.ClientTimeout(total=ATTEMPT_S)
    async with aiohttp.ClientSession(
        url,
        connector=connector,
        timeout=timeout,
        skip_auto_headers=("Content-Type",),  # no body, no type: aiohttp would name one
    ) as session:
        yield Client(session, rng)


async def each(items: Iterable[T], work: Callable[[T], Awaitable[Any]], concurrency: int) -> None:
    """``work`` on all ``items``, taken in their order, ``concurrency`` at a time.

    The first error stops all of it and is raised.
    """
    source = iter(items)

    async def worker() -> None:
        for item in source:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
