"""A crowd that buys: each basket is reserved, then paid, released, or left to expire.

Some baskets change before they are handed over, some lose a part, some come back in part. Some
buyers press twice, some do not wait for the answer, some look again after they were refused. Some
calls are repeated under their key and must be answered with what was answered before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import orjson

from loadtest.book import Book, PoolKey, held_units
from loadtest.client import Answer, Availability, Call, Client, Reservation, Unanswered, each
from loadtest.journeys import (
    Fate,
    Journey,
    Part,
    Step,
    cancelled_part,
    course,
    returned_part,
)
from loadtest.orders import Line
from loadtest.settings import Settings
from loadtest.tally import Tally

# A service that is gone ends the run instead of every basket's patience: so many calls, and a tenth
# of the baskets that are done.
UNANSWERED_MAX = 100
HASTE_S = 0.002  # who does not wait is gone after this long
TICK_S = 0.0005  # what is due within it is done at once: the loop's timers know milliseconds
TURN = 16  # arrivals in a row, when they are behind, before answers are heard again
NO_ROOM = frozenset({429, 503})
ENDED = frozenset({"cancelled", "expired", "released"})
PRESSED_TWICE = frozenset({"reserve", "commit"})


class _Asked(NamedTuple):
    """A call with what is needed to book its answer."""

    call: Call
    id: str  # of the reservation; "" for a reserve
    channel: str
    reference: str
    wanted: Counter[PoolKey] | None = None  # by a reserve or an amend
    ttl_s: int | None = None
    left: bool = False  # nobody will come back for it
    part: Part | None = None  # of a cancel or a return; without one all that is open is meant
    disposition: str | None = None


class Crowd:
    """Buyers of one run. ``plenty``: there is enough for all of them, nothing may be refused."""

    def __init__(
        self, client: Client, book: Book, settings: Settings, run: str, plenty: bool = False
    ):
        self.tally = Tally()
        self._client = client
        self._meter = client.meter
        self._book = book
        self._settings = settings
        self._run = run
        self._plenty = plenty
        self._unresolved: list[_Asked] = []

    async def queue(self, journeys: Iterable[Journey], concurrency: int) -> None:
        """A closed model: ``concurrency`` at a time, each comes when one before is done."""
        began_ns = time.monotonic_ns()

        async def next_one(journey: Journey) -> None:
            await self._journey(journey, None)

        await each(journeys, next_one, concurrency)
        await self._end(began_ns)

    async def arrive(
        self, journeys: Iterable[Journey], began_ns: int, first_s: float, speed: float
    ) -> None:
        """An open model: each comes at its own time, whatever became of those before.

        Basket times count from ``first_s``, which is at ``began_ns``, and pass ``speed`` times as
        fast.
        """
        try:
            await self._open(journeys, began_ns, first_s, speed)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        await self._end(began_ns)

    async def _open(
        self, journeys: Iterable[Journey], began_ns: int, first_s: float, speed: float
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for number, journey in enumerate(journeys):
                due_s = (journey.basket.time_s - first_s) / speed
                due_ns = began_ns + round(due_s * 1e9)
                wait_s = (due_ns - time.monotonic_ns()) / 1e9
                if wait_s > TICK_S:
                    await asyncio.sleep(wait_s)
                elif number % TURN == 0:
                    await asyncio.sleep(0)
                self._meter.late(due_ns)
                group.create_task(self._journey(journey, min(due_ns, time.monotonic_ns())))

    async def _end(self, began_ns: int) -> None:
        """Find out what is still unknown."""
        self.tally.elapsed_s = (time.monotonic_ns() - began_ns) / 1e9
        for asked in self._unresolved:
            try:
                self._settle(asked, await self._client.call(asked.call))
            except Unanswered as error:
                self._book.surprises.add(f"outcome unknown: {error}")

    async def _journey(self, journey: Journey, due_ns: int | None) -> None:
        for part, lines in enumerate(journey.basket.parts()):
            await self._reservation(journey, part, lines, due_ns)
        self.tally.baskets += 1

    async def _reservation(
        self, journey: Journey, part: int, lines: list[Line], due_ns: int | None
    ) -> None:
        stem = f"{self._run}-{journey.basket.number}-{part}"
        first, steps = course(journey, lines)
        id = await self._ask(self._reserve(journey, stem, "reserve", first), journey, due_ns)
        looks = 0
        while not id and journey.dice.random() < self._settings.look:
            looks += 1
            id = await self._look(journey, f"{stem}-{looks}", first)
        known = id
        for number, step in enumerate(steps):
            # Nothing is left to be done for a basket that has ended.
            if not id or self._book.reservations[id].state in ENDED:
                break
            due_ns = await self._pause(self._pause_s(journey, step))
            asked = self._step(journey, step, id, f"{stem}-{number}-{step.verb}")
            id = await self._ask(asked, journey, due_ns)
        if known:
            self._book.over(known, time.monotonic())

    def _pause_s(self, journey: Journey, step: Step) -> float:
        """How long a buyer takes before a step; who lets go does so while the cart is held."""
        if step.verb == "commit":
            return journey.pays_after_s
        if step.verb in ("extend", "release"):
            return min(journey.pays_after_s, self._settings.held_seconds / 2)
        mean_s = self._settings.scaled(self._settings.pause_seconds)
        return journey.dice.expovariate(1 / mean_s) if mean_s else 0.0

    async def _pause(self, seconds: float) -> int | None:
        """Let ``seconds`` pass; when what follows is due, if that is not just now."""
        if not seconds:
            return None
        due_ns = time.monotonic_ns() + round(seconds * 1e9)
        await asyncio.sleep(seconds)
        self._meter.late(due_ns)
        return min(due_ns, time.monotonic_ns())

    async def _look(self, journey: Journey, stem: str, lines: list[Line]) -> str:
        """Who was refused looks after a while whether there is something again."""
        mean_s = self._settings.scaled(self._settings.look_seconds)
        due_ns = await self._pause(journey.dice.expovariate(1 / mean_s) if mean_s else 0.0)
        skus = "&".join(f"sku={quote(line.sku, safe='')}" for line in lines)
        path = f"/v1/availability?channel={journey.basket.channel}&{skus}"
        try:
            answer = await self._client.call(Call("availability", "GET", path), due_ns)
        except Unanswered:
            self.tally.unanswered += 1
            return ""
        if answer.status != 200:
            self._failed(Call("availability", "GET", path), answer)
            return ""
        there = {item.sku: item.available for item in answer.decode(Availability).items}
        if any(there.get(line.sku, 0) < line.quantity for line in lines):
            return ""
        return await self._ask(self._reserve(journey, stem, "again", lines), journey, None)

    def _reserve(self, journey: Journey, stem: str, what: str, lines: list[Line]) -> _Asked:
        basket = journey.basket
        reference = f"{basket.name}-{what}" if what != "reserve" else basket.name
        body: dict[str, object] = {
            "channel": basket.channel,
            "lines": _asked_lines(lines),
            "reference": reference,
        }
        if journey.ttl_s is not None:
            body["ttl_seconds"] = journey.ttl_s
        key, left = f"{stem}-{what}", journey.fate is Fate.LEAVE
        call = Call("reserve", "POST", "/v1/reservations", orjson.dumps(body), key)
        return _Asked(call, "", basket.channel, reference, _wanted(lines), journey.ttl_s, left)

    def _step(self, journey: Journey, step: Step, id: str, key: str) -> _Asked:
        """The call that a step is; what is cancelled or comes back is drawn from what is held."""
        part = wanted = disposition = ttl_s = None
        body: dict[str, object] = {}
        if step.lines is not None:
            body, wanted = {"lines": _asked_lines(step.lines)}, _wanted(step.lines)
        elif step.verb == "extend":
            body, ttl_s = {"ttl_seconds": journey.ttl_s}, journey.ttl_s
        elif step.verb == "cancel":
            part = cancelled_part(self._book.reservations[id].lines, journey.dice)
            body = {"lines": [_asked_part(part)]}
        elif step.verb == "return":
            part = returned_part(self._book.reservations[id].lines, journey.dice)
            disposition = journey.disposition
            body = {"lines": [{**_asked_part(part), "disposition": disposition}]}
        path = f"/v1/reservations/{id}/{step.verb}"
        call = Call(step.verb, "POST", path, orjson.dumps(body) if body else b"", key)
        basket = journey.basket
        return _Asked(
            call, id, basket.channel, basket.name, wanted, ttl_s, False, part, disposition
        )

    async def _ask(self, asked: _Asked, journey: Journey, due_ns: int | None) -> str:
        """Make the call; the id of the reservation, or "" if it goes no further."""
        verb = asked.call.verb
        sent_s = time.monotonic()
        if journey.hasty and verb == "reserve":
            self.tally.hasty += 1
            await self._client.give_up(asked.call, HASTE_S)
            due_ns = None
        twice = journey.twice and verb in PRESSED_TWICE
        self.tally.pressed_twice += twice
        answers = await self._answers(asked.call, due_ns, twice)
        if not answers:
            self.tally.unanswered += 1
            if self.tally.unanswered > UNANSWERED_MAX + self.tally.baskets // 10:
                told = f"{self.tally.unanswered} calls were not answered"
                raise Unanswered(f"{told}: {self._meter.troubles()}")
            self._unresolved.append(asked)
            return ""
        # Where one of two was refused, or not answered, the other one says what is.
        answers.sort(key=lambda answer: answer.status)
        id = self._settle(asked, answers[0], sent_s)
        unheard = journey.hasty or (twice and len(answers) < 2)
        if unheard and not id and asked.ttl_s is not None:
            self._book.unheard.add(asked.reference)
            self._book.unheard_over_s = time.monotonic() + asked.ttl_s
        for other in answers[1:]:
            self._same(asked, answers[0], other)
        # A refusal is not kept under its key: asked again, it may be granted.
        if answers[0].status < 400 and verb in journey.repeated:
            try:
                again = await self._client.call(asked.call)
                self._compare(asked, answers[0].status, id, again)
            except Unanswered as error:
                self._book.surprises.add(f"not answered when repeated: {error}")
        return id

    async def _answers(self, call: Call, due_ns: int | None, twice: bool) -> list[Answer]:
        """What came of a call, or of two at once under one key; none where nothing is known."""
        if not twice:
            try:
                return [await self._client.call(call, due_ns)]
            except Unanswered:
                return []
        asking = (self._client.call(call, due_ns), self._client.call(call, due_ns))
        answers = []
        for heard in await asyncio.gather(*asking, return_exceptions=True):
            if isinstance(heard, Answer):
                answers.append(heard)
            elif not isinstance(heard, Unanswered):
                raise heard
        return answers

    def _settle(self, asked: _Asked, answer: Answer, sent_s: float = 0.0) -> str:
        """Book what was answered; the id of the reservation, or "" if it goes no further."""
        verb = asked.call.verb
        if answer.status == (201 if verb == "reserve" else 200):
            return self._granted(asked, answer.decode(Reservation), sent_s)
        problem = answer.problem()
        if problem.code == "insufficient_stock" and self._may_be_short(asked):
            self.tally.refused += verb == "reserve"
            self.tally.amends_refused += verb == "amend"
            reasons = [line.limited_by for line in problem.lines]
            self.tally.refused_lines.update(reasons)
            self._meter.refused(reasons)
            return asked.id  # after a refused amend the basket goes on as it was
        if asked.id and answer.status == 409 and "expired" in (problem.code, problem.state):
            self.tally.too_late += 1
            self._meter.refused(["expired"])
            self._book.expired(asked.id, time.monotonic())
            return ""
        self._failed(asked.call, answer)
        return ""

    def _failed(self, call: Call, answer: Answer) -> None:
        """An answer that should not have come. That there is no room is no wrong answer, though."""
        problem = answer.problem()
        self.tally.errors[f"{call.verb} {answer.status} {problem.code}"] += 1
        self._meter.failed(problem.code)
        if answer.status not in NO_ROOM:
            self._book.surprises.add(
                f"{call.key}: {call.verb} answered {answer.status} {problem.code} {problem.detail}"
            )

    def _may_be_short(self, asked: _Asked) -> bool:
        """Whether there may be too little for it: an amend holds what it keeps already."""
        if asked.wanted is None or self._plenty:
            return False
        return not asked.id or bool(asked.wanted - held_units(self._book.reservations[asked.id]))

    def _granted(self, asked: _Asked, reservation: Reservation, sent_s: float) -> str:
        tally = self.tally
        if asked.call.verb == "reserve":
            assert asked.wanted is not None
            alive_s = over_s = None
            now_s = time.monotonic()
            if asked.ttl_s is not None:
                alive_s, over_s = sent_s + asked.ttl_s, now_s + asked.ttl_s
            self._book.reserved(reservation, asked.channel, asked.wanted, alive_s, over_s, now_s)
            self._meter.granted()
            tally.granted += 1
            tally.units_granted += asked.wanted.total()
            tally.left_to_expire += asked.left
            return reservation.id
        held = self._book.reservations[asked.id]
        if asked.ttl_s is not None:
            alive_s, over_s = sent_s + asked.ttl_s, time.monotonic() + asked.ttl_s
            self._book.extended(asked.id, reservation, alive_s, over_s)
            tally.extended += 1
        elif asked.wanted is not None:
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
        tally.paid += verb == "commit"
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
        self._book.keys_repeated += 1
        found = _id(again)
        if (again.status, found, again.replayed) != (status, id, True):
            marked = "" if again.replayed else "not "
            self._book.keys.add(
                f"{asked.call.key}: answered {status} {id}, and when repeated {again.status} "
                f"{found}, {marked}marked as replayed"
            )

    def _same(self, asked: _Asked, one: Answer, other: Answer) -> None:
        """Two requests at once under one key have one effect: who is not refused has the same id.

        The first of a pair may have been refused, and a unit been back a moment later.
        """
        self._book.keys_repeated += 1
        short = other.status == 409 and asked.call.verb == "reserve"
        if one.status >= 400 or short or other.status in NO_ROOM:
            return
        ids = [_id(answer) for answer in (one, other)]
        if ids[0] != ids[1] or one.status != other.status or not (one.replayed or other.replayed):
            marked = [answer.replayed for answer in (one, other)]
            self._book.keys.add(
                f"{asked.call.key}: pressed twice, answered {one.status} {ids[0]} and "
                f"{other.status} {ids[1]}, marked as replayed: {marked}"
            )


def _id(answer: Answer) -> str:
    """The id of the reservation that was answered, or what is wrong with it."""
    try:
        return answer.decode(Reservation).id
    except msgspec.DecodeError:
        return answer.problem().code


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
