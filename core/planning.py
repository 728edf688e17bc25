"""How a pipeline is formed: what waits is planned, refused, or looked up first.

Stock first (planned on the rows last answered), then reserves (planned on what those leave), late
commits, the settling verbs, and last a look at what must be seen before the next plan. Decides and
never awaits.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from core.deadlines import Deadlines
from core.errors import InvalidRequest, Overloaded, StockadeError, StockUnavailable, UnknownChannel
from core.kernel._plan import (
    ADDED,
    FULL,
    MISS,
    UNKNOWN_CHANNEL,
    UNKNOWN_LOCATION,
    UNKNOWN_SKU,
    Batch,
    Stage,
)
from core.kernel._policy import Row
from core.kernel._pool import ChannelUnknown, LawBroken, RowCorrupt
from core.ops import ReceiveOp, ReserveOp, SettleOp
from core.queues import Queues
from core.refusals import insufficient, too_much, unknown_location, unknown_locations, unknown_sku
from core.snapshot import Snapshot
from core.steps import (
    DueStep,
    LookStep,
    ReacquireStep,
    ReceiveStep,
    ReserveStep,
    SettleStep,
    Step,
    randomness,
)
from core.store import keys, scripts

LINES_MAX = 2_000  # of one script: two values a line stay far below Lua's 7,999
OPS_MAX = 1_000  # records of one settling script: eight values each
LOOK_MAX = 4_000  # rows of one look
TURNS_MAX = 64  # rounds that a demand may wait for reads and for deadlines to be drained

log = logging.getLogger("stockade.lane")


class Expiry:
    """Waits for an expiry that nobody asked for: a record that cannot expire is set aside."""

    __slots__ = ("_deadlines", "_id")

    def __init__(self, deadlines: Deadlines, reservation_id: str) -> None:
        self._deadlines = deadlines
        self._id = reservation_id

    def done(self) -> bool:
        return False

    def set_result(self, result: Any) -> None:
        if not isinstance(result, StockadeError) and result[0] == "corrupt":
            self._deadlines.set_aside(self._id)
            log.error("reservation %s cannot expire: its record or pool is corrupt", self._id)


class Planner:
    """Forms the steps of a lane's pipelines."""

    def __init__(
        self,
        queues: Queues,
        snapshot: Snapshot,
        deadlines: Deadlines,
        counts: Counter[str],
        staleness_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        """``now_ms`` estimates the server's time."""
        self._queues = queues
        self._snapshot = snapshot
        self._deadlines = deadlines
        self._counts = counts
        self._staleness_ms = staleness_ms
        self._now_ms = now_ms
        self._batch = Batch()
        self._wanted: dict[tuple[str, str | None], None] = {}
        self._keyed: list[ReserveOp] = []
        self.policy_round = -1  # pipeline in which the policy was last known to be current
        self.look_due = False
        self._short = False  # planning ahead found too little: the rows must be seen first

    def planned_steps(self, steps: list[Step], monotonic: float) -> None:
        """Receives, reserves and late commits, each on what the one before leaves."""
        self._short = False
        policy = self._snapshot.policy
        if policy is None:
            return
        self._batch.begin(policy, self._snapshot.skus)
        self._plan_receives(steps)
        self._plan_reserves(steps, monotonic)
        self._plan_reacquires(steps, monotonic)

    def calm(self) -> bool:
        """True if only demands wait that may be granted, so that planning ahead delays nobody."""
        queues = self._queues
        return not (
            self._short or self._wanted or self._keyed or self.look_due or self._deadlines.drains
            or queues.contended or queues.receives or queues.reacquires
            or any(queues.settles.values())
        )  # fmt: skip

    def step_ahead(self, steps: list[Step]) -> None:
        """Plans what waits on the rows that the pipeline under way is to leave. Grants alone: what
        cannot be granted goes back, for only a row that was seen may refuse."""
        policy = self._snapshot.policy
        assert policy is not None, "a pipeline with a plan is under way"
        self._batch.begin(policy, self._snapshot.skus)
        self._plan_reserves(steps, None)

    def distrust(self, rows: Iterable[Row]) -> None:
        """Rows that may have moved are read again before the next plan on them."""
        for row in rows:
            self._wanted[(row.sku, row.location)] = None

    def forget_wishes(self) -> None:
        """Nobody waits for a look any more."""
        self._keyed.clear()
        self._wanted.clear()

    def _plan_receives(self, steps: list[Step]) -> None:
        batch, snapshot = self._batch, self._snapshot
        planned: list[ReceiveOp] = []
        later: list[ReceiveOp] = []
        places: dict[str, list[str]] = {}
        fields: set[bytes] = set()
        while self._queues.receives and len(planned) < OPS_MAX:
            op = self._queues.receives.popleft()
            if op.gone():
                continue
            sku = snapshot.skus.get(op.sku)
            policy = snapshot.policy
            assert policy is not None
            if sku is None or (sku.number == 0 and sku.round <= op.round):
                self._wanted[(op.sku, op.location)] = None
                later.append(op)
            elif sku.number == 0:
                op.finish(unknown_sku([op], snapshot.skus, op.index))
            elif op.location not in policy.locations:
                if self.policy_round <= op.round:
                    self._wanted[(op.sku, None)] = None
                    later.append(op)
                else:
                    op.finish(unknown_location([op.location]))
            elif op.location in sku.locations and op.location not in sku.rows:
                self._wanted[(op.sku, op.location)] = None
                later.append(op)
            elif op.key.field in fields:
                later.append(op)
            else:
                try:
                    moves = batch.receive(snapshot.row(sku, op.location), sku, op.quantity)
                except OverflowError:
                    op.finish(too_much(op))
                    continue
                except RowCorrupt as error:
                    self._corrupt(op, [op], error)
                    continue
                except ChannelUnknown:  # the look says whether the policy or the SKU has moved on
                    self._wanted[(op.sku, op.location)] = None
                    later.append(op)
                    continue
                if moves is None:
                    later.append(op)
                    break
                op.moves = moves
                fields.add(op.key.field)
                if op.location not in sku.locations:
                    new = places.setdefault(op.sku, [])
                    if op.location not in new:
                        new.append(op.location)
                planned.append(op)
        self._queues.receives.extendleft(reversed(later))
        if planned:
            stage = self._packed(planned, True)
            if stage is not None:
                steps.append(ReceiveStep(stage, planned, places))

    def _plan_reserves(self, steps: list[Step], monotonic: float | None) -> None:
        queue = self._queues.contended if self._queues.contended else self._queues.reserves
        granted, due, now_ms = self._plan_demands(queue, monotonic)
        stage = self._packed(granted) if granted else None
        if stage is not None:
            steps.append(ReserveStep(stage, granted, due, now_ms))

    def _plan_reacquires(self, steps: list[Step], monotonic: float) -> None:
        if not self._queues.reacquires:
            return
        granted, _, _ = self._plan_demands(self._queues.reacquires, monotonic)
        stage = self._packed(granted) if granted else None
        if stage is not None:
            steps.append(ReacquireStep(stage, granted))

    def _packed(self, ops: Sequence[Any], receiving: bool = False) -> Stage | None:
        """The planned rows, printed. None if they would break a law: a defect, and nobody waits."""
        try:
            return self._batch.pack(receiving)
        except LawBroken as error:
            log.critical("a plan was not sent: %s", error)
            self._counts["law_broken"] += 1
            for op in ops:
                op.finish(StockUnavailable(f"The plan for it was not sent: {error}"))
            self._batch.begin(self._batch.policy, self._snapshot.skus)
            return None

    def _plan_demands(
        self, queue: deque[Any], monotonic: float | None
    ) -> tuple[list[Any], dict[int, list[str]], int]:
        """Plans what waits in a queue. Refusals that may stand are answered; what must be seen
        first goes back into the queue, and what it rests on onto the list of the next look.
        ``monotonic`` None: ahead of an answer, when no refusal may stand."""
        batch = self._batch
        batch.begin_stage()
        later: list[ReserveOp] = []
        fields: set[bytes] = set()
        ids: set[str] = set()
        lines = 0
        while queue and lines < LINES_MAX:
            op = queue.popleft()
            if op.gone():
                continue
            if op.id is not None:  # a late commit: a record takes its units anew only once
                if op.id in ids:
                    later.append(op)
                    continue
                ids.add(op.id)
            key = op.key
            if key is not None:
                if key.field in fields:
                    later.append(op)  # a twin: the first one answers for it
                    continue
                fields.add(key.field)
            try:
                code = batch.add(op)
            except RowCorrupt as error:
                self._corrupt(op, op.lines, error)
                continue
            except ChannelUnknown as error:
                self._want(op, [(str(error), None)], later)
                continue
            if code == ADDED:
                lines += len(op.lines)
                op.set_deadline(batch.policy)
            elif code == FULL:
                if not batch.rows:
                    op.finish(InvalidRequest("Too many pools are in question; pin locations"))
                    continue
                later.append(op)
                break
            elif code == MISS:
                self._want(op, batch.misses, later)
                batch.misses.clear()
            else:
                self._unknown(op, code, later)
        if not batch.demands:
            queue.extendleft(reversed(later))
            return [], {}, 0
        if batch.plan() < len(batch.demands):
            if monotonic is None:
                self._short = True
                later += [op for n, op in enumerate(batch.demands) if not batch.granted(n)]
            else:
                self._refuse(batch, later, monotonic)
        now_ms = self._now_ms()
        granted, due = batch.pack_reservations(
            now_ms, randomness(len(batch.demands)), keys.SHARD
        )
        queue.extendleft(reversed(later))
        return granted, due, now_ms

    def _refuse(self, batch: Batch, later: list[ReserveOp], monotonic: float) -> None:
        """Demands that got nothing: answered if what they rest on was seen, else looked at."""
        since = monotonic - self._staleness_ms if self._staleness_ms else float("inf")
        for number, op in enumerate(batch.demands):
            if batch.granted(number):
                continue
            seen = (
                (op.key is None or op.key_round > op.round)
                and (self.policy_round > op.round or self._deadlines.clear_at >= since)
                and (self._deadlines.clear_round > op.round or self._deadlines.clear_at >= since)
                and batch.confirmed(number, op.round, since)
            )
            if seen and op.content and not op.partial:
                op.partial = True
                self.look_due = True
                later.append(op)
            elif seen:
                self._counts["refused"] += 1
                op.finish(insufficient(batch.shortfalls(number)))
            else:
                if op.key is not None:
                    self._keyed.append(op)
                self.look_due = True
                self._want(op, batch.reads(number), later)

    def _want(
        self, op: ReserveOp, pairs: Iterable[tuple[str, str | None]], later: list[ReserveOp]
    ) -> None:
        """The demand waits until these were looked at; bounded."""
        op.turns += 1
        if op.turns > TURNS_MAX:
            op.finish(Overloaded("More deadlines are due than can be settled now; try again"))
            return
        self._wanted.update(dict.fromkeys(pairs))
        later.append(op)

    def _corrupt(self, op: ReserveOp | ReceiveOp, lines: list[Any], error: RowCorrupt) -> None:
        """A row that cannot be read: only who needs it is refused; it may be mended meanwhile."""
        self._counts["corrupt"] += 1
        log.error("the store holds a row that is not one: %s", error)
        for line in lines:
            sku = self._snapshot.skus.get(line.sku)
            if sku is not None:
                self.distrust(sku.rows.values())
        op.finish(StockUnavailable(f"the store holds a row that is not one: {error}"))

    def _unknown(self, op: ReserveOp, code: int, later: list[ReserveOp]) -> None:
        """A name that this worker does not know: asked for once, then refused."""
        if code == UNKNOWN_CHANNEL:
            if self.policy_round > op.round:
                op.finish(UnknownChannel())
                return
        elif code == UNKNOWN_LOCATION:
            if self.policy_round > op.round:
                op.finish(unknown_locations(op.lines, self._batch.policy))
                return
        elif code == UNKNOWN_SKU:
            known = self._snapshot.skus
            missing = [line for line in op.lines if not known[line.sku].number]
            if all(known[line.sku].round > op.round for line in missing):
                op.finish(unknown_sku(op.lines, known))
                return
        self._want(op, [(line.sku, None) for line in op.lines], later)

    def settle_steps(self, steps: list[Step], tidying: bool) -> None:
        """Commits, fulfils, give-backs, extensions; a record at most once in a pipeline."""
        busy: set[str] = set()
        drains, self._deadlines.drains = self._deadlines.drains, {}
        for second, ids in drains.items():
            drains[second] = [each for each in ids if self._expire(each)]
        for queue in self._queues.settles.values():
            ops: list[SettleOp] = []
            later: list[SettleOp] = []
            while queue and len(ops) < OPS_MAX + 1_000 * bool(drains):
                op = queue.popleft()
                if op.gone():
                    continue
                if op.id in busy:
                    later.append(op)
                    continue
                busy.add(op.id)
                ops.append(op)
            queue.extendleft(reversed(later))
            if ops:
                steps.append(SettleStep(ops))
        now_ms = self._now_ms()
        # With no reaper whoever is to be refused tidies, or would never see what is due now.
        if tidying or (self.look_due and self._deadlines.far_behind(now_ms)):
            for second in self._deadlines.passed(now_ms):
                drains.setdefault(second, [])
        if drains:
            steps.append(DueStep(drains))

    def _expire(self, reservation_id: str) -> bool:
        """Queues an expiry. False for what cannot be an id: somebody else wrote to the list."""
        if self._deadlines.is_set_aside(reservation_id):
            return True
        expiry = Expiry(self._deadlines, reservation_id)
        try:
            op = SettleOp("expire", reservation_id, expiry)
        except ValueError:
            self._deadlines.set_aside(reservation_id)
            log.error("a list of deadlines holds %r, which is no reservation", reservation_id)
            return False
        self._queues.settles[scripts.GIVEBACK.name].append(op)
        return True

    def look_step(self, steps: list[Step], tidying: bool) -> None:
        if not (self._wanted or self._keyed or self.look_due or tidying):
            return
        pairs = list(self._wanted)[:LOOK_MAX]
        for pair in pairs:
            del self._wanted[pair]
        keyed, self._keyed = [op for op in self._keyed if not op.gone()], []
        self.look_due = False
        steps.append(LookStep(pairs, keyed, self._deadlines.seconds(self._now_ms())))
