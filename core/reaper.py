"""Tidying, twice a second in every worker: due reservations expire, old records and keys go.

Nothing depends on it: a verb judges a deadline itself and a refusal drains what is due first. With
no reaper running, units are free right after their deadline all the same.
"""

from __future__ import annotations

import asyncio
import logging

from core.errors import StockadeError
from core.lane import Lane
from core.store import keys, scripts
from core.store.shard import Shard

TURN_SECONDS = 0.5  # a due reservation is expired within a second, also under load
TIDY_SECONDS = 30.0  # how long one turn may wait for expiries
EVENTS_MAX = 100_000  # entries of the event stream until something reads it
EVENTS_SHARE = 0.125  # and at most this part of maxmemory: an entry can hold 2,000 records
FULL_FROM = 0.90  # of maxmemory: no new reservations, so that commits have room
PURGE_BATCH = 500
PURGE_BATCHES = 4  # per turn
WINDOWS_MAX = 4  # windows of idempotency keys removed per turn
KEPT_WINDOWS = 2  # of keys: an ended record stays as long as a key may answer with it

log = logging.getLogger("stockade.reaper")


class Reaper:
    """Runs turns until it is cancelled; a turn that fails is logged and the next one tries."""

    def __init__(self, lane: Lane, shard: Shard, purged_hour: int) -> None:
        self._lane = lane
        self._shard = shard
        self._purged_hour = purged_hour
        self._clock_accepted: int | None = None

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
        share = await self._shard.memory_share()
        if (share >= FULL_FROM) is not lane.full:
            lane.full = not lane.full
            log.log(
                logging.ERROR if lane.full else logging.WARNING,
                "the store uses %.0f %% of its memory; new reservations are %s",
                100 * share, "refused" if lane.full else "taken again",
            )  # fmt: skip
        await self._shard.trim_events(EVENTS_MAX, EVENTS_SHARE)
        await self._shard.drop_old_windows(WINDOWS_MAX)
        await self._purge()

    async def _check_clock(self) -> None:
        """An operator may have taken a jumped clock for the true one."""
        accepted = await self._shard.clock_accepted()
        if self._clock_accepted is not None and accepted > self._clock_accepted:
            self._lane.clock.accept()
        self._clock_accepted = accepted

    async def _purge(self) -> None:
        """Removes records that ended before any late commit or key could want them."""
        lane = self._lane
        policy = lane.snapshot.policy
        if policy is None or lane.clock.suspect:
            return
        late_ms = max(
            [spec.late_window_seconds * 1000 for spec in policy.specs.values()], default=0
        )
        before_ms = lane.now_ms - max(late_ms, KEPT_WINDOWS * lane.short_window_ms)
        for _ in range(PURGE_BATCHES):
            hour = self._purged_hour + 1
            if (hour + 1) * keys.HOUR_MS > before_ms:
                return
            ids = await self._shard.ended(hour, PURGE_BATCH)
            names = [keys.META, keys.done_at(hour), keys.KEPT]
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
