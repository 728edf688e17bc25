"""Counting of what customers have of a SKU begins when it gets a limit, and knows the past.

From the script on that sets the limit, every script counts. What was before that the ledger knows,
as of that very event: it is added part by part. Until that is done the limit may let a customer
have more, and the request that set it has no answer yet.
"""

from __future__ import annotations

from typing import Any, Final

from core.backlog import Backlog
from core.customers import field_of
from core.errors import InvalidRequest, StockUnavailable
from core.lane import Lane
from core.ledger.journal import Journal
from core.ledger.rebuilding import Rebuilds
from core.store import keys, scripts
from core.store.shard import Shard

PAST: Final = " past"  # behind the number of a counting whose past is not whole yet
TRIES_MAX: Final = 8  # of a script whose key windows or clock moved on
NO_LEDGER: Final = "Expected none: there is no ledger, which knows what customers bought before"


class Counting:
    """Brings the past of a SKU into the books of its customers."""

    def __init__(
        self, lane: Lane, shard: Shard, backlog: Backlog, journal: Journal | None
    ) -> None:
        self._lane = lane
        self._shard = shard
        self._backlog = backlog
        self._journal = journal

    async def begins(self, sku: str, counting: int, limit: int | None) -> int:
        """The number with which counting of a SKU that exists is to begin or has begun; 0: none.

        ``counting``: the one that its entry names. One whose past was never finished begins anew.
        """
        if limit is None:
            return 0
        if counting and not (await self._shard.limit_of(sku)).endswith(PAST):
            return counting
        if self._journal is None:
            raise InvalidRequest(NO_LEDGER, [("/customer_limit", NO_LEDGER)])
        return 0

    async def count_past(self, sku: str, counting: int, entry: bytes, seq: int) -> None:
        """Adds what was before event ``seq``, which wrote ``entry``. Somebody who changes the SKU
        meanwhile may take it over. Raises LedgerUnavailable, StockUnavailable."""
        assert self._journal is not None
        self._lane.seq = max(self._lane.seq, seq)
        await self._backlog.passed(None)
        found = await self._journal.fetch("policy_position", sku, entry.decode())
        position = found[0]["position"]
        low = keys.lowest_id(self._lane.now_ms - keys.CUSTOMER_DAYS * keys.DAY_MS)
        async with Rebuilds(self._journal).remains() as remains:
            async for page in remains.pages("customers_before", sku, position, low):
                rows = [
                    (day, field_of(sku, counting, customer), units)
                    for day, customer, units in page
                ]
                if not await self._add(sku, counting, rows, PAST):
                    return
        await self._add(sku, counting, [], "")

    async def _add(
        self, sku: str, counting: int, rows: list[tuple[int, str, int]], past: str
    ) -> bool:
        """Adds some rows; False if the SKU has another limit by now."""
        names = [keys.META, keys.LIMITS]
        places: dict[int, int] = {}
        entries: list[Any] = []
        for day, field, units in rows:
            if day not in places:
                names.append(keys.customers_on(day))
                places[day] = len(names)
            entries += (places[day], day, field, units)
        args = [sku, f"{counting}{PAST}", f"{counting}{past}", *entries]
        for _ in range(TRIES_MAX):
            reply = await self._shard.run(scripts.COUNT, names, [*self._lane.head(None), *args])
            if reply[0] == b"applied":
                return True
            if reply[0] == b"conflict":
                return False
            if reply[0] != b"clock":
                raise StockUnavailable("the store is not the one that this worker knows")
            self._lane.told_windows(reply)
        raise StockUnavailable("the store's clock and this worker's estimate do not agree")
