"""Holds store, ledger and counts against each other while everybody works on them.

Nothing is stopped and nothing locked. What is compared is of the same version: the ledger keeps
every version of every pool and reservation, so whatever the store showed is looked up there, once
the ledger has come to the event that was the last when the store showed it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice

from core.auditing import differences as of
from core.auditing.counts import Counted, Counts
from core.auditing.variance import judge
from core.errors import LedgerBroken, LedgerUnavailable
from core.ledger.audit import LOWEST_ID, Difference, Files, Inside, Kind, Snapshot, Totals
from core.ledger.journal import Mark
from core.store.survey import TURN, Look, Survey

PATIENCE_SECONDS = 30.0  # that the ledger may be behind before it is a difference
LOOK_SECONDS = 0.05  # between two looks at its mark

Tell = Callable[[str, int, float], None]
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Auditor:
    """Reconciles one shard. Raises StockUnavailable or LedgerUnavailable when a server is away,
    LedgerBroken when the two are not of one history."""

    def __init__(
        self, survey: Survey, files: Files, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._survey = survey
        self._files = files
        self._patience_seconds = patience_seconds

    async def run(
        self,
        *,
        night: date | None = None,
        sku: str | None = None,
        whole: bool = False,
        counts: Counts | None = None,
        tell: Tell = lambda phase, done, share: None,
    ) -> int | None:
        """The number of this reconciliation; None if that ``night``'s was begun by another.

        ``sku``: of this one's pools alone; ``whole``: every movement is summed again, not only
        those since a pool was verified last; ``tell(phase, done, share)`` hears how far it is.
        """
        epoch, _, _ = await self._survey.position()
        mark = await self._files.mark()
        if mark is None:
            raise LedgerUnavailable("the ledger has not seen this store yet; is there a scribe?")
        _check_epoch(epoch, mark)
        run = await self._files.begin(night, sku, whole)
        if run is None:
            return None
        one = _Run(self._survey, self._files, self._patience_seconds, run, sku, tell)
        await one.inside(whole)
        await one.pools()
        kinds: list[Kind] = ["row", "lag", "fold", "held"]
        if sku is None:
            kinds.append("record")
            await one.living()
            await one.stored()
        if counts is not None:
            await one.counted(counts)
        rate = await self._files.finish(run, one.totals, kinds, sku)
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        before = await self._files.rate_of_day(today - timedelta(days=1))
        status, reasons = judge(rate, before, one.totals)
        await self._files.judge(run, status, reasons)
        return run


class _Run:
    """One reconciliation under way."""

    def __init__(
        self,
        survey: Survey,
        files: Files,
        patience_seconds: float,
        run: int,
        sku: str | None,
        tell: Tell,
    ) -> None:
        self._survey = survey
        self._files = files
        self._patience_seconds = patience_seconds
        self._run = run
        self._sku = sku
        self._tell = tell
        self._pool_count = 0
        self.totals = Totals()

    async def _note(self, found: Iterable[Difference]) -> None:
        await self._files.put(self._run, found)

    # --- the ledger against itself -----------------------------------------------------------

    async def inside(self, whole: bool) -> None:
        """Every pool's accounts against its movements and against live reservations, all as of one
        mark."""
        totals = self.totals
        self._pool_count = await self._files.pool_count(self._sku)
        async with self._files.snapshot() as snapshot:
            totals.position = snapshot.mark.position
            async for turn in snapshot.pools(self._sku):
                known = [pool for pool in turn if pool.row]
                totals.pools += len(known)
                totals.on_hand += sum(pool.on_hand for pool in known)
                await self._note([*await self._folded(snapshot, known, whole), *_held(turn)])
                share = totals.pools / max(self._pool_count, 1)
                self._tell("pools summed", totals.pools, min(share, 1.0))
            totals.oversold_units, totals.oversold_orders = await snapshot.oversold()

    async def _folded(
        self, snapshot: Snapshot, pools: Sequence[Inside], whole: bool
    ) -> list[Difference]:
        moved = await snapshot.moved(pools, whole)
        bases: dict[str, str] = {}
        if not whole:
            versions = {pool.name: pool.verified[0] for pool in pools if pool.verified[0]}
            bases = await self._files.balances(versions)
        good, found = [], []
        for pool in pools:
            folded = moved.get(pool.name, {})
            base = of.accounts_of(bases.get(pool.name, "")) or {}
            made = {
                name: units
                for name in folded.keys() | base.keys()
                if name != "outside" and (units := folded.get(name, 0) + base.get(name, 0))
            }
            accounts = of.accounts_of(pool.row)
            if accounts == made:
                if pool.position > pool.verified[1]:
                    good.append(pool)
            else:
                found.append(
                    of.of_accounts("fold", "ledger_gap", pool.name, made, accounts or {})
                )
        await self._files.verified(good)
        return found

    # --- the store against the ledger --------------------------------------------------------

    async def pools(self) -> None:
        """Every pool of the ledger in the store, at the same version; then what the store has
        beside them."""
        last, done = ("", ""), 0
        while turn := await self._files.pools_behind(last, self._sku, TURN):
            ledger = {f"{sku}@{location}": (v, row) for sku, location, v, row in turn}
            look = await self._survey.pools(list(ledger))
            await self._note(await self._rows(ledger, look))
            last, done = turn[-1][:2], done + len(turn)
            self._tell("pools compared", done, min(done / max(self._pool_count, 1), 1.0))
        async for names in self._survey.all_pools():
            mine = [each for each in names if self._sku in (None, each.partition("@")[0])]
            await self._note(await self._strangers(mine))

    async def _rows(
        self, ledger: Mapping[str, tuple[int, str]], look: Look
    ) -> list[Difference]:
        """``ledger`` was read first, so the store may be further, never behind."""
        found: list[Difference] = []
        ahead: dict[str, int] = {}
        for pool, (version, row) in ledger.items():
            text = look.texts.get(pool)
            if text == row:
                continue
            if text is None:
                found.append(of.of_rows("store_row_lost", pool, row, ""))
                continue
            shown = of.version_of(text, 0)
            if shown > version:
                ahead[pool] = shown
            else:
                cause = "store_behind" if 0 < shown < version else "store_edited"
                found.append(of.of_rows(cause, pool, row, text))
        if not ahead:
            return found
        balances, late = await self._at_versions(ahead, look, self._files.balances)
        for pool, version in ahead.items():
            row = balances.get(pool)
            if row is None and late:
                found.append(of.of_lag(pool, version, ledger[pool][0]))
            elif row != look.texts[pool]:
                expected = row or ledger[pool][1]
                found.append(of.of_rows("store_edited", pool, expected, look.texts[pool]))
        return found

    async def _strangers(self, names: Sequence[str]) -> list[Difference]:
        """Pools that the store has and the ledger has not."""
        good = [each for each in names if each.count("@") == 1]
        unknown = set(names) - (await self._files.rows(good)).keys()
        if not unknown:
            return []
        look = await self._survey.pools(sorted(unknown))
        reached = await self._reach(look)
        named = [each for each in look.texts if each.count("@") == 1]
        known = await self._files.rows(named)
        return [
            of.of_rows("store_row_unknown", pool, "", text)
            if reached
            else of.of_lag(pool, of.version_of(text, 0), 0)
            for pool, text in look.texts.items()
            if pool not in known
        ]

    async def living(self) -> None:
        """Every live reservation of the ledger is in the store, and no older."""
        last = LOWEST_ID
        done = 0
        while turn := await self._files.live_behind(last, TURN):
            look = await self._survey.records(list(turn))
            lost = {
                id: version
                for id, version in turn.items()
                if of.version_of(look.texts.get(id, ""), 1) < version
            }
            if lost:
                now = await self._files.records(lost)
                found = []
                for id, (_, record) in now.items():
                    text = look.texts.get(id, "")
                    cause = "record_behind" if of.version_of(text, 1) else "record_lost"
                    found.append(of.of_records(cause, id, record, text))
                await self._note(found)
            last, done = list(turn)[-1], done + len(turn)
            self._tell("live reservations found", done, 0.0)

    async def stored(self) -> None:
        """Every record of the store against the ledger's at the same version."""
        async for turn in self._survey.all_records():
            await self._note(await self._records(turn))
            self.totals.reservations += len(turn)
            self._tell("reservations compared", self.totals.reservations, 0.0)

    async def _records(self, turn: Mapping[str, str]) -> list[Difference]:
        found = [
            of.of_records("record_unknown", id, "", text)
            for id, text in turn.items()
            if _ID.fullmatch(id) is None
        ]
        versions = {
            id: of.version_of(text, 1) for id, text in turn.items() if _ID.fullmatch(id)
        }
        epoch, seq, _ = await self._survey.position()
        look = Look(epoch, seq, {})
        kept, late = await self._at_versions(versions, look, self._files.record_versions)
        newest = await self._files.records(versions)
        older = []
        for id, version in versions.items():
            known, record = newest.get(id, (0, ""))
            if id not in kept and late:
                found.append(of.of_lag(id, version, known))
            elif not known:
                found.append(of.of_records("record_unknown", id, "", turn[id]))
            elif not of.same_record(kept.get(id, ""), turn[id]):
                expected = kept.get(id, record)
                found.append(of.of_records("record_edited", id, expected, turn[id]))
            elif known > version:
                older.append(id)
        return found + await self._older(older, newest)

    async def _older(
        self, ids: Sequence[str], newest: Mapping[str, tuple[int, str]]
    ) -> list[Difference]:
        """Those that the ledger had at a later version than the store showed before: they moved on,
        or the store is behind."""
        if not ids:
            return []
        look = await self._survey.records(ids)
        found = []
        for id in ids:
            text = look.texts.get(id)
            version, record = newest[id]
            if text is None or of.version_of(text, 1) >= version:
                continue  # it moved on, or ended long ago and left
            ended = of.is_live(text) and not of.is_live(record)
            cause = "record_ended" if ended else "record_behind"
            found.append(of.of_records(cause, id, record, text))
        return found

    async def _at_versions(
        self,
        versions: Mapping[str, int],
        look: Look,
        ask: Callable[[Mapping[str, int]], Awaitable[dict[str, str]]],
    ) -> tuple[dict[str, str], bool]:
        """What the ledger has at these versions, and whether it came too late for ``look``. It is
        waited for only if something is not there yet."""
        found = await ask(versions)
        if len(found) == len(versions):
            return found, False
        reached = await self._reach(look)
        missing = {name: version for name, version in versions.items() if name not in found}
        found |= await ask(missing)
        return found, not reached

    async def _reach(self, look: Look) -> bool:
        """Waits until the ledger has all that the store had when it was looked at. Once it took too
        long, nobody waits again in this run."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_seconds
        while True:
            mark = await self._files.mark()
            assert mark is not None, "a mark is never removed"
            _check_epoch(look.epoch, mark)
            if mark.seq >= look.seq:
                return True
            if loop.time() >= until:
                self._patience_seconds = 0.0
                return False
            await asyncio.sleep(LOOK_SECONDS)

    # --- what was counted --------------------------------------------------------------------

    async def counted(self, counts: Counts) -> None:
        """What somebody counted against what is booked now."""
        totals = self.totals
        rows = iter(counts)
        while turn := list(islice(rows, TURN)):
            mine = [each for each in turn if self._sku in (None, each.sku)]
            look = await self._survey.pools([each.pool for each in mine])
            found = self._counted(mine, look)
            await self._note(found)
            wrong = {each.subject for each in found}
            await self._files.close_counted([x.pool for x in mine if x.pool not in wrong])
            totals.counts += len(mine)
            self._tell("counts compared", totals.counts, totals.counts / counts.count)

    def _counted(self, turn: Sequence[Counted], look: Look) -> list[Difference]:
        found = []
        for each in turn:
            booked = sum((of.accounts_of(look.texts.get(each.pool, "")) or {}).values())
            self.totals.counted_on_hand += booked
            if booked != each.counted:
                found.append(of.of_count(each.pool, booked, each.counted))
        return found


def _held(turn: Iterable[Inside]) -> list[Difference]:
    """What pools promise against what live reservations hold."""
    found = []
    for pool in turn:
        accounts = of.accounts_of(pool.row) or {}
        promised = {
            name: units
            for name, units in accounts.items()
            if name.startswith(("reserved:", "committed:"))
        }
        if promised != pool.held:
            more = sum(promised.values()) >= sum(pool.held.values())
            cause = "hold_stranded" if more else "hold_uncovered"
            found.append(of.of_accounts("held", cause, pool.name, pool.held, promised))
    return found


def _check_epoch(epoch: int, mark: Mark) -> None:
    if epoch != mark.epoch:
        raise LedgerBroken(
            f"the store has epoch {epoch or 'none'}, the ledger {mark.epoch}: they are not of one "
            "history; rebuild the store from the ledger first"
        )
