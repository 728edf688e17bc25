"""The model's reservations, and the verbs that are planned: new ones, recorded sales, late commits,
amends, returns. ``tests.model`` adds those that only move what a record says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from core.kernel import reference as rule
from core.kernel import reference_orders as orders
from core.kernel import reference_reserve as reserving
from core.kernel import reference_stock as stock
from core.kernel.reference import Pool
from core.model import AmendLine, Line, ReturnLine
from tests.shelves import ALREADY, DONE, Answer, Place, Shelves

STATES = {
    "R": "reserved", "C": "committed", "F": "fulfilled", "T": "returned", "L": "released",
    "X": "expired", "K": "cancelled",
}  # fmt: skip
LETTERS = {name: letter for letter, name in STATES.items()}
Counter = Literal["fulfilled", "cancelled", "returned"]


@dataclass
class Held:
    """What a reservation has of one pool: how much of it is left, and how much became what."""

    place: Place
    own: int
    borrowed: int
    ceiling: int
    fulfilled: int = 0
    cancelled: int = 0
    returned: int = 0
    short: int = 0
    own_left: int = 0
    borrowed_left: int = 0

    @property
    def open(self) -> int:
        """Units neither shipped nor given back."""
        return self.own_left + self.borrowed_left


def held_of(take: reserving.Take) -> Held:
    """What was just taken."""
    return Held(
        (take.sku, take.location), take.own, take.borrowed, take.ceiling_number, short=take.short,
        own_left=take.own, borrowed_left=take.borrowed,
    )  # fmt: skip


@dataclass
class Record:
    """A reservation."""

    channel: str
    customer: str | None
    reference: str | None
    lines: list[Held]
    state: str = "R"
    version: int = 1

    @property
    def open(self) -> int:
        """Units neither shipped nor given back."""
        return sum(line.open for line in self.lines)

    @property
    def account(self) -> Literal["reserved", "committed"]:
        """Where its open units are."""
        return "reserved" if self.state == "R" else "committed"

    def total(self, counter: Counter) -> int:
        """Units that became ``counter``."""
        return sum(getattr(line, counter) for line in self.lines)

    def places(self, sku: str) -> list[str]:
        """Where it has a SKU, or had."""
        return [line.place[1] for line in self.lines if line.place[0] == sku]


@dataclass
class Planned(Shelves):
    """A warehouse with reservations."""

    records: dict[str, Record] = field(default_factory=dict)

    # --- new ones ------------------------------------------------------------------------------

    def reserve(
        self,
        id: str | None,
        channel: str,
        lines: Sequence[Line],
        partial: bool = False,
        split: bool = True,
        customer: str | None = None,
        reference: str | None = None,
        state: str = "reserved",
    ) -> Answer:
        """Takes units for a new reservation; without ``id`` it only says what would happen."""
        if channel not in self.channels:
            return Answer("unknown_channel")
        decision, drafts = self.plan(channel, lines, partial, split)
        if not decision.takes:
            return Answer("insufficient_stock", lines=decision.shortfalls)
        if id is not None:
            held = self._adopt(decision.takes, drafts)
            record = self.records[id] = Record(channel, customer, reference, held)
            if state != "reserved":
                self._commit(record)
            if state == "fulfilled":
                self._ship([(line, line.open) for line in held], channel)
            record.state = LETTERS[state]
        return Answer("done", lines=decision.shortfalls)

    def plan(
        self, channel: str, lines: Sequence[Line], partial: bool, split: bool
    ) -> tuple[reserving.Decision, dict[Place, Pool]]:
        """What a demand would get, and the pools as they would be."""
        policy = self.policy()
        parts = self._parts(lines)
        demand = reserving.Demand(channel, parts, partial, split)
        drafts = self._drafts(line.sku for line in lines)
        for (sku, _), pool in drafts.items():
            rule.meet(policy, self.sku_policy(sku), pool)
        return reserving.decide(policy, drafts, demand, reserving.summed(parts)), drafts

    @staticmethod
    def _parts(lines: Sequence[Line]) -> tuple[reserving.Line, ...]:
        return tuple(
            reserving.Line(
                line.sku, line.quantity, line.location,
                tuple(line.locations) if line.locations else None,
            )
            for line in lines
        )  # fmt: skip

    def _drafts(self, skus: Iterable[str]) -> dict[Place, Pool]:
        wanted = set(skus)
        return {place: pool.copy() for place, pool in self.pools.items() if place[0] in wanted}

    def room(self, channel: str, sku: str) -> int:
        """Units that the channel can have of a SKU, one by one."""
        line = [Line(sku, 2**31 - 1)]
        decision, _ = self.plan(channel, line, partial=True, split=True)
        if self.channels[channel].split:
            return sum(take.own + take.borrowed for take in decision.takes)
        total = 0
        for location in self.channels[channel].locations:
            line = [Line(sku, 2**31 - 1, location)]
            decision, _ = self.plan(channel, line, partial=True, split=True)
            total += sum(take.own + take.borrowed for take in decision.takes)
        return total

    def _adopt(self, takes: Iterable[reserving.Take], drafts: Mapping[Place, Pool]) -> list[Held]:
        held = [held_of(take) for take in takes]
        for place in {line.place for line in held}:
            self.pools[place] = drafts[place]
            self.pools[place].version += 1
        return held

    def record_sale(
        self,
        id: str,
        channel: str,
        lines: Sequence[Line],
        state: Literal["committed", "fulfilled"],
        customer: str | None = None,
        reference: str | None = None,
    ) -> Answer:
        """Writes a sale down that happened already."""
        if channel not in self.channels:
            return Answer("unknown_channel")
        parts = self._parts(lines)
        wanted = [
            (part.sku, reserving.candidates(part, self.policy().channels[channel]))
            for part in parts
        ]
        lacking = [
            (sku, places[0])
            for sku, places in wanted
            if not any((sku, place) in self.pools for place in places)
        ]
        for place in lacking:
            self.open_pool(place)
        demand = reserving.Demand(channel, parts)
        takes, _ = orders.record_sale(
            self.policy(), self.sku_policies(), self.pools, demand, state
        )
        held = self._adopt(takes, self.pools)
        if state == "fulfilled":
            for line in held:
                line.fulfilled, line.own_left, line.borrowed_left = line.open, 0, 0
        self.records[id] = Record(channel, customer, reference, held, LETTERS[state])
        return DONE

    # --- what becomes of them ------------------------------------------------------------------

    def commit(
        self, id: str, late: str | None, due: bool = False, reference: str | None = None
    ) -> Answer:
        """Reserved → committed. A record that is due must have expired first."""
        record = self.records[id]
        if record.state in "CFT":
            return ALREADY
        if record.state == "K":
            return Answer("invalid_state", "cancelled")
        if record.state == "L" and late != "reacquire":
            return Answer("invalid_state", "released")
        if record.state == "R" and not due:
            self._commit(record)
            self._settled(record, "C", record.lines)
        elif late == "refuse":
            return Answer("expired")
        else:
            assert record.state in "LX", "it expires first"
            answer = self._reacquire(record)
            if answer is not DONE:
                return answer
        record.reference = reference or record.reference
        return DONE

    def _commit(self, record: Record) -> None:
        for line in record.lines:
            quota = self.pools[line.place].quotas[record.channel]
            quota.reserved -= line.open
            quota.committed += line.open

    def _reacquire(self, record: Record) -> Answer:
        if record.channel not in self.channels:
            return Answer("expired")
        wanted: dict[str, int] = {}
        for line in record.lines:
            wanted[line.place[0]] = wanted.get(line.place[0], 0) + line.own + line.borrowed
        lines = [
            Line(sku, units, None, self._present_first(record, sku))
            for sku, units in wanted.items()
        ]
        decision, drafts = self.plan(record.channel, lines, partial=False, split=True)
        if not decision.takes:
            return Answer("expired", lines=decision.shortfalls)
        record.lines = self._adopt(decision.takes, drafts)
        self._commit(record)
        record.state, record.version = "C", record.version + 1
        return DONE

    def _present_first(self, record: Record, sku: str) -> list[str]:
        order = self.channels[record.channel].locations
        return list(dict.fromkeys([*record.places(sku), *order]))

    def amend(
        self,
        id: str,
        lines: Sequence[AmendLine],
        reference: str | None = None,
        due: bool = False,
    ) -> Answer:
        """The open units as they shall be; whether the deadline may be so is not known here."""
        record = self.records[id]
        if record.state not in "RC" or due:
            return Answer("invalid_state", "expired" if due else STATES[record.state])
        asked = [
            Line(
                line.sku, line.quantity, line.location,
                None if line.location else self._present_first(record, line.sku),
            )
            for line in lines
        ]  # fmt: skip
        held = [
            orders.Holding(*line.place, line.own_left, line.borrowed_left, line.ceiling)
            for line in record.lines
            if line.open
        ]
        drafts = self._drafts(
            {line.sku for line in lines} | {each.sku for each in held}
        )
        decision = orders.plan_again(
            self.policy(), self.sku_policies(), drafts,
            reserving.Demand(record.channel, self._parts(asked)), held, record.account,
        )  # fmt: skip
        if decision.shortfalls:
            return Answer("insufficient_stock", lines=decision.shortfalls)
        takes = [held_of(take) for take in decision.takes]
        touched = {line.place for line in takes} | {(each.sku, each.location) for each in held}
        for place in touched:
            self.pools[place] = drafts[place]
            self.pools[place].version += 1
        record.lines = _amended(record.lines, takes)
        record.reference = reference or record.reference
        record.version += 1
        return DONE

    def return_(self, id: str, parts: Sequence[ReturnLine], due: bool = False) -> Answer:
        """Shipped units came back."""
        record = self.records[id]
        if record.state not in "CFT":
            return Answer("invalid_state", "expired" if due else STATES[record.state])
        chosen = self._chosen_back(record, parts)
        if isinstance(chosen, Answer):
            return chosen
        for _, to, _, _ in chosen:
            if to not in self.locations:
                return Answer("unknown_location")
        if not all(self.locations[to].returns for _, to, _, _ in chosen):
            return Answer("validation_failed")
        touched: set[Place] = set()
        for line, to, _, _ in chosen:
            self.open_pool((line.place[0], to))
            for place in ((line.place[0], to), line.place):
                pool, sku_policy = self.pools[place], self.sku_policy(place[0])
                was = pool.sku_number, pool.policy_number
                rule.meet(self.policy(), sku_policy, pool)
                if was != (pool.sku_number, pool.policy_number):
                    touched.add(place)
        for line, to, disposition, units in chosen:
            place = line.place[0], to
            policies = self.policy(), self.sku_policy(place[0])
            touched.add(place)
            line.returned += units
            if disposition != "restock":
                stock.put_away(*policies, self.pools[place], units, disposition)
                continue
            stock.restock(*policies, self.pools[place], units)
            if line.ceiling and record.channel in self.channels and stock.give_allowance(
                *policies, self.pools[line.place], record.channel, units, line.ceiling
            ):
                touched.add(line.place)
        for place in touched:
            self.pools[place].version += 1
        record.state = self._state(record)
        record.version += 1
        return DONE

    @staticmethod
    def _chosen_back(
        record: Record, parts: Sequence[ReturnLine]
    ) -> list[tuple[Held, str, str, int]] | Answer:
        """(line, to where, disposition, units): those with a location first, then by order of the
        record's lines."""
        out = [line.fulfilled - line.returned for line in record.lines]
        chosen: list[tuple[Held, str, str, int]] = []
        short: list[tuple[str, str | None, int, int]] = []
        for part in sorted(parts, key=lambda part: part.location is None):
            places = [
                number
                for number, line in enumerate(record.lines)
                if line.place[0] == part.sku and part.location in (None, line.place[1])
            ]
            left, missing = sum(out[number] for number in places), part.quantity
            if left < missing:  # it takes nothing from those behind it
                short.append((part.sku, part.location, part.quantity, left))
                continue
            for number in places:
                units = min(missing, out[number])
                if units:
                    line = record.lines[number]
                    chosen.append((line, part.to or line.place[1], part.disposition, units))
                    out[number] -= units
                    missing -= units
        return invalid_quantity(short) if short else chosen

    def _ship(self, chosen: Iterable[tuple[Held, int]], channel: str) -> None:
        for line, units in chosen:
            orders.ship(self.pools[line.place], channel, units)
            own = min(units, line.own_left)
            line.own_left -= own
            line.borrowed_left -= units - own
            line.fulfilled += units

    @staticmethod
    def _state(record: Record) -> str:
        if record.open:
            return "C"
        shipped = record.total("fulfilled")
        if not shipped:
            return "K"
        return "T" if record.total("returned") == shipped else "F"

    def _settled(self, record: Record, state: str, lines: Iterable[Held]) -> None:
        record.state = state
        self._bump([record], lines)

    def _bump(self, records: Iterable[Record], lines: Iterable[Held] | None = None) -> None:
        """One script changed these: their versions, and those of their pools, each once."""
        places = set()
        for record in records:
            record.version += 1
            places |= {line.place for line in (record.lines if lines is None else lines)}
        for place in places:
            self.pools[place].version += 1


