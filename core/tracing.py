"""What a traced request was made to wait for: its time in the lane, the plan, the script.

Who traces sets ``TRACE`` for a request; its ops take it along, and the lane tells it of the flight
that carried them. Untraced, which nearly all are, that costs a look at a variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.flight import Flight


class Trace(Protocol):
    """One traced request, as the lane sees it."""

    def span(
        self, name: str, start_ms: float, end_ms: float, attributes: dict[str, str | int]
    ) -> None:
        """Something that took from then to then, of the monotonic clock."""


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)


def tell(flight: Flight, landed_ms: float) -> None:
    """Tells the traced ops of a flight what became of their time. An op that goes again, after a
    conflict say, is told again; what it waited for is told once."""
    for step in flight.steps:
        for op in step.ops:
            trace: Trace | None = op.trace
            if trace is None:
                continue
            name = step.script.name
            if op.entered_ms:
                trace.span("lane", op.entered_ms, flight.sent_ms, {"stockade.script": name})
            size: dict[str, str | int] = {
                "stockade.script": name, "stockade.batch_operations": len(step.ops),
            }  # fmt: skip
            trace.span("plan", flight.sent_ms, flight.launched_ms, size)
            trace.span(f"script {name}", flight.launched_ms, landed_ms, size)
