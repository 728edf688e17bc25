"""Holds store, ledger and counts against each other while everybody works on them.

Nothing is stopped and nothing locked. What is compared is of the same version: the ledger keeps
every version of every pool and reservation, so whatever the store showed is looked up there, once
the ledger has come to the event that was the last when the store showed it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice

from core.auditing import differences as of
from core.auditing.comparing import Comparison, check_epoch
from core.auditing.counts import Counted, Counts
from core.auditing.customers import CustomerBooks
from core.auditing.living import stale_live
from core.auditing.variance import judge
from core.errors import LedgerUnavailable
from core.ledger.audit import LOWEST_ID, Difference, Files, Inside, Kind, Snapshot, Totals
from core.store.survey import TURN, Look, Survey

PATIENCE_SECONDS = 30.0  # that the ledger may be behind before it is a difference

Tell = Callable[[str, int, float | None, str], None]


class Auditor:
    """Reconciles one shard. Raises StockUnavailable or LedgerUnavailable when a server is away,
    LedgerBroken when the two are not of one history."""

    def __init__(
        self, survey: Survey, files: Files, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._survey = survey
        self._files = files
        self._patience_seconds = patience_seconds
        self._broken: int | None = None  # of a night, if it did not come to its end

    async def run(
        self,
        *,
        night: date | None = None,
        sku: str | None = None,
        whole: bool = False,
        counts: Counts | None = None,
        tell: Tell = lambda phase, done, share, noun: None,
    ) -> int | None:
        """The number of this reconciliation; None if that ``night``'s was begun by another.

        ``sku``: of this one's pools alone; ``whole``: every movement is summed again, not only
        those since a pool was verified last; ``tell(phase, done, share, noun)``: how far it is.
        """
        epoch, _, _ = await self._survey.position()
        mark = await self._files.mark()
        if mark is None:
            raise LedgerUnavailable("the ledger has not seen this store yet; is there a scribe?")
        check_epoch(epoch, mark)
        if self._broken is not None:
            await self._files.give_back(self._broken)
        self._broken = run = await self._files.begin(night, sku, whole)
        if run is None:
            return None
        one = _Run(self._survey, self._files, self._patience_seconds, run, sku, tell)
        await one.inside(whole)
        await one.pools()
        kinds: list[Kind] = ["row", "lag", "fold", "held"]
        if sku is None:
            kinds += ["record", "customers", "live"]
            await one.living()
            await one.stored()
            await one.customers()
        if counts is not None:
            await one.counted(counts)
        rate = await self._files.finish(run, one.totals, kinds, sku)
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        before = await self._files.rate_of_day(today - timedelta(days=1))
        status, reasons = judge(rate, before, one.totals)
        await self._files.judge(run, status, reasons)
        self._broken = None
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
        self._compare = Comparison(survey, files, patience_seconds)
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
        self._tell("summed", 0, 0.0, "pools")
        self._pool_count = await self._files.pool_count(self._sku)
        async with self._files.snapshot() as snapshot:
            totals.position = snapshot.mark.position
            async for turn in snapshot.pools(self._sku):
                known = [pool for pool in turn if pool.row]
                totals.pools += len(known)
                totals.on_hand += sum(pool.on_hand for pool in known)
                await self._note([*await self._folded(snapshot, known, whole), *_held(turn)])
                share = totals.pools / max(self._pool_count, 1)
                self._tell("summed", totals.pools, min(share, 1.0), "pools")
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
            folded: Counter[str] = moved.get(pool.name, Counter())
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
        self._tell("compared", 0, 0.0, "pools")
        while turn := await self._files.pools_behind(last, self._sku, TURN):
            ledger = {f"{sku}@{location}": (v, row) for sku, location, v, row in turn}
            look = await self._survey.pools(list(ledger))
            await self._note(await self._compare.rows(ledger, look))
            last, done = turn[-1][:2], done + len(turn)
            share = min(done / max(self._pool_count, 1), 1.0)
            self._tell("compared", done, share, "pools")
        async for names in self._survey.all_pools():
            mine = [each for each in names if self._sku in (None, each.partition("@")[0])]
            await self._note(await self._compare.strangers(mine))

    async def living(self) -> None:
        """Every live reservation of the ledger is in the store, and no older."""
        last = LOWEST_ID
        done = 0
        self._tell("found", 0, None, "live reservations")
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
            self._tell("found", done, None, "live reservations")

    async def stored(self) -> None:
        """Every record of the store against the ledger's at the same version."""
        self._tell("compared", 0, None, "reservations")
        async for turn in self._survey.all_records():
            await self._note(await self._compare.records(turn))
            self.totals.reservations += len(turn)
            self._tell("compared", self.totals.reservations, None, "reservations")

    async def customers(self) -> None:
        """What customers have of limited SKUs, and how many live reservations, against what their
        reservations say."""
        now_ms = await self._survey.now_ms()
        books = CustomerBooks(self._survey, self._files, self._compare, now_ms)
        async for found in books.differences():
            await self._note([found])
        stale = 0
        async for members in stale_live(self._survey):
            stale += len(members)
        if stale:
            await self._note([of.of_live(stale)])

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
            self._tell("compared", totals.counts, totals.counts / counts.count, "counts")

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
        promised = of.promised(of.accounts_of(pool.row) or {})
        if promised != pool.held:
            more = sum(promised.values()) >= sum(pool.held.values())
            cause = "hold_stranded" if more else "hold_uncovered"
            found.append(of.of_accounts("held", cause, pool.name, pool.held, promised))
    return found
