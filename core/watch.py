"""Looks at the ledger now and then for what nobody counts: live reservations, deficit, drift.

In the scribe's process, behind everybody else. A look reads every reservation that there is, so the
longer it takes, the rarer it is made.
"""

from __future__ import annotations

import asyncio
import logging
import time

from core.errors import StockadeError
from core.ledger.journal import Journal
from core.meters import Meters
from core.store.keys import created_ms

BEAT_SECONDS = 1.0
LOOK_SECONDS = 10.0  # between two looks
REST = 50  # times as long as a look took, at least: looking takes 2 % of one core of PostgreSQL's
STATES = {"R": "reserved", "C": "committed"}

log = logging.getLogger("stockade.watch")


class Watch:
    """``run`` it until it is cancelled."""

    def __init__(self, journal: Journal, meters: Meters) -> None:
        self._journal = journal
        self._meters = meters
        self._live: dict[tuple[str, str], int] = {}

    async def run(self) -> None:
        """Look after look; between them says that the process lives."""
        beating = asyncio.create_task(self._beat())
        loop = asyncio.get_running_loop()
        told = ""
        try:
            while True:
                started = loop.time()
                try:
                    await self.look()
                    told = ""
                except StockadeError as error:
                    if error.detail != told:
                        log.warning("the ledger could not be looked at: %s", error)
                    told = error.detail
                took = loop.time() - started
                await asyncio.sleep(max(LOOK_SECONDS, REST * took))
        finally:
            beating.cancel()
            self._meters.sheet.rest()

    async def _beat(self) -> None:
        while True:
            self._meters.sheet.beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def look(self) -> None:
        """Shows what there is. Raises LedgerUnavailable."""
        show = self._meters.show
        oldest_ms: int | None = None
        live = dict.fromkeys(self._live, 0)  # what is gone is shown as none
        for row in await self._journal.fetch("live"):
            state = STATES[row["state"]]
            live[state, row["channel"]] = row["count"]
            if state == "reserved":
                first_ms = created_ms(row["first"])
                oldest_ms = first_ms if oldest_ms is None else min(oldest_ms, first_ms)
        for (state, channel), count in live.items():
            show("stockade_live_reservations", count, state, channel)
        self._live = live
        now = time.time()
        age = 0.0 if oldest_ms is None else max(0.0, now - oldest_ms / 1000)
        show("stockade_oldest_unpaid_seconds", age)
        (pools,) = await self._journal.fetch("pool_totals")
        show("stockade_on_hand_units", pools["on_hand"])
        show("stockade_promised_units", pools["promised"])
        show("stockade_deficit_units", pools["deficit"])
        show("stockade_deficit_pools", pools["with_deficit"])
        (drift,) = await self._journal.fetch("drift_found")
        show("stockade_drift_open_cases", drift["open_cases"])
        show("stockade_drift_differences", drift["differences"])
        show("stockade_drift_units", drift["units_off"])
        show("stockade_drift_variance_ratio", drift["variance_rate"])
        show("stockade_oversold_units", drift["oversold_units"])
        show("stockade_oversold_orders", drift["oversold_orders"])
        show("stockade_reconciled_timestamp_seconds", drift["finished"])
        show("stockade_watch_timestamp_seconds", now)
