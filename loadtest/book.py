"""The harness's own record: what the service has acknowledged, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from sys import intern

import msgspec
from msgspec.structs import replace

from loadtest.client import Line, Reservation
from loadtest.journeys import Part

PoolKey = tuple[str, str]  # (sku, location)

COUNTERS = {"fulfil": "fulfilled", "cancel": "cancelled", "return": "returned"}
GIVEN_BACK = frozenset({"released", "expired"})  # nothing is taken any more
KNOWN_MAX = 100_000  # reservations that a process knows one by one; the oldest are only summed up
LISTED_MAX = 200  # differences described one by one; all of them are counted


class Differences(msgspec.Struct):
    """What is not as it should be: all of it counted, the first of it described."""

    count: int = 0
    listed: list[str] = []

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.listed) < LISTED_MAX:
            self.listed.append(text)

    def merge(self, other: Differences) -> None:
        """Those of ``other``, too."""
        self.count += other.count
        self.listed = (self.listed + other.listed)[:LISTED_MAX]


class Held(msgspec.Struct):
    """A reservation as last acknowledged.

    Of one with a time to live, on this machine's clock: it may not expire before ``alive_s``, and
    has expired, if it is still unpaid, a moment after ``over_s``.
    """

    channel: str
    state: str
    version: int
    lines: list[Line]
    alive_s: float | None = None
    over_s: float | None = None
    done: bool = False  # nobody will come back for it


class Taken(msgspec.Struct):
    """What one channel has of a pool, by the book."""

    reserved: int = 0
    committed: int = 0
    own: int = 0  # taken from its quota, whether still here or shipped
    borrowed: int = 0


class Sums(msgspec.Struct):
    """What reservations have of a pool: per channel, and what was handed over."""

    fulfilled: int = 0
    taken: dict[str, Taken] = {}

    def add(self, held: Held, line: Line) -> None:
        """A line of a reservation, which is about this pool."""
        taken = self.taken.setdefault(held.channel, Taken())
        own, borrowed = still_taken(line)
        taken.own += own
        taken.borrowed += borrowed
        if held.state == "reserved":
            taken.reserved += line.open
        else:
            taken.committed += line.open
        self.fulfilled += line.fulfilled

    def merge(self, other: Sums) -> None:
        """Those of ``other``, too."""
        self.fulfilled += other.fulfilled
        for channel, theirs in other.taken.items():
            mine = self.taken.setdefault(channel, Taken())
            mine.reserved += theirs.reserved
            mine.committed += theirs.committed
            mine.own += theirs.own
            mine.borrowed += theirs.borrowed


class Rule(msgspec.Struct, frozen=True):
    """What a channel may do beside selling what is its own; ``ceiling`` in millionths."""

    borrow: bool = True
    ceiling: int | None = None


class Book(msgspec.Struct):
    """Everything acknowledged in one run; a struct, so that each process may keep its own.

    ``shares`` is the quota policy that was set: location → channel → millionths of a receipt; the
    rest of a receipt is for all. ``rules``: channel → what else was set for it. ``received``: all
    pools of the run, with what each had at the start; ``arrived``: what came later, ``lost``: what
    a count did not find. ``returned``: pool → disposition → units. ``unheard``: references under
    which there may be a reservation that nobody heard of, until ``unheard_over_s``. ``closed``:
    what the ``folded`` reservations come to that are no longer known one by one.
    """

    shares: dict[str, dict[str, int]]
    rules: dict[str, Rule] = {}
    received: dict[PoolKey, int] = {}
    arrived: dict[PoolKey, int] = {}
    lost: dict[PoolKey, int] = {}
    returned: dict[PoolKey, Counter[str]] = {}
    reservations: dict[str, Held] = {}
    closed: dict[PoolKey, Sums] = {}
    folded: int = 0
    unheard: set[str] = set()
    unheard_over_s: float = 0.0
    keys_repeated: int = 0
    keys: Differences = msgspec.field(default_factory=Differences)
    surprises: Differences = msgspec.field(default_factory=Differences)

    def merge(self, other: Book) -> None:
        """What another process was acknowledged, too."""
        for id in self.reservations.keys() & other.reservations.keys():
            self.keys.add(f"reservation {id}: two baskets were given this id")
        self.reservations |= other.reservations
        for pool, back in other.returned.items():
            self.returned.setdefault(pool, Counter()).update(back)
        _add(self.closed, other.closed)
        self.folded += other.folded
        self.unheard |= other.unheard
        self.unheard_over_s = max(self.unheard_over_s, other.unheard_over_s)
        self.keys_repeated += other.keys_repeated
        self.keys.merge(other.keys)
        self.surprises.merge(other.surprises)

    def reserved(
        self,
        answer: Reservation,
        channel: str,
        wanted: Counter[PoolKey],
        alive_s: float | None = None,
        over_s: float | None = None,
        now_s: float = 0.0,
    ) -> None:
        """A reserve was acknowledged; what it grants must be what was ``wanted``.

        An answer that is a replay tells of the reservation as it is now: it may have expired.
        """
        over = alive_s is not None and now_s >= alive_s
        state = "expired" if over and answer.state == "expired" else "reserved"
        if (answer.channel, answer.state) != (channel, state):
            self.surprises.add(
                f"reservation {answer.id}: {answer.state} for {answer.channel} when made"
            )
        if answer.id in self.reservations:
            self.keys.add(f"reservation {answer.id}: two baskets were given this id")
        lines = self._granted(answer.id, answer, wanted)
        self.reservations[answer.id] = Held(channel, state, answer.version, lines, alive_s, over_s)

    def amended(self, id: str, answer: Reservation, wanted: Counter[PoolKey]) -> None:
        """An amend of a reservation of which nothing was cancelled or shipped: as a reserve, but
        the state stays."""
        held = self.reservations[id]
        self._seen(id, "amend", answer, held.state)
        held.lines = self._granted(id, answer, wanted)

    def extended(self, id: str, answer: Reservation, alive_s: float, over_s: float) -> None:
        """A reservation lives longer: never shorter than it did."""
        held = self.reservations[id]
        self._seen(id, "extend", answer, "reserved", least=held.version)
        held.alive_s = max(alive_s, held.alive_s or 0.0)
        held.over_s = max(over_s, held.over_s or 0.0)

    def moved(
        self, id: str, verb: str, answer: Reservation, part: Part | None, disposition: str | None
    ) -> None:
        """``verb`` on all of a reservation, or on a part of it, was acknowledged.

        The answer must show just that; the book goes on with what the verb means.
        """
        held = self.reservations[id]
        before = held.lines
        held.lines = moved_lines(before, verb, part)
        if verb == "commit" and answer.reacquired:
            wanted = held_units(held)
            held.lines = self._granted(id, answer, wanted)
        held.state = {"commit": "committed", "release": "released"}.get(verb) or settled(held.lines)
        self._seen(id, verb, answer, held.state)
        if answer.lines != held.lines and sorted(answer.lines, key=place) != sorted(
            held.lines, key=place
        ):
            self.surprises.add(
                f"reservation {id}: {verb} answered {answer.lines}, should be {held.lines}"
            )
        if disposition is not None:  # of what came back: lines do not tell, so it is kept by pool
            for line, was in zip(held.lines, before, strict=True):
                if line.returned > was.returned:
                    back = self.returned.setdefault((line.sku, line.location), Counter())
                    back[disposition] += line.returned - was.returned

    def expired(self, id: str, now_s: float) -> None:
        """The service says that a reservation has expired."""
        held = self.reservations[id]
        if held.alive_s is None or now_s < held.alive_s:
            self.surprises.add(f"reservation {id}: expired before its deadline")
        held.state = "expired"

    @property
    def acknowledged(self) -> int:
        """How many reservations were."""
        return self.folded + len(self.reservations)

    def sums(self) -> dict[PoolKey, Sums]:
        """What all reservations come to, by pool."""
        sums: dict[PoolKey, Sums] = {}
        _add(sums, self.closed)
        for held in self.reservations.values():
            _sum_up(sums, held)
        return sums

    def over(self, id: str, now_s: float) -> None:
        """Nobody will come back for a reservation. Where there are too many to know them all, the
        oldest of those are summed up; one that is unpaid when its deadline has passed expires."""
        self.reservations[id].done = True
        if len(self.reservations) <= KNOWN_MAX:
            return
        for old in list(self.reservations)[: KNOWN_MAX // 2]:
            held = self.reservations[old]
            unpaid = held.state == "reserved"
            if held.done and not (unpaid and (held.over_s is None or held.over_s > now_s)):
                held.state = "expired" if unpaid else held.state
                _sum_up(self.closed, held)
                self.folded += 1
                del self.reservations[old]

    def last_deadline_s(self) -> float:
        """When the last of what is still unpaid has expired; 0 if nothing will."""
        known = [held.over_s for held in self._unpaid() if held.over_s is not None]
        return max(self.unheard_over_s, *known, 0.0)

    def deadlines_passed(self) -> None:
        """All that has a deadline and was not paid has reached it."""
        for held in self._unpaid():
            if held.over_s is not None:
                held.state = "expired"

    def _unpaid(self) -> Iterator[Held]:
        return (held for held in self.reservations.values() if held.state == "reserved")

    def _seen(
        self, id: str, verb: str, answer: Reservation, state: str, least: int | None = None
    ) -> None:
        held = self.reservations[id]
        if (answer.id, answer.state) != (id, state):
            self.surprises.add(
                f"reservation {id}: {verb} answered {answer.id} {answer.state}, should be {state}"
            )
        if answer.version < (held.version + 1 if least is None else least):
            self.surprises.add(
                f"reservation {id}: {verb} answered version {answer.version} after {held.version}"
            )
        held.version = answer.version

    def _granted(self, id: str, answer: Reservation, wanted: Counter[PoolKey]) -> list[Line]:
        """The lines of an answer that grants, which must be what was ``wanted``."""
        granted: Counter[PoolKey] = Counter()
        for line in answer.lines:
            line.sku, line.location = intern(line.sku), intern(line.location)
            granted[line.sku, line.location] += line.quantity
            if line.own + line.borrowed != line.quantity or min(line.own, line.borrowed) < 0:
                self.surprises.add(
                    f"reservation {id}: {line.sku}@{line.location}: {line.quantity} is not "
                    f"{line.own} own + {line.borrowed} borrowed"
                )
            if line.fulfilled or line.cancelled or line.returned:
                self.surprises.add(f"reservation {id}: {line} when nothing happened to it")
        if granted != wanted:
            self.surprises.add(f"reservation {id}: grants {granted}, wanted {wanted}")
        return answer.lines


def _sum_up(sums: dict[PoolKey, Sums], held: Held) -> None:
    if held.state not in GIVEN_BACK:
        for line in held.lines:
            sums.setdefault(place(line), Sums()).add(held, line)


def _add(sums: dict[PoolKey, Sums], others: dict[PoolKey, Sums]) -> None:
    for pool, theirs in others.items():
        sums.setdefault(pool, Sums()).merge(theirs)


def still_taken(line: Line) -> tuple[int, int]:
    """(own, borrowed) units of a line that did not go back by a cancel.

    Own ones ship first and borrowed ones go back first: of those that were not shipped.
    """
    lent = line.borrowed - max(0, line.fulfilled - line.own)
    borrowed_back = min(line.cancelled, lent)
    return line.own - (line.cancelled - borrowed_back), line.borrowed - borrowed_back


def place(line: Line) -> PoolKey:
    """The pool that a line is about."""
    return line.sku, line.location


def differences(found: Reservation, held: Held) -> Iterator[str]:
    """How a reservation as it was read differs from what the book has of it."""
    if found.state != held.state:
        yield f"is {found.state}, should be {held.state}"
    if found.channel != held.channel:
        yield f"is of {found.channel}, should be of {held.channel}"
    if held.state != "expired" and found.version != held.version:
        yield f"is version {found.version}, should be {held.version}"
    if sorted(found.lines, key=place) != sorted(held.lines, key=place):
        yield f"holds {found.lines}, should hold {held.lines}"


def held_units(held: Held) -> Counter[PoolKey]:
    """What a reservation holds open, by pool."""
    units: Counter[PoolKey] = Counter()
    for line in held.lines:
        units[place(line)] += line.open
    return units


def moved_lines(lines: list[Line], verb: str, part: Part | None) -> list[Line]:
    """What ``verb`` makes of ``lines``; without a part it is about all that is open."""
    counter = COUNTERS.get(verb)
    if counter is None:
        return lines
    after = []
    wanted = part.quantity if part is not None else None
    for line in lines:
        units = line.away if verb == "return" else line.open
        if part is not None and (part.sku, part.location or line.location) != place(line):
            units = 0
        if wanted is not None:
            units = min(units, wanted)
            wanted -= units
        after.append(replace(line, **{counter: getattr(line, counter) + units}))
    return after


def settled(lines: Sequence[Line]) -> str:
    """The state of a reservation that was paid."""
    if any(line.open for line in lines):
        return "committed"
    if not any(line.fulfilled for line in lines):
        return "cancelled"
    return "fulfilled" if any(line.away for line in lines) else "returned"
