"""Many who ask for the same work at once have it done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class SingleFlight:
    """One run of ``work`` for all who ask before it begins, and one run at a time.

    Whoever asks while one is under way shares the next: what a run has seen may be older than the
    question. What a run raises is raised to each who shares it; a caller who goes away ends none.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._next: asyncio.Task[None] | None = None  # has not begun
        self._last: asyncio.Task[None] | None = None  # has begun, and may have ended

    async def __call__(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
            self._next.add_done_callback(_seen)
        await asyncio.shield(self._next)

    async def _run(self) -> None:
        if self._last is not None and not self._last.done():
            await asyncio.wait([self._last])
        self._last, self._next = self._next, None
        await self._work()


def _seen(task: asyncio.Task[None]) -> None:
    """All who shared it may have gone away: then nobody else asks what it ended with."""
    if not task.cancelled():
        task.exception()
