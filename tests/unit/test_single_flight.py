"""Many who ask at once, and what each of them may rely on."""

from __future__ import annotations

import asyncio

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
    look.let_go.release()
    await asyncio.gather(*(ask() for _ in range(1_000)))
    assert look.begun == 1
    look.let_go.release()
    await ask()
    assert look.begun == 2


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
    look.let_go.release()
    answers = await asyncio.gather(*(ask() for _ in range(3)), return_exceptions=True)
    assert answers == [look.error] * 3
    look.error = None
    look.let_go.release()
    await ask()


async def test_who_goes_away_takes_nobody_along(look: Look) -> None:
    ask = SingleFlight(look)
    asked = [asyncio.ensure_future(ask()) for _ in range(3)]
    await until(lambda: look.begun, "the look is under way")
    asked[0].cancel()
    look.let_go.release()
    await asyncio.gather(*asked[1:])
    assert asked[0].cancelled()


async def test_nobody_is_left_to_hear_what_went_wrong(look: Look) -> None:
    """Nothing is logged for it: who asks next is told anew."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    ask = SingleFlight(look)
    look.error = OSError("away")
    asked = asyncio.ensure_future(ask())
    await until(lambda: look.begun, "the look is under way")
    asked.cancel()
    look.let_go.release()
    await until(lambda: not look.under_way, "it has ended")
    look.let_go.release()
    with pytest.raises(OSError, match="away"):
        await ask()
    assert not complaints