def invalid_quantity(short: Iterable[tuple[str, str | None, int, int]]) -> Answer:
    """More than is left: (SKU, location, asked for, left) each."""
    lines = tuple(reserving.Shortfall(*each, "on_hand") for each in short)
    return Answer("invalid_quantity", lines=lines)


def _amended(lines: Sequence[Held], takes: Iterable[Held]) -> list[Held]:
    """The lines of an amended record: what is closed of the old ones, and what was taken; both are
    one line where they are of one pool and one ceiling.

    Shipped units count as own and cancelled ones as borrowed, so that what is open beside them
    ships and goes back by itself.
    """
    taken = {(take.place, take.ceiling): take for take in takes}
    for line in lines:  # units that were never there, and that are open still, are missing still
        missing = line.short - min(line.short, line.fulfilled + line.cancelled)
        for fresh in taken.values():
            if fresh.place == line.place:
                units = min(missing, fresh.own + fresh.borrowed - fresh.short)
                fresh.short += units
                missing -= units
    amended = []
    for line in lines:
        closed = line.fulfilled + line.cancelled
        if not closed:
            continue
        kept = replace(
            line, own=line.fulfilled, borrowed=line.cancelled, short=min(line.short, closed),
            own_left=0, borrowed_left=0,
        )  # fmt: skip
        take = taken.pop((line.place, line.ceiling), None)
        if take is not None:
            kept = replace(
                kept, own=kept.own + take.own, borrowed=kept.borrowed + take.borrowed,
                short=kept.short + take.short, own_left=take.own, borrowed_left=take.borrowed,
            )  # fmt: skip
        amended.append(kept)
    return [*amended, *taken.values()]
