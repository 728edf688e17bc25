"""How returns are planned: each all or nothing, onto rows that were read. Decides, never awaits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from core.errors import InvalidRequest
from core.kernel._plan import Batch, Stage
from core.kernel._policy import Row, Sku
from core.kernel._pool import ChannelUnknown, RowCorrupt
from core.ops import NoPool
from core.queues import Queues
from core.replan_ops import ReturnOp
from core.replan_steps import ReplanStep
from core.snapshot import Snapshot

OPS_MAX = 500  # returns of one script: records of a hundred lines, six values each
POOLS_MAX = 1_000  # of all of them, where the kernel has room for twice as many

# What became of a return in this round.
PLANNED, LATER, FULL, ENDED = range(4)


class ReturnPlanner:
    """Forms the step of a pipeline that carries returns."""

    def __init__(
        self,
        queues: Queues,
        snapshot: Snapshot,
        wanted: dict[tuple[str, str | None], None],
        corrupt: Callable[[ReturnOp, list[Any], RowCorrupt], None],
        packed: Callable[[Sequence[Any]], Stage | None],
    ) -> None:
        """``wanted``: what the next look reads; ``corrupt`` ends an op whose row cannot be read;
        ``packed`` prints what was planned."""
        self._queues = queues
        self._snapshot = snapshot
        self._wanted = wanted
        self._corrupt = corrupt
        self._packed = packed

    def step(
        self, batch: Batch, busy: set[str], now_ms: int, randomness: Callable[[int], bytes]
    ) -> ReplanStep | None:
        """Plans what waits. ``busy``: records that the pipeline changes already."""
        queue = self._queues.returns
        if not queue:
            return None
        batch.begin_stage()
        planned: list[ReturnOp] = []
        later: list[ReturnOp] = []
        pools = 0
        while queue and len(planned) < OPS_MAX and pools < POOLS_MAX:
            op = queue.popleft()
            if op.gone():
                continue
            try:
                became = LATER if op.id in busy else self._plan(batch, op)
            except OverflowError:
                # Part of it was planned: the round begins again, without it.
                op.finish(InvalidRequest("An account would hold more than 2^53 units"))
                queue.extendleft(reversed([*planned, *later]))
                batch.begin(batch.policy, self._snapshot.skus)
                return None
            if became == PLANNED:
                busy.add(op.id)
                pools += 2 * len(op.parts)
                planned.append(op)
            elif became != ENDED:
                later.append(op)
            if became == FULL:
                break
        queue.extendleft(reversed(later))
        for op in planned:
            op.compose(now_ms, randomness(1).hex())
        stage = self._packed(planned) if planned else None
        return None if stage is None else ReplanStep(stage, planned, now_ms)

    def _plan(self, batch: Batch, op: ReturnOp) -> int:
        """One return: PLANNED, LATER, FULL or ENDED. Raises OverflowError, half planned."""
        channel = op.was.channel if op.was.channel in batch.policy.specs else None
        found: list[tuple[Sku, Row, Row]] = []  # per part: where it goes, where it left
        for part in op.parts:
            line = op.was.lines[part.line]
            if not batch.policy.locations.get(part.to, (False, False))[1]:
                op.finish(("stale", b""))  # it was one that takes returns: asked anew
                return ENDED
            sku = self._snapshot.skus.get(line.sku)
            places = (part.to, line.location)
            if sku is None or any(x in sku.locations and x not in sku.rows for x in places):
                self._wanted.update(dict.fromkeys((line.sku, place) for place in places))
                return LATER
            if part.to not in sku.locations:
                if sku.round <= op.round:
                    self._wanted[line.sku, None] = None
                    return LATER
                op.finish(NoPool([(line.sku, part.to)]))
                return ENDED
            row, left = self._snapshot.row(sku, part.to), self._snapshot.row(sku, line.location)
            found.append((sku, row, left))
        try:
            for sku, row, left in found:
                if not (batch.meet(row, sku) and batch.meet(left, sku)):
                    return FULL
        except RowCorrupt as error:
            self._corrupt(op, [op.was.lines[part.line] for part in op.parts], error)
            return ENDED
        except ChannelUnknown:  # the look says whether the policy or the SKU has moved on
            self._wanted.update(
                dict.fromkeys((sku.name, each.location) for sku, *rows in found for each in rows)
            )
            return LATER
        op.moves = []
        op.limits = {sku.name: sku.spec for sku, _, _ in found if sku.limited}
        for part, (sku, row, left) in zip(op.parts, found, strict=True):
            line = op.was.lines[part.line]
            if part.disposition == "damaged":
                moves = batch.put_away(row, sku, part.units, "damaged")
            elif part.disposition == "quarantine":
                moves = batch.put_away(row, sku, part.units, "quarantine")
            else:
                moves = batch.restock(row, sku, part.units)
                if channel is not None and line.ceiling:
                    batch.give_allowance(left, sku, channel, part.units, line.ceiling)
            assert moves is not None, "its rows have their room already"
            op.moves += [(f"{line.sku}@{part.to}", *move) for move in moves]
        return PLANNED
