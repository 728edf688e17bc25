"""The parts of a pipeline: each step is one script with its ops, how it is asked, and what its
answer means. Plain sync code: the lane sends and receives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from core.customers import Entries
from core.kernel._plan import FULFILLED, RESERVED, Stage
from core.kernel._policy import Row
from core.model import Key
from core.ops import Receipt, ReserveOp, SettleOp, stands_for
from core.store import keys, scripts, wording
from core.store._pack import key_lines, record_lines
from core.store.link import Command

if TYPE_CHECKING:
    from core.lane import Lane


def evalsha(
    script: scripts.Script, names: list[bytes], head: list[Any], args: Iterable[Any]
) -> Command:
    """One script as a command."""
    return ("EVALSHA", script.sha, len(names), *names, *head, *args)


def asked_by(ops: Sequence[Any]) -> bytes:
    """Who asks, for the event: "actor -" if all of it was asked by one, who is known; by several,
    an empty line and one for each id, "id actor"; of nobody's none."""
    actors = {op.actor for op in ops}
    if len(actors) == 1:
        (one,) = actors
        return b"%b -" % wording.encode_text(one) if one else b""
    words = {each: wording.encode_text(each).decode() for each in actors}
    return "".join([f"\n{op.id} {words[op.actor]}" for op in ops if op.actor]).encode()


def index_of(names: list[bytes], known: dict[bytes, int], name: bytes) -> int:
    """Where a key stands in KEYS (from 1); appended at first use."""
    at = known.get(name)
    if at is None:
        names.append(name)
        at = known[name] = len(names)
    return at


PUT_OFF_SECONDS = 3_600  # until a record that cannot expire is tried again
IDS_MAX = 128  # of one entry of a list of deadlines: one is cheaper to write than many


class Step:
    """One script of a pipeline. ``landed`` gets every outcome but epoch, clock and policy."""

    script: scripts.Script
    ops: Sequence[Any] = ()

    def command(self, lane: Lane) -> Command:
        raise NotImplementedError

    def landed(self, lane: Lane, reply: list[Any]) -> None:
        raise NotImplementedError

    def launched(self, round: int, ahead: bool) -> None:
        """It goes out in the pipeline ``round``, ahead of an answer to the one before it or not."""

    def undone(self, lane: Lane) -> None:
        """Nothing of it happened: what was planned is void."""


