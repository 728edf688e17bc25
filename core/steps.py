"""The parts of a pipeline: each step is one script with its ops, how it is asked, and what its
answer means. Plain sync code: the lane sends and receives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from core.errors import KeyReused
from core.kernel._plan import Stage
from core.kernel._policy import Row
from core.ops import Known, ReacquireOp, Receipt, ReceiveOp, ReserveOp, SettleOp
from core.store import keys, scripts, wording
from core.store.link import Command

if TYPE_CHECKING:
    from core.lane import Lane


def _evalsha(
    script: scripts.Script, names: list[bytes], head: list[Any], args: Iterable[Any]
) -> Command:
    return ("EVALSHA", script.sha, len(names), *names, *head, *args)


def index_of(names: list[bytes], known: dict[bytes, int], name: bytes) -> int:
    """Where a key stands in KEYS (from 1); appended at first use."""
    at = known.get(name)
    if at is None:
        names.append(name)
        at = known[name] = len(names)
    return at


PUT_OFF_SECONDS = 3_600  # until a record that cannot expire is tried again


class Step:
    """One script of a pipeline. ``landed`` gets every outcome but epoch, clock and policy."""

    ops: Sequence[Any] = ()

    def command(self, lane: Lane) -> Command:
        raise NotImplementedError

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        raise NotImplementedError

    def launched(self, round: int, ahead: bool) -> None:
        """It goes out in the pipeline ``round``, ahead of an answer to the one before it or not."""

    def undone(self, lane: Lane) -> None:
        """Nothing of it happened: what was planned is void."""


class PlannedStep(Step):
    """A step that carries a plan: rows to swap or rebase."""

    stage: Stage
    round = 0  # the pipeline that carries it
    ahead = False  # planned on rows that the pipeline before it was to leave

    def launched(self, round: int, ahead: bool) -> None:
        """It goes out now: until it has landed, its rows are what it makes of them."""
        self.round, self.ahead = round, ahead
        for row in self.stage.rows:
            row.planned = round

    def undone(self, lane: Lane) -> None:
        for row, old in zip(self.stage.rows, self.stage.old, strict=True):
            row.void(old, self.round, self.ahead)

    def took_effect(self, lane: Lane, moved: list[Any]) -> None:
        """The rows are what the plan says, but for those that were rebased."""
        round, seen_at = lane.flight_stamp
        for row, text in zip(self.stage.rows, self.stage.new, strict=True):
            row.saw(text, round, seen_at)
        for index, text in zip(moved[::2], moved[1::2], strict=True):
            self.stage.rows[index].saw(text, round, seen_at)

    def conflicted(self, lane: Lane, fresh: list[Any]) -> list[Row]:
        """Takes in the fresh rows; the ones that moved."""
        self.undone(lane)
        round, seen_at = lane.flight_stamp
        rows = []
        for index, text in zip(fresh[::2], fresh[1::2], strict=True):
            row = self.stage.rows[index]
            row.saw(text, round, seen_at)
            rows.append(row)
        return rows

    def as_met(self, lane: Lane, texts: list[Any]) -> None:
        """The step was done by an earlier sending: the rows as they are now."""
        round, seen_at = lane.flight_stamp
        for row, text in zip(self.stage.rows, texts, strict=True):
            row.saw(text or b"", round, seen_at)


class ReserveStep(PlannedStep):
    """New reservations."""

    def __init__(
        self, stage: Stage, ops: list[ReserveOp], due: dict[int, list[str]], now_ms: int
    ) -> None:
        self.stage = stage
        self.ops = ops
        self._due = due
        self._now_ms = now_ms

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        names = [
            keys.META, keys.POOLS, keys.EVENTS, *lane.short_window, keys.bucket_at(self._now_ms),
            *(keys.due_at(second) for second in self._due),
        ]  # fmt: skip
        records: list[Any] = []
        for op in self.ops:
            records += (op.id, op.record)
        keyed = [op for op in self.ops if op.key is not None]
        values = [wording.pack_key(op.key.field, op.key.fingerprint, 201, op.id) for op in keyed]
        earliest = self._now_ms + min(op.ttl_ms for op in self.ops)
        args: list[Any] = [len(stage.pools), len(self.ops), len(keyed), len(self._due), earliest]
        args += stage.pools
        args += stage.old
        args += stage.new
        args += stage.deltas
        args += records
        args += [field for field, _ in values]
        args += [value for _, value in values]
        for ids in self._due.values():
            args.append(len(ids))
            args += ids
        return _evalsha(scripts.RESERVE, names, lane.head(self._now_ms, lane.policy_number), args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        outcome = reply[0]
        if outcome == b"conflict":
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]))
        elif outcome == b"known" and reply[5] == b"keys":
            self.undone(lane)
            keyed = [op for op in self.ops if op.key is not None]
            known = dict(zip(reply[6][::2], reply[6][1::2], strict=True))
            for index, value in known.items():
                answer_known(keyed[index], value)
            answered = {id(keyed[index]) for index in known}
            lane.queues.requeue([op for op in self.ops if id(op) not in answered])
        else:
            if outcome == b"known":
                self.as_met(lane, reply[6])
            else:
                self.took_effect(lane, reply[5])
            for op in self.ops:
                op.finish(Receipt(op.id, op.record, lane.durability, shortfalls=op.shortfalls))


class ReacquireStep(PlannedStep):
    """Late commits."""

    def __init__(self, stage: Stage, ops: list[ReacquireOp]) -> None:
        self.stage = stage
        self.ops = ops

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        names = [keys.META, keys.POOLS, keys.EVENTS, *lane.short_window]
        known: dict[bytes, int] = {}
        args: list[Any] = [len(stage.pools), len(self.ops)]
        args += [*stage.pools, *stage.old, *stage.new, *stage.deltas]
        for op in self.ops:
            at = index_of(names, known, keys.bucket_of(op.id))
            key = op.key
            args += (at, op.id, op.old_record, op.record)
            args += (key.field, key.fingerprint) if key else (b"", b"")
        return _evalsha(scripts.REACQUIRE, names, lane.head(lane.now_ms, lane.policy_number), args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        outcome = reply[0]
        if outcome == b"conflict":
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]))
        elif outcome == b"stale" or (outcome == b"known" and reply[5] == b"keys"):
            self.undone(lane)
            found = reply[5] if outcome == b"stale" else reply[6]
            answered = dict(zip(found[::2], found[1::2], strict=True))
            for index, value in answered.items():
                if outcome == b"known":
                    answer_known(self.ops[index], value)
                else:
                    self.ops[index].finish(("stale", value))
            lane.queues.requeue([op for i, op in enumerate(self.ops) if i not in answered])
        else:
            if outcome == b"known":
                self.as_met(lane, reply[6])
            else:
                self.took_effect(lane, reply[5])
            for op in self.ops:
                op.finish(Receipt(op.id, op.record, lane.durability, reacquired=True))


class ReceiveStep(PlannedStep):
    """Units that arrived."""

    def __init__(self, stage: Stage, ops: list[ReceiveOp], places: dict[str, list[str]]) -> None:
        """``places``: SKU → locations where it gets its first pool."""
        self.stage = stage
        self.ops = ops
        self._places = places

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        names = [keys.META, keys.POOLS, keys.SKUS, keys.EVENTS, *lane.long_window]
        moves = "\n".join(
            f"{op.sku}@{op.location} outside {account} {units} {op.note}"
            for op in self.ops
            for account, units in op.moves
        )
        args: list[Any] = [len(stage.pools), len(self._places), len(self.ops), moves]
        args += [*stage.pools, *stage.old, *stage.new, *stage.deltas]
        for name, places in self._places.items():
            sku = lane.snapshot.skus[name]
            entry = wording.sku_entry(sku.number, (*sku.locations, *places), sku.spec)
            args += (name, sku.text, entry)
        for op in self.ops:
            pool = f"{op.sku}@{op.location}"
            args += wording.pack_key(op.key.field, op.key.fingerprint, 200, pool)
        return _evalsha(scripts.RECEIVE, names, lane.head(None, lane.policy_number), args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        outcome = reply[0]
        round, seen_at = lane.flight_stamp
        if outcome == b"conflict":
            names = list(self._places)
            for index, entry in zip(reply[6][::2], reply[6][1::2], strict=True):
                lane.snapshot.see_sku(names[index], entry, round, seen_at)
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]))
        elif outcome == b"known":
            self.undone(lane)
            known = dict(zip(reply[5][::2], reply[5][1::2], strict=True))
            whole = resent and len(known) == len(self.ops)
            for index, value in known.items():
                op = self.ops[index]
                # Our own keys and words: an earlier sending did it.
                if whole and wording.parse_key(value)[0] == op.key.fingerprint:
                    op.finish(None)
                else:
                    answer_known(op, value)
            lane.queues.requeue([op for i, op in enumerate(self.ops) if i not in known])
            lane.planner.distrust(self.stage.rows)
        else:
            self.took_effect(lane, reply[5])
            for name, places in self._places.items():
                sku = lane.snapshot.skus[name]
                entry = wording.sku_entry(sku.number, (*sku.locations, *places), sku.spec)
                lane.snapshot.see_sku(name, entry, round, seen_at)
            for op in self.ops:
                op.finish(None)


class SettleStep(Step):
    """One verb's records: commit, fulfil, give-backs or extend."""

    def __init__(self, ops: list[SettleOp]) -> None:
        self.ops = ops
        self._script = ops[0].script

    def command(self, lane: Lane) -> Command:
        names = [
            keys.META, keys.POOLS, keys.EVENTS, lane.done_list, *lane.short_window,
            *lane.long_window,
        ]  # fmt: skip
        known: dict[bytes, int] = {}
        args: list[Any] = [len(self.ops), self._script.name]
        places = [index_of(names, known, op.bucket) for op in self.ops]
        buckets = len(names)
        now_ms = lane.now_ms
        for op, at in zip(self.ops, places, strict=True):
            argument: Any = op.argument
            if op.limit_ms:
                deadline = now_ms + op.deadline_ms
                due = index_of(names, known, keys.due_at(deadline // 1000))
                argument = f"{deadline} {due} {op.limit_ms}"
            key = op.key
            args += (
                at, op.id, op.verb, b"" if op.wanted is None else op.wanted,
                key.field if key else b"", key.fingerprint if key else b"", op.parts, argument,
            )  # fmt: skip
        timed = self._script is scripts.EXTEND
        if timed:
            args.append(len(names) - buckets)
        # A deadline is judged only on a clock that this worker knows; the limit of an extension is
        # the policy's.
        head = lane.head(now_ms, lane.policy_number if timed else None)
        return _evalsha(self._script, names, head, args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        answers, rows = reply[5], reply[6]
        round, seen_at = lane.flight_stamp
        for pool, text in zip(rows[::2], rows[1::2], strict=True):
            lane.snapshot.see_written(pool, text, round, seen_at)
        later = []
        for op, code, detail in zip(self.ops, answers[::2], answers[1::2], strict=True):
            if code == b"later":
                later.append(op)
            else:
                op.finish((code.decode(), detail))
        lane.queues.requeue(later)


class DueStep(Step):
    """Tidies the lists of deadlines behind the expiries of the same pipeline."""

    def __init__(self, lists: dict[int, list[str]]) -> None:
        self._lists = lists
        self._put_off: list[str] = []

    def command(self, lane: Lane) -> Command:
        later = keys.due_at(lane.now_ms // 1000 + PUT_OFF_SECONDS)
        names = [keys.META, later, *(keys.due_at(second) for second in self._lists)]
        known: dict[bytes, int] = {}
        args: list[Any] = [len(self._lists)]
        for second, ids in self._lists.items():
            args += (second, len(ids))
            for each in ids:
                off = lane.deadlines.is_set_aside(each)
                if off:
                    self._put_off.append(each)
                at = index_of(names, known, keys.bucket_of(each))
                args += (at, each, "1" if off else "")
        return _evalsha(scripts.DUE, names, lane.head(None), args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        counts = reply[5]
        for second, left, kept, earliest in zip(
            self._lists, counts[::3], counts[1::3], counts[2::3], strict=True
        ):
            lane.deadlines.tidied(second, left, kept, int(earliest))
        lane.deadlines.put_off(self._put_off)


class LookStep(Step):
    """What must be seen before planning or refusing."""

    def __init__(
        self,
        pairs: Iterable[tuple[str, str | None]],
        keyed: list[ReserveOp],
        seconds: list[int],
    ) -> None:
        rows = dict.fromkeys(pair for pair in pairs if pair[1] is not None)
        self._rows = list(rows)
        self._skus = list(dict.fromkeys(sku for sku, _ in pairs))
        self._keyed = keyed
        self._seconds = seconds

    def command(self, lane: Lane) -> Command:
        names = [
            keys.META, keys.POOLS, keys.SKUS, *lane.short_window,
            *(keys.due_at(second) for second in self._seconds),
        ]  # fmt: skip
        args: list[Any] = [len(self._rows), len(self._skus), len(self._keyed)]
        args += [f"{sku}@{location}" for sku, location in self._rows]
        args += self._skus
        args += [op.key.field for op in self._keyed if op.key is not None]
        for second in self._seconds:
            args += lane.deadlines.quiet(second)
        return _evalsha(scripts.LOOK, names, lane.head(None, lane.policy_number), args)

    def landed(self, lane: Lane, reply: list[Any], resent: bool) -> None:
        _, _, server_ms, _, _, rows, skus, values, due = reply
        round, seen_at = lane.flight_stamp
        snapshot = lane.snapshot
        for name, entry in zip(self._skus, skus, strict=True):
            snapshot.see_sku(name, entry, round, seen_at)
        for (sku, location), text in zip(self._rows, rows, strict=True):
            assert location is not None
            snapshot.see_row(sku, location, text, round, seen_at)
        for op, value in zip(self._keyed, values, strict=True):
            if value:
                answer_known(op, value)
            else:
                op.key_round = round
        if lane.clock.suspect:
            lane.deadlines.not_judged(round, seen_at)
        else:
            lane.deadlines.looked(
                dict(zip(self._seconds, due, strict=True)), server_ms, round, seen_at
            )


def answer_known(op: ReserveOp | ReceiveOp, value: bytes) -> None:
    """Finishes an op whose key was used: with what it stands for, or KeyReused."""
    fingerprint, _, _ = wording.parse_key(value)
    assert op.key is not None
    op.finish(Known(value) if fingerprint == op.key.fingerprint else KeyReused())


def randomness(count: int) -> bytes:
    """Eight unguessable bytes per id."""
    return os.urandom(8 * count)
