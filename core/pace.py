"""How much goes into one pipeline: as much as the store lately did in a tenth of a second.

On a store that keeps up that is as much as a script may carry. On one that does not, a crowd of
demands would else make pipelines that take seconds, which commits wait for, and which end in a
time-out with nobody knowing what was done. What does not grow with what is carried is the way there
and back, and no reason to carry less: the two are told apart by a regression over the last few
pipelines, weighted exponentially. Plain sync code, no clock.
"""

from __future__ import annotations

PIPELINE_MS = 100.0  # what the work of one shall take; a commit waits for two pipelines at most
WAYS = 2.0  # or so many times the way, if that is more: else the way would be most of the time
PIPELINE_MAX_MS = 500.0  # but never more, for a call to the store may not take much longer
ROOM_MAX = 2_000  # lines, or records of one verb: what a script may carry
ROOM_MIN = 64  # keeps a store that is slow for a moment from carrying next to nothing
ROOM_FIRST = 256  # of a store that nobody knows yet; it doubles with each pipeline that fills it
WEIGHT = 1 / 8  # of the last pipeline
DOUBT = 100.0  # squared: sizes that differ by less than ten say little about the work


class Pace:
    """The room of the next pipeline, from what the last ones carried and took."""

    __slots__ = ("_carried", "_covariance", "_landed_ms", "_taken", "_took_ms", "_variance", "room")

    def __init__(self) -> None:
        self.room = ROOM_FIRST
        self._taken = 0
        self._landed_ms = 0.0
        self._carried: float = 0
        self._took_ms = 0.0  # means, both
        self._variance = self._covariance = 0.0

    def take(self, number: int) -> None:
        """So many lines or records go into the one that is being formed."""
        self._taken += number

    def launched(self) -> int:
        """What was taken for the one that is sent now."""
        taken, self._taken = self._taken, 0
        return taken

    def lost(self) -> None:
        """One broke, perhaps because it took too long."""
        self.room = ROOM_MIN

    def landed(self, carried: int, sent_ms: float, received_ms: float) -> None:
        """It was answered. The store began on it when it was sent, or had answered the last one."""
        took_ms = received_ms - max(sent_ms, self._landed_ms)
        self._landed_ms = received_ms
        if not self._took_ms:
            self._carried, self._took_ms = carried, took_ms
        more, longer_ms = carried - self._carried, took_ms - self._took_ms
        self._carried += WEIGHT * more
        self._took_ms += WEIGHT * longer_ms
        self._variance = (1 - WEIGHT) * (self._variance + WEIGHT * more * more)
        self._covariance = (1 - WEIGHT) * (self._covariance + WEIGHT * more * longer_ms)
        each_ms = max(0.0, self._covariance / (self._variance + DOUBT))
        way_ms = max(0.0, self._took_ms - each_ms * self._carried)
        wanted_ms = min(max(PIPELINE_MS, WAYS * way_ms), PIPELINE_MAX_MS)
        most = 2 * self.room if 2 * carried >= self.room else self.room
        fitting = min(most, ROOM_MAX)
        if each_ms * fitting > wanted_ms:
            fitting = int(wanted_ms / each_ms)
        self.room = max(ROOM_MIN, fitting)
