"""The harness's own record: what the service has acknowledged, and nothing else."""

from __future__ import annotations

from collections import Counter
from sys import intern

import msgspec

from loadtest.client import Line, Reservation

PoolKey = tuple[str, str]  # (sku, location)

STATE_AFTER = {"commit": "committed", "fulfil": "fulfilled", "release": "released"}
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
    lines: list[Line]
    left: bool


class Book:
    """Everything acknowledged in one run.

    ``shares`` is the quota policy that was set: location → channel → millionths of a receipt; the
    rest of a receipt is for all.
    """

    def __init__(self, shares: dict[str, dict[str, int]]) -> None:
        self.shares = shares
        self.received: dict[PoolKey, int] = {}
        self.reservations: dict[str, Held] = {}
        self.surprises = Differences()

    def reserved(
        self, answer: Reservation, channel: str, wanted: Counter[PoolKey], left: bool
    ) -> None:
        """A reserve was acknowledged; what it grants must be what was ``wanted``."""
        granted: Counter[PoolKey] = Counter()
        for line in answer.lines:
            line.sku, line.location = intern(line.sku), intern(line.location)
            granted[line.sku, line.location] += line.quantity
            if line.own + line.borrowed != line.quantity or min(line.own, line.borrowed) < 0:
                self.surprises.add(
                    f"reservation {answer.id}: {line.sku}@{line.location}: {line.quantity} is not "
                    f"{line.own} own + {line.borrowed} borrowed"
                )
        if granted != wanted:
            self.surprises.add(f"reservation {answer.id}: grants {granted}, wanted {wanted}")
        if (answer.channel, answer.state) != (channel, "reserved"):
            self.surprises.add(
                f"reservation {answer.id}: {answer.state} for {answer.channel} when made"
            )
        if answer.id in self.reservations:
            self.surprises.add(f"reservation {answer.id}: two baskets were given this id")
        self.reservations[answer.id] = Held(channel, "reserved", answer.lines, left)

    def moved(self, id: str, verb: str, answer: Reservation) -> None:
        """``verb`` on a reservation was acknowledged."""
        state = STATE_AFTER[verb]
        if (answer.id, answer.state) != (id, state):
            self.surprises.add(f"reservation {id}: {verb} answered {answer.id} {answer.state}")
        self.reservations[id].state = state

    def deadlines_passed(self) -> None:
        """All that was left has reached its deadline."""
        for held in self.reservations.values():
            if held.left:
                held.state = "expired"
