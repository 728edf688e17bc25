"""What happened, handed on as it happens, and from any earlier position on.

A subscriber is a position and a filter: nothing is kept for it. One poller looks while somebody
listens, and keeps the last happenings for all; who is further behind, or too slow, reads the ledger
by itself, a bounded piece at a time, and asks for the next one when it has passed this one on.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from msgspec import Struct

from core.errors import Overloaded, Unavailable
from core.happenings import Happening, Places, happenings
from core.ledger.journal import Mark
from core.ledger.reading import Happened
from core.model import Durability
from core.records import Records

LISTENING_MAX: Final = 100  # to one worker: each costs a connection and its share of the loop
POLL_SECONDS: Final = 0.25
PIECE_POSITIONS: Final = 1_000  # read at once: some 10 ms of this process's time
KEPT_MAX: Final = 5_000  # happenings that are kept for all: some 10 MB
ROWS_KEPT_MAX: Final = 10_000  # rows of pools, so that the version before is seldom asked for

WHOLE: Final = 99  # as a number: behind all happenings of its position

Place = tuple[int, int]  # a position, and the number of a happening of it

log = logging.getLogger("stockade.feed")


class Wanted(Struct, frozen=True):
    """Which happenings; what is empty does not matter. ``seen``: the channels that may be seen at
    all, None for all of them."""

    types: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    skus: frozenset[str] = frozenset()
    seen: frozenset[str] | None = None

    def has(self, each: Happening) -> bool:
        """True if this is one of them."""
        return (
            (not self.types or each.type in self.types)
            and (not self.channels or not self.channels.isdisjoint(each.channels))
            and (not self.skus or not self.skus.isdisjoint(each.skus))
            and (self.seen is None or not self.seen.isdisjoint(each.channels))
        )


class Subscriber:
    """Who listens. ``place``: up to here it was given all that it wants."""

    def __init__(self, feed: Feed, wanted: Wanted, place: Place) -> None:
        self._feed = feed
        self._wanted = wanted
        self.place = place

    async def next(self, seconds: float) -> list[Happening]:
        """The next happenings that it wants; none if there were none within about ``seconds``.

        Raises Unavailable if it is behind what is kept and the ledger does not answer.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            found, self.place = await self._feed.behind(self.place, left)
            wanted = [each for each in found if self._wanted.has(each)]
            if wanted:
                return wanted
        return []


