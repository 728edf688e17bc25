"""What a worker believes of the server's clock.

The server's TIME is the only clock for deadlines. Each reply carries it; from when the request was
sent and when the reply came, the offset to this machine's monotonic clock lies in an interval. What
is believed is what all of them have in common, so a slow reply proves little and a quick one much.
An interval that is more than a second away from that is a jump: the worker alarms and stops judging
deadlines until the server is back on the old time line or an operator accepts the new one.
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
        # Server time minus monotonic time: the least that it can be, by which we go, and the most.
        self._trusted_ms: float | None = None
        self._trusted_most_ms = 0.0
        self._latest_ms = self._latest_most_ms = 0.0
        self.suspect = False

    def heard(self, server_ms: int, sent_ms: float, received_ms: float) -> None:
        """Takes in one reply: ``server_ms`` was read between the two monotonic times."""
        low, high = server_ms - received_ms, server_ms - sent_ms
        trusted, most = self._trusted_ms, self._trusted_most_ms
        if trusted is None:
            trusted, most = low, high
        if low - JUMP_MS <= most and trusted <= high + JUMP_MS:
            self._trusted_ms = self._latest_ms = min(max(trusted, low), high)
            self._trusted_most_ms = max(min(most, high), self._trusted_ms)
            if self.suspect:
                log.warning("the server's clock is back on its old time line: deadlines count")
            self.suspect = False
            return
        self._latest_ms, self._latest_most_ms = low, high
        if not self.suspect:
            log.error(
                "the server's clock jumped by %+.1f s against this machine's; nothing expires "
                "until it is back or `stockade clock accept` takes the new time for the true one",
                (low - trusted) / 1000,
            )
        self.suspect = True

    def accept(self) -> None:
        """Takes the server's present time for the true one."""
        if self.suspect:
            self._trusted_ms, self._trusted_most_ms = self._latest_ms, self._latest_most_ms
            log.warning("the server's new time was accepted; deadlines count again")
        self.suspect = False

    def now_ms(self, monotonic: float | None = None) -> int:
        """The server's time now: names and deadlines go by it, also after a jump."""
        return int(self._latest_ms + (monotonic_ms() if monotonic is None else monotonic))
