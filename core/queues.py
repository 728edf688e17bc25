"""What waits in a lane: one queue per verb, first in first out. Plain sync code."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from core.availability import AvailabilityOp
from core.errors import Overloaded, StockadeError
from core.kernel._policy import Row
from core.ops import ReserveOp, SettleOp, StockOp, TrialOp
from core.replan_ops import AmendOp, LateOp, ReturnOp
from core.store import scripts

CONFLICTS_ALONE = 4  # from this conflict on, contended demands go as a batch of their own
CONFLICTS_MAX = 16  # replans of a demand
STOCK_CONFLICTS_MAX = 64  # replans of a line of stock: facts should get through
SETTLING = (scripts.JUDGE, scripts.COMMIT, scripts.FULFIL, scripts.GIVEBACK, scripts.EXTEND)


class Queues:
    """The ops of one lane that are not under way."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self.stocks: deque[StockOp] = deque()
        self.reserves: deque[ReserveOp] = deque()
        self.contended: deque[ReserveOp] = deque()
        self.amends: deque[AmendOp] = deque()
        self.lates: deque[LateOp] = deque()
        self.returns: deque[ReturnOp] = deque()
        self.trials: deque[TrialOp] = deque()
        self.reads: deque[AvailabilityOp] = deque()
        self.settles: dict[str, deque[SettleOp]] = {
            script.name: deque()
            for script in SETTLING
        }

    def waiting(self) -> int:
        """How many ops wait."""
        return (
            len(self.reads) + len(self.reserves) + len(self.contended) + len(self.stocks)
            + len(self.amends) + len(self.lates) + len(self.returns) + len(self.trials)
            + sum(map(len, self.settles.values()))
        )  # fmt: skip

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

    def give_up(self, error: StockadeError, planned_only: bool) -> None:
        """Ends what waits: nothing of it happened."""
        queues: list[deque[Any]] = [
            self.reads, self.stocks, self.reserves, self.contended, self.amends, self.lates,
            self.returns, self.trials,
        ]  # fmt: skip  # fmt: skip
        if not planned_only:
            queues += self.settles.values()
        for queue in queues:
            while queue:
                queue.popleft().finish(error)
