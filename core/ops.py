"""What waits in a lane: one object per demand, settled record, or line of stock.

An op carries what its script needs, who waits for it, and how often it has been tried. It is
finished exactly once, with a result or with an error as a value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from core.access import actor
from core.clock import monotonic_ms
from core.customers import Cut, Entries, Excess, units_of
from core.errors import KeyReused, StockadeError
from core.kernel._plan import Demand
from core.kernel._policy import Policy
from core.model import Durability, Key, RefusedLine, Reservation
from core.stock_model import (
    AdjustLine,
    CountLine,
    OpenLine,
    ReallocateLine,
    ReceiveLine,
    TransferLine,
)
from core.store import keys, wording
from core.store._answer import reservation_json
from core.store.scripts import COMMIT, EXTEND, FULFIL, GIVEBACK, JUDGE, Script
from core.tracing import TRACE, Trace


class Receipt:
    """What a reservation is after a verb; the record is parsed only if somebody asks."""

    __slots__ = (
        "as_of_ms", "durability", "id", "reacquired", "record", "repeated", "replayed",
        "shortfalls",
    )  # fmt: skip

    def __init__(
        self,
        reservation_id: str,
        record: bytes,
        durability: Durability,
        replayed: bool = False,
        reacquired: bool = False,
        shortfalls: list[tuple[Any, ...]] | None = None,
        as_of_ms: int = 0,
    ) -> None:
        """``as_of_ms``: a deadline that lies before this counts as passed; 0 judges none."""
        self.id = reservation_id
        self.record = record
        self.durability = durability
        self.replayed = self.repeated = replayed  # repeated: it had happened before
        self.reacquired = reacquired
        self.shortfalls = shortfalls
        self.as_of_ms = as_of_ms

    @property
    def version(self) -> int:
        """The reservation's version, for its ETag."""
        return int(self.record.split(b" ", 2)[1])

    @property
    def has_customer(self) -> bool:
        """True if it says whose it is."""
        return self.record.split(b" ", 8)[7] != b"-"

    def masked(self) -> Receipt:
        """The same, and not whose it is."""
        record = wording.without_customer(self.record)
        other = Receipt(
            self.id, record, self.durability, self.replayed, self.reacquired, self.shortfalls,
            self.as_of_ms,
        )  # fmt: skip
        other.repeated = self.repeated
        return other

    def reservation(self) -> Reservation:
        """The resource."""
        return msgspec.json.decode(self.encode(), type=Reservation)

    def encode(self) -> bytes:
        """The resource as JSON, as the API answers it."""
        more = b',"reacquired":true' if self.reacquired else b""
        if self.shortfalls:
            more += b',"refused":' + msgspec.json.encode(
                [
                    RefusedLine(sku, requested, granted, limited_by)
                    for _, sku, _, requested, _, granted, limited_by in self.shortfalls
                ]
            )
        return reservation_json(self.id, self.record, self.durability, self.as_of_ms, more)


class Known:
    """An idempotency key was used: what it stands for."""

    __slots__ = ("reacquired", "replayed", "resource", "status")

    def __init__(self, value: bytes, replayed: bool) -> None:
        """``replayed``: by another request than this one."""
        _, self.status, self.resource = wording.parse_key(value)
        self.reacquired = wording.is_anew(value)
        self.replayed = replayed


def stands_for(key: Key, value: bytes) -> Known | KeyReused:
    """What a key stands for that was used, or KeyReused if that was for another request."""
    if wording.parse_key(value)[0] != key.fingerprint:
        return KeyReused()
    return Known(value, not wording.is_of(value, key.mark))


class NoPool:
    """A recorded sale needs these pools, (SKU, location) each, before it can be told of."""

    __slots__ = ("places",)

    def __init__(self, places: list[tuple[str, str]]) -> None:
        self.places = places


class Group:
    """Waits for many ops with one future."""

    __slots__ = ("future", "left", "results")

    def __init__(self, count: int, future: asyncio.Future[list[Any]]) -> None:
        self.future = future
        self.left = count
        self.results: list[Any] = [None] * count

    def done(self) -> bool:
        return self.future.done()

    def set(self, index: int, result: Any) -> None:
        self.results[index] = result
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(self.results)


class Nobody:
    """Waits for an op that has been answered."""

    def done(self) -> bool:
        return True


NOBODY: Final = Nobody()


class Waiting:
    """The half of an op that the lane keeps: who waits, since which round, tried how often."""

    __slots__ = ()
    waiter: Any
    index: int
    since_ms: float  # monotonic; when it came in, 0 if nobody is told how long it waited
    entered_ms: float  # the same, 0 once it was counted how long it waited
    trace: Trace | None
    actor: str  # who asks; empty for nobody

    def gone(self) -> bool:
        """True if nobody waits any more: the caller went away, or has its answer."""
        return bool(self.waiter.done())

    def finish(self, result: Any) -> None:
        """Hands over the result, or an error as a value."""
        waiter, self.waiter = self.waiter, NOBODY
        if type(waiter) is Group:
            waiter.set(self.index, result)
        elif not waiter.done():
            waiter.set_result(result)


