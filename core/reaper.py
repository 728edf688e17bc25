"""Tidying, twice a second in every worker: due reservations expire, old records and keys go.

Nothing depends on it: a verb judges a deadline itself and a refusal drains what is due first. With
no reaper running, units are free right after their deadline all the same.
"""

from __future__ import annotations

import asyncio
import logging

from core.backlog import Backlog
from core.errors import StockadeError
from core.lane import Lane
from core.store import keys, scripts
from core.store.shard import Shard

TURN_SECONDS = 0.5  # a due reservation is expired within a second, also under load
TIDY_SECONDS = 30.0  # how long one turn may wait for expiries
FULL_FROM = 0.90  # of maxmemory: no new reservations, so that commits have room
PURGE_BATCH = 500
PURGE_BATCHES = 4  # per turn
WINDOWS_MAX = 4  # windows of idempotency keys removed per turn
DAYS_BACK = 400  # the service may not have run for so long
KEPT_WINDOWS = 2  # of keys: an ended record stays as long as most keys may answer with it

log = logging.getLogger("stockade.reaper")


class Reaper:
    """Runs turns until it is cancelled; a turn that fails is logged and the next one tries."""

    def __init__(self, lane: Lane, shard: Shard, backlog: Backlog, purged_hour: int) -> None:
        self._lane = lane
        self._shard = shard
        self._backlog = backlog
        self._purged_hour = purged_hour
        self._clock_accepted: int | None = None
        self._dropped_day = 0  # of customers: those before it are gone

    async def run(self) -> None:
        """Turn after turn."""
        while True:
            try:
                await self.turn()
            except (StockadeError, TimeoutError) as error:
                log.warning("a turn failed: %s", error or type(error).__name__)
            await asyncio.sleep(TURN_SECONDS)

    async def turn(self) -> None:
        """Everything once, each part bounded."""
        lane = self._lane
        await self._check_clock()
        if lane.closed is None:
            async with asyncio.timeout(TIDY_SECONDS):
                await lane.tidy()
        await self._measure()
        await self._shard.drop_old_windows(WINDOWS_MAX)
        await self._drop_days()
        await self._purge()

    async def _measure(self) -> None:
        """No new reservations while the store is nearly full, or the ledger too far behind."""
        lane, backlog = self._lane, self._backlog
        memory = await self._shard.memory()
        backlog.measured(memory)
        share = memory.used_bytes / memory.limit_bytes if memory.limit_bytes else 0.0
        if (share >= FULL_FROM) is not lane.full:
            lane.full = not lane.full
            log.log(
                logging.ERROR if lane.full else logging.WARNING,
                "the store uses %.0f %% of its memory; new reservations are %s",
                100 * share, "refused" if lane.full else "taken again",
            )  # fmt: skip
        if backlog.too_long is not lane.behind:
            lane.behind = backlog.too_long
            log.log(
                logging.ERROR if lane.behind else logging.WARNING,
                "the ledger is %d events and %d bytes behind; new reservations are %s",
                lane.seq - backlog.mark, backlog.size_bytes,
                "refused" if lane.behind else "taken again",
            )  # fmt: skip

    async def _check_clock(self) -> None:
        """An operator may have taken a jumped clock for the true one."""
        accepted = await self._shard.clock_accepted()
        if self._clock_accepted is not None and accepted > self._clock_accepted:
            self._lane.clock.accept()
        self._clock_accepted = accepted

    async def _drop_days(self) -> None:
        """Removes, once a day, what customers had on days that no limit reaches any more."""
        today = self._lane.now_ms // keys.DAY_MS
        last = today - keys.CUSTOMER_DAYS
        if self._lane.clock.suspect or last <= self._dropped_day:
            return
        first = max(self._dropped_day + 1, last - DAYS_BACK)
        await self._shard.drop([keys.customers_on(day) for day in range(first, last + 1)])
        self._dropped_day = last

    async def _purge(self) -> None:
        """Removes records that ended before most keys could want them, once the ledger has them; a
        verb that comes later brings one back."""
        lane = self._lane
        if lane.clock.suspect:
            return
        before_ms = lane.now_ms - KEPT_WINDOWS * lane.short_window_ms
        for _ in range(PURGE_BATCHES):
            hour = self._purged_hour + 1
            if (hour + 1) * keys.HOUR_MS > before_ms:
                return
            ids = await self._shard.ended(hour, PURGE_BATCH)
            names = [keys.META, keys.done_at(hour)]
            places: dict[bytes, int] = {}
            args: list[object] = [before_ms, hour, len(ids)]
            for each in ids:
                bucket = keys.bucket_of(each)
                if bucket not in places:
                    names.append(bucket)
                    places[bucket] = len(names)
                args += (places[bucket], each)
            reply = await self._shard.run(scripts.PURGE, names, [*lane.head(None), *args])
            if reply[0] == b"clock":
                lane.told_windows(reply)
            elif reply[0] != b"applied":
                return
            elif reply[5] == 0:
                self._purged_hour = hour
