"""The search for the knee, against services whose knee is known."""

from __future__ import annotations

import pytest

from loadtest.fleet import Fleet
from loadtest.generator import Task
from loadtest.histogram import Histogram
from loadtest.limit import STEPS_MAX, WITHIN, Step, judged, search
from loadtest.measure import Measured, Second
from loadtest.settings import Settings, scenario
from loadtest.tally import Tally


async def found(knee: float, first: float = 250) -> tuple[list[Step], float]:
    async def step(baskets: float) -> Step:
        return Step(2 * baskets, 2 * min(baskets, knee), 1.0, 0, baskets <= knee)

    return await search(first, step)


@pytest.mark.parametrize("knee", [10, 249, 250, 251, 1000, 7777, 60_000])
async def test_the_knee_is_found_within_a_tenth(knee: float) -> None:
    steps, rate = await found(knee)
    assert rate <= 2 * knee <= WITHIN * rate
    assert max(step.rate for step in steps if step.passed) == rate
    assert len(steps) < STEPS_MAX


async def test_a_service_that_passes_nothing_has_no_knee() -> None:
    steps, rate = await found(0)
    assert rate == 0
    assert not any(step.passed for step in steps)
    assert len(steps) < STEPS_MAX


def fleet(p99_ms: float = 10, errors: int = 0, elapsed_s: float = 5.0, judged: int = 1000) -> Fleet:
    """A step of five seconds, of a thousand reserves and as many commits."""
    settings = scenario("find-limit")
    reserves = Histogram()
    for _ in range(judged):
        reserves.record(round(p99_ms * 1000))
    second = Second(asked=2000, answered=2000, errors=errors)
    return Fleet(
        Task("", None, "run", settings, 0, 1, {}, {}),
        book=None,  # type: ignore[arg-type]
        measured=Measured({"reserve": reserves}, {0: second}),
        tally=Tally(elapsed_s=elapsed_s),
    )


@pytest.mark.parametrize(
    ("made", "passed"),
    [
        (fleet(), True),
        (fleet(p99_ms=49), True),
        (fleet(p99_ms=51), False),
        (fleet(errors=20), True),
        (fleet(errors=21), False),
        (fleet(elapsed_s=5.5), True),
        (fleet(elapsed_s=5.6), False),
        (fleet(judged=0), False),
    ],
)
def test_a_step_passes_within_all_bounds(made: Fleet, passed: bool) -> None:
    settings: Settings = scenario("find-limit")
    step = judged(made, settings)
    assert step.passed == passed
    assert step.rate == 400
