"""Demands that would pass what a customer may have: refused, content with less, or asked again.

One may have so many units of a SKU, and so many live reservations. The script counts, and refuses
the whole batch if one of its demands passes a limit. The others go again at once and among
themselves, so that whoever always asks for too much delays nobody twice. A refusal stands once
nothing is due: an expiry may have given the customer room. Decides, never awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.customers import Excess, crowded, refusal
from core.deadlines import Deadlines
from core.errors import CustomerRequired, Overloaded
from core.kernel._plan import RESERVED
from core.kernel._policy import Sku
from core.queues import Queues
from core.replan_ops import AmendOp

TURNS_MAX = 64  # rounds that a demand may wait for deadlines to be drained


class Limiter:
    """What a planner does about limits."""

    def __init__(
        self, queues: Queues, deadlines: Deadlines, since: Callable[[], float]
    ) -> None:
        """``since``: what was seen then (monotonic) or later is not too old to refuse."""
        self._queues = queues
        self._deadlines = deadlines
        self._since = since
        self.look_due = False
        self.live_most: int | None = None  # live reservations of one customer

    def passed(
        self, ops: Sequence[Any], over: Mapping[int, list[Excess]], crowd: Mapping[int, int]
    ) -> None:
        """Takes a batch back of which some ops, by index, pass limits; ``crowd``: how many live
        reservations the customers have who have too many."""
        if over and crowd:
            over, crowd = _certain(ops, over, crowd)
        passing = over.keys() | crowd.keys()
        for index in sorted(passing):
            op = ops[index]
            if not self._nothing_due(op):
                self._wait(op)
            elif index in crowd:
                assert self.live_most is not None, "else nobody counts"
                op.finish(crowded(crowd[index], self.live_most))
            elif op.content and op.cut_to(over[index]):
                self._queues.requeue([op])
            else:
                op.finish(refusal(over[index]))
        rest = [op for index, op in enumerate(ops) if index not in passing]
        for op in rest:
            op.alone = True
        self._queues.requeue(rest)

    def _nothing_due(self, op: Any) -> bool:
        deadlines = self._deadlines
        return deadlines.clear_round > op.round or deadlines.clear_at >= self._since()

    def _wait(self, op: Any) -> None:
        """Until it was looked whether anything is due."""
        op.turns += 1
        if op.turns > TURNS_MAX:
            op.finish(Overloaded("More deadlines are due than can be settled now; try again"))
            return
        self.look_due = True
        self._queues.limited.append(op)

    def ask_again(self) -> None:
        """Those that waited go once more in their order, if nothing is due any more."""
        waiting = list(self._queues.limited)
        ready: list[Any] = []
        self._queues.limited.clear()
        for op in waiting:
            if op.gone():
                continue
            if self._nothing_due(op):
                ready.append(op)
            else:
                self._wait(op)
        self._queues.requeue(ready)

    @staticmethod
    def refused_unnamed(op: Any, skus: Mapping[str, Sku]) -> bool:
        """Ends a demand for limited SKUs that names no customer, once they were seen to be so."""
        limited = dict.fromkeys(line.sku for line in op.lines if skus[line.sku].limited)
        seen = all(skus[sku].round > op.round for sku in limited)
        if seen:
            op.finish(CustomerRequired(lines=[{"sku": sku} for sku in limited]))
        return seen

    def refuse_unnamed(self, skus: Mapping[str, Sku]) -> None:
        """Amends that want more of a limited SKU for nobody in particular."""
        for op in self._queues.amends:
            if op.is_unnamed():
                wanted = [sku for sku in _grown(op) if sku in skus and skus[sku].limited]
                if wanted:
                    op.finish(CustomerRequired(lines=[{"sku": sku} for sku in wanted]))


def _certain(
    ops: Sequence[Any], over: Mapping[int, list[Excess]], crowd: Mapping[int, int]
) -> tuple[dict[int, list[Excess]], dict[int, int]]:
    """What of ``over`` and ``crowd`` does not rest on a demand of the same customer that is itself
    refused for the other reason: the script counted its place, or its units. Never nothing."""
    whose = {index: ops[index].tail.split(b" ")[1] for index in over.keys() | crowd.keys()}
    placed = {
        whose[index] for index in over.keys() - crowd.keys() if ops[index].state == RESERVED
    }
    left = {index: has for index, has in crowd.items() if whose[index] not in placed}
    crowded = {whose[index] for index in left}
    found = {
        index: each for index, each in over.items() if index in left or whose[index] not in crowded
    }
    return found, left


def _grown(op: AmendOp) -> list[str]:
    """The SKUs of which an amend asks for more than its record holds."""
    units: dict[str, int] = {}
    for sku, _, own, borrowed, _ in op.held or ():
        units[sku] = units.get(sku, 0) - own - borrowed
    for line in op.lines:
        units[line.sku] = units.get(line.sku, 0) + line.quantity
    return [sku for sku, more in units.items() if more > 0]
