"""How fast a crowd may come: rates are raised until a step does not pass, then bisected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import sqrt

from loadtest.fleet import Fleet
from loadtest.histogram import Histogram
from loadtest.settings import Settings

WITHIN = 1.1  # the first rate that does not pass, to the last that does
STEPS_MAX = 24
ACHIEVED_MIN = 0.9  # of what was asked, in a step's time: what is slower does not keep up
WARM_S = 1.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step: requests a second that were asked, and those that were answered in its time.

    ``late_p99_ms``: by how much the harness itself was behind.
    """

    rate: float
    achieved: float
    p99_ms: float
    errors: int
    passed: bool
    late_p99_ms: float = 0.0


def judged(fleet: Fleet, settings: Settings) -> Step:
    """What a step came to."""
    whole = fleet.measured.total()
    reserves = fleet.measured.operations.get("reserve", Histogram())
    p99_ms = reserves.quantile(0.99) / 1000
    rate = whole.asked / settings.step_seconds
    achieved = whole.answered / max(fleet.tally.elapsed_s, 1e-9)
    passed = (
        reserves.count > 0
        and p99_ms <= settings.p99_ms
        and whole.errors <= settings.errors_max * whole.asked
        and achieved >= ACHIEVED_MIN * rate
    )
    late_ms = fleet.measured.late_us.quantile(0.99) / 1000
    return Step(round(rate, 1), round(achieved, 1), p99_ms, whole.errors, passed, late_ms)


async def search(
    first: float, step: Callable[[float], Awaitable[Step]]
) -> tuple[list[Step], float]:
    """The steps that were made, from ``first`` baskets a second on, and the knee: the highest rate
    that passed, 0 if none did."""
    steps: list[Step] = []
    passed, failed, baskets = 0.0, 0.0, first
    while len(steps) < STEPS_MAX:
        steps.append(await step(baskets))
        if steps[-1].passed:
            passed = baskets
        else:
            failed = baskets
        if failed and (failed <= WITHIN * passed or failed < 2):
            break
        baskets = sqrt(passed * failed) if passed and failed else 2 * passed or failed / 2
    return steps, max((step.rate for step in steps if step.passed), default=0.0)
