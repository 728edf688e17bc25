"""One pipeline under way: what was sent, when, and to whom its replies belong."""

from __future__ import annotations

import asyncio

from core.clock import monotonic_ms
from core.steps import Step


class Flight:
    """One pipeline under way."""

    __slots__ = (
        "carried", "launched_ms", "payload", "resent", "round", "sent_ms", "since_ms", "steps",
        "timer",
    )  # fmt: skip

    def __init__(
        self, round: int, steps: list[Step], payload: bytes, sent_ms: float, carried: int
    ) -> None:
        """``carried``: lines of demands and records, as ``core.pace`` counts them."""
        self.round = round
        self.steps = steps
        self.payload = payload
        self.carried = carried
        self.sent_ms = sent_ms
        self.launched_ms = sent_ms  # planned, printed, and handed to the connection
        self.since_ms = sent_ms
        self.resent = False
        self.timer: asyncio.TimerHandle | None = None

    def age_ms(self) -> float:
        """Since it was sent first."""
        return monotonic_ms() - self.since_ms
