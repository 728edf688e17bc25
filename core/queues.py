"""What waits in a lane: one queue per verb, first in first out. Plain sync code."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from core.availability import AvailabilityOp
from core.errors import Overloaded, StockadeError
from core.kernel._policy import Row
from core.meters import Meters
from core.ops import ReserveOp, SettleOp, StockOp, TrialOp
from core.replan_ops import AmendOp, LateOp, ReturnOp
from core.store import scripts

CONFLICTS_ALONE = 4  # from this conflict on, contended demands go as a batch of their own
CONFLICTS_MAX = 16  # replans of a demand
STOCK_CONFLICTS_MAX = 64  # replans of a line of stock: facts should get through
SETTLE_PATIENCE = 4  # times as long as a demand: what was reserved is paid for, and often last
SETTLING = (scripts.JUDGE, scripts.COMMIT, scripts.FULFIL, scripts.GIVEBACK, scripts.EXTEND)


class Queues:
    """The ops of one lane that are not under way."""

    def __init__(self, meters: Meters) -> None:
        self._counts = meters.lane
        self.stocks: deque[StockOp] = deque()
        self.reserves: deque[ReserveOp] = deque()
        self.contended: deque[ReserveOp] = deque()
        self.amends: deque[AmendOp] = deque()
        self.lates: deque[LateOp] = deque()
        self.returns: deque[ReturnOp] = deque()
        self.trials: deque[TrialOp] = deque()
        self.limited: deque[Any] = deque()  # until nothing is due: then they go once more
        self.reads: deque[AvailabilityOp] = deque()
        self.settles: dict[str, deque[SettleOp]] = {
            script.name: deque()
            for script in SETTLING
        }
        self._planned: list[deque[Any]] = [
            self.reads, self.stocks, self.reserves, self.contended, self.amends, self.lates,
            self.returns, self.trials, self.limited,
        ]  # fmt: skip
        self._all: list[tuple[deque[Any], int]] = [
            *((queue, 1) for queue in self._planned),
            *((queue, SETTLE_PATIENCE) for queue in self.settles.values()),
        ]

    def waiting(self) -> int:
        """How many ops wait."""
        return sum(len(queue) for queue, _ in self._all)

    def settling(self) -> int:
        """How many of them are verbs on records."""
        return sum(map(len, self.settles.values()))

    def of(self, op: Any) -> deque[Any]:
        """The queue that an op waits in."""
        if isinstance(op, TrialOp):
            return self.trials
        if isinstance(op, AmendOp):
            return self.amends
        if isinstance(op, LateOp):
            return self.lates
        if isinstance(op, ReserveOp):
            return self.contended if op.conflicts >= CONFLICTS_ALONE else self.reserves
        if isinstance(op, ReturnOp):
            return self.returns
        return self.stocks if isinstance(op, StockOp) else self.settles[op.script.name]

    def requeue(self, ops: Iterable[Any]) -> None:
        """Puts ops back in front, in their order."""
        for op in reversed(list(ops)):
            if isinstance(op, (ReserveOp, ReturnOp)):
                op.reset()
            self.of(op).appendleft(op)

    def replan(self, ops: Iterable[Any], moved: list[Row], entries: Iterable[str] = ()) -> None:
        """After a conflict: ops on rows that moved, or of SKUs whose entries did, count it; past
        the bound they end."""
        skus = {row.sku for row in moved}.union(entries)
        again = []
        for op in ops:
            if isinstance(op, StockOp):
                op.turns += op.sku in skus
                spent = op.turns > STOCK_CONFLICTS_MAX
            elif isinstance(op, ReturnOp):
                op.turns += 1
                spent = op.turns > STOCK_CONFLICTS_MAX
            else:
                op.conflicts += any(op.touches(row.pool) for row in moved)
                spent = op.conflicts > CONFLICTS_MAX
            if spent:
                self._counts["given_up"] += 1
                op.finish(Overloaded("Too many callers want the same units; try again"))
            else:
                again.append(op)
        self.requeue(again)

    def refuse_late(self, now_ms: float, wait_ms: int) -> None:
        """Ends what has waited for so long (monotonic): before any work for it."""
        for queue, patience in self._all:
            while queue and 0.0 < queue[0].since_ms < now_ms - patience * wait_ms:
                self._counts["late"] += 1
                queue.popleft().finish(Overloaded("It waited too long for its turn; try again"))

    def give_up(self, error: StockadeError, planned_only: bool) -> None:
        """Ends what waits: nothing of it happened."""
        for queue in self._planned if planned_only else (queue for queue, _ in self._all):
            while queue:
                queue.popleft().finish(error)
