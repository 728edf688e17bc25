"""Group commit: what waits while a pipeline is in flight is drained together and sent as the next.

A crowd of demands does not wait for that: a second pipeline is planned on what the first is to
leave, so that store and worker work at the same time.

``queues`` holds what waits, ``planning`` forms a pipeline of it: at most one script per verb. The
lane sends it, hands each reply to its step, and asks for help when the store is away or another
one. Plain sync code; the link sends and calls back. One object per worker and shard.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from core.availability import AvailabilityOp
from core.clock import ServerClock, monotonic_ms
from core.deadlines import Deadlines
from core.errors import (
    Draining,
    LedgerUnavailable,
    Outcome,
    Overloaded,
    StockadeError,
    StockUnavailable,
)
from core.flight import Flight
from core.meters import Meters
from core.model import Durability
from core.ops import ReserveOp, SettleOp, StockOp, TrialOp
from core.planning import Planner
from core.queues import Queues
from core.replan_ops import AmendOp, LateOp, ReturnOp
from core.replan_steps import ReplanStep
from core.snapshot import Snapshot
from core.steps import LookStep, ReserveStep, Step
from core.store import keys
from core.store._pack import pack_command
from core.store.link import Command, Link, Replies, ReplyError
from core.throttle import Throttle

CLOCK_TRIES_MAX = 3  # proposals of time in a row that the store may refuse
SEND_AT = 128  # demands that are sent at once: by an idle lane, or ahead of the answer to others
FLIGHTS_MAX = 2  # pipelines under way: one that the store works on, one that it finds next
RESEND_SECONDS = 2.0  # how long a broken pipeline is sent again before its outcome is unknown

Failure = Callable[[Outcome, str | None], StockadeError]  # (outcome, reservation) → its error

log = logging.getLogger("stockade.lane")


class Lane:
    """The queue of a shard in one worker, and its pipelines in flight."""

    def __init__(
        self,
        *,
        durability: Durability,
        staleness_ms: int,
        short_window_ms: int,
        long_window_ms: int,
        queue_limit: int,
        wait_ms: int,
        timeout_seconds: float,
        trouble: Callable[[str], None],
        meters: Meters,
    ) -> None:
        """``trouble(kind)`` is called once when the lane needs help from outside: ``link`` (lost),
        ``policy`` (out of date), ``epoch`` (another shard) or ``scripts`` (which it lost)."""
        self.durability = durability
        self.snapshot = Snapshot()
        self.clock = ServerClock()
        self.deadlines = Deadlines()
        self.meters, self.counts = meters, meters.lane
        self.epoch, self.seq = "", 0
        self.last_refusal = ""  # what the store said to a script that it would not run
        self.full = False  # the store's memory is nearly used up: no new reservations
        self.throttle: Throttle | None = None  # fewer new reservations, while stock is protected
        self.behind = False  # the ledger is too far behind: no new reservations
        self.closed: StockadeError | None = StockUnavailable("this worker has not started yet")
        self.flight_stamp = (0, 0.0)  # of the pipeline that lands: its round, when it was sent
        self.short_window_ms, self._long_ms = short_window_ms, long_window_ms
        self._short = self._long = ("0", "0")
        self._queue_limit, self._wait_ms = queue_limit, wait_ms
        self._timeout_seconds, self._trouble = timeout_seconds, trouble
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._flights: deque[Flight] = deque()
        self._scheduled = False
        self._paused: set[str] = set()
        self._round = self._clock_tries = 0
        self.queues = Queues(meters)
        self.planner = Planner(
            self.queues, self.snapshot, self.deadlines, meters, staleness_ms, lambda: self.now_ms
        )
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

    def head(
        self, estimate_ms: int | None, policy: int | None = None, who: bytes = b""
    ) -> list[Any]:
        """The ten arguments that every script begins with; ``who`` asks, for its event."""
        return [
            self.epoch, "" if estimate_ms is None else estimate_ms,
            "" if policy is None else policy, *self._short, self.short_window_ms, *self._long,
            self._long_ms, b"%d %b" % (not self.clock.suspect, who),
        ]  # fmt: skip

    # --- coming in -----------------------------------------------------------------------------

    def reserve(self, op: ReserveOp) -> None:
        """Queues a demand. Raises Unavailable if there is no room or no store."""
        if self.full:
            raise Overloaded("The store's memory is nearly used up; no new reservations for now")
        if self.behind:
            raise LedgerUnavailable("the ledger is too far behind; no new reservations for now")
        if self.throttle is not None:
            self.throttle.take()
        if self.closed is not None or len(self.queues.reserves) >= self._queue_limit:
            self._admit()
        op.round = self._round
        op.since_ms = op.entered_ms
        self.queues.reserves.append(op)
        if len(self.queues.reserves) >= SEND_AT:
            if len(self._flights) < FLIGHTS_MAX:
                self._send()
            elif self.queues.reserves[0].since_ms < op.since_ms - self._wait_ms:
                self.queues.refuse_late(op.since_ms, self._wait_ms)
        elif not self._flights and not self._scheduled:
            self._schedule()

    def submit(self, op: StockOp | AmendOp | LateOp | ReturnOp | TrialOp) -> None:
        """Queues what is planned and is no demand for new units."""
        self._admit()
        op.round = self._round
        op.since_ms = monotonic_ms()
        self.queues.of(op).append(op)
        self._schedule()

    def settle(self, op: SettleOp) -> None:
        """Queues a verb on a record."""
        self._admit()
        op.since_ms = monotonic_ms()
        self.queues.settles[op.script.name].append(op)
        self._schedule()

    def read(self, op: AvailabilityOp) -> None:
        """Answers what a channel can take, at once if it was seen lately; else after a look."""
        self.check_readable()
        op.round = self._round
        out_of_date = self._paused & {"policy", "epoch"}
        if not out_of_date and self.planner.answers(op, monotonic_ms()):
            return
        self._admit()
        op.since_ms = monotonic_ms()
        self.queues.reads.append(op)
        self._schedule()

    def tidy(self) -> asyncio.Future[None]:
        """Asks for everything due to be expired; done when a look finds nothing due."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._tidy.append(future)
        self.planner.look_due = True
        self._schedule()
        return future

    def check_readable(self) -> None:
        """Raises StockUnavailable while the store is away or is not the one that is known."""
        if isinstance(self.closed, StockUnavailable):
            raise self.closed.with_traceback(None)

    def _admit(self) -> None:
        if self.closed is not None:
            raise self.closed.with_traceback(None)  # else it would gather those of all its raisers
        if self.queues.waiting() >= self._queue_limit:
            raise Overloaded(f"{self._queue_limit} requests are waiting already; try again")

    # --- sending -------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flights and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._scheduled = False
        if not self._flights:
            self._send()

    def _send(self) -> None:
        """Forms the next pipeline from what waits, and sends it."""
        if self._link is None:
            return
        monotonic = monotonic_ms()
        self.queues.refuse_late(monotonic, self._wait_ms)
        if self._flights:
            self._send_ahead()
            return
        self._roll_windows()
        steps: list[Step] = []
        tidying = bool(self._tidy)
        if not self._paused:
            self.planner.planned_steps(steps, monotonic)
        if not self._paused & {"link", "scripts", "epoch"}:
            self.planner.settle_steps(steps, tidying)
        if not self._paused:
            self.planner.look_step(steps, tidying)
        if not steps:
            if self.queues.waiting() and not self._paused:
                self._schedule()  # the one that these waited behind was answered without asking
            else:
                self._rest()
            return
        self._take_off(steps, monotonic)

    def _send_ahead(self) -> None:
        """Sends a crowd of demands behind the one pipeline under way, if nobody else waits."""
        if (
            len(self._flights) < FLIGHTS_MAX
            and len(self.queues.reserves) >= SEND_AT
            and not self._paused
            and not self._tidy
            and self.planner.calm()
        ):
            self._roll_windows()
            steps: list[Step] = []
            self.planner.step_ahead(steps)
            if steps:
                self.counts["ahead"] += 1
                self._take_off(steps, monotonic_ms())

    def _take_off(self, steps: list[Step], monotonic: float) -> None:
        commands: list[Command] = [step.command(self) for step in steps]
        payload = b"".join(map(pack_command, commands))
        self._round += 1
        for step in steps:
            step.launched(self._round, bool(self._flights))
        flight = Flight(self._round, steps, payload, monotonic, self.planner.pace.launched())
        self._flights.append(flight)
        self.counts["pipelines"] += 1
        self._launch(flight)

    def _launch(self, flight: Flight) -> None:
        assert self._link is not None
        link = self._link
        flight.launched_ms = monotonic_ms()
        flight.timer = self._loop.call_later(
            self._timeout_seconds, link.abort, "the store did not answer in time"
        )
        crowd, steps = flight.carried >= SEND_AT, len(flight.steps)
        link.send(flight.payload, steps, lambda replies: self._landed(flight, replies), crowd)

    def _roll_windows(self) -> None:
        now_ms = self.now_ms
        self._short = keys.rolled(self._short, now_ms, self.short_window_ms)
        self._long = keys.rolled(self._long, now_ms, self._long_ms)

    # --- landing -------------------------------------------------------------------------------

    def _landed(self, flight: Flight, replies: Replies) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        if flight not in self._flights:  # abandoned: its callers were told that it is unknown
            return
        if isinstance(replies, ConnectionError):
            self._link = None
            self.ask_for("link")
            return
        received = monotonic_ms()
        self.flight_stamp = (flight.round, flight.since_ms)
        self.planner.pace.landed(flight.carried, flight.sent_ms, received)
        self.meters.flew(flight, received)
        for step, reply in zip(flight.steps, replies, strict=True):
            if isinstance(reply, ReplyError):
                self._failed(step, reply, flight)
                continue
            outcome = reply[0]
            self.seq = max(self.seq, int(reply[1]))
            self.clock.heard(reply[2], flight.sent_ms, received)
            self.deadlines.moved(int(reply[4]))
            self.meters.scripts[(step.script.name, outcome.decode())] += 1
            if outcome in (b"epoch", b"clock", b"policy"):
                self._stopped(step, outcome, reply)
                continue
            self._clock_tries = 0
            if step.ops:
                self.last_refusal = ""
            if isinstance(step, (ReserveStep, ReplanStep, LookStep)):
                self.planner.policy_round, self.planner.policy_seen_ms = self.flight_stamp
            step.landed(self, reply)
        self._flights.popleft()  # replies come in the order of what was asked
        self._finish_tidy()
        self._send()

    def _stopped(self, step: Step, outcome: bytes, reply: list[Any]) -> None:
        """Epoch, clock or policy: nothing was done; the ops go back and the reason is mended."""
        step.undone(self)
        if isinstance(step, LookStep):
            self.planner.look_due = True
        if outcome == b"policy":
            self.ask_for("policy")
            self.queues.requeue(step.ops)
            return
        if outcome == b"clock":
            self.told_windows(reply)
            self._clock_tries += 1
            if self._clock_tries <= CLOCK_TRIES_MAX:
                self.queues.requeue(step.ops)
                return
            error = StockUnavailable("the store's clock and this worker's estimate do not agree")
        else:
            self.ask_for("epoch")
            error = StockUnavailable("the store is not the one that this worker knows")
        for op in step.ops:
            op.finish(error)

    def _failed(self, step: Step, error: ReplyError, flight: Flight) -> None:
        """An error reply: scripts are loaded again; everything else is told to the callers."""
        step.undone(self)
        self.meters.script_errors[error.code] += 1
        if error.code == "NOSCRIPT":
            if isinstance(step, LookStep):
                self.planner.look_due = True
            self.queues.requeue(step.ops)
            self.ask_for("scripts")
            return
        log.error("the store refused %s: %s", type(step).__name__, error)
        self.last_refusal = str(error)
        told = f"the store refused: {error}"
        outcome: Outcome = "none" if error.did_nothing and not flight.resent else "unknown"
        for op in step.ops:
            op.finish(StockUnavailable(told, outcome, getattr(op, "id", None)))
        if isinstance(step, LookStep):
            self.give_up(StockUnavailable(told), planned_only=True)

    def _finish_tidy(self) -> None:
        if self._tidy and self.deadlines.clear_round == self.flight_stamp[0]:
            waiting, self._tidy = self._tidy, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # --- help from outside ---------------------------------------------------------------------

    def ask_for(self, kind: str) -> None:
        """Pauses what needs it until it is ``mended``."""
        if kind not in self._paused:
            self._paused.add(kind)
            self._trouble(kind)

    def mended(self, kind: str) -> None:
        """The trouble is over; what waits goes on."""
        self._paused.discard(kind)
        self._schedule()

    def use(self, link: Link) -> None:
        """A connection: what was under way is sent again, the same bytes."""
        self._link = link
        self._paused.discard("link")
        first = self._flights[0] if self._flights else None
        if first is not None and first.resent and first.age_ms() >= 1000 * RESEND_SECONDS:
            # It takes connections and does not answer: what waits behind this gets its turn.
            self._lose_flights(
                lambda outcome, id: StockUnavailable("The store does not answer", outcome, id)
            )
        for flight in tuple(self._flights):
            flight.resent = True
            self.planner.pace.lost()
            flight.sent_ms = monotonic_ms()
            self.counts["resent"] += 1
            self._launch(flight)
        self._schedule()

    def abandon(self, error: Failure) -> None:
        """The store stays away: what was sent is unknown, what waits did not happen."""
        self._lose_flights(error)
        self.give_up(error("none", None))
        self._rest()

    def _lose_flights(self, error: Failure) -> None:
        while self._flights:
            for step in self._flights.pop().steps:
                step.undone(self)
                for op in step.ops:
                    op.finish(error("unknown", getattr(op, "id", None)))

    def give_up(self, error: StockadeError, planned_only: bool = False) -> None:
        """Ends what waits in the queues: nothing of it happened."""
        self.queues.give_up(error, planned_only)
        self.planner.forget_wishes()
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
        if self._flights or self.queues.waiting():
            future: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(future)
            self._schedule()
            try:
                async with asyncio.timeout(seconds):
                    await future
            except TimeoutError:
                left = self.queues.waiting()
                log.warning("%d requests were still waiting after %g s", left, seconds)
        self.abandon(lambda outcome, id: Draining(None, outcome, id))
        if self._link is not None:
            self._link.abort("closed")
            self._link = None
