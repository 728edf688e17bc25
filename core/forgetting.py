"""Forgets whose the reservations were that ended long ago; what moved stays in the ledger.

In turns, each a transaction that also notes how far it came: so it may be cut off anywhere, run in
many processes, and begin again at any time. It goes beside the scribe's writing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from core.errors import StockadeError
from core.ledger.journal import Journal

TURN_VERSIONS: Final = 500  # looked at in one transaction: some tens of ms in which they are locked
REST: Final = 4  # times as long as a turn took: callers' questions go first
LOOK_SECONDS: Final = 3_600.0  # between two looks for what has become old enough

log = logging.getLogger("stockade.ledger")


class Forgetting:
    """Forgets what ended more than ``days`` ago. ``run`` it until it is cancelled."""

    def __init__(self, journal: Journal, days: int) -> None:
        self._journal = journal
        self._days = days

    async def run(self) -> None:
        """Hour after hour. A ledger that is away is asked again then."""
        while True:
            try:
                await self.all()
            except StockadeError as error:
                log.warning("whose old reservations were is not forgotten yet: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def all(self) -> int:
        """Forgets all that is old enough; of how many reservations. Raises LedgerUnavailable."""
        loop = asyncio.get_running_loop()
        total = 0
        while True:
            started = loop.time()
            looked, forgot = await self.turn()
            total += forgot
            if not looked:
                break
            await asyncio.sleep(REST * (loop.time() - started))
        if total:
            log.info(
                "forgot whose %d reservations were, which ended %d days ago", total, self._days
            )
        return total

    async def turn(self) -> tuple[int, int]:
        """How many versions were looked at, and of how many reservations something was forgotten.
        """
        (found,) = await self._journal.fetch("forget", self._days, TURN_VERSIONS)
        return found["looked"], found["forgot"]
