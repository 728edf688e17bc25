"""Replays a log: each basket is reserved, then paid and handed over, released, or left to expire.

What becomes of a basket is drawn from the seed in the order of the log, so that a run can be had
again. Some calls are repeated under their key and must be answered with what was answered before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import msgspec
import orjson

from loadtest.book import Book, PoolKey
from loadtest.client import Answer, Call, Client, Reservation, Unanswered, each
from loadtest.orders import Basket, Line
from loadtest.progress import Progress
from loadtest.settings import Settings
from loadtest.stocking import Survey

REPEATED_SHARE = 0.02
UNANSWERED_MAX = 100  # a service that is gone ends the run instead of every basket's patience
EXPIRY_S = 2.0  # the service promises 1 s after the deadline; twice that for a busy machine


class Fate(StrEnum):
    """What becomes of a basket."""

    FULFIL = "fulfil"
    RELEASE = "release"
    LEAVE = "leave"


VERBS: dict[Fate, tuple[str, ...]] = {
    Fate.FULFIL: ("commit", "fulfil"),
    Fate.RELEASE: ("release",),
    Fate.LEAVE: (),
}


class Journey(NamedTuple):
    """A basket, what becomes of it, and which of its calls are made twice."""

    basket: Basket
    fate: Fate
    repeated: frozenset[str]


def journeys(baskets: Iterable[Basket], settings: Settings) -> Iterator[Journey]:
    """What becomes of each basket; the same for the same seed."""
    rng = random.Random(settings.seed)
    abandon = float(settings.abandon)
    for basket in baskets:
        drawn = rng.random()
        if drawn >= abandon:
            fate = Fate.FULFIL
        else:
            fate = Fate.RELEASE if drawn < abandon / 2 else Fate.LEAVE
        verbs = ("reserve", "commit", "fulfil", "release")
        repeated = frozenset(verb for verb in verbs if rng.random() < REPEATED_SHARE)
        yield Journey(basket, fate, repeated)


@dataclass(slots=True)
class Tally:
    """What happened, in reservations unless the name says otherwise."""

    baskets: int = 0
    units_granted: int = 0
    granted: int = 0
    refused: int = 0
    refused_lines: Counter[str] = field(default_factory=Counter)
    released: int = 0
    left_to_expire: int = 0
    fulfilled: int = 0
    repeated_calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    elapsed_s: float = 0.0


class _Asked(NamedTuple):
    """A call with what is needed to book its answer."""

    call: Call
    id: str  # of the reservation; "" for a reserve
    channel: str
    wanted: Counter[PoolKey]
    left: bool


class Replay:
    """One run over a log against a service that was stocked for it."""

    def __init__(self, client: Client, book: Book, plan: Survey, settings: Settings, run: str):
        self.tally = Tally()
        self._client = client
        self._book = book
        self._settings = settings
        self._run = run
        self._first_s = plan.first_s
        # With all the demand received and nobody else selling there, nothing may be refused.
        self._plenty = settings.stock >= 1 and all(
            len(channels) == 1 for channels in book.shares.values()
        )
        self._unresolved: list[_Asked] = []
        self._started_s = self._left_last_s = 0.0
        self._progress = Progress("replay", plan.baskets, self._told)

    async def run(self, baskets: Iterable[Basket]) -> None:
        """Replay ``baskets``, find out what is still unknown, and wait for the last deadline."""
        self._started_s = time.monotonic()
        await each(journeys(baskets, self._settings), self._journey, self._settings.concurrency)
        self.tally.elapsed_s = time.monotonic() - self._started_s
        for asked in self._unresolved:
            try:
                self._settle(asked, await self._client.call(asked.call))
            except Unanswered as error:
                self._book.surprises.add(f"outcome unknown: {error}")
        if self.tally.left_to_expire:
            due_s = self._left_last_s + self._settings.ttl_seconds + EXPIRY_S
            await asyncio.sleep(due_s - time.monotonic())
            self._book.deadlines_passed()

    def _told(self) -> str:
        reserve = self._client.latency_us.get("reserve")
        p50, p99 = (reserve.quantile(q) / 1000 if reserve else 0.0 for q in (0.5, 0.99))
        errors = sum(self.tally.errors.values()) + self.tally.unanswered
        return (
            f"granted {self.tally.granted:,} refused {self.tally.refused:,} errors {errors:,} "
            f"p50 {p50:.1f} p99 {p99:.1f} ms"
        )

    async def _journey(self, journey: Journey) -> None:
        if self._settings.speed is not None:
            after_s = (journey.basket.time_s - self._first_s) / float(self._settings.speed)
            await asyncio.sleep(self._started_s + after_s - time.monotonic())
        for part, lines in enumerate(journey.basket.parts()):
            await self._reservation(journey, part, lines)
        self.tally.baskets += 1
        self._progress.step()

    async def _reservation(self, journey: Journey, part: int, lines: list[Line]) -> None:
        stem = f"{self._run}-{journey.basket.number}-{part}"
        asked = self._reserve(journey, f"{stem}-reserve", lines)
        id = await self._ask(asked, journey.repeated)
        for verb in VERBS[journey.fate]:
            if not id:
                return
            call = Call(verb, "POST", f"/v1/reservations/{id}/{verb}", key=f"{stem}-{verb}")
            id = await self._ask(asked._replace(call=call, id=id), journey.repeated)

    def _reserve(self, journey: Journey, key: str, lines: list[Line]) -> _Asked:
        basket = journey.basket
        body: dict[str, object] = {
            "channel": basket.channel,
            "lines": [
                {"sku": line.sku, "quantity": line.quantity, "location": line.location}
                for line in lines
            ],
            "reference": basket.name,
        }
        left = journey.fate is Fate.LEAVE
        if left:
            body["ttl_seconds"] = self._settings.ttl_seconds
        wanted: Counter[PoolKey] = Counter()
        for line in lines:
            wanted[line.sku, line.location] += line.quantity
        call = Call("reserve", "POST", "/v1/reservations", orjson.dumps(body), key)
        return _Asked(call, "", basket.channel, wanted, left)

    async def _ask(self, asked: _Asked, repeated: frozenset[str]) -> str:
        """Make the call; the id of the reservation, or "" if it goes no further."""
        try:
            answer = await self._client.call(asked.call)
        except Unanswered:
            self.tally.unanswered += 1
            if self.tally.unanswered > UNANSWERED_MAX:
                raise
            self._unresolved.append(asked)
            return ""
        id = self._settle(asked, answer)
        if id and asked.call.verb in repeated:
            try:
                self._compare(asked, answer.status, id, await self._client.call(asked.call))
            except Unanswered as error:
                self._book.surprises.add(f"not answered when repeated: {error}")
        return id

    def _settle(self, asked: _Asked, answer: Answer) -> str:
        """Book what was answered; the id of the reservation, or "" if it goes no further."""
        verb = asked.call.verb
        if answer.status == (201 if verb == "reserve" else 200):
            return self._granted(asked, answer.decode(Reservation))
        problem = answer.problem()
        if verb == "reserve" and problem.code == "insufficient_stock" and not self._plenty:
            self.tally.refused += 1
            self.tally.refused_lines.update(line.limited_by for line in problem.lines)
            return ""
        self.tally.errors[f"{verb} {answer.status} {problem.code}"] += 1
        self._book.surprises.add(
            f"{asked.call.key}: {verb} answered {answer.status} {problem.code} {problem.detail}"
        )
        return ""

    def _granted(self, asked: _Asked, reservation: Reservation) -> str:
        verb, tally = asked.call.verb, self.tally
        if verb == "reserve":
            self._book.reserved(reservation, asked.channel, asked.wanted, asked.left)
            tally.granted += 1
            tally.units_granted += asked.wanted.total()
            if asked.left:
                tally.left_to_expire += 1
                self._left_last_s = time.monotonic()
            return reservation.id
        self._book.moved(asked.id, verb, reservation)
        tally.fulfilled += verb == "fulfil"
        tally.released += verb == "release"
        return asked.id

    def _compare(self, asked: _Asked, status: int, id: str, again: Answer) -> None:
        """A call made again under its key is answered as it was, and marked."""
        self.tally.repeated_calls += 1
        try:
            found = again.decode(Reservation).id
        except msgspec.DecodeError:
            found = again.problem().code
        if (again.status, found, again.replayed) != (status, id, True):
            marked = "" if again.replayed else "not "
            self._book.surprises.add(
                f"{asked.call.key}: answered {status} {id}, and when repeated {again.status} "
                f"{found}, {marked}marked as replayed"
            )