class PlannedStep(Step):
    """A step that carries a plan: rows to swap or rebase."""

    stage: Stage
    round = 0  # the pipeline that carries it
    guessed = False  # planned on rows that a script before it was to leave

    def launched(self, round: int, ahead: bool) -> None:
        """It goes out now: until it has landed, its rows are what it makes of them."""
        self.round, self.guessed = round, ahead or self.stage.guessed
        for row in self.stage.rows:
            row.planned = round

    def undone(self, lane: Lane) -> None:
        for row, old in zip(self.stage.rows, self.stage.old, strict=True):
            row.void(old, self.round, self.guessed)

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

    script = scripts.RESERVE

    def __init__(
        self,
        stage: Stage,
        ops: list[ReserveOp],
        due: dict[int, list[str]],
        now_ms: int,
        entries: Entries | None,
    ) -> None:
        """``entries``: what customers take of limited SKUs, if there are any."""
        self.stage = stage
        self._entries = entries
        self.ops = ops
        self._due = due
        self._now_ms = now_ms
        keyed = [(op, op.key) for op in ops if op.key is not None]
        self._long = [each for each in keyed if each[1].of_batch]
        self._short = [each for each in keyed if not each[1].of_batch] if self._long else keyed

    def command(self, lane: Lane) -> Command:
        stage = self.stage
        names = [
            keys.META, keys.POOLS, keys.EVENTS, *lane.short_window, *lane.long_window,
            keys.bucket_at(self._now_ms), lane.done_list,
            *(keys.due_at(second) for second in self._due),
        ]  # fmt: skip
        counted = self._entries
        if counted is not None:
            names += counted.days()
        ids: list[Any] = [op.id for op in self.ops]
        records: list[Any] = [op.record for op in self.ops]
        both: list[Any] = [None] * (2 * len(ids))
        both[::2], both[1::2] = ids, records
        held = [op.ttl_ms for op in self.ops if op.state == RESERVED]
        ended = [op.id for op in self.ops if op.state == FULFILLED]
        most, entries = lane.planner.limiter.live_most, 0 if counted is None else len(counted)
        args: list[Any] = [
            len(stage.pools), len(ids), len(self._short), len(self._long), len(self._due),
            self._now_ms + min(held) if held else "",
            "" if len(held) == len(ids) else self._moves(), len(ended),
            entries if most is None else f"{entries} {most}",
            record_lines(ids, records), _lines(self._short), _lines(self._long),
        ]  # fmt: skip
        args += stage.pools
        args += stage.old
        args += stage.new
        args += stage.deltas
        args += both
        args += [key.field for _, key in self._short]
        args += [key.field for _, key in self._long]
        for held_then in self._due.values():
            starts = range(0, len(held_then), IDS_MAX)
            args.append(len(starts))
            args += [" ".join(held_then[start : start + IDS_MAX]) for start in starts]
        args += ended
        if counted is not None:
            args += counted.words(names)
        if most is not None:
            names.append(keys.LIVE)
        head = lane.head(self._now_ms, lane.policy_number, asked_by(self.ops))
        return evalsha(self.script, names, head, args)

    def _moves(self) -> str:
        """The movements of what its record does not explain: facts, and what has left already."""
        found = []
        for op in self.ops:
            moves = op.moves or []
            if op.state == FULFILLED and not op.fact:
                committed = f"committed:{op.channel}"
                for line in wording.parse_record(op.record).lines:
                    pool = line.pool.encode()
                    moves = [
                        *moves, (pool, f"free:{op.channel}", committed, line.own),
                        (pool, "shared", committed, line.borrowed),
                        (pool, committed, "outside", line.own + line.borrowed),
                    ]  # fmt: skip
            found += [
                f"{pool.decode()} {source} {to} {units} {op.id}"
                for pool, source, to, units in moves
                if units
            ]
        return "\n".join(found)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
        outcome = reply[0]
        if outcome == b"conflict":
            lane.queues.replan(self.ops, self.conflicted(lane, reply[5]))
        elif outcome == b"limit":
            self.undone(lane)
            over = {} if self._entries is None else self._entries.over(reply[5])
            crowd = dict(zip(reply[6][::2], reply[6][1::2], strict=True))
            lane.planner.limiter.passed(self.ops, over, crowd)
        elif outcome == b"known" and reply[5] == b"keys":
            self.undone(lane)
            keyed = [*self._short, *self._long]
            found = dict(zip(reply[6][::2], reply[6][1::2], strict=True))
            for index, value in found.items():
                op, key = keyed[index]
                op.finish(stands_for(key, value))
            answered = {id(keyed[index][0]) for index in found}
            lane.queues.requeue([op for op in self.ops if id(op) not in answered])
        else:
            if outcome == b"known":
                self.as_met(lane, reply[6])
            else:
                self.took_effect(lane, reply[5])
            durability = lane.durability
            for op in self.ops:
                op.finish(Receipt(op.id, op.record, durability, False, False, op.shortfalls))


def _lines(keyed: list[tuple[ReserveOp, Key]]) -> bytes:
    """What the keys of new reservations stand for, as one text."""
    ids: list[Any] = [op.id for op, _ in keyed]
    fields, fingerprints = [key.field for _, key in keyed], [key.fingerprint for _, key in keyed]
    return key_lines(fields, fingerprints, b"201", ids)


