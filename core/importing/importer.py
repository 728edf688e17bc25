"""The two passes over a file: check all of it, then apply it part by part.

Works beside running workers: a part is planned on rows just read and swapped in, as anybody's
plan; the file's position moves on in the same script.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from core.errors import ImportRefused, Overloaded, StockUnavailable
from core.importing.plans import Plan, Texts, Unfit, plan_orders, plan_pools, plan_stock, pools_of
from core.importing.repeats import RepeatedOrders, RepeatedStock
from core.importing.rows import Bad, Item, Order, OrdersFile, StockFile, StockRow
from core.importing.table import Table
from core.kernel._plan import Batch
from core.kernel._policy import Policy
from core.kernel._pool import ChannelUnknown, RowCorrupt
from core.lane import Lane
from core.model import timestamp
from core.noting import who
from core.store import keys, scripts, wording
from core.store.shard import Shard
from core.store.wording import Imported

PART_ROWS = 1_000  # of one script: a few ms of the store's time, and far below Lua's 7,999 values
POOLS_MAX = 2_000  # of one script, for orders that may be served from many locations
BAD_SHOWN = 100
TRIES_MAX = 64  # of one part, that ever others sell from or change
HALVE_AT = 4  # conflicts after which a part is planned in halves
STORE_TRIES = 20  # while the store is away or its answer was lost: ten seconds
STORE_PAUSE_SECONDS = 0.5

Tell = Callable[[str, int, float], None]  # phase, rows so far, share of the whole
T = TypeVar("T")


class Report(Struct):
    """What became of a file. ``bad`` holds the first rows that were left out: (line, why)."""

    kind: str
    name: str
    rows: int = 0
    applied: int = 0
    left_out: int = 0
    new_skus: int = 0
    units: int = 0
    orders: int = 0
    bad: list[tuple[int, str]] = []
    reasons: int = 0  # how many there are of these
    begun_at: int = 0  # rows that an earlier run had applied
    known_since: str | None = None  # nothing was applied: the file was imported at this time


class _Left:
    """The rows that are left out, one bit each, and the first reasons."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons = 0
        self._shown: list[tuple[int, str]] = []
        self._bits = bytearray()

    def add(self, bad: Bad) -> None:
        self.reasons += 1
        self._shown.append((bad.line, bad.why))
        if len(self._shown) == 2 * BAD_SHOWN:
            self._shown = self.shown()
        for number in range(bad.number, bad.number + bad.rows):
            self._bits.extend(bytes(max(0, number // 8 + 1 - len(self._bits))))
            if number not in self:
                self.count += 1
                self._bits[number // 8] |= 1 << number % 8

    def __contains__(self, number: int) -> bool:
        return number // 8 < len(self._bits) and bool(self._bits[number // 8] >> number % 8 & 1)

    def shown(self) -> list[tuple[int, str]]:
        """The first reasons in the order of the file."""
        return sorted(self._shown)[:BAD_SHOWN]


class Importer:
    """Imports files into one shard."""

    def __init__(
        self, lane: Lane, shard: Shard, refresh_policy: Callable[[], Awaitable[None]]
    ) -> None:
        """``refresh_policy`` reads the policy again if it changed."""
        self._lane = lane
        self._shard = shard
        self._refresh_policy = refresh_policy

    async def run(
        self, path: Path, *, orders: bool, again: bool, skip_bad: bool, tell: Tell
    ) -> Report:
        """Imports a file, or what is left of it. Raises ImportRefused with nothing applied but,
        where it says so, the rows before; StockUnavailable and Overloaded likewise."""
        with Table(path) as table:
            work = _Work(self._lane, self._shard, self._refresh_policy, table, skip_bad, tell)
            return await work.run(orders, again)


class _Work:
    """One run over one file."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        refresh_policy: Callable[[], Awaitable[None]],
        table: Table,
        skip_bad: bool,
        tell: Tell,
    ) -> None:
        self._lane = lane
        self._shard = shard
        self._refresh_policy = refresh_policy
        self._table = table
        self._skip_bad = skip_bad
        self._tell = tell
        self._left = _Left()
        self._batch = Batch()
        self._run = os.urandom(6).hex()
        self._total = 0
        self._entry = b""  # the position as the store has it
        self._done = 0  # rows before which everything is applied
        self._last = b""  # the file that was imported last under this name

    @property
    def _policy(self) -> Policy:
        policy = self._lane.snapshot.policy
        assert policy is not None, "a service that is open has read it"
        return policy

    async def run(self, orders: bool, again: bool) -> Report:
        """See `Importer.run`."""
        table = self._table
        await self._refresh_policy()
        self._file: StockFile | OrdersFile = (OrdersFile if orders else StockFile)(
            table, self._policy
        )
        self._report = Report(self._file.kind, table.name)
        self._take(*await self._shard.imported(table.digest, table.name))
        if self._entry:
            known = wording.parse_import(self._entry)
            if known.rows == known.total:
                self._report.rows, self._report.left_out = known.total, known.left_out
                self._report.known_since = timestamp(known.time_ms)
                return self._report
        elif self._last and not again:
            await self._refuse_another()
        self._report.begun_at = self._done
        await self._check()
        if self._left.reasons and not self._skip_bad:
            raise ImportRefused(
                f"{table.name}: {_rows(self._left.count)} of {self._total:,} cannot be imported; "
                "nothing was applied. Mend them, or leave them out with --skip-bad",
                self._left.shown(), self._left.reasons,
            )  # fmt: skip
        await self._apply()
        self._report.rows, self._report.left_out = self._total, self._left.count
        self._report.bad, self._report.reasons = self._left.shown(), self._left.reasons
        return self._report

    def _take(self, entry: bytes, last: bytes) -> None:
        """The file's position as it was read."""
        self._entry, self._last = entry, last
        self._done = wording.parse_import(entry).rows if entry else 0

    async def _refuse_another(self) -> None:
        name = self._table.name
        entry, _ = await self._shard.imported(self._last.decode(), name)
        known = wording.parse_import(entry)
        raise ImportRefused(
            f"{name} was imported with another content ({known.rows:,} of {known.total:,} rows, "
            f"{timestamp(known.time_ms)}); what stands in both would count twice. Import it with "
            "--again if all of it is to come on top"
        )

    # --- the first pass ------------------------------------------------------------------------

    async def _check(self) -> None:
        """Reads all rows and notes those that cannot be applied."""
        self._tell("checked", 0, 0.0)
        repeats = RepeatedOrders() if isinstance(self._file, OrdersFile) else RepeatedStock()
        try:
            for part in _parts(self._file.items()):
                entries = await self._entries(
                    [i for i in part if not isinstance(i, Bad) and i.number >= self._done]
                )
                for item in part:
                    found = self._found(item, entries)
                    repeats.add(found, entries)
                    if isinstance(found, Bad):
                        self._left.add(found)
                self._total = part[-1].number + part[-1].rows
                self._tell("checked", self._total, self._table.read_bytes / self._table.bytes)
                await asyncio.sleep(0)  # others of this loop get their turn, whatever was awaited
            for again in repeats.found():
                for bad in again:
                    self._left.add(bad)
                await asyncio.sleep(0)
        finally:
            repeats.close()
        self._table.check_unchanged()

    def _found(self, item: Item | Bad, entries: Texts) -> Item | Bad:
        """A row as it was read, or what is wrong with it. What was applied already was right."""
        if isinstance(item, Bad) or item.number < self._done:
            return item
        why = item.unfit(self._policy, entries)
        return item if why is None else item.bad(why)

    async def _entries(self, items: Iterable[Item]) -> Texts:
        """The entries of the SKUs that some rows name."""
        names = list(dict.fromkeys(sku for item in items for sku in item.skus))
        return dict(zip(names, await self._steady(self._shard.skus, names), strict=True))

    # --- the second pass -----------------------------------------------------------------------

    async def _apply(self) -> None:
        """Applies what is not applied yet, part by part."""
        self._tell("imported", self._done, self._done / max(1, self._total))
        for part in _parts(self._file.items()):
            self._table.check_unchanged()
            end = part[-1].number + part[-1].rows
            if end > self._done:
                items = [i for i in part if not isinstance(i, Bad) and i.number not in self._left]
                await self._apply_part(items, end)
                self._tell("imported", self._done, self._done / self._total)
            await asyncio.sleep(0)

    async def _apply_part(self, items: list[Item], end: int) -> None:
        """Applies some rows, in smaller groups where others keep changing their pools."""
        tries = conflicts = 0
        limit = PART_ROWS
        while self._done < end:
            tries += 1
            if tries > TRIES_MAX:
                raise Overloaded(
                    f"others keep changing what row {self._done + 1} is about; {self._go_on()}"
                )
            items = [i for i in items if i.number >= self._done and i.number not in self._left]
            entries = await self._entries(items)
            some = self._bounded([i for i in items if self._fits(i, entries)], entries, limit)
            left = [i for i in items if i.number not in self._left]
            upto = end if len(some) == len(left) else left[len(some)].number
            before = self._done
            if await self._apply_some(some, entries, upto):
                conflicts += 1
                if conflicts % HALVE_AT == 0:
                    limit = max(1, min(limit, sum(item.rows for item in some)) // 2)
            if self._done > before:
                tries = 0

    def _fits(self, item: Item, entries: Texts) -> bool:
        """Looks once more: the policy or a SKU may have changed since the first pass."""
        why = item.unfit(self._policy, entries)
        if why is not None:
            self._leave_out(item, why)
        return why is None

    def _leave_out(self, item: Item, why: str) -> None:
        """A row that passed the check cannot be applied."""
        if not self._skip_bad:
            raise ImportRefused(
                f"{self._table.name}: line {item.line}: {why}; {self._go_on()}",
                [(item.line, why)], 1,
            )  # fmt: skip
        self._left.add(item.bad(why))

    def _go_on(self) -> str:
        return f"{_rows(self._done)} of {self._total:,} are applied; run it again to go on"

    def _bounded(self, items: list[Item], entries: Texts, limit: int) -> list[Item]:
        """The first of some rows: as many as one script may take."""
        rows = 0
        pools: set[str] = set()
        for at, item in enumerate(items):
            rows += item.rows
            if isinstance(item, Order):
                pools |= pools_of(item, self._policy, entries)[0]
            if at and (rows > limit or len(pools) > POOLS_MAX):
                return items[:at]
        return items

    async def _apply_some(self, items: list[Item], entries: Texts, upto: int) -> bool:
        """One script, if nothing is in its way. True if it met a conflict."""
        now_ms = self._lane.now_ms
        after = wording.import_entry(
            Imported(upto, self._total, self._left.count, now_ms, self._table.name, self._run)
        )
        try:
            plan, opens = await self._planned(items, entries, now_ms)
        except Unfit as unfit:
            self._leave_out(unfit.item, unfit.why)
            return False
        except ChannelUnknown:
            await self._steady(self._refresh_policy)
            return False
        except RowCorrupt as error:
            raise StockUnavailable(f"the store holds a row that is not one: {error}") from error
        if opens:  # nothing of the file is applied yet
            after = self._entry
        reply = await self._send(plan, after, now_ms)
        outcome = reply[0]
        if outcome == b"epoch":
            raise StockUnavailable("the store is not the one that this import began with")
        if outcome == b"clock":
            self._lane.told_windows(reply)
        elif outcome == b"policy":
            await self._steady(self._refresh_policy)
        elif outcome == b"moved":
            if reply[5] == self._entry:
                raise ImportRefused(
                    f"{self._table.name}: another file of this name began to be imported just now; "
                    "import this one with --again if it is to come on top"
                )
            self._take(reply[5], reply[6])
            if reply[5] == after:  # the answer to this very script was lost
                self._count(plan, items)
        elif outcome != b"conflict" and not opens:
            self._take(after, self._last)
            self._count(plan, items)
        return bool(outcome == b"conflict")

    def _count(self, plan: Plan, items: list[Item]) -> None:
        report = self._report
        report.applied += sum(item.rows for item in items)
        report.new_skus += plan.new_skus
        report.units += plan.units
        report.orders += len(plan.records) // 2

    async def _planned(self, items: list[Item], entries: Texts, now_ms: int) -> tuple[Plan, bool]:
        """The plan for some rows; or, and then True, one that opens the pools that they need."""
        policy = self._policy
        if isinstance(self._file, StockFile):
            rows = [item for item in items if isinstance(item, StockRow)]
            texts = await self._texts([f"{row.sku}@{row.location}" for row in rows])
            reference = wording.encode_text(self._table.name).decode()
            return plan_stock(self._batch, policy, rows, entries, texts, reference), False
        orders = [item for item in items if isinstance(item, Order)]
        found = [pools_of(order, policy, entries) for order in orders]
        lacking = [pool for _, missing in found for pool in missing]
        if lacking:
            texts = await self._texts(lacking)
            return plan_pools(self._batch, policy, lacking, entries, texts), True
        texts = await self._texts([pool for pools, _ in found for pool in sorted(pools)])
        randomness = os.urandom(8 * len(orders))
        return plan_orders(self._batch, policy, orders, entries, texts, now_ms, randomness), False

    async def _texts(self, pools: Iterable[str]) -> Texts:
        """Rows of pools as they are now."""
        names = list(dict.fromkeys(pools))
        return dict(zip(names, await self._steady(self._shard.rows, names), strict=True))

    async def _send(self, plan: Plan, after: bytes, now_ms: int) -> list[Any]:
        """One script that applies a plan and moves the file's position on. Its reply."""
        table, lane = self._table, self._lane
        begins = not self._entry and after
        name = (wording.import_name(table.name), self._last) if begins else (b"", b"")
        names = [
            keys.META, keys.POOLS, keys.SKUS, keys.CATALOG, keys.IMPORTS, keys.EVENTS,
            lane.done_list, keys.bucket_at(now_ms),
        ]  # fmt: skip
        arguments = plan.arguments((table.digest, self._entry, after, *name), names)
        head = lane.head(now_ms, self._batch.policy.number, who())
        reply: list[Any] = await self._steady(
            self._shard.run, scripts.IMPORT, names, [*head, *arguments]
        )
        return reply

    @staticmethod
    async def _steady(ask: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Asks again while the store is away for a moment. A script that was done and not heard of
        finds the position moved on."""
        for _ in range(STORE_TRIES):
            try:
                return await ask(*arguments)
            except StockUnavailable:
                await asyncio.sleep(STORE_PAUSE_SECONDS)
        return await ask(*arguments)


def _parts(items: Iterable[Item | Bad]) -> Iterator[list[Item | Bad]]:
    """What a file holds in portions of about PART_ROWS rows."""
    part: list[Item | Bad] = []
    rows = 0
    for item in items:
        if part and rows + item.rows > PART_ROWS:
            yield part
            part, rows = [], 0
        part.append(item)
        rows += item.rows
    if part:
        yield part


def _rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"
