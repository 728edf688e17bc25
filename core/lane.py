"""Group commit: what waits while a pipeline is in flight is drained together and sent as the next.

A pipeline holds at most one script per verb: stock first (planned on the rows last answered), then
reserves (planned on what those leave), late commits, commits, fulfils, give-backs, extensions, and
last a look at what must be seen before the next plan. Everything here is plain sync code that
decides; the link sends and calls back. One object per worker and shard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

from core.clock import ServerClock, monotonic_ms
from core.deadlines import Deadlines
from core.errors import (
    Draining,
    InsufficientStock,
    InvalidRequest,
    Outcome,
    Overloaded,
    StockadeError,
    StockUnavailable,
    UnknownChannel,
    UnknownLocation,
    UnknownSku,
)
from core.kernel._plan import (
    ADDED,
    FULL,
    MISS,
    UNKNOWN_CHANNEL,
    UNKNOWN_LOCATION,
    UNKNOWN_SKU,
    Batch,
)
from core.kernel._policy import Row
from core.kernel._pool import ChannelUnknown, RowCorrupt
from core.model import NAME_RULE, SKU_RULE, Durability, is_name, is_sku
from core.ops import ReacquireOp, ReceiveOp, ReserveOp, SettleOp
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
from core.store.link import Command, Link, Replies, ReplyError, pack_command

LINES_MAX = 2_000  # of one script: two values a line stay far below Lua's 7,999
OPS_MAX = 1_000  # records of one settling script: eight values each
LOOK_MAX = 4_000  # rows of one look
CONFLICTS_ALONE = 4  # from this conflict on, contended demands go as a batch of their own
CONFLICTS_MAX = 16  # replans of a demand
STOCK_CONFLICTS_MAX = 64  # replans of a line of stock: facts should get through
CLOCK_TRIES_MAX = 3  # proposals of time in a row that the store may refuse
TURNS_MAX = 64  # rounds that a demand may wait for reads and for deadlines to be drained
SEND_AT = 128  # an idle lane does not wait for more than this: half the callers plan meanwhile
RESEND_SECONDS = 2.0  # how long a broken pipeline is sent again before its outcome is unknown

Failure = Callable[[Outcome, str | None], StockadeError]  # (outcome, reservation) → its error

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


class Flight:
    """One pipeline under way."""

    __slots__ = ("payload", "resent", "sent_ms", "since_ms", "steps", "timer")

    def __init__(self, steps: list[Step], payload: bytes, sent_ms: float) -> None:
        self.steps = steps
        self.payload = payload
        self.sent_ms = sent_ms
        self.since_ms = sent_ms
        self.resent = False
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """The queue of a shard in one worker, and its one pipeline in flight."""

    def __init__(
        self,
        *,
        durability: Durability,
        staleness_ms: int,
        short_window_ms: int,
        long_window_ms: int,
        queue_limit: int,
        timeout_seconds: float,
        trouble: Callable[[str], None],
    ) -> None:
        """``trouble(kind)`` is called once when the lane needs help from outside: ``link`` (lost),
        ``policy`` (out of date), ``epoch`` (another shard) or ``scripts`` (unknown to the server).
        """
        self.durability = durability
        self.snapshot = Snapshot()
        self.clock = ServerClock()
        self.deadlines = Deadlines()
        self.counts: Counter[str] = Counter()
        self.epoch = ""
        self.seq = 0
        self.full = False  # the store's memory is nearly used up: no new reservations
        self.closed: StockadeError | None = Draining("this worker has not started yet")
        self.flight_stamp = (0, 0.0)
        self._staleness_ms = staleness_ms
        self._short_ms, self._long_ms = short_window_ms, long_window_ms
        self._short = self._long = ("0", "0")
        self._queue_limit = queue_limit
        self._timeout_seconds = timeout_seconds
        self._trouble = trouble
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._flight: Flight | None = None
        self._scheduled = False
        self._paused: set[str] = set()
        self._batch = Batch()
        self._round = 0
        self._policy_round = -1
        self._clock_tries = 0
        self._receives: deque[ReceiveOp] = deque()
        self._reserves: deque[ReserveOp] = deque()
        self._contended: deque[ReserveOp] = deque()
        self._reacquires: deque[ReacquireOp] = deque()
        self._settles: dict[str, deque[SettleOp]] = {
            script.name: deque()
            for script in (scripts.COMMIT, scripts.FULFIL, scripts.GIVEBACK, scripts.EXTEND)
        }
        self._wanted: dict[tuple[str, str | None], None] = {}
        self._keyed: list[ReserveOp] = []
        self._look_due = False
        self._tidy: list[asyncio.Future[None]] = []
        self._idle: list[asyncio.Future[None]] = []

    # --- what steps ask ------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms()

    @property
    def policy_number(self) -> int:
        policy = self.snapshot.policy
        return policy.number if policy is not None else 0

    @property
    def short_window(self) -> tuple[bytes, bytes]:
        return keys.short_keys(self._short[0]), keys.short_keys(self._short[1])

    @property
    def long_window(self) -> tuple[bytes, bytes]:
        return keys.long_keys(self._long[0]), keys.long_keys(self._long[1])

    @property
    def done_list(self) -> bytes:
        return keys.done_at(self.now_ms // keys.HOUR_MS)

    def told_windows(self, reply: list[Any]) -> None:
        """Takes the key windows from an outcome `clock`."""
        self._short = (reply[5].decode(), reply[6].decode())
        self._long = (reply[7].decode(), reply[8].decode())

    def head(self, estimate_ms: int | None, policy: int | None = None) -> list[Any]:
        """The ten arguments that every script begins with."""
        return [
            self.epoch, "" if estimate_ms is None else estimate_ms,
            "" if policy is None else policy, *self._short, self._short_ms, *self._long,
            self._long_ms, "0" if self.clock.suspect else "1",
        ]  # fmt: skip

    # --- coming in -----------------------------------------------------------------------------

    def reserve(self, op: ReserveOp) -> None:
        """Queues a demand. Raises Unavailable if there is no room or no store."""
        if self.full:
            raise Overloaded("The store's memory is nearly used up; no new reservations for now")
        if self.closed is not None or len(self._reserves) >= self._queue_limit:
            self._admit()
        op.round = self._round
        self._reserves.append(op)
        if self._flight is None:
            if len(self._reserves) >= SEND_AT:
                self._send()
            elif not self._scheduled:
                self._schedule()

    def reacquire(self, op: ReacquireOp) -> None:
        """Queues a late commit."""
        self._admit()
        op.round = self._round
        self._reacquires.append(op)
        self._schedule()

    def receive(self, op: ReceiveOp) -> None:
        """Queues a line of a receipt."""
        self._admit()
        op.round = self._round
        self._receives.append(op)
        self._schedule()

    def settle(self, op: SettleOp) -> None:
        """Queues a verb on a record."""
        self._admit()
        self._settles[op.script.name].append(op)
        self._schedule()

    def tidy(self) -> asyncio.Future[None]:
        """Asks for everything due to be expired; done when a look finds nothing due."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._tidy.append(future)
        self._look_due = True
        self._schedule()
        return future

    def waiting(self) -> int:
        """Ops in the queues."""
        return (
            len(self._reserves) + len(self._contended) + len(self._receives)
            + len(self._reacquires) + sum(map(len, self._settles.values()))
        )  # fmt: skip

    def check_readable(self) -> None:
        """Raises StockUnavailable while the store is away or is not the one that is known."""
        if isinstance(self.closed, StockUnavailable):
            raise self.closed.with_traceback(None)

    def _admit(self) -> None:
        if self.closed is not None:
            raise self.closed.with_traceback(None)  # else it would gather those of all its raisers
        if self.waiting() >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} requests are waiting already; try again")

    # --- coming back ---------------------------------------------------------------------------

    def requeue(self, ops: Iterable[Any]) -> None:
        """Puts ops back in front, in their order."""
        for op in reversed(list(ops)):
            if isinstance(op, ReacquireOp):
                op.reset()
                self._reacquires.appendleft(op)
            elif isinstance(op, ReserveOp):
                op.reset()
                alone = op.conflicts >= CONFLICTS_ALONE
                (self._contended if alone else self._reserves).appendleft(op)
            elif isinstance(op, ReceiveOp):
                self._receives.appendleft(op)
            else:
                self._settles[op.script.name].appendleft(op)

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
                self.counts["given_up"] += 1
                op.finish(Overloaded("Too many callers want the same units; try again"))
            else:
                again.append(op)
        self.requeue(again)

    def distrust(self, rows: Iterable[Row]) -> None:
        """Rows that may have moved are read again before the next plan on them."""
        for row in rows:
            self._wanted[(row.sku, row.location)] = None

    # --- sending -------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._flight is None and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        if self._flight is None:
            self._send()

    def _send(self) -> None:
        """Forms the next pipeline from what waits, and sends it."""
        if self._link is None or self._flight is not None:
            return
        monotonic = monotonic_ms()
        self._roll_windows()
        steps: list[Step] = []
        policy = self.snapshot.policy
        if not self._paused and policy is not None:
            self._batch.begin(policy, self.snapshot.skus)
            self._plan_receives(steps)
            self._plan_reserves(steps, monotonic)
            self._plan_reacquires(steps, monotonic)
        if not self._paused & {"link", "scripts", "epoch"}:
            self._plan_settles(steps)
        if not self._paused:
            self._plan_look(steps)
        if not steps:
            self._rest()
            return
        commands: list[Command] = [step.command(self) for step in steps]
        payload = b"".join(map(pack_command, commands))
        self._round += 1
        self._flight = Flight(steps, payload, monotonic)
        self.flight_stamp = (self._round, monotonic)
        self.counts["pipelines"] += 1
        self._launch(self._flight)

    def _launch(self, flight: Flight) -> None:
        assert self._link is not None
        link = self._link
        flight.timer = self._loop.call_later(
            self._timeout_seconds, link.abort, "the store did not answer in time"
        )
        link.send(flight.payload, len(flight.steps), lambda replies: self._landed(flight, replies))

    def _roll_windows(self) -> None:
        now_ms = self.now_ms
        own = now_ms - now_ms % self._short_ms
        if own > int(self._short[0]):
            self._short = (str(own), self._short[0] if int(self._short[0]) else str(own))
        own = now_ms - now_ms % self._long_ms
        if own > int(self._long[0]):
            self._long = (str(own), self._long[0] if int(self._long[0]) else str(own))

    # --- planning ------------------------------------------------------------------------------

    def _plan_receives(self, steps: list[Step]) -> None:
        batch, snapshot = self._batch, self.snapshot
        planned: list[ReceiveOp] = []
        later: list[ReceiveOp] = []
        places: dict[str, list[str]] = {}
        fields: set[bytes] = set()
        while self._receives and len(planned) < OPS_MAX:
            op = self._receives.popleft()
            if op.gone():
                continue
            sku = snapshot.skus.get(op.sku)
            policy = snapshot.policy
            assert policy is not None
            if sku is None or (sku.number == 0 and sku.round <= op.round):
                self._wanted[(op.sku, op.location)] = None
                later.append(op)
            elif sku.number == 0:
                op.finish(self._unknown_sku([op], op.index))
            elif op.location not in policy.locations:
                if self._policy_round <= op.round:
                    self._wanted[(op.sku, None)] = None
                    later.append(op)
                else:
                    op.finish(_unknown_location([op.location]))
            elif op.location in sku.locations and op.location not in sku.rows:
                self._wanted[(op.sku, op.location)] = None
                later.append(op)
            elif op.key.field in fields:
                later.append(op)
            else:
                try:
                    moves = batch.receive(snapshot.row(sku, op.location), sku, op.quantity)
                except OverflowError:
                    op.finish(_too_much(op))
                    continue
                except RowCorrupt as error:
                    self._corrupt(op, [op], error)
                    continue
                except ChannelUnknown:
                    self._ask_for("policy")
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
        self._receives.extendleft(reversed(later))
        if planned:
            steps.append(ReceiveStep(batch.pack(True), planned, places))

    def _plan_reserves(self, steps: list[Step], monotonic: float) -> None:
        queue = self._contended if self._contended else self._reserves
        granted, due, now_ms = self._plan_demands(queue, monotonic)
        if granted:
            steps.append(ReserveStep(self._batch.pack(), granted, due, now_ms))

    def _plan_reacquires(self, steps: list[Step], monotonic: float) -> None:
        if not self._reacquires:
            return
        granted, _, _ = self._plan_demands(self._reacquires, monotonic)
        if granted:
            steps.append(ReacquireStep(self._batch.pack(), granted))

    def _plan_demands(
        self, queue: deque[Any], monotonic: float
    ) -> tuple[list[Any], dict[int, list[str]], int]:
        """Plans what waits in a queue. Refusals that may stand are answered; what must be seen
        first goes back into the queue, and what it rests on onto the list of the next look."""
        batch = self._batch
        batch.begin_stage()
        later: list[ReserveOp] = []
        fields: set[bytes] = set()
        lines = 0
        while queue and lines < LINES_MAX:
            op = queue.popleft()
            if op.gone():
                continue
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
                self._ask_for("policy")
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
            self._refuse(batch, later, monotonic)
        now_ms = self.now_ms
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
                and (self._policy_round > op.round or self.deadlines.clear_at >= since)
                and (self.deadlines.clear_round > op.round or self.deadlines.clear_at >= since)
                and batch.confirmed(number, op.round, since)
            )
            if seen and op.content and not op.partial:
                op.partial = True
                self._look_due = True
                later.append(op)
            elif seen:
                self.counts["refused"] += 1
                op.finish(self._refusal(batch.shortfalls(number)))
            else:
                if op.key is not None:
                    self._keyed.append(op)
                self._look_due = True
                self._want(op, batch.reads(number), later)

    @staticmethod
    def _refusal(shortfalls: list[tuple[Any, ...]]) -> InsufficientStock:
        lines = []
        for _, sku, location, requested, available, _, limited_by in shortfalls:
            line = {"sku": sku}
            if location is not None:
                line["location"] = location
            line |= {"requested": requested, "available": available, "limited_by": limited_by}
            lines.append(line)
        return InsufficientStock(lines=lines)

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
        self.counts["corrupt"] += 1
        log.error("the store holds a row that is not one: %s", error)
        for line in lines:
            sku = self.snapshot.skus.get(line.sku)
            if sku is not None:
                self.distrust(sku.rows.values())
        op.finish(StockUnavailable(f"the store holds a row that is not one: {error}"))

    def _unknown(self, op: ReserveOp, code: int, later: list[ReserveOp]) -> None:
        """A name that this worker does not know: asked for once, then refused."""
        if code == UNKNOWN_CHANNEL:
            if self._policy_round > op.round:
                op.finish(UnknownChannel())
                return
        elif code == UNKNOWN_LOCATION:
            if self._policy_round > op.round:
                op.finish(self._unknown_location(op))
                return
        elif code == UNKNOWN_SKU:
            known = self.snapshot.skus
            missing = [line for line in op.lines if not known[line.sku].number]
            if all(known[line.sku].round > op.round for line in missing):
                op.finish(self._unknown_sku(op.lines))
                return
        self._want(op, [(line.sku, None) for line in op.lines], later)

    def _unknown_sku(self, lines: list[Any], first: int = 0) -> StockadeError:
        """``first``: the number that the first of the lines has in its request."""
        wrong = [
            (f"/lines/{number}/sku", SKU_RULE)
            for number, line in enumerate(lines, first)
            if not is_sku(line.sku)
        ]
        if wrong:
            return InvalidRequest(errors=wrong)
        known = self.snapshot.skus
        return UnknownSku(
            lines=[
                {"sku": line.sku, "requested": line.quantity, "available": 0}
                for line in lines
                if line.sku not in known or not known[line.sku].number
            ]
        )

    def _unknown_location(self, op: ReserveOp) -> StockadeError:
        policy = self.snapshot.policy
        assert policy is not None
        wrong, unknown = [], []
        for number, line in enumerate(op.lines):
            named = [("location", line.location)] if line.location is not None else []
            named += [(f"locations/{at}", name) for at, name in enumerate(line.locations or ())]
            for member, name in named:
                if name in policy.locations:
                    continue
                if not is_name(name):
                    wrong.append((f"/lines/{number}/{member}", NAME_RULE))
                unknown.append(name)
        if wrong:
            return InvalidRequest(errors=wrong)
        return _unknown_location(unknown)

    def _plan_settles(self, steps: list[Step]) -> None:
        """Commits, fulfils, give-backs, extensions; a record at most once in a pipeline."""
        busy: set[str] = set()
        for reservation_id in [i for ids in self.deadlines.drains.values() for i in ids]:
            self._settles[scripts.GIVEBACK.name].append(
                SettleOp("expire", reservation_id, Expiry(self.deadlines, reservation_id))
            )
        drains, self.deadlines.drains = self.deadlines.drains, {}
        for queue in self._settles.values():
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
        now_ms = self.now_ms
        if self._tidy or self.deadlines.far_behind(now_ms):  # with no reaper we tidy ourselves
            for second in self.deadlines.passed(now_ms):
                drains.setdefault(second, [])
        if drains:
            steps.append(DueStep(drains))

    def _plan_look(self, steps: list[Step]) -> None:
        if not (self._wanted or self._keyed or self._look_due or self._tidy):
            return
        pairs = list(self._wanted)[:LOOK_MAX]
        for pair in pairs:
            del self._wanted[pair]
        keyed, self._keyed = [op for op in self._keyed if not op.gone()], []
        self._look_due = False
        steps.append(LookStep(pairs, keyed, self.deadlines.seconds(self.now_ms)))

    # --- landing -------------------------------------------------------------------------------

    def _landed(self, flight: Flight, replies: Replies) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        if flight is not self._flight:  # abandoned: its callers were told that it is unknown
            return
        if isinstance(replies, ConnectionError):
            self._link = None
            self._ask_for("link")
            return
        received = monotonic_ms()
        for step, reply in zip(flight.steps, replies, strict=True):
            if isinstance(reply, ReplyError):
                self._failed(step, reply, flight)
                continue
            outcome = reply[0]
            self.seq = max(self.seq, int(reply[1]))
            self.clock.heard(reply[2], flight.sent_ms, received)
            self.deadlines.moved(int(reply[4]))
            self.counts[f"{type(step).__name__}:{outcome.decode()}"] += 1
            if outcome in (b"epoch", b"clock", b"policy"):
                self._stopped(step, outcome, reply)
                continue
            self._clock_tries = 0
            if isinstance(step, (ReserveStep, ReacquireStep, LookStep)):
                self._policy_round = self.flight_stamp[0]
            step.landed(self, reply, flight.resent)
        self._flight = None
        self._finish_tidy()
        self._send()

    def _stopped(self, step: Step, outcome: bytes, reply: list[Any]) -> None:
        """Epoch, clock or policy: nothing was done; the ops go back and the reason is mended."""
        step.undone(self)
        if isinstance(step, LookStep):
            self._look_due = True
        if outcome == b"policy":
            self._ask_for("policy")
            self.requeue(step.ops)
            return
        if outcome == b"clock":
            self.told_windows(reply)
            self._clock_tries += 1
            if self._clock_tries <= CLOCK_TRIES_MAX:
                self.requeue(step.ops)
                return
            error = StockUnavailable("the store's clock and this worker's estimate do not agree")
        else:
            self._ask_for("epoch")
            error = StockUnavailable("the store is not the one that this worker knows")
        for op in step.ops:
            op.finish(error)

    def _failed(self, step: Step, error: ReplyError, flight: Flight) -> None:
        """An error reply: scripts are loaded again; everything else is told to the callers."""
        step.undone(self)
        self.counts[f"error:{error.code}"] += 1
        if error.code == "NOSCRIPT":
            if isinstance(step, LookStep):
                self._look_due = True
            self.requeue(step.ops)
            self._ask_for("scripts")
            return
        log.error("the store refused %s: %s", type(step).__name__, error)
        # Scripts guard before they write, so a refusal by name means that nothing happened.
        known = error.code in (
            "OOM", "MISCONF", "READONLY", "NOREPLICAS", "LOADING", "BUSY", "WRONGTYPE", "LAW",
            "MASTERDOWN", "NOPERM", "NOAUTH", "CLUSTERDOWN", "TRYAGAIN",
        )  # fmt: skip
        for op in step.ops:
            op.finish(
                StockUnavailable(
                    f"the store refused: {error}",
                    "none" if known and not flight.resent else "unknown",
                    getattr(op, "id", None),
                )
            )
        if isinstance(step, LookStep):
            self.give_up(StockUnavailable(f"the store refused: {error}"), planned_only=True)

    def _finish_tidy(self) -> None:
        if self._tidy and self.deadlines.clear_round == self.flight_stamp[0]:
            waiting, self._tidy = self._tidy, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # --- help from outside ---------------------------------------------------------------------

    def _ask_for(self, kind: str) -> None:
        if kind not in self._paused:
            self._paused.add(kind)
            self._trouble(kind)

    def mended(self, kind: str) -> None:
        """The trouble is over; what waits goes on."""
        self._paused.discard(kind)
        if self._flight is None:
            self._schedule()

    def use(self, link: Link) -> None:
        """A connection: what was under way is sent again, the same bytes."""
        self._link = link
        self._paused.discard("link")
        flight = self._flight
        if flight is not None and flight.resent:
            if monotonic_ms() - flight.since_ms >= 1000 * RESEND_SECONDS:
                # It takes connections and does not answer: what waits behind this gets its turn.
                flight = None
                self._lose_flight(lambda outcome, id: StockUnavailable(
                    "the store did not answer in time", outcome, id
                ))
        if flight is None:
            self._schedule()
        else:
            flight.resent = True
            flight.sent_ms = monotonic_ms()
            self.counts["resent"] += 1
            self._launch(flight)

    def abandon(self, error: Failure) -> None:
        """The store stays away: what was sent is unknown, what waits did not happen."""
        self._lose_flight(error)
        self.give_up(error("none", None))
        self._rest()

    def _lose_flight(self, error: Failure) -> None:
        flight, self._flight = self._flight, None
        if flight is None:
            return
        for step in flight.steps:
            step.undone(self)
            for op in step.ops:
                op.finish(error("unknown", getattr(op, "id", None)))

    def give_up(self, error: StockadeError, planned_only: bool = False) -> None:
        """Ends what waits in the queues: nothing of it happened."""
        queues: list[deque[Any]] = [
            self._receives, self._reserves, self._contended, self._reacquires,
        ]  # fmt: skip
        if not planned_only:
            queues += self._settles.values()
        for queue in queues:
            while queue:
                queue.popleft().finish(error)
        self._keyed.clear()
        self._wanted.clear()
        for future in self._tidy:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody need ask
        self._tidy.clear()

    def _rest(self) -> None:
        for future in self._idle:
            if not future.done():
                future.set_result(None)
        self._idle.clear()

    async def drain(self, seconds: float) -> None:
        """Takes nothing new; returns when all that waits is answered, or after ``seconds``."""
        self.closed = Draining()
        if self._flight is not None or self.waiting():
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            self._schedule()
            try:
                async with asyncio.timeout(seconds):
                    await future
            except TimeoutError:
                log.warning("%d requests were still waiting after %g s", self.waiting(), seconds)
        self.abandon(lambda outcome, id: Draining(None, outcome, id))
        if self._link is not None:
            self._link.abort("closed")
            self._link = None


def _unknown_location(names: Iterable[str]) -> UnknownLocation:
    named = ", ".join(dict.fromkeys(names))
    return UnknownLocation(f"There is no location {named}; PUT /v1/locations/{{name}} makes one")


def _too_much(op: ReceiveOp) -> InvalidRequest:
    detail = f"Expected less: {op.sku} at {op.location} would hold more than 2^53 units"
    return InvalidRequest(detail, [(f"/lines/{op.index}/quantity", detail)])
