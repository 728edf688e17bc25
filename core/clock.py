"""What a worker believes of the server's clock.

The server's TIME is the only clock for deadlines. Each reply carries it; from when the request was
sent and when the reply came, the offset to this machine's monotonic clock lies in an interval. An
interval that has left the old offset by more than a second is a jump: the worker alarms and stops
judging deadlines until the server is back on the old time line or an operator accepts the new one.
"""

from __future__ import annotations

import logging
import time

JUMP_MS = 1_000

log = logging.getLogger("stockade.clock")


if hasattr(time, "CLOCK_BOOTTIME"):

    def monotonic_ms() -> float:
        """Milliseconds of a clock that never jumps, and counts the time that a machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) * 1000.0

else:

    def monotonic_ms() -> float:
        """Milliseconds of a clock that never jumps."""
        return time.monotonic() * 1000.0


class ServerClock:
    """The server's time as estimated by one worker; plain arithmetic, no I/O."""

    def __init__(self) -> None:
        self._trusted_ms: float | None = None  # server time minus monotonic time
        self._latest_ms = 0.0
        self.suspect = False

    def heard(self, server_ms: int, sent_ms: float, received_ms: float) -> None:
        """Takes in one reply: ``server_ms`` was read between the two monotonic times."""
        low, high = server_ms - received_ms, server_ms - sent_ms
        trusted = self._trusted_ms
        if trusted is None or low - JUMP_MS <= trusted <= high + JUMP_MS:
            self._trusted_ms = low if trusted is None else min(max(trusted, low), high)
            self._latest_ms = self._trusted_ms
            if self.suspect:
                log.warning("the server's clock is back on its old time line: deadlines count")
            self.suspect = False
            return
        self._latest_ms = low
        if not self.suspect:
            log.error(
                "the server's clock jumped by %+.1f s against this machine's; nothing expires "
                "until it is back or `stockade clock accept` takes the new time for the true one",
                (low - trusted) / 1000,
            )
        self.suspect = True

    def accept(self) -> None:
        """Takes the server's present time for the true one."""
        self._trusted_ms = self._latest_ms
        if self.suspect:
            log.warning("the server's new time was accepted; deadlines count again")
        self.suspect = False

    def now_ms(self, monotonic: float | None = None) -> int:
        """The server's time now: names and deadlines go by it, also after a jump."""
        return int(self._latest_ms + (monotonic_ms() if monotonic is None else monotonic))
