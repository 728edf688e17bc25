"""Protect mode: while units are promised that are not there, nothing is lent and less is taken.

It is an entry of the policy, so all workers plan by it from the next plan on, the ledger has it,
and a rebuild brings it back. All walls are hard then, and the safety stock is higher: what lies in
``shared`` is withheld, and the last units of what each channel has in a pool, without being moved,
so that there is nothing to undo. Whoever switches says why. The
alarm switches where every channel has a floor to live on; elsewhere it would stop sales, and tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from core.auditing.variance import ORDERS_ALARM
from core.errors import Overloaded, StockadeError, StockUnavailable
from core.lane import Lane
from core.ledger.journal import Journal
from core.noting import who
from core.policy_model import ChannelEntry, Mode
from core.records import rfc3339
from core.store import keys, scripts, wording
from core.store.shard import PolicyEntries, Shard

TURN_SECONDS = 1.0  # until a worker where nobody reserves has heard of another mode
ALARM_TURNS = 30  # between two looks for orders that were oversold
TRIES_MAX = 64
ALARM = "alarm"  # who switched, if nobody did

log = logging.getLogger("stockade.protect")


def no_floor(spec: ChannelEntry) -> bool:
    """True for a channel that lives on ``shared`` alone."""
    return not spec.closed and not spec.floor_share and not spec.floor_units


class Protection:
    """Switches the mode of one shard, and does so by itself on an alarm."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        journal: Journal | None,
        use_policy: Callable[[PolicyEntries], None],
        refresh_policy: Callable[[], Awaitable[None]],
        safety: int,
    ) -> None:
        """``use_policy`` is told every policy that was read; ``refresh_policy`` reads it if it
        changed; ``safety``: the units that each channel leaves in each pool once this switches."""
        self._lane = lane
        self._shard = shard
        self._journal = journal
        self._use_policy = use_policy
        self._refresh_policy = refresh_policy
        self._safety = safety
        self._told_orders = 0  # for which the alarm was told of, and could not switch

    async def mode(self) -> Mode:
        """The mode as it is."""
        return (await self._entries()).mode

    async def switch(self, protect: bool, reason: str, by: str, orders: int | None = None) -> Mode:
        """The mode, which is this from now on; as it was if it is this already, with this safety.

        ``orders``: how many are oversold; looked up if it is not known. Raises Unavailable.
        """
        if orders is None:
            orders = await self._oversold()
        for _ in range(TRIES_MAX):
            entries = await self._entries()
            known = entries.mode
            same = not protect or by == ALARM or known.safety == self._safety
            if known.protect is protect and same:
                return known
            at = rfc3339(datetime.fromtimestamp(self._lane.now_ms / 1000, UTC))
            safety = self._safety if protect else 0
            mode = Mode(known.version + 1, protect, reason, by, at, orders, safety)
            if await self._set(entries.number, wording.mode_entry(mode)):
                await self._entries()
                return mode
        raise Overloaded("Others keep changing the policy; try again")

    async def run(self) -> None:
        """Turn after turn; one that fails is logged and the next one tries."""
        turn, told = 0, ""
        while True:
            await asyncio.sleep(TURN_SECONDS)
            turn += 1
            try:
                await self._refresh_policy()
                if turn % ALARM_TURNS == 0:
                    await self.look()
                told = ""
            except StockadeError as error:
                if error.detail != told:
                    log.warning("not looked whether to protect: %s", error)
                told = error.detail

    async def look(self) -> None:
        """Protects if enough orders are oversold, and more than when it was switched last."""
        entries = await self._entries()
        if entries.mode.protect:
            return
        orders = await self._oversold()
        if orders < ORDERS_ALARM or orders <= max(entries.mode.orders, self._told_orders):
            return
        reason = f"{orders} orders wait for units that are not there"
        stopped = [name for name, each in sorted(entries.channels.items()) if no_floor(each.spec)]
        if stopped:
            self._told_orders = orders
            log.error(
                "%s; `stockade mode protect` would stop %s, which has no floor", reason,
                ", ".join(stopped),
            )  # fmt: skip
            return
        found = await self.switch(True, reason, ALARM, orders)
        if found.by == ALARM:
            log.error("stock is protected from now on: %s; see `stockade mode`", reason)

    async def _oversold(self) -> int:
        """Orders that wait for units that are not there; 0 without a ledger."""
        if self._journal is None or not (await self._journal.fetch("oversold"))[0][0]:
            return 0
        return int((await self._journal.fetch("oversold_orders"))[0][0])

    async def _entries(self) -> PolicyEntries:
        self._lane.check_readable()
        entries = await self._shard.policy()
        self._use_policy(entries)
        return entries

    async def _set(self, number: int, entry: bytes) -> bool:
        """False if the policy is another one by now, or the time has to be proposed again."""
        lane = self._lane
        reply = await self._shard.run(
            scripts.POLICY,
            [keys.META, keys.MODES, keys.EVENTS, *lane.short_window],
            [*lane.head(lane.now_ms, number, who()), "mode", keys.PROTECT, entry, b"", b""],
        )
        if reply[0] == b"epoch":
            raise StockUnavailable("the store is not the one that this worker knows")
        if reply[0] == b"clock":
            lane.told_windows(reply)
        return bool(reply[0] == b"applied")
