"""The step of a pipeline that carries what happens to stock: one script for all its verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.kernel._plan import Stage
from core.ops import StockOp, stands_for
from core.steps import PlannedStep, asked_by, evalsha
from core.store import keys, scripts, wording
from core.store.link import Command

if TYPE_CHECKING:
    from core.lane import Lane


class StockStep(PlannedStep):
    """Units that arrive, leave, are counted or moved."""

    script = scripts.STOCK

    def __init__(self, stage: Stage, ops: list[StockOp], places: dict[str, list[str]]) -> None:
        """``places``: SKU → locations where it gets its first pool."""
        self.stage = stage
        self.ops = ops
        self._places = places

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        names = [keys.META, keys.POOLS, keys.SKUS, keys.EVENTS, *lane.long_window]
        several = len({op.actor for op in self.ops}) > 1  # then each movement says who
        moves = "\n".join(
            f"{op.verb} {pool.decode()} {source} {target} {units} {op.note}{_by(op, several)}"
            for op in self.ops
            for pool, source, target, units in op.moves
        )
        args: list[Any] = [len(stage.pools), len(self._places), len(self.ops), moves]
        args += [*stage.pools, *stage.old, *stage.new, *stage.deltas]
        for name in self._places:
            args += (name, lane.snapshot.skus[name].text, self._entry(lane, name))
        for op in self.ops:
            args += wording.pack_key(op.key, 200, op.pools[0])
        asked = b"" if several else asked_by(self.ops)
        return evalsha(self.script, names, lane.head(None, lane.policy_number, asked), args)

    def _entry(self, lane: Lane, name: str) -> bytes:
        """A SKU's entry with its new locations."""
        sku = lane.snapshot.skus[name]
        return wording.sku_entry(sku.number, (*sku.locations, *self._places[name]), sku.spec)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
        outcome = reply[0]
        round, seen_at = lane.flight_stamp
        if outcome == b"conflict":
            names = list(self._places)
            fresh = {
                names[index]: entry
                for index, entry in zip(reply[6][::2], reply[6][1::2], strict=True)
            }
            for name, entry in fresh.items():
                lane.snapshot.see_sku(name, entry, round, seen_at)
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]), fresh)
        elif outcome == b"known":
            self.undone(lane)
            found = dict(zip(reply[5][::2], reply[5][1::2], strict=True))
            for index, value in found.items():
                op = self.ops[index]
                op.finish(stands_for(op.key, value))
            lane.queues.requeue([op for i, op in enumerate(self.ops) if i not in found])
            lane.planner.distrust(self.stage.rows)
        else:
            self.took_effect(lane, reply[5])
            for name in self._places:
                lane.snapshot.see_sku(name, self._entry(lane, name), round, seen_at)
            for op in self.ops:
                op.finish(None)


def _by(op: StockOp, several: bool) -> str:
    """The word of a movement that says who moved it."""
    return f" {wording.encode_text(op.actor or None).decode()}" if several else ""
