"""The harness's own record: what the service has acknowledged, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from sys import intern

import msgspec
from msgspec.structs import replace

from loadtest.client import Line, Reservation
from loadtest.journeys import Part

PoolKey = tuple[str, str]  # (sku, location)

COUNTERS = {"fulfil": "fulfilled", "cancel": "cancelled", "return": "returned"}
LISTED_MAX = 200  # differences described one by one; all of them are counted


class Differences:
    """What is not as it should be: all of it counted, the first of it described."""

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(text)


class Held(msgspec.Struct):
    """A reservation as last acknowledged; ``left``: nobody will come back for it."""

    channel: str
    state: str
    version: int
    lines: list[Line]
    left: bool


class Book:
    """Everything acknowledged in one run.

    ``shares`` is the quota policy that was set: location → channel → millionths of a receipt; the
    rest of a receipt is for all. ``returned``: pool → disposition → units.
    """

    def __init__(self, shares: dict[str, dict[str, int]]) -> None:
        self.shares = shares
        self.received: dict[PoolKey, int] = {}
        self.returned: dict[PoolKey, Counter[str]] = {}
        self.reservations: dict[str, Held] = {}
        self.surprises = Differences()

    def reserved(
        self, answer: Reservation, channel: str, wanted: Counter[PoolKey], left: bool
    ) -> None:
        """A reserve was acknowledged; what it grants must be what was ``wanted``."""
        if (answer.channel, answer.state) != (channel, "reserved"):
            self.surprises.add(
                f"reservation {answer.id}: {answer.state} for {answer.channel} when made"
            )
        if answer.id in self.reservations:
            self.surprises.add(f"reservation {answer.id}: two baskets were given this id")
        lines = self._granted(answer.id, answer, wanted)
        self.reservations[answer.id] = Held(channel, "reserved", answer.version, lines, left)

    def amended(self, id: str, answer: Reservation, wanted: Counter[PoolKey]) -> None:
        """An amend of a reservation of which nothing was cancelled or shipped: as a reserve, but
        the state stays."""
        held = self.reservations[id]
        self._seen(id, "amend", answer, held.state)
        held.lines = self._granted(id, answer, wanted)

    def moved(
        self, id: str, verb: str, answer: Reservation, part: Part | None, disposition: str | None
    ) -> None:
        """``verb`` on all of a reservation, or on a part of it, was acknowledged.

        The answer must show just that; the book goes on with what the verb means.
        """
        held = self.reservations[id]
        before = held.lines
        held.lines = moved_lines(before, verb, part)
        held.state = {"commit": "committed", "release": "released"}.get(verb) or settled(held.lines)
        self._seen(id, verb, answer, held.state)
        if answer.lines != held.lines and sorted(answer.lines, key=place) != sorted(
            held.lines, key=place
        ):
            self.surprises.add(
                f"reservation {id}: {verb} answered {answer.lines}, should be {held.lines}"
            )
        if disposition is not None:  # of what came back: lines do not tell, so it is kept by pool
            for line, was in zip(held.lines, before, strict=True):
                if line.returned > was.returned:
                    back = self.returned.setdefault((line.sku, line.location), Counter())
                    back[disposition] += line.returned - was.returned

    def deadlines_passed(self) -> None:
        """All that was left has reached its deadline."""
        for held in self.reservations.values():
            if held.left:
                held.state = "expired"

    def _seen(self, id: str, verb: str, answer: Reservation, state: str) -> None:
        held = self.reservations[id]
        if (answer.id, answer.state) != (id, state):
            self.surprises.add(
                f"reservation {id}: {verb} answered {answer.id} {answer.state}, should be {state}"
            )
        if answer.version <= held.version:
            self.surprises.add(
                f"reservation {id}: {verb} answered version {answer.version} after {held.version}"
            )
        held.version = answer.version

    def _granted(self, id: str, answer: Reservation, wanted: Counter[PoolKey]) -> list[Line]:
        """The lines of an answer that grants, which must be what was ``wanted``."""
        granted: Counter[PoolKey] = Counter()
        for line in answer.lines:
            line.sku, line.location = intern(line.sku), intern(line.location)
            granted[line.sku, line.location] += line.quantity
            if line.own + line.borrowed != line.quantity or min(line.own, line.borrowed) < 0:
                self.surprises.add(
                    f"reservation {id}: {line.sku}@{line.location}: {line.quantity} is not "
                    f"{line.own} own + {line.borrowed} borrowed"
                )
            if line.fulfilled or line.cancelled or line.returned:
                self.surprises.add(f"reservation {id}: {line} when nothing happened to it")
        if granted != wanted:
            self.surprises.add(f"reservation {id}: grants {granted}, wanted {wanted}")
        return answer.lines


def place(line: Line) -> PoolKey:
    """The pool that a line is about."""
    return line.sku, line.location


def held_units(held: Held) -> Counter[PoolKey]:
    """What a reservation holds open, by pool."""
    units: Counter[PoolKey] = Counter()
    for line in held.lines:
        units[place(line)] += line.open
    return units


def moved_lines(lines: list[Line], verb: str, part: Part | None) -> list[Line]:
    """What ``verb`` makes of ``lines``; without a part it is about all that is open."""
    counter = COUNTERS.get(verb)
    if counter is None:
        return lines
    after = []
    wanted = part.quantity if part is not None else None
    for line in lines:
        units = line.away if verb == "return" else line.open
        if part is not None and (part.sku, part.location or line.location) != place(line):
            units = 0
        if wanted is not None:
            units = min(units, wanted)
            wanted -= units
        after.append(replace(line, **{counter: getattr(line, counter) + units}))
    return after


def settled(lines: Sequence[Line]) -> str:
    """The state of a reservation that was paid."""
    if any(line.open for line in lines):
        return "committed"
    if not any(line.fulfilled for line in lines):
        return "cancelled"
    return "fulfilled" if any(line.away for line in lines) else "returned"
