"""The step of a pipeline that plans anew under records that exist: one script per verb."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.customers import Entries
from core.kernel._plan import Stage
from core.ops import Receipt, stands_for
from core.replan_ops import AmendOp, ReplanOp, ReturnOp
from core.steps import PlannedStep, asked_by, evalsha, index_of, key_words
from core.store import keys, scripts
from core.store.link import Command

if TYPE_CHECKING:
    from core.lane import Lane


def _deficit(row: bytes) -> int:
    """The deficit of a row's text."""
    return int(row.split(b" ", 4)[3].split(b",")[4])


def _moves(stage: Stage, ops: Sequence[ReplanOp | ReturnOp]) -> str:
    """The movements of a batch; those of late commits follow from their records."""
    found = []
    deficits = dict(zip(stage.pools, map(_deficit, stage.old), strict=True))
    for op in ops:
        moves: list[tuple[str, str, str, int]] = []
        if isinstance(op, AmendOp):
            moves = op.net_moves(deficits)
        elif isinstance(op, ReturnOp):
            moves = op.moves
            found += [f"# {op.id} {op.note}"] if op.note else []
        found += [f"{pool} {source} {to} {units} {op.id}" for pool, source, to, units in moves]
    return "\n".join(found)


class ReplanStep(PlannedStep):
    """Amends, late commits or returns."""

    script = scripts.REPLAN

    def __init__(
        self, stage: Stage, ops: Sequence[ReplanOp | ReturnOp], now_ms: int
    ) -> None:
        """``now_ms``: by which they were planned."""
        self.stage = stage
        self._entries = Entries(now_ms)
        for index, op in enumerate(ops):
            op.count(self._entries, index)
        self.ops = ops
        self._verb, self._late = ops[0].verb, ops[0].late
        self._moves = "" if self._late else _moves(stage, ops)

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        due: dict[int, list[str]] = {}
        earliest: int | str = ""
        for op in self.ops:
            if op.due_ms is not None:
                due.setdefault(op.due_ms // 1000, []).append(op.id)
                earliest = min(earliest or op.due_ms, op.due_ms)
        names = [
            keys.META, keys.POOLS, keys.EVENTS, *lane.short_window, *lane.long_window,
            lane.done_list, *(keys.due_at(second) for second in due), *self._entries.days(),
        ]  # fmt: skip
        known: dict[bytes, int] = {}
        args: list[Any] = [
            len(stage.pools), len(self.ops), len(due), earliest, self._verb,
            "1" if self._late else "", self._moves, len(self._entries),
        ]  # fmt: skip
        args += [*stage.pools, *stage.old, *stage.new, *stage.deltas]
        for op in self.ops:
            at = index_of(names, known, keys.bucket_of(op.id))
            args += (at, op.id, op.old_record, op.record, *key_words(op.key))
        for ids in due.values():
            args += (len(ids), *ids)
        args += self._entries.words(names)
        head = lane.head(lane.now_ms, lane.policy_number, asked_by(self.ops))
        return evalsha(self.script, names, head, args)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
        outcome = reply[0]
        if outcome == b"conflict":
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]))
        elif outcome == b"limit":
            self.undone(lane)
            lane.planner.limiter.passed(self.ops, self._entries.over(reply[5]), {})
        elif outcome == b"stale" or (outcome == b"known" and reply[5] == b"keys"):
            self.undone(lane)
            found = reply[5] if outcome == b"stale" else reply[6]
            answered = dict(zip(found[::2], found[1::2], strict=True))
            for index, value in answered.items():
                op = self.ops[index]
                if outcome == b"stale":
                    op.finish(("stale", value))
                else:
                    assert op.key is not None
                    op.finish(stands_for(op.key, value))
            lane.queues.requeue([op for i, op in enumerate(self.ops) if i not in answered])
            if outcome == b"known":  # perhaps an earlier sending of this did it
                lane.planner.distrust(self.stage.rows)
        else:
            if outcome == b"known":
                self.as_met(lane, reply[6])
            else:
                self.took_effect(lane, reply[5])
            for op in self.ops:
                op.finish(Receipt(op.id, op.record, lane.durability, reacquired=self._late))
