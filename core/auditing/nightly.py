"""Reconciles once a night, whoever runs it: the ledger lets one process begin, and no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

from core.auditing.auditor import Auditor
from core.errors import StockadeError
from core.ledger.audit import Files

GRACE = timedelta(hours=1)  # a process that was not there at the time may still do it
LOOK_SECONDS = 30.0  # between two looks at the clock, which somebody may set

log = logging.getLogger("stockade.reconcile")


class Nightly:
    """``run`` it until it is cancelled."""

    def __init__(
        self,
        auditor: Auditor,
        files: Files,
        at: time,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``at``: the time of day, UTC."""
        self._auditor = auditor
        self._files = files
        self._at = at
        self._now = now
        self._done: datetime | None = None  # the last night that needs no more of us

    async def run(self) -> None:
        """Night after night. What goes wrong is told, and tried again for as long as GRACE."""
        told = ""
        while True:
            try:
                await self.look()
                told = ""
            except StockadeError as error:
                if error.detail != told:
                    log.error("the nightly reconciliation did not come to its end: %s", error)
                told = error.detail
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> int | None:
        """Reconciles if it is time and nobody else does; the number of that reconciliation."""
        now = self._now()
        due = now.replace(hour=self._at.hour, minute=self._at.minute, second=0, microsecond=0)
        if due > now:
            due -= timedelta(days=1)
        if due == self._done or now - due > GRACE:
            return None
        run = await self._auditor.run(night=due.date())
        self._done = due
        if run is not None:
            (found,) = await self._files.reconciliations(run + 1, 1)
            told = log.info if not found.differences and found.status == "normal" else log.error
            told(
                "reconciliation %d: %s, %d differences in %d pools and %d reservations; %s",
                run, found.status, found.differences, found.pools, found.reservations,
                "; ".join(found.reasons) or "all is well",
            )  # fmt: skip
        return run
