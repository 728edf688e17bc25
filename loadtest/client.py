"""Speaks to the service as any client would: HTTP, kept connections, retries under the same key.

The shapes of the answers are the harness's own, so that it judges the service from outside.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from loadtest.measure import Meter
from loadtest.transport import Transport

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
    reacquired: bool = False  # a late commit took its units anew


class Available(msgspec.Struct):
    """What a channel can take of a SKU, as answered."""

    sku: str
    available: int


class Availability(msgspec.Struct):
    """A read of availability, as answered."""

    items: list[Available]


class PoolChannel(msgspec.Struct, gc=False):
    """A channel's accounts of a pool, as answered."""

    free: int
    reserved: int
    committed: int
    available: int
    ceiling_left: int | None = None


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
    version: int = 0


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
    outcome: str = "unknown"
    state: str = ""


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
    """Makes calls, again under the same key if need be, and tells ``meter`` of all of them.

    ``patience_s``: for how long a call is repeated; None: ``PATIENCE_S``.
    """

    def __init__(
        self,
        transport: Transport,
        rng: random.Random,
        meter: Meter,
        patience_s: float | None = None,
    ) -> None:
        self.meter = meter
        self._transport = transport
        self._rng = rng
        self._patience_s = patience_s

    async def call(
        self,
        call: Call,
        due_ns: int | None = None,
        busy_lines: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        """The final answer to ``call``, timed from when it was due; raises Unanswered when there
        is none and what became of it is not known.

        Lines that stand on their own can be busy one by one: while ``busy_lines`` says so of an
        answer, the whole call is repeated, and the key keeps what is done from being done twice.
        """
        since_ns = self.meter.asked(due_ns)
        started_ns = time.monotonic_ns()
        patience_s = PATIENCE_S if self._patience_s is None else self._patience_s
        backoff_s = BACKOFF_FIRST_S
        unknown = False  # whether an attempt may have had an effect that nobody heard of
        while True:
            answer = None
            try:
                answer, wait_s = await self._attempt(call)
                trouble = str(answer.status)
                if answer.status == 200 and busy_lines is not None and busy_lines(answer):
                    trouble = "busy lines"
                elif answer.status < 500 and answer.status != BUSY:
                    self.meter.answered(call.verb, since_ns, answer.replayed)
                    return answer
                unknown |= answer.status != BUSY and answer.problem().outcome != "none"
            except OSError as error:
                trouble, wait_s, unknown = type(error).__name__, 0.0, True
            wait_s = max(wait_s, backoff_s * self._rng.uniform(0.5, 1.0))
            if (time.monotonic_ns() - started_ns) / 1e9 + wait_s > patience_s:
                if answer is not None and not unknown:
                    self.meter.answered(call.verb, since_ns, answer.replayed)
                    return answer
                self.meter.unanswered(trouble)
                raise Unanswered(f"{call.method} {call.path}: {trouble} for {patience_s:g} s")
            self.meter.retried(trouble)
            await asyncio.sleep(wait_s)
            backoff_s = min(BACKOFF_LAST_S, 2 * backoff_s)

    async def must(
        self, call: Call, *statuses: int, busy_lines: Callable[[Answer], bool] | None = None
    ) -> Answer:
        """The answer to ``call``; raises Refused if its status is none of ``statuses``."""
        answer = await self.call(call, busy_lines=busy_lines)
        if answer.status not in statuses:
            problem = answer.problem()
            raise Refused(
                f"{call.method} {call.path}: {answer.status} {problem.code} {problem.detail}"
            )
        return answer

    async def give_up(self, call: Call, after_s: float) -> None:
        """Ask, and be gone after ``after_s``, whatever came of it: who asks again uses the key."""
        self.meter.asked(None)
        self.meter.gave_up()
        with suppress(OSError):  # a connection that breaks is one way of hearing nothing
            async with asyncio.timeout(after_s):
                await self._transport.request(call.method, call.path, call.body, call.key)

    async def _attempt(self, call: Call) -> tuple[Answer, float]:
        """An answer, and for how many seconds it asks to be left alone."""
        async with asyncio.timeout(ATTEMPT_S):
            heard = await self._transport.request(call.method, call.path, call.body, call.key)
        return Answer(heard.status, heard.body, heard.replayed), heard.wait_s


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
