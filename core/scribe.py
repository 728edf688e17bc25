"""Carries events from the store's stream into the ledger, in order, each once.

A process of its own, at low priority. It never skips: an event that is missing, repeated or not to
be believed stops it, and it says so until somebody has looked. Whatever breaks between the two
servers, the ledger's mark alone says what is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from core.chronicle import Chronicle, check_order
from core.errors import LedgerBroken, StockadeError, Unavailable
from core.ledger.books import Books
from core.ledger.journal import Journal, Mark
from core.meters import Meters
from core.store import events
from core.store.events import Entry, EventStream
from core.trust import ahead, lost

ENTRIES_FIRST = 32  # of one transaction; then as many as it takes to stay near the aim
ENTRIES_MAX = 4_096
AIM_SECONDS = 0.25  # of one transaction: short enough for who waits, long enough to be cheap
GATHER_AT = 8  # events that were all there was: the next transaction begins
GATHER_SECONDS = 0.05  # only so long after theirs
PAUSE_SECONDS = 0.5  # between tries while a server is away
STANDBY_SECONDS = 5.0  # another scribe is writing: look again after this
SEE_SECONDS = 10.0  # an idle scribe notes this often that there was nothing more
DROP_KEYS_SECONDS = 60.0
EVENTS, RETRIES = "stockade_scribe_events_total", "stockade_scribe_retries_total"
POOLS_MAX = 100_000  # rows kept at hand

log = logging.getLogger("stockade.scribe")


class Scribe:
    """Reads one shard's stream. ``run`` it until it is cancelled."""

    def __init__(
        self,
        stream: EventStream,
        journal: Journal,
        short_window_ms: int,
        long_window_ms: int,
        rebuild: Callable[[], Awaitable[object]] | None = None,
        meters: Meters | None = None,
    ) -> None:
        """``rebuild`` makes a lost store again; without it somebody is told to."""
        self._stream = stream
        self._journal = journal
        self._books = Books(journal)
        self._rebuild = rebuild
        self._meters = meters or Meters()
        for name in (EVENTS, RETRIES):
            self._meters.add(name, 0)  # who counts nothing yet is seen as well
        self._windows_ms = (short_window_ms, long_window_ms)
        self._count = ENTRIES_FIRST
        self._crowded = False  # many came at once, and none was left behind
        self._began_at = 0.0
        self._seen_at = 0.0
        self._dropped_at = 0.0
        self._chronicle: Chronicle | None = None
        self._known: Mark | None = None  # the last that was read or written, if only to be told
        self._trouble = ""  # why it goes no further, for as long as it does not
        self.mark: Mark | None = None
        self.retries = 0  # transactions that failed and were, or will be, tried again

    async def run(self) -> None:
        """Turn after turn. A server that is away is waited for; a broken stream is told of, again
        and again, and nothing is written."""
        tries = 0
        while True:
            try:
                await self.turn()
                if self._trouble:
                    log.warning("the scribe goes on, after %d tries", tries)
                    self._trouble = ""
                    await self._tell()
                tries = 0
            except (StockadeError, TimeoutError) as error:
                self.mark = None  # it alone is not enough to go on from: read it again
                tries += 1
                self.retries += 1
                self._meters.add(RETRIES)
                words = str(error) or type(error).__name__
                if words != self._trouble:
                    level = logging.WARNING if isinstance(error, Unavailable) else logging.CRITICAL
                    log.log(level, "the scribe waits: %s", words)
                    self._trouble = words
                    await self._tell()
                await asyncio.sleep(PAUSE_SECONDS)

    async def finish(self, seconds: float) -> None:
        """Writes what there is before the end, for as long as that may take."""
        try:
            async with asyncio.timeout(seconds):
                while await self.turn(wait=False):
                    pass
        except (StockadeError, TimeoutError) as error:
            log.warning("events are left for the next start: %s", error or "no time")

    async def _tell(self) -> None:
        """Lets the workers know of the trouble, or that it is over, so that /readyz says it."""
        known = self._known
        try:
            if known is not None:
                await self._stream.mark(known.epoch, known.seq, known.time_ms, self._trouble)
            else:  # the ledger did not answer yet; the store keeps the mark that it has
                await self._stream.mark((await self._stream.position()).epoch, 0, 0, self._trouble)
        except StockadeError as error:
            log.warning("the workers could not be told: %s", error)

    async def turn(self, wait: bool = True) -> int:
        """Reads what there is, up to a bound, and writes it; how many events that were. May wait a
        moment for the first.

        Raises Unavailable when a server is away, LedgerBroken for a stream that does not fit.
        """
        if self.mark is None and not await self._take_over():
            await asyncio.sleep(PAUSE_SECONDS if wait else 0)
            return 0
        mark, chronicle = self.mark, self._chronicle
        assert mark is not None
        assert chronicle is not None
        if wait:
            await self._gather()
        entries = await self._stream.read(mark.epoch, mark.seq, self._count, wait)
        self._crowded = GATHER_AT <= len(entries) < self._count
        try:
            if not entries:
                await self._nothing_new(mark)
                return 0
            check_order(mark.epoch, mark.seq, entries)
            await self._write(mark, chronicle, entries)
        except LedgerBroken:
            # What another scribe wrote is trimmed, and rows that it moved on fit nothing before.
            found = await self._journal.mark()
            if found is None or (found.epoch, found.seq) == (mark.epoch, mark.seq):
                raise
            await self._stand_by()
        if entries:
            await self._drop_keys(entries[-1].time_ms)
        return len(entries)

    async def _gather(self) -> None:
        """Where events come fast many are written at a time: a transaction costs little less for
        ten than for a hundred, and on a busy machine that is taken from those who reserve."""
        loop = asyncio.get_running_loop()
        if self._crowded:
            await asyncio.sleep(self._began_at + GATHER_SECONDS - loop.time())
        self._began_at = loop.time()

    async def _take_over(self) -> bool:
        """Starts from the ledger's mark, wherever another scribe has brought it. False if there is
        nothing to read yet: neither server has seen a shard."""
        accepted = await self._journal.accepted()
        mark = await self._journal.mark()
        position = await self._stream.position()
        if mark is None:
            if not position.epoch:
                return False
            await self._books.begin(position.epoch, position.time_ms, events.MAIN_ENTRY)
            mark = await self._journal.mark()
            assert mark is not None
        self._known = mark
        why = lost(position.epoch, position.seq, position.rebuilding, mark)
        if why and self._rebuild is None:
            raise LedgerBroken(f"{why}; run `stockade rebuild`")
        if why and self._rebuild is not None:
            log.error("%s", why)
            await self._rebuild()
            return await self._take_over()
        why = ahead(position.epoch, mark)
        if why:
            raise LedgerBroken(why)
        await self._stream.mark(mark.epoch, mark.seq, mark.time_ms, self._trouble)
        self._chronicle = Chronicle(mark.position, mark.policy, accepted)
        self.mark = mark
        if not self._trouble:
            log.info("the ledger is at event %d, the store at %d", mark.seq, position.seq)
        return True

    async def _write(self, mark: Mark, chronicle: Chronicle, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        if len(chronicle.pools) > POOLS_MAX:
            chronicle.pools.clear()
        lacking = chronicle.lacking(entries)
        if lacking:
            chronicle.know(lacking, await self._journal.rows(lacking))
        page = chronicle.page(entries)
        last = entries[-1]
        new = Mark(
            mark.epoch, last.seq, chronicle.position, chronicle.policy, last.time_ms, last.time_ms
        )
        self.mark = None  # until it is known that this is written, the ledger says where it is
        if not await self._books.write(page, mark, new):
            await self._stand_by()
            return
        self.mark = self._known = new
        if not await self._stream.mark(new.epoch, new.seq, new.time_ms):
            self.mark = None
        took = loop.time() - started
        self._meters.add(EVENTS, len(entries))
        self._meters.scribe_writes.observe((), took)
        aim = int(len(entries) * AIM_SECONDS / max(took, 0.001))
        self._count = max(1, min(ENTRIES_MAX, 2 * self._count, aim))

    async def _stand_by(self) -> None:
        """Another one writes: look again later, and go on from where it is then."""
        self.mark = None
        log.warning("another scribe writes; standing by")
        await asyncio.sleep(STANDBY_SECONDS)

    async def _nothing_new(self, mark: Mark) -> None:
        """An idle scribe sees whether the store is still the one that it was, and says now and then
        that it holds no more than this. Raises LedgerBroken if it does and does not give it out."""
        position = await self._stream.position()
        if position.epoch != mark.epoch or position.seq < mark.seq:
            self.mark = None
            return
        if position.seq > mark.seq:  # it came meanwhile, or was trimmed by a ledger that had more
            if not await self._stream.read(mark.epoch, mark.seq, 1, wait=False):
                raise LedgerBroken(
                    f"event {mark.epoch}-{mark.seq + 1} is missing: the store is at "
                    f"{position.seq}, and its stream is empty; is this ledger a backup?"
                )
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._seen_at + SEE_SECONDS:
            return  # this was said a moment ago
        self._seen_at = loop.time()
        if not await self._books.see(mark, position.time_ms):
            self.mark = None
            return
        await self._stream.mark(mark.epoch, mark.seq, position.time_ms)

    async def _drop_keys(self, now_ms: int) -> None:
        """Now and then, also under load: keys of windows that are out of use."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._dropped_at + DROP_KEYS_SECONDS:
            self._dropped_at = loop.time()
            short_ms, long_ms = self._windows_ms
            await self._books.drop_keys(now_ms - 2 * short_ms, now_ms - 2 * long_ms)
