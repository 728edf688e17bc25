"""Holds what the store showed against what the ledger has at the same version."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from core.auditing import differences as of
from core.errors import LedgerBroken
from core.ledger.audit import Difference, Files
from core.ledger.journal import Mark
from core.store.survey import Look, Survey

LOOK_SECONDS = 0.05  # between two looks at the ledger's mark
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Comparison:
    """Store against ledger. Once the ledger was behind for too long, nobody waits for it again."""

    def __init__(self, survey: Survey, files: Files, patience_seconds: float) -> None:
        self._survey = survey
        self._files = files
        self._patience_seconds = patience_seconds
        self._trouble = ""

    async def rows(
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
            balance = balances.get(pool)
            if balance is None and late:
                found.append(of.of_lag(pool, version, ledger[pool][0], self._trouble))
            elif balance != look.texts[pool]:
                expected = balance or ledger[pool][1]
                found.append(of.of_rows("store_edited", pool, expected, look.texts[pool]))
        return found

    async def strangers(self, names: Sequence[str]) -> list[Difference]:
        """Pools that the store has and the ledger has not."""
        good = [each for each in names if each.count("@") == 1]
        unknown = set(names) - (await self._files.rows(good)).keys()
        if not unknown:
            return []
        look = await self._survey.pools(sorted(unknown))
        reached = await self.reach(look)
        named = [each for each in look.texts if each.count("@") == 1]
        known = await self._files.rows(named)
        return [
            of.of_rows("store_row_unknown", pool, "", text)
            if reached
            else of.of_lag(pool, of.version_of(text, 0), 0, self._trouble)
            for pool, text in look.texts.items()
            if pool not in known
        ]

    async def records(self, turn: Mapping[str, str]) -> list[Difference]:
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
                found.append(of.of_lag(id, version, known, self._trouble))
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
        reached = await self.reach(look)
        missing = {name: version for name, version in versions.items() if name not in found}
        found |= await ask(missing)
        return found, not reached

    async def reach(self, look: Look) -> bool:
        """True once the ledger has all that the store had when it was looked at; False if that
        takes too long. Raises LedgerBroken for another epoch."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_seconds
        while True:
            mark = await self._files.mark()
            assert mark is not None, "a mark is never removed"
            check_epoch(look.epoch, mark)
            if mark.seq >= look.seq:
                return True
            if loop.time() >= until:
                self._patience_seconds = 0.0
                self._trouble = (await self._survey.position())[2]
                return False
            await asyncio.sleep(LOOK_SECONDS)


def check_epoch(epoch: int, mark: Mark) -> None:
    """Raises LedgerBroken unless the store is the one that the ledger recorded."""
    if epoch != mark.epoch:
        raise LedgerBroken(
            f"the store has epoch {epoch or 'none'}, the ledger {mark.epoch}: they are not of one "
            "history; rebuild the store from the ledger first"
        )
