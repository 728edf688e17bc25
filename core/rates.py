"""How often somebody may ask: what is asked is counted in memory that all workers share.

The generic cell rate algorithm (ATM Forum TM 4.0, also known as a leaky bucket as a meter): of each
key and customer only the time is kept at which all that it asked for would be paid off. So it costs
sixteen bytes, and no clock has to tick. Nothing is locked: of two workers that count for the same
one in the same instant one may be lost. Where there is no room the one that has been quiet for
longest is forgotten; it had nothing to pay off, or soon would not have had.
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from time import monotonic
from typing import Final, NamedTuple

WAYS: Final = 8  # places where one may be kept
SETS: Final = 2**13
RATES_BYTES: Final = 16 * WAYS * SETS  # a megabyte: the 65,536 that asked last
_EPSILON: Final = 1e-9


class Spent(NamedTuple):
    """How it stands after a request: ``left`` of the quota, and the seconds until all of it is
    there again. ``wait_seconds`` is not 0 if it was refused: when to come again."""

    left: int
    reset_seconds: int
    wait_seconds: int


class Rates:
    """The rates that all processes of one service count in the same memory."""

    def __init__(self, memory: memoryview) -> None:
        self._ids = memory[: 8 * WAYS * SETS].cast("Q")
        self._times = memory[8 * WAYS * SETS :].cast("d")

    def spend(self, who: bytes, quota: int, window_seconds: float) -> Spent:
        """One asks for something, of which it has a ``quota`` per window."""
        now, at = monotonic(), self._place(who)
        each = window_seconds / quota
        ahead = max(0.0, self._times[at] - now)
        room = (window_seconds - ahead) / each + _EPSILON
        if room < 1:
            return Spent(0, ceil(ahead), max(1, ceil((1 - room) * each)))
        self._times[at] = now + ahead + each
        return Spent(int(room - 1), ceil(ahead + each - _EPSILON), 0)

    def owe(self, who: bytes, quota: int, window_seconds: float, cost: int) -> Spent:
        """What it was given costs so much more, be there room for it or not."""
        now, at = monotonic(), self._place(who)
        each = window_seconds / quota
        ahead = max(0.0, self._times[at] - now) + cost * each
        self._times[at] = now + ahead
        left = (window_seconds - ahead) / each + _EPSILON
        return Spent(max(0, int(left)), ceil(ahead - _EPSILON), 0)

    def _place(self, who: bytes) -> int:
        """Where this one is kept; if need be, where the one was that was quiet for longest."""
        id = int.from_bytes(blake2b(who, digest_size=8).digest(), "little") or 1
        first = id % SETS * WAYS
        ids, times = self._ids, self._times
        quietest = first
        for at in range(first, first + WAYS):
            if ids[at] == id:
                return at
            if times[at] < times[quietest]:
                quietest = at
        ids[quietest], times[quietest] = id, 0.0
        return quietest