class ReserveOp(Demand, Waiting):
    """A demand in the lane."""

    __slots__ = (
        "actor", "alone", "conflicts", "content", "cut", "entered_ms", "index", "key", "key_round",
        "round", "since_ms", "trace", "ttl_seconds", "turns", "waiter",
    )  # fmt: skip

    def __init__(
        self,
        channel: str,
        lines: list[Any],
        tail: bytes,
        ttl_seconds: int | None,
        partial: bool,
        split: bool,
        key: Key | None,
        waiter: Any,
        index: int = 0,
    ) -> None:
        # What a partial demand does not get is refused, so it is planned whole until a refusal may
        # stand; then it is content with less.
        Demand.__init__(self, channel, lines, tail, 0, False, split)
        self.content = partial
        self.ttl_seconds = ttl_seconds
        self.key = key
        self.waiter = waiter
        self.index = index
        self.since_ms = 0.0
        self.entered_ms = monotonic_ms()
        self.trace = TRACE.get()
        self.actor = actor()
        self.round = 0  # pipelines sent when it was submitted
        self.key_round = -1  # pipeline that last found its key unused
        self.conflicts = 0
        self.turns = 0
        self.alone = False  # it was in a batch that one of the others spoiled: not with new ones
        self.cut: Cut | None = None  # what it asked for, if the customer may not have so much

    def set_deadline(self, policy: Policy) -> None:
        """The time to live by the policy that it is planned on."""
        spec = policy.specs[self.channel]
        ttl = self.ttl_seconds
        self.ttl_ms = 1000 * min(spec.ttl_seconds if ttl is None else ttl, spec.max_hold_seconds)

    def reset(self) -> None:
        """Before it is planned again: what the last plan gave it is void."""
        self.id = None
        self.record = None
        self.shortfalls = None

    def cut_to(self, found: Sequence[Excess]) -> bool:
        """Asks for no more than the customer may have of these SKUs. False if that is nothing."""
        self.cut = self.cut or Cut(self.lines)
        self.lines = self.cut.to(found)
        return bool(self.lines)

    def count(self, entries: Entries, index: int) -> None:
        """What the customer takes of SKUs of which one may have only so many."""
        if self.limits is not None:
            assert self.id is not None
            assert self.record is not None
            record = wording.parse_record(self.record)
            entries.add(
                index, self.id, record.customer, self.limits, {}, units_of(record), self.fact
            )
            if self.cut is not None:
                self.shortfalls = self.cut.shortfalls(self.shortfalls or [])

    def touches(self, pool: bytes) -> bool:
        """True if what it was planned to do moves units of a pool."""
        return self.record is not None and b" %s@" % pool in self.record


class TrialOp(ReserveOp):
    """A demand that only asks what it would get. It gets ``takes``, and ends with itself."""

    __slots__ = ()

    def __init__(self, *demand: Any) -> None:
        super().__init__(*demand)
        self.partial = self.content
        self.reset()

    def reset(self) -> None:
        super().reset()
        self.id = ""  # it has one, so that no record is made


class SettleOp(Waiting):
    """One verb on one record: commit, fulfil, release, cancel, expire or extend; of amend and
    return the question whether they may be planned."""

    __slots__ = (
        "actor", "argument", "bucket", "deadline_ms", "entered_ms", "id", "index", "key",
        "limit_ms", "parts", "script", "since_ms", "trace", "turns", "verb", "waiter", "wanted",
    )  # fmt: skip

    SCRIPTS: Final[dict[str, Script]] = {
        "commit": COMMIT, "fulfil": FULFIL, "release": GIVEBACK, "cancel": GIVEBACK,
        "expire": GIVEBACK, "extend": EXTEND, "amend": JUDGE, "return": JUDGE,
    }  # fmt: skip

    def __init__(
        self,
        verb: str,
        reservation_id: str,
        waiter: Any,
        key: Key | None = None,
        wanted: int | None = None,
        parts: bytes = b"",
        argument: bytes = b"",
        index: int = 0,
    ) -> None:
        self.verb = verb
        self.script = self.SCRIPTS[verb]
        self.id = reservation_id
        self.bucket = keys.bucket_of(reservation_id)
        self.waiter = waiter
        self.index = index
        self.since_ms = 0.0
        self.entered_ms = monotonic_ms()
        self.trace = TRACE.get()
        self.actor = "" if verb == "expire" else actor()  # whoever met it did not ask for that
        self.key = key
        self.wanted = wanted
        self.parts = parts
        self.argument = argument
        self.deadline_ms = 0  # extend: the deadline asked for, as time to live from now
        self.limit_ms = 0
        self.turns = 0


StockLine = ReceiveLine | AdjustLine | CountLine | TransferLine | ReallocateLine | OpenLine


class StockOp(Waiting):
    """One line of stock. Its key is the caller's, or one that the worker made."""

    __slots__ = (
        "actor", "entered_ms", "index", "key", "line", "locations", "looks", "moves", "note",
        "round", "since_ms", "trace", "turns", "verb", "waiter",
    )  # fmt: skip

    def __init__(
        self, verb: str, line: StockLine, note: str, key: Key, waiter: Any, index: int = 0
    ) -> None:
        """``note``: reference, reason and time, as the words that a movement ends with."""
        self.verb = verb
        self.line = line
        self.locations = (
            (line.from_location, line.to_location)
            if isinstance(line, TransferLine)
            else (line.location,)
        )
        self.note = note
        self.key = key
        self.waiter = waiter
        self.index = index
        self.since_ms = 0.0
        self.entered_ms = monotonic_ms()
        self.trace = TRACE.get()
        self.actor = actor()
        self.round = 0
        self.turns = 0  # conflicts
        self.looks = 0
        self.moves: list[tuple[bytes, str, str, int]] = []

    @property
    def sku(self) -> str:
        return self.line.sku

    @property
    def pools(self) -> list[str]:
        """The pools that it is about; a transfer's source first."""
        return [f"{self.line.sku}@{location}" for location in self.locations]


Result = Receipt | Known | StockadeError