class SettleStep(Step):
    """One verb's records: commit, fulfil, give-backs, extend, or what may be planned anew."""

    def __init__(self, ops: list[SettleOp]) -> None:
        self.ops = ops
        self.script = ops[0].script

    def command(self, lane: Lane) -> Command:
        names = [
            keys.META, keys.POOLS, keys.EVENTS, lane.done_list, *lane.short_window,
            *lane.long_window, keys.LIVE,
        ]  # fmt: skip
        known: dict[bytes, int] = {}
        args: list[Any] = [len(self.ops), self.script.name]
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
                op.parts, argument, *key_words(key),
            )  # fmt: skip
        timed = self.script is scripts.EXTEND
        if timed:
            args.append(len(names) - buckets)
        elif self.script is scripts.GIVEBACK:
            args.append(index_of(names, known, keys.LIMITS))
            for op in self.ops:
                day = keys.created_ms(op.id) // keys.DAY_MS
                args += (index_of(names, known, keys.customers_on(day)), day)
        # A deadline is judged only on a clock that this worker knows; the limit of an extension is
        # the policy's.
        head = lane.head(now_ms, lane.policy_number if timed else None, asked_by(self.ops))
        return evalsha(self.script, names, head, args)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
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

    script = scripts.DUE

    def __init__(self, lists: dict[int, list[str]]) -> None:
        """``lists``: second → its first entries."""
        self._lists = lists
        self._put_off: list[str] = []

    def command(self, lane: Lane) -> Command:
        later = keys.due_at(lane.now_ms // 1000 + PUT_OFF_SECONDS)
        names = [keys.META, later, *(keys.due_at(second) for second in self._lists)]
        known: dict[bytes, int] = {}
        args: list[Any] = [len(self._lists)]
        for second, entries in self._lists.items():
            args += (second, len(entries))
            for entry in entries:
                ids = entry.split(" ")
                args.append(len(ids))
                for each in ids:
                    off = lane.deadlines.is_set_aside(each)
                    if off:
                        self._put_off.append(each)
                    try:
                        at = index_of(names, known, keys.bucket_of(each))
                    except ValueError:  # no id, so no bucket has it, as little as meta does
                        at = 1
                    args += (at, each, "1" if off else "")
        return evalsha(self.script, names, lane.head(None), args)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
        counts = reply[5]
        for second, left, kept, earliest in zip(
            self._lists, counts[::3], counts[1::3], counts[2::3], strict=True
        ):
            lane.deadlines.tidied(second, left, kept, int(earliest))
        lane.deadlines.put_off(self._put_off)


class LookStep(Step):
    """What must be seen before planning or refusing."""

    script = scripts.LOOK

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
            keys.META, keys.POOLS, keys.SKUS, *lane.short_window, *lane.long_window,
            *(keys.due_at(second) for second in self._seconds),
        ]  # fmt: skip
        args: list[Any] = [len(self._rows), len(self._skus), len(self._keyed)]
        args += [f"{sku}@{location}" for sku, location in self._rows]
        args += self._skus
        args += [op.key.field for op in self._keyed if op.key is not None]
        for second in self._seconds:
            args += lane.deadlines.quiet(second)
        return evalsha(self.script, names, lane.head(None, lane.policy_number), args)

    def landed(self, lane: Lane, reply: list[Any]) -> None:
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
                assert op.key is not None
                op.finish(stands_for(op.key, value))
            else:
                op.key_round = round
        if lane.clock.suspect:
            lane.deadlines.not_judged(round, seen_at)
        else:
            lane.deadlines.looked(
                dict(zip(self._seconds, due, strict=True)), server_ms, round, seen_at
            )


def key_words(key: Key | None) -> tuple[bytes, bytes, bytes]:
    """Key, fingerprint and mark as a script takes them."""
    return (key.field, key.fingerprint, key.mark) if key else (b"", b"", b"")


def randomness(count: int) -> bytes:
    """Eight unguessable bytes per id."""
    return os.urandom(8 * count)
