"""How far the ledger is behind the store, and who waits until it is not.

A worker learns the ledger's mark from the store. While somebody waits for it, it is asked for every
few milliseconds; else twice a second, with the store's memory.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

from core.errors import LedgerUnavailable, StockUnavailable
from core.lane import Lane
from core.store.shard import Memory, Shard

ASK_SECONDS = 0.003  # between looks while somebody waits
SHARE_OF_MEMORY = 0.25  # of maxmemory: what events may take before no more are made for reserves
UNLIMITED_BYTES = 2**30  # the same where the server has no maxmemory


class Backlog:
    """What is in the store and not in the ledger yet, as one worker knows it."""

    def __init__(
        self, lane: Lane, shard: Shard, limit_bytes: int | None, wait_seconds: float
    ) -> None:
        """``limit_bytes``: of the event stream; None takes its share of the store's memory."""
        self._lane = lane
        self._shard = shard
        self._limit_set_bytes = limit_bytes
        self._wait_seconds = wait_seconds
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap, by seq
        self._count = 0
        self._asking: asyncio.Task[None] | None = None
        self._epoch = ""  # that the mark is of
        self.mark = 0
        self.mark_ms = 0
        self.memory: Memory | None = None  # of the store, as it said last
        self.limit_bytes = 0
        self.size_bytes = 0
        self.too_long = False
        self.trouble = ""

    def measured(self, memory: Memory) -> None:
        """Takes in what the store said."""
        limit_bytes = self._limit_set_bytes
        if limit_bytes is None:
            limit_bytes = int(memory.limit_bytes * SHARE_OF_MEMORY) or UNLIMITED_BYTES
        self.memory = memory
        self.limit_bytes = limit_bytes
        self.size_bytes = memory.events_bytes
        self.too_long = self.size_bytes > limit_bytes
        self.trouble = memory.trouble
        self._epoch, self.mark, self.mark_ms = memory.epoch, memory.mark, memory.mark_ms

    def shown(self) -> dict[str, Any]:
        """For /readyz: how far behind, in events, seconds and bytes."""
        events = max(0, self._lane.seq - self.mark)
        seconds = (self._lane.now_ms - self.mark_ms) / 1000 if events and self.mark_ms else 0.0
        return {
            "events": events,
            "seconds": round(max(0.0, seconds), 3),
            "bytes": self.size_bytes,
            "too_long": self.too_long,
        }

    async def passed(self, reservation: str | None) -> None:
        """Returns when the ledger has all that this worker has seen done.

        Raises LedgerUnavailable, outcome unknown, when that takes too long.
        """
        lane = self._lane
        epoch, seq = lane.epoch, lane.seq
        if self._epoch == epoch and self.mark >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiting, (seq, self._count, future))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        try:
            async with asyncio.timeout(self._wait_seconds):
                await future
        except TimeoutError:
            raise LedgerUnavailable(
                f"the ledger did not get it within {self._wait_seconds:g} s",
                "unknown", reservation,
            ) from None  # fmt: skip
        if lane.epoch != epoch:
            raise LedgerUnavailable(
                "the store was rebuilt before the ledger had it", "unknown", reservation
            )

    async def _ask(self) -> None:
        """Asks for the mark while somebody waits."""
        while self._waiting:
            try:
                epoch, mark = await self._shard.mark()
            except StockUnavailable:
                epoch, mark = "", 0  # who waits too long is told so
            if epoch == self._lane.epoch:
                self._epoch, self.mark = epoch, mark
                while self._waiting and self._waiting[0][0] <= self.mark:
                    _, _, future = heapq.heappop(self._waiting)
                    if not future.done():
                        future.set_result(None)
            while self._waiting and self._waiting[0][2].done():
                heapq.heappop(self._waiting)
            await asyncio.sleep(ASK_SECONDS)

    def close(self) -> None:
        """Nobody is waited for any more."""
        if self._asking is not None:
            self._asking.cancel()
