"""How a pipeline is formed: what waits is planned, refused, or looked up first.

Stock first (planned on the rows last answered), then reserves (planned on what those leave),
amends, late commits, returns, the settling verbs, and last a look at what must be seen before the
next plan. Decides and never awaits.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from core.availability import AvailabilityOp, Reader
from core.clock import monotonic_ms
from core.customers import Entries
from core.deadlines import Deadlines, Expiry
from core.errors import InvalidRequest, Overloaded, StockUnavailable, UnknownChannel
from core.kernel._plan import (
    ADDED,
    FULL,
    MISS,
    NO_CUSTOMER,
    UNKNOWN_CHANNEL,
    UNKNOWN_LOCATION,
    UNKNOWN_SKU,
    Batch,
    Stage,
)
from core.kernel._policy import Row
from core.kernel._pool import ChannelUnknown, LawBroken, RowCorrupt
from core.limiting import Limiter
from core.meters import Meters
from core.ops import NoPool, ReserveOp, SettleOp, StockOp
from core.pace import ROOM_MIN, Pace
from core.queues import Queues
from core.refusals import insufficient, poolless, unknown_locations, unknown_sku
from core.replan_ops import ReturnOp
from core.replan_steps import ReplanStep
from core.return_planning import ReturnPlanner
from core.snapshot import Snapshot
from core.steps import (
    DueStep,
    LookStep,
    ReserveStep,
    SettleStep,
    Step,
    randomness,
)
from core.stock_planning import StockPlanner
from core.store import keys, scripts

OPS_MAX = 1_000  # records of one settling script: eight values each
LOOK_MAX = 4_000  # rows of one look
TRIALS_MAX = 200  # demands that only ask, planned in one turn
TURNS_MAX = 64  # rounds that a demand may wait for reads and for deadlines to be drained

log = logging.getLogger("stockade.lane")


class Planner:
    """Forms the steps of a lane's pipelines."""

    def __init__(
        self,
        queues: Queues,
        snapshot: Snapshot,
        deadlines: Deadlines,
        meters: Meters,
        staleness_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        """``now_ms`` estimates the server's time."""
        self._queues = queues
        self._snapshot = snapshot
        self._deadlines = deadlines
        self._meters, self._counts = meters, meters.lane
        self._staleness_ms = staleness_ms
        self._now_ms = now_ms
        self.pace = Pace()
        self._batch = Batch()
        self._wanted: dict[tuple[str, str | None], None] = {}
        self._keyed: list[ReserveOp] = []
        self._stock = StockPlanner(
            queues, snapshot, deadlines, self._wanted, self._corrupt, self._packed
        )
        self._returns = ReturnPlanner(queues, snapshot, self._wanted, self._corrupt, self._packed)
        self._reader = Reader(snapshot, meters.lane)
        self.limiter = Limiter(queues, deadlines, lambda: self._since(monotonic_ms()))
        self.policy_round = -1  # pipeline in which the policy was last known to be current
        self.policy_seen_ms = -1e9  # and when that was sent, monotonic
        self.look_due = False
        self._short = False  # planning ahead found too little: the rows must be seen first

    def planned_steps(self, steps: list[Step], monotonic: float) -> None:
        """What is planned, each on what the one before leaves."""
        self._short = False
        policy = self._snapshot.policy
        if policy is None:
            return
        if self._queues.limited:
            self.limiter.ask_again()
        missing = self._reader.answer_all(self._queues.reads, self._policy_seen, monotonic)
        self._wanted.update(dict.fromkeys(missing))
        self._answer_trials(monotonic)
        self._batch.begin(policy, self._snapshot.skus)
        stock = self._stock.step(self._batch, self.policy_round)
        self.look_due = self.look_due or self._stock.look_due
        if stock is not None:
            steps.append(stock)
        self._plan_reserves(steps, monotonic)
        self._plan_replans(steps, monotonic)

    def answers(self, op: AvailabilityOp, monotonic: float) -> bool:
        """Answers a read at once if all of it was seen lately."""
        return not self._reader.answer(op, self._policy_seen, monotonic)

    @property
    def _policy_seen(self) -> tuple[int, float]:
        return self.policy_round, self.policy_seen_ms

    def calm(self) -> bool:
        """True if only demands wait that may be granted, so that planning ahead delays nobody."""
        queues = self._queues
        return not (
            self._short or self._wanted or self._keyed or self.look_due or self._deadlines.drains
            or queues.contended or queues.stocks or queues.amends or queues.lates
            or queues.returns or queues.trials or queues.reads or queues.limited
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

    def _plan_reserves(self, steps: list[Step], monotonic: float | None) -> None:
        queue = self._queues.contended if self._queues.contended else self._queues.reserves
        granted, due, now_ms = self._plan_demands(queue, monotonic)
        stage = self._packed(granted) if granted else None
        if stage is not None:
            entries = None
            if self._batch.limited:
                entries = Entries(now_ms)
                for index, op in enumerate(granted):
                    op.count(entries, index)
            steps.append(ReserveStep(stage, granted, due, now_ms, entries))

    def _plan_replans(self, steps: list[Step], monotonic: float) -> None:
        """Amends, late commits, returns: a record at most once in a pipeline."""
        busy: set[str] = set()
        self.limiter.refuse_unnamed(self._snapshot.skus)
        for queue in (self._queues.amends, self._queues.lates):
            if not queue:
                continue
            for op in queue:
                op.follow(self._batch.policy)
            granted, _, now_ms = self._plan_demands(queue, monotonic, busy)
            for op in granted:
                op.compose(now_ms, randomness(1).hex())
            stage = self._packed(granted) if granted else None
            if stage is not None:
                steps.append(ReplanStep(stage, granted, now_ms))
        step = self._returns.step(self._batch, busy, self._now_ms(), randomness)
        if step is not None:
            steps.append(step)

    def _answer_trials(self, monotonic: float) -> None:
        """Demands that only ask: each is planned on rows that were seen, by itself, and the plan is
        thrown away. Before anything else is planned, so that no row is a mere expectation."""
        batch, queue = self._batch, self._queues.trials
        later: list[Any] = []
        for _ in range(min(len(queue), TRIALS_MAX)):
            op = queue.popleft()
            if op.gone():
                continue
            policy = self._snapshot.policy
            assert policy is not None
            batch.begin(policy, self._snapshot.skus)
            op.reset()
            code = self._add(op, later)
            if code == FULL:
                op.finish(InvalidRequest("Too many pools are in question; pin locations"))
            elif code == ADDED and not self._seen(op, 0, monotonic):
                self._look_at(op, 0, later)
            elif code == ADDED:
                batch.plan()
                if batch.granted(0):
                    batch.pack_reservations(self._now_ms(), randomness(1), keys.SHARD)
                    op.finish(op)
                else:
                    op.finish(insufficient(batch.shortfalls(0)))
        queue.extendleft(reversed(later))

    def _packed(self, ops: Sequence[Any]) -> Stage | None:
        """The planned rows, printed. None if they would break a law: a defect, and nobody waits."""
        try:
            return self._batch.pack()
        except LawBroken as error:
            log.critical("a plan was not sent: %s", error)
            self._counts["law_broken"] += 1
            for op in ops:
                op.finish(StockUnavailable(f"The plan for it was not sent: {error}"))
            self._batch.begin(self._batch.policy, self._snapshot.skus)
            return None

    def _plan_demands(
        self, queue: deque[Any], monotonic: float | None, busy: set[str] | None = None
    ) -> tuple[list[Any], dict[int, list[str]], int]:
        """Plans what waits in a queue. Refusals that may stand are answered; what must be seen
        first goes back into the queue, and what it rests on onto the list of the next look.
        ``monotonic`` None: ahead of an answer, when no refusal may stand. ``busy``: records that
        the pipeline changes already."""
        batch = self._batch
        batch.begin_stage()
        later: list[ReserveOp] = []
        self._take_in(queue, later, set() if busy is None else busy)
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

    def _take_in(self, queue: deque[Any], later: list[ReserveOp], busy: set[str]) -> None:
        """Takes what waits into the batch, as much as one script carries."""
        batch, policy = self._batch, self._batch.policy
        fields: set[bytes] = set()
        lines = 0
        room = max(ROOM_MIN, self.pace.room - self._queues.settling())
        alone = bool(queue) and queue[0].alone
        while queue and lines < room:
            op = queue.popleft()
            if op.waiter.done():
                continue
            if alone and not op.alone:
                later.append(op)
                break
            key, id = op.key, op.id
            if id is not None and id in busy:
                later.append(op)
                continue
            if key is not None:
                if key.field in fields:
                    later.append(op)  # a twin: the first one answers for it
                    continue
                fields.add(key.field)
            code = self._add(op, later)
            if code == ADDED:
                lines += len(op.lines)
                op.set_deadline(policy)
                if id is not None:
                    busy.add(id)
            elif code == FULL and batch.rows:
                later.append(op)
                break
            elif code == FULL:
                op.finish(InvalidRequest("Too many pools are in question; pin locations"))
        self.pace.take(lines)

    def _add(self, op: ReserveOp, later: list[ReserveOp]) -> int:
        """Adds a demand to the batch: ADDED, FULL, or MISS if it waits or was answered."""
        batch = self._batch
        try:
            code = batch.add(op)
        except RowCorrupt as error:
            self._corrupt(op, op.lines, error)
            return MISS
        except ChannelUnknown as error:  # its row is ahead of the policy, or names one that is gone
            name = str(error)
            rows = self._snapshot.skus[name].rows
            self._want(op, [(name, None), *((name, location) for location in rows)], later)
            return MISS
        if code == MISS:
            self._want(op, batch.misses, later)
            batch.misses.clear()
        elif code not in (ADDED, FULL):
            self._unknown(op, code, later)
            return MISS
        return code

    def _seen(self, op: ReserveOp, number: int, monotonic: float) -> bool:
        """True if all that the answer to a demand rests on was seen since it came in, or is not
        too old."""
        since = self._since(monotonic)
        return (
            (op.key is None or op.key_round > op.round)
            and (self.policy_round > op.round or self._deadlines.clear_at >= since)
            and (self._deadlines.clear_round > op.round or self._deadlines.clear_at >= since)
            and self._batch.confirmed(number, op.round, since)
        )

    def _since(self, monotonic: float) -> float:
        """What was seen before that is too old to refuse."""
        return monotonic - self._staleness_ms if self._staleness_ms else float("inf")

    def _look_at(self, op: ReserveOp, number: int, later: list[ReserveOp]) -> None:
        """The demand waits until all that its answer rests on was looked at."""
        if op.key is not None:
            self._keyed.append(op)
        self.look_due = True
        self._want(op, self._batch.reads(number), later)

    def _refuse(self, batch: Batch, later: list[ReserveOp], monotonic: float) -> None:
        """Demands that got nothing: answered if what they rest on was seen, else looked at."""
        for number, op in enumerate(batch.demands):
            if batch.granted(number):
                continue
            seen = self._seen(op, number, monotonic)
            if seen and op.content and not op.partial:
                op.partial = True
                self.look_due = True
                later.append(op)
            elif seen:
                self._counts["refused"] += 1
                self._meters.waits.observe_waits("reserve", (op,), monotonic)
                short = batch.shortfalls(number)
                op.finish(insufficient(short if op.cut is None else op.cut.shortfalls(short)))
            else:
                self._look_at(op, number, later)

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

    def _corrupt(
        self, op: ReserveOp | StockOp | ReturnOp, lines: list[Any], error: RowCorrupt
    ) -> None:
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
        elif code == NO_CUSTOMER:
            if self.limiter.refused_unnamed(op, self._snapshot.skus):
                return
        elif all(self._snapshot.skus[line.sku].round > op.round for line in op.lines):
            # A recorded sale has nothing to be told of.
            op.finish(NoPool(poolless(op, self._batch.policy, self._snapshot.skus)))
            return
        self._want(op, [(line.sku, None) for line in op.lines], later)

    def settle_steps(self, steps: list[Step], tidying: bool) -> None:
        """Verbs on records, each at most once in a pipeline."""
        busy = {op.id for step in steps if isinstance(step, ReplanStep) for op in step.ops}
        drains, self._deadlines.drains = self._deadlines.drains, {}
        for entries in drains.values():
            for entry in entries:
                for each in entry.split(" "):
                    self._expire(each)
        room = min(OPS_MAX, self.pace.room) + 1_000 * bool(drains)
        for queue in self._queues.settles.values():
            ops: list[SettleOp] = []
            later: list[SettleOp] = []
            while queue and len(ops) < room:
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
                self.pace.take(len(ops))
                steps.append(SettleStep(ops))
        now_ms = self._now_ms()
        # With no reaper whoever is to be refused tidies, or would never see what is due now.
        if tidying or (self.look_due and self._deadlines.far_behind(now_ms)):
            for second in self._deadlines.passed(now_ms):
                drains.setdefault(second, [])
        if drains:
            steps.append(DueStep(drains))

    def _expire(self, reservation_id: str) -> None:
        """Queues an expiry. What cannot be an id is told: somebody else wrote to the list."""
        if self._deadlines.is_set_aside(reservation_id):
            return
        expiry = Expiry(self._deadlines, reservation_id, self._meters)
        try:
            op = SettleOp("expire", reservation_id, expiry)
        except ValueError:
            self._deadlines.set_aside(reservation_id)
            log.error("a list of deadlines holds %r, which is no reservation", reservation_id)
            return
        op.trace = None  # whoever looks when it is due did not ask for it
        self._queues.settles[scripts.GIVEBACK.name].append(op)

    def look_step(self, steps: list[Step], tidying: bool) -> None:
        self.look_due = self.look_due or self.limiter.look_due
        self.limiter.look_due = False
        if not (self._wanted or self._keyed or self.look_due or tidying):
            return
        pairs = list(self._wanted)[:LOOK_MAX]
        for pair in pairs:
            del self._wanted[pair]
        keyed, self._keyed = [op for op in self._keyed if not op.gone()], []
        self.look_due = False
        steps.append(LookStep(pairs, keyed, self._deadlines.seconds(self._now_ms())))
