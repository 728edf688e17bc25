"""Replays a log: each basket is reserved, then paid and handed over, released, or left to expire.

Some baskets change before they are handed over, some lose a part, some come back in part. Some
calls are repeated under their key and must be answered with what was answered before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import orjson

from loadtest.book import Book, PoolKey, held_units
from loadtest.client import Answer, Call, Client, Reservation, Unanswered, each
from loadtest.journeys import (
    Fate,
    Journey,
    Part,
    Step,
    cancelled_part,
    course,
    journeys,
    returned_part,
)
from loadtest.orders import Basket, Line
from loadtest.progress import Progress
from loadtest.settings import Settings
from loadtest.stocking import Survey

UNANSWERED_MAX = 100  # a service that is gone ends the run instead of every basket's patience
EXPIRY_S = 2.0  # the service promises 1 s after the deadline; twice that for a busy machine


@dataclass(slots=True)
class Tally:
    """What happened, in reservations unless the name says otherwise.

    ``amends``: calls by the state they met and where they went, ``"reserved up"``. ``cancels``:
    calls, each about a part; ``cancelled``: nothing was left. ``returns``: calls by disposition.
    """

    baskets: int = 0
    units_granted: int = 0
    granted: int = 0
    refused: int = 0
    refused_lines: Counter[str] = field(default_factory=Counter)
    released: int = 0
    left_to_expire: int = 0
    fulfilled: int = 0
    amends: Counter[str] = field(default_factory=Counter)
    amends_refused: int = 0
    cancels: int = 0
    cancelled: int = 0
    units_cancelled: int = 0
    returns: Counter[str] = field(default_factory=Counter)
    units_returned: int = 0
    repeated_calls: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    elapsed_s: float = 0.0


class _Asked(NamedTuple):
    """A call with what is needed to book its answer."""

    call: Call
    id: str  # of the reservation; "" for a reserve
    channel: str
    wanted: Counter[PoolKey] | None = None  # by a reserve or an amend
    left: bool = False
    part: Part | None = None  # of a cancel or a return; without one all that is open is meant
    disposition: str | None = None


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
        first, steps = course(journey, lines)
        id = await self._ask(self._reserve(journey, f"{stem}-reserve", first), journey.repeated)
        for number, step in enumerate(steps):
            # Nothing is left to be done for a basket that was cancelled down to nothing.
            if not id or self._book.reservations[id].state == "cancelled":
                return
            asked = self._step(journey, step, id, f"{stem}-{number}-{step.verb}")
            id = await self._ask(asked, journey.repeated)

    def _reserve(self, journey: Journey, key: str, lines: list[Line]) -> _Asked:
        basket = journey.basket
        body: dict[str, object] = {
            "channel": basket.channel,
            "lines": _asked_lines(lines),
            "reference": basket.name,
        }
        left = journey.fate is Fate.LEAVE
        if left:
            body["ttl_seconds"] = self._settings.ttl_seconds
        call = Call("reserve", "POST", "/v1/reservations", orjson.dumps(body), key)
        return _Asked(call, "", basket.channel, _wanted(lines), left)

    def _step(self, journey: Journey, step: Step, id: str, key: str) -> _Asked:
        """The call that a step is; what is cancelled or comes back is drawn from what is held."""
        part = wanted = disposition = None
        body: dict[str, object] = {}
        if step.lines is not None:
            body, wanted = {"lines": _asked_lines(step.lines)}, _wanted(step.lines)
        elif step.verb == "cancel":
            part = cancelled_part(self._book.reservations[id].lines, journey.dice)
            body = {"lines": [_asked_part(part)]}
        elif step.verb == "return":
            part = returned_part(self._book.reservations[id].lines, journey.dice)
            disposition = journey.disposition
            body = {"lines": [{**_asked_part(part), "disposition": disposition}]}
        path = f"/v1/reservations/{id}/{step.verb}"
        call = Call(step.verb, "POST", path, orjson.dumps(body) if body else b"", key)
        return _Asked(call, id, journey.basket.channel, wanted, False, part, disposition)

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
        # A refusal is not kept under its key: asked again, it may be granted.
        if id and answer.status < 400 and asked.call.verb in repeated:
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
        if problem.code == "insufficient_stock" and self._may_be_short(asked):
            self.tally.refused += verb == "reserve"
            self.tally.amends_refused += verb == "amend"
            self.tally.refused_lines.update(line.limited_by for line in problem.lines)
            return asked.id  # after a refused amend the basket goes on as it was
        self.tally.errors[f"{verb} {answer.status} {problem.code}"] += 1
        self._book.surprises.add(
            f"{asked.call.key}: {verb} answered {answer.status} {problem.code} {problem.detail}"
        )
        return ""

    def _may_be_short(self, asked: _Asked) -> bool:
        """Whether there may be too little for it: an amend holds what it keeps already."""
        if asked.wanted is None or self._plenty:
            return False
        return not asked.id or bool(asked.wanted - held_units(self._book.reservations[asked.id]))

    def _granted(self, asked: _Asked, reservation: Reservation) -> str:
        tally = self.tally
        if asked.call.verb == "reserve":
            assert asked.wanted is not None
            self._book.reserved(reservation, asked.channel, asked.wanted, asked.left)
            tally.granted += 1
            tally.units_granted += asked.wanted.total()
            if asked.left:
                tally.left_to_expire += 1
                self._left_last_s = time.monotonic()
            return reservation.id
        held = self._book.reservations[asked.id]
        if asked.wanted is not None:
            more = asked.wanted.total() - held_units(held).total()
            self._book.amended(asked.id, reservation, asked.wanted)
            tally.amends[f"{held.state} {'up' if more > 0 else 'down'}"] += 1
            tally.units_granted += more
        else:
            verb = asked.call.verb
            self._book.moved(asked.id, verb, reservation, asked.part, asked.disposition)
            self._count(asked, held.state)
        return asked.id

    def _count(self, asked: _Asked, state: str) -> None:
        """One call on all of a reservation, or on a part of it, that left it in ``state``."""
        tally, verb = self.tally, asked.call.verb
        tally.fulfilled += verb == "fulfil"
        tally.released += verb == "release"
        if asked.disposition is not None and asked.part is not None:
            tally.returns[asked.disposition] += 1
            tally.units_returned += asked.part.quantity
        elif asked.part is not None:
            tally.cancels += 1
            tally.cancelled += state == "cancelled"
            tally.units_cancelled += asked.part.quantity

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


def _asked_lines(lines: list[Line]) -> list[dict[str, object]]:
    return [
        {"sku": line.sku, "quantity": line.quantity, "location": line.location} for line in lines
    ]


def _asked_part(part: Part) -> dict[str, object]:
    asked: dict[str, object] = {"sku": part.sku, "quantity": part.quantity}
    return asked if part.location is None else {**asked, "location": part.location}


def _wanted(lines: list[Line]) -> Counter[PoolKey]:
    wanted: Counter[PoolKey] = Counter()
    for line in lines:
        wanted[line.sku, line.location] += line.quantity
    return wanted
