"""How many new reservations a second are taken while the shard protects what it has."""

from __future__ import annotations

from core.clock import monotonic_ms
from core.errors import Overloaded


class Throttle:
    """A bucket that fills as time goes by, and holds what a second brings."""

    __slots__ = ("_filled_ms", "_room", "_tokens")

    def __init__(self, per_second: float) -> None:
        self._room = max(per_second, 1.0)
        self._tokens = self._room
        self._filled_ms = monotonic_ms()

    def take(self) -> None:
        """Lets one in. Raises Overloaded."""
        now_ms = monotonic_ms()
        brought = (now_ms - self._filled_ms) * self._room / 1000
        self._tokens, self._filled_ms = min(self._room, self._tokens + brought), now_ms
        if self._tokens < 1.0:
            raise Overloaded("Fewer reservations are taken while stock is protected; try again")
        self._tokens -= 1.0
