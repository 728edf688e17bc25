"""Which deadlines may have passed, as one worker knows it. Plain bookkeeping, no I/O.

Ids wait in one list per second of their deadline, those of one script in one entry, a blank
between them. The store keeps a cursor: every list before it is empty. A refusal is only right if
nothing is due, and asking must be cheap, so a list that was looked through is remembered by its
length and by the earliest deadline in it: until one of the two changes, nothing in it can be due.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from core.errors import StockadeError
from core.meters import Meters

SECONDS_MAX = 64  # lists looked at in one script
QUIET_MS = 2**52  # an empty list stays quiet until it grows

log = logging.getLogger("stockade.lane")


class Deadlines:
    """The lists between the cursor and now."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, cursor: int) -> None:
        """Knows nothing but where the store's cursor is."""
        self.cursor = cursor
        self.clear_round = -1  # pipeline that last found nothing due
        self.clear_at = -1e9  # and when it was sent, monotonic seconds
        self.drains: dict[int, list[str]] = {}  # entries to expire and tidy in the next pipeline
        self._quiet: dict[int, tuple[int, int]] = {}
        self._set_aside: set[str] = set()

    def seconds(self, now_ms: int) -> list[int]:
        """The seconds to look at: from the cursor to the one after now, which may have begun."""
        last = now_ms // 1000 + 1
        return list(range(min(self.cursor, last), last + 1)[:SECONDS_MAX])

    def passed(self, now_ms: int) -> list[int]:
        """Seconds that are over but not behind the cursor yet."""
        return list(range(self.cursor, now_ms // 1000)[:SECONDS_MAX])

    def far_behind(self, now_ms: int) -> bool:
        """True if there are more seconds to look at than one look takes in."""
        return now_ms // 1000 - self.cursor >= SECONDS_MAX

    def quiet(self, second: int) -> tuple[int, int]:
        """(entries of the list, time in ms) up to which it is known that nothing is due in it."""
        return self._quiet.get(second, (-1, 0))

    def not_judged(self, round: int, seen_at: float) -> None:
        """Takes in a look on a clock in doubt: nothing is due while nothing may expire."""
        self.clear_round, self.clear_at = round, seen_at

    def looked(
        self, found: dict[int, list[bytes]], server_ms: int, round: int, seen_at: float
    ) -> None:
        """Takes in a look: entries with what may be due are drained next."""
        clear = bool(found) and max(found) >= server_ms // 1000 and min(found) <= self.cursor
        for second, entries in found.items():
            texts = [each.decode() for each in entries]
            if any(id not in self._set_aside for each in texts for id in each.split(" ")):
                clear = False
            if texts and texts[0]:
                self.drains[second] = texts
        if clear:
            self.clear_round, self.clear_at = round, seen_at

    def tidied(self, second: int, left: int, kept: int, earliest_ms: int) -> None:
        """Takes in how many entries a list has after their ids were settled."""
        if left == kept:
            self._quiet[second] = (left, earliest_ms or QUIET_MS)
        else:
            self._quiet.pop(second, None)

    def set_aside(self, reservation_id: str) -> None:
        """A record that cannot expire: it is put off, and keeps no refusal waiting."""
        self._set_aside.add(reservation_id)

    def is_set_aside(self, reservation_id: str) -> bool:
        """True until it was put off."""
        return reservation_id in self._set_aside

    def put_off(self, reservation_ids: Iterable[str]) -> None:
        """They stand in a later list now, and are tried again when that is due."""
        self._set_aside.difference_update(reservation_ids)

    def moved(self, cursor: int) -> None:
        """The store's cursor, from any reply."""
        if cursor != self.cursor:
            self.cursor = cursor
            for second in [each for each in self._quiet if each < cursor]:
                del self._quiet[second]


class Expiry:
    """Waits for an expiry that nobody asked for: a record that cannot expire is set aside."""

    __slots__ = ("_deadlines", "_id", "_meters")

    def __init__(self, deadlines: Deadlines, reservation_id: str, meters: Meters) -> None:
        self._deadlines = deadlines
        self._meters = meters
        self._id = reservation_id

    def done(self) -> bool:
        """It always waits."""
        return False

    def set_result(self, result: Any) -> None:
        """It is counted, or the record set aside."""
        if isinstance(result, StockadeError):
            return
        code, record = result
        if code == "done":
            self._meters.expired(record)
        elif code == "corrupt":
            self._deadlines.set_aside(self._id)
            log.error("reservation %s cannot expire: its record or pool is corrupt", self._id)
