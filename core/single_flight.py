"""Many who ask for the same work at once have it done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType


class SingleFlight:
    """One run of ``work`` for all who ask before it begins, and one run at a time.

    Whoever asks while one is under way shares the next: what a run has seen may be older than the
    question. What a run raises is raised to each who shares it. It runs in the task of one of them;
    if that one is cancelled, the next runs it anew.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()  # in the order in which they ask
        self._begun = self._ended = 0  # the numbers of the last run that has
        self._error: Exception | None = None  # what the last that has ended raised, and where
        self._origin: TracebackType | None = None

    async def __call__(self) -> None:
        wanted = self._begun + 1
        async with self._turn:
            if self._ended < wanted:
                self._begun += 1
                self._error = await self._run()
                self._origin = self._error.__traceback__ if self._error is not None else None
                self._ended = self._begun
            if self._error is not None:
                raise self._error.with_traceback(self._origin)  # or it grew with each who is told

    async def _run(self) -> Exception | None:
        try:
            await self._work()
        except Exception as error:
            return error
        return None
