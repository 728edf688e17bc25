"""Makes the store again from the ledger, after whatever was lost of it.

    fence     the shard gets a higher epoch, so that no worker of before writes there any more
    carry     what the store's stream still has goes into the ledger first, as far as it can be
              believed: it follows the ledger's mark without a gap and fits its rows
    fence     the ledger's mark begins the new epoch, and what was lost is written down beside it
    refill    the shard is emptied, then filled, part by part; of SKUs with a limit also with what
              customers have
    move      deadlines that passed while the store was away are moved by the outage
    end       the shard is whole in one step, and the workers take its new epoch

A rebuild that dies anywhere is run again: another one takes the shard over once it is silent, and
begins after the last step that the ledger knows of.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import msgspec

from core.chronicle import Chronicle, check_order
from core.customers import NOBODY, field_of, live_member
from core.errors import LedgerBroken, RebuildRefused
from core.ledger.books import Books
from core.ledger.journal import Journal, Mark
from core.ledger.rebuilding import Loss, Rebuilds, Remains, Report
from core.store import keys, wording
from core.store.events import Entry, EventStream
from core.store.rebuilding import Begun, Part, Refill

SILENCE_MS = 10_000  # without a sign of life another rebuild is dead
FOLLOW_SECONDS = 0.2  # between looks at another one
ENTRIES_MAX = 4_096  # carried in one transaction
NAMED_MAX = 1_000  # reservations that are named of what could not be carried
VALUES_MAX = 3_000  # of one part: `unpack` in a script ends at 7,999

HASHES: Final = {
    "channel": keys.CHANNELS, "location": keys.LOCATIONS, "mode": keys.MODES, "sku": keys.SKUS,
}  # fmt: skip

Tell = Callable[[str, int, int], None]  # (kind of rows, how many of them are done, of how many)

log = logging.getLogger("stockade.rebuild")


class Rebuild:
    """One rebuild of one shard: ``run`` it once."""

    def __init__(
        self,
        stream: EventStream,
        refill: Refill,
        journal: Journal,
        windows_ms: tuple[int, int],
        move_deadlines: bool,
        tell: Tell = lambda *_: None,
        count_live: bool = False,
    ) -> None:
        """``windows_ms``: lengths of the two key windows; ``move_deadlines``: those that passed
        while the store was away are moved by as long as it was; ``count_live``: how many live
        reservations a customer may have is bounded."""
        self._stream = stream
        self._refill = refill
        self._journal = journal
        self._books = Books(journal)
        self._rebuilds = Rebuilds(journal)
        self._windows_ms = windows_ms
        self._move_deadlines = move_deadlines
        self._tell = tell
        self._count_live = count_live
        self._part = Part()
        self._kind = ""
        self._done = 0
        self._time_ms = 0  # the server's, as of the last part
        self._cursor = 0
        self._counted: dict[str, int] = {}  # SKU → number with which its counting began
        self.counts: dict[str, int] = {}

    async def run(self) -> Report:
        """Does all of it, or waits for another one that does.

        Raises RebuildRefused, and Unavailable for a server that does not answer: run it again.
        """
        loop = asyncio.get_running_loop()
        mark = await self._journal.mark()
        if mark is None:
            raise RebuildRefused("the ledger has never seen a store: there is nothing to restore")
        begun = await self._begin(mark.epoch)
        if begun is None:
            last = await self._rebuilds.last()
            if last is None:
                raise RebuildRefused("another rebuild gave the store back, and did not say so")
            return last
        started = loop.time()
        self._time_ms = begun.time_ms
        log.warning("the store is rebuilt from the ledger, as epoch %d", begun.epoch)
        mark, loss = await self._fence(begun)
        _tell_loss(loss)
        await self._refill.empty("what was there is removed")
        async with self._rebuilds.remains() as remains:
            moved, outage_ms = await self._fill(remains, begun, mark)
        await self._end(mark)
        seconds = loop.time() - started
        report = Report(begun.epoch, loss, self.counts, moved, outage_ms, seconds)
        await self._rebuilds.ended(report, self._time_ms)
        rows = sum(self.counts.values())
        log.warning("the store is whole again: %d rows in %.1f s", rows, seconds)
        return report

    # --- the fence -------------------------------------------------------------------------------

    async def _begin(self, ledger_epoch: int) -> Begun | None:
        """Takes the shard; None if another rebuild had it and has ended."""
        told = False
        while True:
            begun = await self._refill.begin(ledger_epoch, SILENCE_MS)
            if isinstance(begun, Begun):
                return begun
            if not told:
                log.warning("another rebuild is at work: %s", begun)
                told = True
            await asyncio.sleep(FOLLOW_SECONDS)
            if not await self._refill.taken():
                return None

    async def _fence(self, begun: Begun) -> tuple[Mark, Loss]:
        """Carries what can be carried and begins the new epoch in the ledger; the mark before."""
        carried = 0
        while True:
            mark = await self._journal.mark()
            assert mark is not None, "a mark is never removed"
            if mark.epoch >= begun.epoch:
                raise RebuildRefused("another rebuild has taken the store over")
            loss = await self._lost_before(begun, mark)
            if loss is None:
                mark, more, reason = await self._carry(mark)
                carried += more
                loss = await self._loss(begun, mark, carried, reason)
            if await self._rebuilds.fence(mark, begun.epoch, begun.time_ms, loss):
                return mark, loss
            log.warning("a scribe was still writing")

    async def _lost_before(self, begun: Begun, mark: Mark) -> Loss | None:
        """What a rebuild had lost that began the ledger's epoch and died; None if there is none.

        Nothing was acknowledged in its epoch, and what it put into the stream counts for nothing.
        """
        before = await self._rebuilds.unfinished(mark.epoch)
        if before is None or mark.seq or begun.was_epoch == mark.epoch:
            return None
        still = begun.was_epoch == before.epoch
        return msgspec.structs.replace(before, whole=before.whole and still)

    async def _carry(self, mark: Mark) -> tuple[Mark, int, str]:
        """Brings events that the store still has into the ledger, up to the first one that is not
        to be believed; the mark then, how many those were, and what is wrong with that one."""
        carried, count = 0, ENTRIES_MAX
        accepted = await self._journal.accepted()
        chronicle = Chronicle(mark.position, mark.policy, accepted)
        while entries := await self._stream.read(mark.epoch, mark.seq, count, wait=False):
            try:
                check_order(mark.epoch, mark.seq, entries)
                lacking = chronicle.lacking(entries)
                chronicle.know(lacking, await self._journal.rows(lacking))
                page = chronicle.page(entries)
                last = entries[-1]
                new = Mark(
                    mark.epoch, last.seq, chronicle.position, chronicle.policy, last.time_ms,
                    last.time_ms,
                )  # fmt: skip
                written = await self._books.write(page, mark, new)
            except LedgerBroken as error:
                if len(entries) == 1:
                    return mark, carried, str(error)
                count = len(entries) // 2
                chronicle = Chronicle(mark.position, mark.policy, accepted)
                continue
            if written:
                carried += len(entries)
                mark = new
            else:  # the scribe has not heard of us yet
                found = await self._journal.mark()
                assert found is not None
                mark = found
                chronicle = Chronicle(mark.position, mark.policy, accepted)
            await self._put("events", carried, 0)
        return mark, carried, ""

    async def _loss(self, begun: Begun, mark: Mark, carried: int, reason: str) -> Loss:
        whole = not reason and (begun.was_epoch, begun.was_seq) == (mark.epoch, mark.seq)
        named: list[str] = []
        if not whole:
            for entry in await self._stream.read(mark.epoch, mark.seq, NAMED_MAX, wait=False):
                named += _named(entry)
        return Loss(
            mark.epoch, mark.seq, mark.position, mark.time_ms, max(mark.seen_ms, mark.time_ms),
            carried, whole, reason, list(dict.fromkeys(named))[:NAMED_MAX],
        )  # fmt: skip

    # --- filling ---------------------------------------------------------------------------------

    async def _fill(self, remains: Remains, begun: Begun, mark: Mark) -> tuple[int, int]:
        """All of it; how many deadlines were moved, and by how much."""
        self._windows = [
            (start, start - length)
            for length in self._windows_ms
            for start in (begun.time_ms - begun.time_ms % length,)
        ]
        self._cursor = begun.time_ms // 1000
        (_, short_before), (_, long_before) = self._windows
        sizes = await remains.sizes(short_before, long_before)
        away_ms = max(mark.seen_ms, mark.time_ms)
        until_ms = begun.time_ms if self._move_deadlines else away_ms
        await self._policies(remains, sizes["policies"])
        await self._fields(remains, "imports", keys.IMPORTS, sizes["imports"])
        await self._fields(remains, "pools", keys.POOLS, sizes["pools"])
        await self._reservations(remains, sizes["reservations"], away_ms, until_ms)
        await self._customers(remains, begun)
        await self._keys(remains, sizes["scripts"])
        if not self._move_deadlines:
            return 0, 0
        return await self._move(remains, away_ms)

    async def _room(self, rows: int, total: int) -> None:
        """``rows`` more are in the part; writes it if it is large enough."""
        self._done += rows
        if self._part.size >= VALUES_MAX:
            await self._put(self._kind, self._done, total)

    async def _put(self, kind: str, done: int, total: int) -> None:
        part, self._part = self._part, Part()
        words = f"{kind} {done:,} of {total:,}" if total else f"{kind} {done:,}"
        self._time_ms = await self._refill.put(part, words)
        self._tell(kind, done, total)

    def _start(self, kind: str) -> float:
        self._kind, self._done = kind, 0
        return asyncio.get_running_loop().time()

    async def _finish(self, started: float, total: int) -> None:
        await self._put(self._kind, self._done, total)
        self.counts[self._kind] = self._done
        seconds = asyncio.get_running_loop().time() - started
        log.info(
            "%s: %d in %.2f s, %.0f/s", self._kind, self._done, seconds,
            self._done / max(seconds, 1e-3),
        )  # fmt: skip

    async def _policies(self, remains: Remains, total: int) -> None:
        started = self._start("policies")
        async for page in remains.pages("rebuild_policies"):
            for kind, name, entry in page:
                self._part.field(HASHES[kind], name, entry)
                if kind == "sku":
                    self._part.member(keys.CATALOG, name)
                    counting = wording.parse_sku(entry.encode())[2].counting
                    if counting:
                        self._part.field(keys.LIMITS, name, str(counting))
                        self._counted[name] = counting
                await self._room(1, total)
        await self._finish(started, total)

    async def _fields(self, remains: Remains, kind: str, name: bytes, total: int) -> None:
        """Rows that are fields of one hash."""
        started = self._start(kind)
        async for page in remains.pages(f"rebuild_{kind}"):
            for field, value in page:
                self._part.field(name, field, value)
                await self._room(1, total)
        await self._finish(started, total)

    async def _reservations(
        self, remains: Remains, total: int, away_ms: int, until_ms: int
    ) -> None:
        """Those that are alive. One whose deadline will be moved waits nowhere until it is."""
        started = self._start("reservations")
        async for page in remains.pages("rebuild_reservations"):
            for id, record in page:
                words = record.split(" ")
                words[5] = "-"  # the event that wrote it is of an epoch before
                self._part.field(keys.bucket_of(id), id, " ".join(words))
                if self._count_live and words[0] == "R" and words[7] != NOBODY:
                    self._part.member(keys.LIVE, live_member(words[7], id))
                if words[0] == "R" and not away_ms < int(words[3]) <= until_ms:
                    second = int(words[3]) // 1000
                    self._part.id(keys.due_at(second), id)
                    self._cursor = min(self._cursor, second)
                await self._room(1, total)
        await self._finish(started, total)

    async def _customers(self, remains: Remains, begun: Begun) -> None:
        """What customers have of SKUs with a limit, by the day of their reservations."""
        started = self._start("customers")
        low = keys.lowest_id(begun.time_ms - keys.CUSTOMER_DAYS * keys.DAY_MS)
        for sku, counting in self._counted.items():
            async for page in remains.pages("customers_before", sku, 2**62, low):
                for day, customer, units in page:
                    field = field_of(sku, counting, customer)
                    self._part.field(keys.customers_on(day), field, str(units))
                    await self._room(1, 0)
        await self._finish(started, 0)

    async def _keys(self, remains: Remains, total: int) -> None:
        """Idempotency keys, into the windows that they belong to by the time of their event."""
        started = self._start("keys")
        (short, short_before), (long, long_before) = self._windows
        named = {
            False: (short, keys.short_keys(str(short)), keys.short_keys(str(short_before))),
            True: (long, keys.long_keys(str(long)), keys.long_keys(str(long_before))),
        }
        async for page in remains.pages("rebuild_keys", short_before, long_before):
            for time_ms, is_long, text in page:
                start, current, before = named[is_long]
                window = current if time_ms >= start else before
                for line in text.split("\n"):
                    field, _, value = line.partition(" ")
                    self._part.field(window, field, value)
                    await self._room(0, total)
                await self._room(1, total)
        await self._finish(started, total)

    async def _move(self, remains: Remains, away_ms: int) -> tuple[int, int]:
        """Moves deadlines that passed since the store was last seen: an event of each part, so that
        the ledger comes to have them as the store does."""
        started = self._start("moved")
        now_ms, seq = self._time_ms, 1
        outage_ms = max(0, now_ms - away_ms)
        async for page in remains.pages("rebuild_passed", away_ms + 1, now_ms):
            for id, record in page:
                words = record.split(" ")
                deadline_ms = int(words[3]) + outage_ms
                words[1:4] = (str(int(words[1]) + 1), str(now_ms), str(deadline_ms))
                words[5] = str(seq)
                moved = " ".join(words)
                self._part.records += (id, moved)
                self._part.field(keys.bucket_of(id), id, moved)
                self._part.id(keys.due_at(deadline_ms // 1000), id)
                self._done += 1
            await self._put("moved", self._done, 0)
            seq += 1
        await self._finish(started, 0)
        moved_count = self.counts.pop("moved")
        if moved_count:
            log.warning(
                "%d deadlines that passed while the store was away were moved by %.1f s",
                moved_count, outage_ms / 1000,
            )  # fmt: skip
        return moved_count, outage_ms if moved_count else 0

    async def _end(self, mark: Mark) -> None:
        short, long = self._windows
        await self._refill.end(mark.policy, self._cursor, short, long)


def _named(entry: Entry) -> list[str]:
    """The reservations that an event tells of, with their references."""
    words = entry.fields.get("r", "").split("\n")
    found = []
    for id, record in zip(words[::2], words[1::2], strict=False):
        parts = record.split(" ")
        reference = parts[8] if len(parts) > 8 else "-"
        found.append(f"{id} {unquote(reference)}")
    return found


def _tell_loss(loss: Loss) -> None:
    if loss.carried:
        log.warning("%d events were still in the store: the ledger has them now", loss.carried)
    if loss.whole:
        log.warning("nothing is lost: the ledger has all that the store had")
        return
    log.error(
        "what was acknowledged after event %d-%d (position %d, %d ms) is not known%s",
        loss.epoch, loss.seq, loss.position, loss.seen_ms,
        f": {loss.reason}" if loss.reason else "",
    )  # fmt: skip
    for each in loss.named:
        log.error("not known: what became of reservation %s", each)
