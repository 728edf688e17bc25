"""Many who ask at once, and what each of them may rely on."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from core.single_flight import SingleFlight
from tests.workers import until


class Look:
    """Sees a number; each look lasts until it is let go."""

    def __init__(self) -> None:
        self.now = self.seen = self.begun = self.under_way = 0
        self.let_go = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def __call__(self) -> None:
        self.begun += 1
        self.under_way += 1
        assert self.under_way == 1
        seen = self.now
        try:
            await asyncio.sleep(0)
            await self.let_go.acquire()
            if self.error is not None:
                raise self.error
            self.seen = seen
        finally:
            self.under_way -= 1


@pytest.fixture
async def look() -> Look:
    return Look()


async def test_a_crowd_looks_once(look: Look) -> None:
    ask = SingleFlight(look)
    for runs in (2, 3):  # the first of a crowd has begun when the second asks
        look.let_go.release()
        look.let_go.release()
        await asyncio.gather(*(ask() for _ in range(1_000)))
        assert look.begun <= 2 * runs
    look.let_go.release()
    before = look.begun
    await ask()
    assert look.begun == before + 1


async def test_who_asks_meanwhile_sees_what_has_changed_since(look: Look) -> None:
    ask = SingleFlight(look)
    first = asyncio.ensure_future(ask())
    await until(lambda: look.begun, "the first look is under way")
    look.now = 1
    later = asyncio.gather(*(ask() for _ in range(100)))
    look.let_go.release()
    await first
    assert look.seen == 0
    assert not later.done()
    look.let_go.release()
    await later
    assert (look.seen, look.begun) == (1, 2)


async def test_what_goes_wrong_is_heard_by_all_and_by_nobody_after_them(look: Look) -> None:
    ask = SingleFlight(look)
    look.error = OSError("away")
    for _ in range(2):
        look.let_go.release()
    answers = await asyncio.gather(*(ask() for _ in range(100)), return_exceptions=True)
    assert answers == [look.error] * 100
    told = traceback.format_exception(look.error)
    assert sum("raise self.error" in line for line in told) == 2, "of each look, where it came from"
    assert look.begun == 2
    look.error = None
    look.let_go.release()
    await ask()


@pytest.mark.parametrize("away", [0, 1, 2])
async def test_who_goes_away_takes_nobody_along(look: Look, away: int) -> None:
    """Whether the look ran in its task or it only waited."""
    ask = SingleFlight(look)
    asked = [asyncio.ensure_future(ask()) for _ in range(3)]
    await until(lambda: look.begun, "the look is under way")
    look.now = 1
    asked.pop(away).cancel()
    for _ in range(2):
        look.let_go.release()
    await asyncio.gather(*asked)
    assert look.seen == 1
    assert look.begun == 2
