"""What waits in a lane: one queue per verb, first in first out. Plain sync code."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from core.errors import Overloaded, StockadeError
from core.kernel._policy import Row
from core.ops import ReacquireOp, ReceiveOp, ReserveOp, SettleOp
from core.store import scripts

CONFLICTS_ALONE = 4  # from this conflict on, contended demands go as a batch of their own
CONFLICTS_MAX = 16  # replans of a demand
STOCK_CONFLICTS_MAX = 64  # replans of a line of stock: facts should get through


class Queues:
    """The ops of one lane that are not under way."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self.receives: deque[ReceiveOp] = deque()
        self.reserves: deque[ReserveOp] = deque()
        self.contended: deque[ReserveOp] = deque()
        self.reacquires: deque[ReacquireOp] = deque()
        self.settles: dict[str, deque[SettleOp]] = {
            script.name: deque()
            for script in (scripts.COMMIT, scripts.FULFIL, scripts.GIVEBACK, scripts.EXTEND)
        }

    def waiting(self) -> int:
        """How many ops wait."""
        return (
            len(self.reserves) + len(self.contended) + len(self.receives)
            + len(self.reacquires) + sum(map(len, self.settles.values()))
        )  # fmt: skip

    def requeue(self, ops: Iterable[Any]) -> None:
        """Puts ops back in front, in their order."""
        for op in reversed(list(ops)):
            if isinstance(op, ReacquireOp):
                op.reset()
                self.reacquires.appendleft(op)
            elif isinstance(op, ReserveOp):
                op.reset()
                alone = op.conflicts >= CONFLICTS_ALONE
                (self.contended if alone else self.reserves).appendleft(op)
            elif isinstance(op, ReceiveOp):
                self.receives.appendleft(op)
            else:
                self.settles[op.script.name].appendleft(op)

    def replan(self, ops: Iterable[Any], moved: list[Row]) -> None:
        """After a conflict: ops on rows that moved count it, and past the bound they end."""
        again = []
        for op in ops:
            if isinstance(op, ReceiveOp):
                op.turns += 1
                spent = op.turns > STOCK_CONFLICTS_MAX
            else:
                if any(b" %s@" % row.pool in op.record for row in moved):
                    op.conflicts += 1
                spent = op.conflicts > CONFLICTS_MAX
            if spent:
                self._counts["given_up"] += 1
                op.finish(Overloaded("Too many callers want the same units; try again"))
            else:
                again.append(op)
        self.requeue(again)

    def give_up(self, error: StockadeError, planned_only: bool) -> None:
        """Ends what waits: nothing of it happened."""
        queues: list[deque[Any]] = [self.receives, self.reserves, self.contended, self.reacquires]
        if not planned_only:
            queues += self.settles.values()
        for queue in queues:
            while queue:
                queue.popleft().finish(error)
