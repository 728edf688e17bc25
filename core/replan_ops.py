"""What waits in a lane to be planned anew under its record: amends, late commits, returns.

Each is planned on the record as it was read. ``compose`` then says what the record becomes; the
script takes that only if the record is still the one that was planned on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import Struct
from msgspec.structs import replace

from core.access import actor
from core.clock import monotonic_ms
from core.customers import NOBODY, Entries, units_of
from core.kernel._plan import COMMITTED, RESERVED
from core.kernel._policy import Policy
from core.model import Key, Line
from core.ops import ReserveOp, Waiting
from core.policy_model import SkuEntry
from core.store.wording import Record, RecordLine, parse_record
from core.tracing import TRACE

Take = tuple[bytes, int, int, int, int]  # (pool, own, borrowed, ceiling number, short)


def _taken(take: Take) -> RecordLine:
    """What was taken, as the line of a record."""
    pool, own, borrowed, ceiling, short = take
    return RecordLine(pool.decode(), own, borrowed, 0, 0, 0, ceiling, short)


def _closed(line: RecordLine) -> RecordLine:
    """What is not open any more of a line, as a line that has nothing open.

    Shipped units count as own and cancelled ones as borrowed: of what is open beside them own units
    then ship first and borrowed ones go back first, whatever the closed ones were.
    """
    units = line.fulfilled + line.cancelled
    return replace(line, own=line.fulfilled, borrowed=line.cancelled, short=min(line.short, units))


def _open_short(lines: Sequence[RecordLine]) -> dict[str, int]:
    """Per pool the units that were not there when they were recorded, and that are open still."""
    missing: dict[str, int] = {}
    for line in lines:
        still = line.short - min(line.short, line.fulfilled + line.cancelled)
        if still:
            missing[line.pool] = missing.get(line.pool, 0) + still
    return missing


def amended_lines(lines: Sequence[RecordLine], takes: Sequence[Take]) -> list[RecordLine]:
    """The lines of an amended record: what is closed of the old ones, and what was taken.

    Both are one line where they are of one pool and spent the same ceiling.
    """
    taken = {(line.pool, line.ceiling): line for line in map(_taken, takes)}
    missing = _open_short(lines)
    for where, line in taken.items():
        short = min(missing.get(line.pool, 0), line.own + line.borrowed)
        if short:
            missing[line.pool] -= short
            taken[where] = replace(line, short=short)
    amended = []
    for line in lines:
        if not line.fulfilled + line.cancelled:
            continue
        closed, fresh = _closed(line), taken.pop((line.pool, line.ceiling), None)
        if fresh is not None:
            closed = replace(
                closed, own=closed.own + fresh.own, borrowed=closed.borrowed + fresh.borrowed,
                short=closed.short + fresh.short,
            )  # fmt: skip
        amended.append(closed)
    return [*amended, *taken.values()]


def _present_first(line: Line, was: Record, order: list[str]) -> Line:
    present = [each.location for each in was.lines if each.sku == line.sku]
    return replace(line, locations=list(dict.fromkeys([*present, *order])))


class ReplanOp(ReserveOp):
    """A demand whose units are planned anew under a record that exists."""

    __slots__ = ("due_ms", "old_record", "policy_number", "reservation_id", "was")
    verb: ClassVar[str]
    late: ClassVar[bool] = False

    def __init__(
        self,
        reservation_id: str,
        old_record: bytes,
        was: Record,
        lines: list[Any],
        key: Key | None,
        waiter: Any,
    ) -> None:
        """``was``: what ``old_record`` says, with the reference that it shall have."""
        self.policy_number = -1  # that its lines follow
        super().__init__(was.channel, lines, was.tail, None, False, True, key, waiter)
        self.reservation_id = self.id = reservation_id
        self.old_record = old_record
        self.was = was
        self.due_ms: int | None = None  # a deadline that the record did not have before
        self.unnamed = True  # it was made when nobody needed to say who asks

    def follow(self, policy: Policy) -> None:
        """Lines without a location look where the record has the SKU, then in the channel's order
        by this policy."""
        spec = policy.specs.get(self.channel)
        if spec is None or policy.number == self.policy_number:
            return
        self.policy_number = policy.number
        self.lines = [
            line if line.location else _present_first(line, self.was, spec.locations)
            for line in self.lines
        ]

    def set_deadline(self, policy: Policy) -> None:
        """Its record has one already, or none."""

    def reset(self) -> None:
        super().reset()
        self.id = self.reservation_id
        self.takes = None

    def compose(self, now_ms: int, nonce: str) -> None:
        """The record as it becomes, of what was taken."""
        raise NotImplementedError

    def count(self, entries: Entries, index: int) -> None:
        """What the customer has more or less of SKUs of which one may have only so many."""
        if self.limits is not None:
            assert self.record is not None
            after = units_of(parse_record(self.record))
            was = self.was
            entries.add(index, self.reservation_id, was.customer, self.limits, units_of(was), after)


class LateOp(ReplanOp):
    """A late commit: what a record had goes to ``committed``."""

    __slots__ = ()
    verb = "commit"
    late = True

    def __init__(self, *record: Any) -> None:
        super().__init__(*record)
        self.state = COMMITTED

    def compose(self, now_ms: int, nonce: str) -> None:
        assert self.takes is not None
        was = self.was
        self.record = Record(
            "C", was.version + 1, now_ms, None, now_ms, f"~{nonce}", was.channel, was.customer,
            was.reference, [_taken(take) for take in self.takes],
        ).encode()  # fmt: skip


class AmendOp(ReplanOp):
    """An amend: the open units of a record as they shall be."""

    __slots__ = ("limit_ms", "longer_ms")
    verb = "amend"

    def __init__(self, *record: Any, longer_ms: int = 0, limit_ms: int = 0) -> None:
        """``longer_ms``: held for so long from now on, if that is later, but not past the limit."""
        super().__init__(*record)
        self.state = RESERVED if self.was.state == "R" else COMMITTED
        self.longer_ms = longer_ms
        self.limit_ms = limit_ms
        self.held = [
            (line.sku, line.location, *line.open_parts, line.ceiling)
            for line in self.was.lines
            if sum(line.open_parts)
        ]

    def is_unnamed(self) -> bool:
        """True if nobody knows whom it is for."""
        return self.was.customer == NOBODY

    def touches(self, pool: bytes) -> bool:
        name = pool.decode()
        return super().touches(pool) or any(line.pool == name for line in self.was.lines)

    def compose(self, now_ms: int, nonce: str) -> None:
        assert self.takes is not None
        deadline_ms = self.was.deadline_ms
        self.due_ms = None
        if deadline_ms is not None and self.longer_ms:
            longer = min(now_ms + self.longer_ms, self.limit_ms)
            if longer > deadline_ms:
                deadline_ms = self.due_ms = longer
        self.record = replace(
            self.was, version=self.was.version + 1, updated_ms=now_ms, deadline_ms=deadline_ms,
            seq=f"~{nonce}", lines=amended_lines(self.was.lines, self.takes),
        ).encode()  # fmt: skip

    def net_moves(self, deficits: dict[bytes, int]) -> list[tuple[str, str, str, int]]:
        """(pool, from, to, units) of what changed; what goes back pays a deficit first.

        ``deficits``: of the pools, before it; what it pays is taken off.
        """
        channel = self.channel
        account = f"{'reserved' if self.state == RESERVED else 'committed'}:{channel}"
        change: dict[bytes, list[int]] = {}
        for sku, location, own, borrowed, _ in self.held or ():
            units = change.setdefault(f"{sku}@{location}".encode(), [0, 0])
            units[0] += own
            units[1] += borrowed
        for pool, own, borrowed, _, _ in self.takes or ():
            units = change.setdefault(pool, [0, 0])
            units[0] -= own
            units[1] -= borrowed
        found = []
        for pool, (own, borrowed) in change.items():  # what goes back; what is taken is negative
            paid = min(deficits[pool], max(borrowed, 0))
            also = min(deficits[pool] - paid, max(own, 0))
            deficits[pool] -= paid + also
            name = pool.decode()
            found.append((name, account, "deficit", paid + also))
            for net, there in ((borrowed - paid, "shared"), (own - also, f"free:{channel}")):
                found.append((name, account, there, max(net, 0)))
                found.append((name, there, account, max(-net, 0)))
        return [move for move in found if move[3]]


class Back(Struct, frozen=True, gc=False):
    """Units of one line of a record that came back."""

    line: int
    to: str
    disposition: str
    units: int


class ReturnOp(Waiting):
    """A return: shipped units of a record that came back."""

    __slots__ = (
        "actor", "due_ms", "entered_ms", "id", "index", "key", "limits", "moves", "note",
        "old_record", "parts", "record", "round", "since_ms", "trace", "turns", "waiter", "was",
    )  # fmt: skip
    verb: ClassVar[str] = "return"
    late: ClassVar[bool] = False

    def __init__(
        self,
        reservation_id: str,
        old_record: bytes,
        was: Record,
        parts: list[Back],
        note: str,
        key: Key,
        waiter: Any,
    ) -> None:
        """``note``: the reference of the return, encoded, or empty."""
        self.id = reservation_id
        self.old_record = old_record
        self.was = was
        self.parts = parts
        self.note = note
        self.key = key
        self.waiter = waiter
        self.index = 0
        self.since_ms = 0.0
        self.entered_ms = monotonic_ms()
        self.trace = TRACE.get()
        self.actor = actor()
        self.round = 0
        self.turns = 0
        self.due_ms: int | None = None
        self.record = b""
        self.moves: list[tuple[str, str, str, int]] = []
        self.limits: dict[str, SkuEntry] = {}  # of the SKUs of which one may have only so many

    def reset(self) -> None:
        """Before it is planned again: what the last plan gave it is void."""
        self.moves = []

    def count(self, entries: Entries, index: int) -> None:
        """What the customer has less of those SKUs."""
        if self.limits:
            after = units_of(parse_record(self.record))
            was = self.was
            entries.add(index, self.id, was.customer, self.limits, units_of(was), after)

    def compose(self, now_ms: int, nonce: str) -> None:
        """The record as it becomes; its state follows from its counters."""
        lines = list(self.was.lines)
        for part in self.parts:
            line = lines[part.line]
            lines[part.line] = replace(line, returned=line.returned + part.units)
        state = self.was.state
        if state != "C":
            out = sum(line.fulfilled - line.returned for line in lines)
            state = "F" if out else "T"
        self.record = replace(
            self.was, state=state, version=self.was.version + 1, updated_ms=now_ms,
            seq=f"~{nonce}", lines=lines,
        ).encode()  # fmt: skip
