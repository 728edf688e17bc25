"""Mends what is derived, case by case: rows and records of the store, and what pools promise.

Movements are never touched: whatever units a repair moves it moves by new ones, with the case as
their reason. Each repair looks again first and is written under optimistic locking, so what has
changed since is left alone. What only a person can know is left to a person.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Literal

from msgspec import Struct

from core.auditing import differences as of
from core.auditing.comparing import Comparison
from core.auditing.living import id_of, stale_live
from core.chronicle import Chronicle, pairs
from core.errors import LedgerBroken, LedgerUnexplained, StockadeError, StockUnavailable
from core.lane import Lane
from core.ledger.audit import Case, Files, Inside
from core.model import Key, is_reservation_id
from core.noting import who
from core.steps import index_of
from core.stock import Stock
from core.stock_model import Adjust, AdjustLine
from core.store import keys, scripts, wording
from core.store.shard import Shard
from core.store.survey import Survey

ENTRIES_MAX = 4_096  # events to look through for the one that the scribe stands at
TRIES_MAX = 3  # of a script whose key windows or clock moved on
PATIENCE_SECONDS = 10.0  # for the ledger to have what the store shows
LEFT_ALONE = {
    "lag": "see why the scribe is behind; what it has not written cannot be judged",
    "fold": "movements are never changed: compare PostgreSQL with its backup",
    "count": "a count is a fact and is booked only with --apply-counts",
}

UNKNOWN = "no event tells of this pool: find out who wrote it, then delete its row"


class Repair(Struct, frozen=True):
    """What became of one case, or would."""

    case: int
    subject: str
    state: Literal["planned", "done", "left"]
    text: str


class _Left(Exception):
    """The case is left as it is; why."""


class Repairer:
    """Mends cases of one store, through one worker's lane."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        stock: Stock,
        survey: Survey,
        files: Files,
        recount: Callable[[str], Awaitable[None]],
    ) -> None:
        """``recount`` begins counting of what customers have of a SKU anew."""
        self._recount = recount
        self._lane = lane
        self._shard = shard
        self._stock = stock
        self._survey = survey
        self._files = files

    async def mend(self, case: Case, person: str, *, apply: bool, apply_counts: bool) -> Repair:
        """Mends a case, or without ``apply`` says what it would do."""
        try:
            if case.kind == "row":
                text = await self._row(case, apply)
            elif case.kind == "held":
                text = await self._held(case, apply)
            elif case.kind == "record":
                text = await self._record(case, apply)
            elif case.kind == "customers":
                text = await self._customers(case, apply)
            elif case.kind == "live":
                text = await self._live(apply)
            elif case.kind == "lag" and "@" in case.subject:
                text = await self._drift(case, person, apply)
            elif case.kind == "count" and apply_counts:
                text = await self._count(case, apply)
            else:
                raise _Left(LEFT_ALONE[case.kind])
        except _Left as left:
            return Repair(case.id, case.subject, "left", str(left))
        except StockadeError as error:
            return Repair(case.id, case.subject, "left", error.detail)
        if not apply:
            return Repair(case.id, case.subject, "planned", text)
        await self._files.repaired(case.id, text, person)
        return Repair(case.id, case.subject, "done", text)

    # --- pools -----------------------------------------------------------------------------------

    async def _row(self, case: Case, apply: bool) -> str:
        """The store's row becomes the ledger's, one version on. What it had too much and too little
        is told as movements: there and back again."""
        pool = case.subject
        if pool.count("@") != 1:
            raise _Left(UNKNOWN)
        compare = Comparison(self._survey, self._files, PATIENCE_SECONDS)
        ledger = {
            name: (of.version_of(row, 0), row)
            for name, row in (await self._files.rows([pool])).items()
        }
        if not ledger:
            raise _Left(UNKNOWN)
        look = await self._survey.pools([pool])
        differences = await compare.rows(ledger, look)
        if not differences:
            raise _Left("it is as it should be by now")
        if differences[0].kind == "lag" or not await compare.reach(look):
            raise _Left(LEFT_ALONE["lag"])
        # The ledger has all that the store had: unless the row changes, this is its last word.
        base = (await self._files.rows([pool]))[pool]
        found = look.texts.get(pool, "")
        version = max(of.version_of(base, 0), of.version_of(found, 0)) + 1
        ours, theirs = of.accounts_of(base) or {}, of.accounts_of(found)
        moves = []
        if found and theirs is not None:
            moves += _moves("drift", pool, ours, theirs, case.id)
            moves += _moves("repair", pool, theirs, ours, case.id)
        row = wording.changed_row(base, version, {})
        if apply:
            await self._write(pool, found, row, base, moves)
        return f"the row becomes {of.quoted(row)!r}, as the ledger has it"

    async def _drift(self, case: Case, person: str, apply: bool) -> str:
        """The scribe stands at an event that met a row which something else had changed. It is let
        through, with that change as movements; what lies there is put right by an adjustment."""
        mark = await self._files.mark()
        assert mark is not None, "a mark is never removed"
        chronicle = Chronicle(mark.position, mark.policy, await self._files.accepted())
        try:
            entries = await self._survey.events(mark.epoch, mark.seq, ENTRIES_MAX)
            lacking = chronicle.lacking(entries)
            chronicle.know(lacking, await self._files.rows(lacking))
            chronicle.page(entries)
        except LedgerUnexplained as error:
            found = error
        except LedgerBroken as error:
            raise _Left(f"{error.detail}: rebuild the store from the ledger") from error
        else:
            raise _Left(LEFT_ALONE["lag"])
        if found.pool != case.subject:
            raise _Left(f"the scribe stands at a change of {found.pool}: repair that first")
        delta = -sum(found.drift.values())
        if apply:
            await self._files.accept(found, mark.epoch, _reason(case), person)
            await self._adjust(case, delta)
        changed = ", ".join(f"{name} {units:+d}" for name, units in found.drift.items() if units)
        back = f"; adjust by {delta:+d}" if delta else ""
        return f"the ledger takes what nobody booked: {changed or 'a version'}{back}"

    async def _held(self, case: Case, apply: bool) -> str:
        """What a pool promises becomes what live reservations hold."""
        pool = await self._inside(case)
        accounts = of.accounts_of(pool.row) or {}
        names = {name for name in accounts if name.startswith(("reserved:", "committed:"))}
        unnamed = pool.held.keys() - names - of.named_accounts(pool.row)
        if unnamed:
            raise _Left(f"the pool has no account for {', '.join(sorted(unnamed))}")
        after = dict(accounts)
        for name in sorted(names | pool.held.keys()):
            units = accounts.get(name, 0) - pool.held.get(name, 0)
            after[name] = pool.held.get(name, 0)
            if units > 0:
                _give_back(after, units)
            elif units < 0:
                _take(after, -units, name.partition(":")[2])
        moves = _moves("repair", pool.name, accounts, after, case.id)
        row = wording.changed_row(pool.row, pool.version + 1, after)
        if apply:
            await self._write(pool.name, pool.row, row, pool.row, moves)
        return "; ".join(_told(move) for move in moves)

    async def _inside(self, case: Case) -> Inside:
        """The pool in the ledger, if it still differs and the store has it so as well."""
        async with self._files.snapshot() as snapshot:
            async for turn in snapshot.pools(case.subject.partition("@")[0]):
                for pool in turn:
                    if pool.name == case.subject and pool.row:
                        look = await self._survey.pools([pool.name])
                        if look.texts.get(pool.name) != pool.row:
                            raise _Left("it is changing right now; try again")
                        accounts = of.accounts_of(pool.row) or {}
                        if of.promised(accounts) == pool.held:
                            raise _Left("it is as it should be by now")
                        return pool
        raise _Left("there is no such pool")

    async def _write(
        self, pool: str, found: str, row: str, base: str, moves: list[str]
    ) -> None:
        names = [keys.META, keys.POOLS, keys.EVENTS]
        await self._run(scripts.REPAIR, names, [pool, found, row, base, "\n".join(moves)])

    # --- reservations, counts ----------------------------------------------------------------

    async def _record(self, case: Case, apply: bool) -> str:
        """The store's record becomes the ledger's; one that no event tells of goes."""
        id = case.subject
        compare = Comparison(self._survey, self._files, PATIENCE_SECONDS)
        look = await self._survey.records([id])
        found = look.texts.get(id, "")
        known, record = (await self._files.records([id])).get(id, (0, ""))
        if found:
            differences = await compare.records({id: found})
            if not differences or (await self._survey.records([id])).texts.get(id) != found:
                raise _Left("it is as it should be by now")
            if differences[0].kind == "lag" or not await compare.reach(look):
                raise _Left(LEFT_ALONE["lag"])
            known, record = (await self._files.records([id])).get(id, (0, ""))
        elif not of.is_live(record):
            raise _Left("it is as it should be by now")
        words = record.split(" ")
        second = ""
        if known:
            if words[5].isdecimal() and int(words[5]) > look.seq:
                words[5] = "-"  # the event that wrote it is one of an epoch before
            if words[0] == "R":
                second = str(int(words[3]) // 1000)
        if apply:
            names = [
                keys.META, keys.bucket_of(id), keys.due_at(int(second or 0)), self._lane.done_list,
                keys.LIVE,
            ]  # fmt: skip
            await self._run(scripts.RESTATE, names, [id, found, " ".join(words), second])
        if not known:
            return "the record goes: no event tells of it"
        return f"the record becomes {of.quoted_record(record)!r}, as the ledger has it"

    async def _customers(self, case: Case, apply: bool) -> str:
        """Counting of a SKU begins anew; the past comes from the ledger."""
        if apply:
            await self._recount(case.subject)
        return "what customers have of it is counted anew, from the ledger"

    async def _live(self, apply: bool) -> str:
        """What is counted as live and is not is not counted any more."""
        count = 0
        async for members in stale_live(self._survey):
            count += len(members)
            names, known, args = [keys.META, keys.LIVE], {keys.META: 1}, list[str]()
            for member in members:
                id = id_of(member)  # what cannot be one no bucket has, as little as meta does
                bucket = keys.bucket_of(id) if is_reservation_id(id) else keys.META
                args += (str(index_of(names, known, bucket)), id, member)
            if apply:
                await self._run(scripts.SWEEP, names, args)
        if not count:
            raise _Left("it is as it should be by now")
        return f"{count} reservations that are not reserved any more are not counted any more"

    async def _count(self, case: Case, apply: bool) -> str:
        """What is missing or too much is booked, as a fact."""
        delta = int(case.found) - int(case.expected)
        if apply:
            await self._adjust(case, delta)
        return f"adjust by {delta:+d}, reason {_reason(case)!r}"

    async def _adjust(self, case: Case, delta: int) -> None:
        """Books units that were found or lost, once for each case."""
        if not delta:
            return
        sku, _, location = case.subject.partition("@")
        reason = _reason(case)
        word = b64encode(blake2b(reason.encode(), digest_size=16).digest()).rstrip(b"=")
        line = AdjustLine(sku, location, delta)
        (result,) = await self._stock.adjust(Adjust([line], reason=reason), [Key(word, word)])
        if result.error is not None:
            raise result.error

    async def _run(self, script: scripts.Script, names: list[bytes], args: list[str]) -> None:
        """One script, if what it is about is still as it was found."""
        for _ in range(TRIES_MAX):
            reply = await self._shard.run(script, names, [*self._lane.head(None, who=who()), *args])
            if reply[0] == b"applied":
                return
            if reply[0] == b"conflict":
                raise _Left("it is changing right now; try again")
            if reply[0] != b"clock":
                raise StockUnavailable("the store is not the one that this worker knows")
            self._lane.told_windows(reply)
        raise StockUnavailable("the store's clock and this worker's estimate do not agree")


def _reason(case: Case) -> str:
    return f"reconciliation case {case.id}"


def _moves(
    verb: str, pool: str, before: Mapping[str, int], after: Mapping[str, int], case: int
) -> list[str]:
    """Movements that make one of the other, as an event has them."""
    note = wording.encode_text(f"reconciliation case {case}").decode()
    deltas = {
        name: after.get(name, 0) - before.get(name, 0) for name in sorted({*before, *after})
    }
    return [
        f"{verb} {pool} {source} {target} {units} - {note} -"
        for source, target, units in pairs(deltas)
    ]


def _told(move: str) -> str:
    _, _, source, target, units, _, _, _ = move.split(" ")
    return f"{units} from {source} to {target}"


def _give_back(accounts: dict[str, int], units: int) -> None:
    """Units that nobody holds pay a deficit first; the rest becomes shared."""
    paid = min(units, -accounts.get("deficit", 0))
    accounts["deficit"] = accounts.get("deficit", 0) + paid
    accounts["shared"] = accounts.get("shared", 0) + units - paid


def _take(accounts: dict[str, int], units: int, channel: str) -> None:
    """Units that are held are taken as a fact takes: what is missing is a deficit."""
    free = sorted(name for name in accounts if name.startswith("free:"))
    own = f"free:{channel}"
    for name in (own, "shared", "safety", *(each for each in free if each != own)):
        part = min(units, accounts.get(name, 0))
        if part:
            accounts[name] -= part
            units -= part
    accounts["deficit"] = accounts.get("deficit", 0) - units