class Feed:
    """The happenings of one worker's ledger."""

    def __init__(self, records: Records, durability: Durability) -> None:
        self._records = records
        self._durability = durability
        self._listening = 0
        self._polling: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        # All happenings of the positions behind ``base`` up to ``head`` are kept, or more.
        self._kept: list[Happening] = []
        self._base = 0
        self._head = 0
        self._rows: dict[tuple[str, str], tuple[int, str]] = {}
        self._places: Places | None = None
        self._policy = 0
        self._defect: BaseException | None = None

    @asynccontextmanager
    async def subscribe(self, wanted: Wanted, after: Place | None) -> AsyncIterator[Subscriber]:
        """Listens from behind ``after`` on, or from now on.

        Raises Overloaded when too many do, LedgerUnavailable.
        """
        if self._listening >= LISTENING_MAX:
            raise Overloaded("too many listen to this worker's events")
        self._listening += 1
        try:
            mark = await self._records.reading.mark()
            if self._polling is None or self._polling.done():
                self._kept, self._base, self._head = [], mark.position, mark.position
                self._defect = None
                self._polling = asyncio.get_running_loop().create_task(self._poll())
                self._polling.add_done_callback(self._on_end)
            now = (mark.position, WHOLE)
            # A place ahead of the ledger is none of this ledger.
            yield Subscriber(self, wanted, now if after is None else min(after, now))
        finally:
            self._listening -= 1

    async def close(self) -> None:
        """Stops looking."""
        while self._polling is not None and not self._polling.done():
            self._polling.cancel()
            await asyncio.wait((self._polling,), timeout=0.1)

    async def behind(self, place: Place, seconds: float) -> tuple[Sequence[Happening], Place]:
        """A piece of what happened behind a place, and the place where it ends. Waits up to
        ``seconds`` for there to be any."""
        if self._defect is not None:
            raise self._defect
        if place >= (self._head, WHOLE):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            return [], place
        if place >= (self._base, WHOLE):
            first = bisect_right(self._kept, place, key=_place)
            piece = self._kept[first : first + PIECE_POSITIONS]
            whole = first + len(piece) == len(self._kept)
            return piece, (self._head, WHOLE) if whole else _place(piece[-1])
        after = place[0] - 1  # the rest of its own row, too
        last = min(after + PIECE_POSITIONS, self._head)
        found = await self._read(after, last)
        return [each for each in found if _place(each) > place], (last, WHOLE)

    # --- looking ---------------------------------------------------------------------------------

    async def _poll(self) -> None:
        """Looks while somebody listens. A ledger that is away is waited for."""
        loop = asyncio.get_running_loop()
        told = ""
        while self._listening:
            pause_seconds = POLL_SECONDS
            try:
                mark = await self._records.reading.mark()
                if mark.position > self._head:
                    started = loop.time()
                    await self._take_in(mark)
                    # Of a crowd of happenings only so much at once: others are served here, too.
                    pause_seconds = min(POLL_SECONDS, loop.time() - started)
                if told:
                    log.warning("the feed goes on")
                told = ""
            except Unavailable as error:
                if str(error) != told:
                    log.warning("the feed waits: %s", error)
                told = str(error)
            await asyncio.sleep(pause_seconds)

    def _on_end(self, polling: asyncio.Task[None]) -> None:
        """A poller that failed ends all streams, and says why; the next listener has a new one."""
        if not polling.cancelled() and (error := polling.exception()) is not None:
            log.critical("the feed failed", exc_info=error)
            self._defect = error
            self._tell()

    def _tell(self) -> None:
        """Wakes who waits for news."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _take_in(self, mark: Mark) -> None:
        """Keeps the next piece for all who listen."""
        if mark.policy != self._policy:
            self._places = None
        last = min(self._head + PIECE_POSITIONS, mark.position)
        self._kept += await self._read(self._head, last)
        self._policy = mark.policy
        self._head = last
        surplus = len(self._kept) - KEPT_MAX
        if surplus > 0:
            # A row's happenings go together.
            self._base = self._kept[surplus - 1].position
            del self._kept[: bisect_right(self._kept, (self._base, WHOLE), key=_place)]
        self._tell()

    async def _read(self, after: int, last: int) -> list[Happening]:
        """What happened behind the position ``after`` up to ``last``."""
        reading = self._records.reading
        if self._places is None:
            self._places = Places(await reading.policy())
        places = self._places
        rows = await reading.happened(after, last)
        before = await self._rows_before(rows)
        return happenings(rows, before, places, self._durability)

    async def _rows_before(self, rows: Happened) -> dict[tuple[str, str, int], str]:
        """The row of each pool before each of its balances; most of them are balances as well."""
        found: dict[tuple[str, str, int], str] = {}
        lacking: list[tuple[str, str, int]] = []
        for row in rows.balances:
            pool, version = (row["sku"], row["location"]), row["version"]
            known, text = self._rows.get(pool, (0, ""))
            before = (*pool, version - 1)
            if known == version - 1:
                found[before] = text
            elif before not in found and version > 1:
                lacking.append(before)
            found[(*pool, version)] = row["row"]
            self._rows[pool] = version, row["row"]
        if len(self._rows) > ROWS_KEPT_MAX:
            self._rows.clear()
        return found | await self._records.reading.rows_at(lacking)


def _place(happening: Happening) -> Place:
    return happening.position, happening.number
