"""How lines of stock are planned: which may go, which are refused, which must look first.

A line that does something rests on its script: the rows are still those that it was planned on, or
its deltas fit them. A refusal, and a decision that there is nothing to do, rest on rows that were
seen after the line came in; for want of unsold units only when nothing is due that would give some
back. Decides and never awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from core.deadlines import Deadlines
from core.errors import Overloaded, StockadeError
from core.kernel._plan import Batch, Stage
from core.kernel._policy import Row, Sku
from core.kernel._pool import ChannelUnknown, RowCorrupt, Shortage
from core.ops import StockOp
from core.queues import Queues
from core.refusals import short_of, too_much, unknown_stock, unlike, wrong_names
from core.snapshot import Snapshot
from core.stock_model import (
    AdjustLine,
    CountLine,
    OpenLine,
    ReallocateLine,
    ReceiveLine,
    TransferLine,
)
from core.stock_steps import StockStep

OPS_MAX = 1_000  # lines of one script: two values of a key each stay far below Lua's 7,999
POOLS_MAX = 1_000  # of one script: half of what a round has room for is left to demands
LOOKS_MAX = 64  # rounds that a line may wait for what it asked to be looked at

# What became of a line in this round.
PLANNED, LATER, FULL, ENDED = range(4)

Move = tuple[bytes, str, str, int]


def _moves(batch: Batch, op: StockOp, sku: Sku, rows: list[Row]) -> list[Move] | None:
    """Plans a line: its movements, None if the batch has no room. Raises Shortage, OverflowError,
    RowCorrupt, ChannelUnknown; then nothing was planned."""
    line, row = op.line, rows[0]
    found: list[tuple[str, str, int]] | None
    if isinstance(line, TransferLine):
        return batch.transfer(row, rows[1], sku, line.quantity)
    if isinstance(line, ReceiveLine):
        found = batch.receive(row, sku, line.quantity)
    elif isinstance(line, AdjustLine):
        found = batch.adjust(row, sku, line.delta, line.account)
    elif isinstance(line, CountLine):
        found = batch.count(row, sku, line.counted)
    elif isinstance(line, OpenLine):
        found = batch.open_pool(row, sku)
    elif line.source is None or line.target is None:
        found = batch.reallocate_by_policy(row, sku)
    else:
        units = line.quantity if isinstance(line.quantity, int) else None
        found = batch.reallocate(row, sku, line.source, line.target, units)
    return None if found is None else [(row.pool, *move) for move in found]


class StockPlanner:
    """Forms the step of a pipeline that carries stock."""

    def __init__(
        self,
        queues: Queues,
        snapshot: Snapshot,
        deadlines: Deadlines,
        wanted: dict[tuple[str, str | None], None],
        corrupt: Callable[[StockOp, list[Any], RowCorrupt], None],
        packed: Callable[[Sequence[Any]], Stage | None],
    ) -> None:
        """``wanted``: what the next look reads; ``corrupt`` ends an op whose row cannot be read;
        ``packed`` prints what was planned."""
        self._queues = queues
        self._snapshot = snapshot
        self._deadlines = deadlines
        self._wanted = wanted
        self._corrupt = corrupt
        self._packed = packed
        self._policy_round = -1
        self._places: dict[str, list[str]] = {}
        self._touched: set[bytes] = set()
        self.look_due = False  # a line waits until what is due was looked at

    def step(self, batch: Batch, policy_round: int) -> StockStep | None:
        """Plans what waits; it is the first that is planned in the round of ``batch``.

        ``policy_round``: the pipeline in which the policy was last known to be current.
        """
        queue = self._queues.stocks
        self.look_due = False
        if not queue:
            return None
        self._policy_round = policy_round
        self._places, self._touched = {}, set()
        planned: list[StockOp] = []
        later: list[StockOp] = []
        fields: set[bytes] = set()
        while queue and len(planned) < OPS_MAX and len(batch.rows) < POOLS_MAX:
            op = queue.popleft()
            if op.gone():
                continue
            twin = op.key.field in fields  # the first one answers for it
            fields.add(op.key.field)
            became = LATER if twin else self._plan(batch, op)
            if became == PLANNED:
                planned.append(op)
            elif became != ENDED:
                later.append(op)
            if became == FULL:
                break
        queue.extendleft(reversed(later))
        stage = self._packed(planned) if planned else None
        return None if stage is None else StockStep(stage, planned, self._places)

    def _plan(self, batch: Batch, op: StockOp) -> int:
        """One line: PLANNED, LATER, FULL or ENDED."""
        sku = self._snapshot.skus.get(op.sku)
        if sku is None or (sku.number == 0 and sku.round <= op.round):
            return self._look(op, op.locations)
        if sku.number == 0:
            op.finish(unknown_stock(op))
            return ENDED
        wrong = wrong_names(op, batch.policy)
        if wrong is not None:
            if self._policy_round <= op.round:
                return self._look(op, [None])
            op.finish(wrong)
            return ENDED
        unread = [x for x in op.locations if x in sku.locations and x not in sku.rows]
        if unread:
            return self._look(op, unread)
        if isinstance(op.line, OpenLine) and op.line.location in sku.locations:
            op.finish(None)
            return ENDED
        rows = [self._snapshot.row(sku, location) for location in op.locations]
        try:
            return self._decide(batch, op, sku, rows)
        except RowCorrupt as error:
            self._corrupt(op, [op], error)
            return ENDED
        except ChannelUnknown:  # the look says whether the policy or the SKU has moved on
            return self._look(op, op.locations)

    def _decide(self, batch: Batch, op: StockOp, sku: Sku, rows: list[Row]) -> int:
        """A line whose names are known and whose rows are there to be planned on."""
        line = op.line
        refusal: StockadeError | None = None
        if isinstance(line, CountLine) and (line.if_on_hand, line.if_version) != (None, None):
            on_hand = batch.on_hand(rows[0], sku)
            if on_hand is None:
                return FULL
            if line.if_version is not None and rows[0].pool in self._touched:
                return LATER  # it has a version again when what was planned on it has landed
            refusal = unlike(line, on_hand, int(rows[0].text.partition(b" ")[0] or 0))
        moves: list[Move] | None = []
        if refusal is None:
            try:
                moves = _moves(batch, op, sku, rows)
            except Shortage as error:
                refusal = short_of(op, error.available)
            except OverflowError:
                refusal = too_much(op)
        if moves is None:
            return FULL
        if refusal is not None or (isinstance(line, ReallocateLine) and not moves):
            if any(row.pool in self._touched for row in rows):
                return LATER
            unsold = isinstance(line, TransferLine | ReallocateLine)  # an expiry adds to these
            due = unsold and self._deadlines.clear_round <= op.round
            if due or sku.round <= op.round or any(row.round <= op.round for row in rows):
                self.look_due = self.look_due or due
                return self._look(op, op.locations)
        if refusal is not None:
            op.finish(refusal)
            return ENDED
        op.moves = moves
        for location, row in zip(op.locations, rows, strict=True):
            self._touched.add(row.pool)
            new = self._places.setdefault(op.sku, []) if location not in sku.locations else None
            if new is not None and location not in new:
                new.append(location)
                batch.open_pool(row, sku)  # nothing may have moved there; the script makes it now
        return PLANNED

    def _look(self, op: StockOp, locations: Iterable[str | None]) -> int:
        """The line waits until these were looked at; bounded."""
        op.looks += 1
        if op.looks > LOOKS_MAX:
            op.finish(Overloaded("What this rests on keeps changing; try again"))
            return ENDED
        self._wanted.update(dict.fromkeys((op.sku, location) for location in locations))
        return LATER
