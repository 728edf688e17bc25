"""A plain model of a shard: dicts, one thing at a time, planned by ``core.kernel.reference``.

Each verb works as DESIGN §3 says it and returns what a caller is told, so that a test can ask the
model and the real thing the same and compare. The model knows no clock: what is due it is told.
A refusal is an ``Answer`` whose ``code`` is the error's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from core.kernel import reference as rule
from core.kernel.reference import Pool
from core.model import ChannelSpec, Line, SkuChannel, SkuSpec

Place = tuple[str, str]  # (SKU, location)
STATES = {
    "R": "reserved", "C": "committed", "F": "fulfilled", "L": "released", "X": "expired",
    "K": "cancelled",
}  # fmt: skip


@dataclass
class Held:
    """What a reservation has of one pool: how much of it is left, and how much became what."""

    place: Place
    own: int
    borrowed: int
    ceiling: int
    fulfilled: int = 0
    cancelled: int = 0
    own_left: int = 0
    borrowed_left: int = 0

    @property
    def open(self) -> int:
        """Units neither shipped nor given back."""
        return self.own_left + self.borrowed_left


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

    def total(self, counter: Literal["fulfilled", "cancelled"]) -> int:
        """Units that became ``counter``."""
        return sum(getattr(line, counter) for line in self.lines)


@dataclass(frozen=True)
class Answer:
    """What a caller is told: ``done``, ``already``, or the code of an error."""

    code: str
    state: str = ""
    lines: tuple[rule.Shortfall, ...] = ()


DONE, ALREADY = Answer("done"), Answer("already")


def millionths(share: float | None) -> int:
    """A share as the whole number that it stands for."""
    return round((share or 0) * rule.SHARE_ONE)


def _ceiling(spec: ChannelSpec | SkuChannel) -> rule.Ceiling | None:
    if spec.ceiling_share is not None:
        return rule.Ceiling(share=millionths(spec.ceiling_share))
    return None if spec.ceiling_units is None else rule.Ceiling(units=spec.ceiling_units)


@dataclass
class Model:
    """What the store should hold."""

    channels: dict[str, ChannelSpec] = field(default_factory=dict)
    locations: dict[str, bool] = field(default_factory=lambda: {"main": True})
    skus: dict[str, tuple[int, SkuSpec]] = field(default_factory=dict)
    pools: dict[Place, Pool] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    policy_number: int = 1

    def copy(self) -> Model:
        """A model with the same numbers that shares nothing that changes."""
        records = {
            id: replace(record, lines=[replace(line) for line in record.lines])
            for id, record in self.records.items()
        }
        pools = {place: pool.copy() for place, pool in self.pools.items()}
        return replace(
            self, channels=dict(self.channels), locations=dict(self.locations),
            skus=dict(self.skus), pools=pools, records=records,
        )  # fmt: skip

    # --- policy --------------------------------------------------------------------------------

    def policy(self) -> rule.Policy:
        """Channels and locations as the rule reads them."""
        channels = {
            name: rule.Channel(
                name, tuple(spec.locations), millionths(spec.floor_share), spec.floor_units or 0,
                _ceiling(spec), spec.borrow, spec.split,
            )
            for name, spec in self.channels.items()
        }  # fmt: skip
        return rule.Policy(channels, self.locations, self.policy_number)

    def sku_policy(self, sku: str) -> rule.SkuPolicy:
        """A SKU's policy as the rule reads it."""
        number, spec = self.skus[sku]
        overrides = {
            name: rule.Override(
                None if each.floor_share is None else millionths(each.floor_share),
                each.floor_units,
                _ceiling(each),
            )
            for name, each in spec.channels.items()
        }
        return rule.SkuPolicy(number, spec.safety_stock, spec.safety_by_location, overrides)

    def put_channel(self, name: str, spec: ChannelSpec) -> None:
        """A channel is as ``spec`` says; pools meet that when they are next planned on."""
        self.channels[name] = spec
        self.policy_number += 1

    def put_location(self, name: str, sells: bool) -> None:
        """A location sells or not."""
        self.locations[name] = sells
        self.policy_number += 1

    def put_sku(self, sku: str, spec: SkuSpec) -> None:
        """A SKU's policy; all its pools meet it at once."""
        self.skus[sku] = self.skus[sku][0] + 1 if sku in self.skus else 1, spec
        for pool in self.pools.values():
            if pool.sku == sku:
                rule.meet(self.policy(), self.sku_policy(sku), pool)
                pool.version += 1

    # --- stock ---------------------------------------------------------------------------------

    def receive(self, sku: str, location: str, units: int) -> None:
        """Units arrive."""
        pool = self.pools.setdefault((sku, location), Pool(sku, location))
        rule.receive(self.policy(), self.sku_policy(sku), pool, units)
        pool.version += 1

    def lose(self, place: Place, units: int) -> None:
        """A count finds nothing for sale, and ``units`` less than is promised."""
        pool = self.pools[place]
        pool.shared = pool.safety = 0
        for quota in pool.quotas.values():
            quota.free = 0
        pool.deficit += units
        pool.version += 1

    # --- reservations --------------------------------------------------------------------------

    def reserve(
        self,
        id: str | None,
        channel: str,
        lines: Sequence[Line],
        partial: bool = False,
        split: bool = True,
        customer: str | None = None,
        reference: str | None = None,
    ) -> Answer:
        """Takes units for a new reservation; without ``id`` it only says what would happen."""
        decision, drafts = self.plan(channel, lines, partial, split)
        if not decision.takes:
            return Answer("insufficient_stock", lines=decision.shortfalls)
        if id is not None:
            self.records[id] = Record(channel, customer, reference, self._adopt(decision, drafts))
        return Answer("done", lines=decision.shortfalls)

    def plan(
        self, channel: str, lines: Sequence[Line], partial: bool, split: bool
    ) -> tuple[rule.Decision, dict[Place, Pool]]:
        """What a demand would get, and the pools as they would be."""
        policy = self.policy()
        parts = [
            rule.Line(
                line.sku, line.quantity, line.location,
                tuple(line.locations) if line.locations else None,
            )
            for line in lines
        ]  # fmt: skip
        demand = rule.Demand(channel, tuple(parts), partial, split)
        wanted = {line.sku for line in lines}
        drafts: dict[Place, Pool] = {}
        for place, pool in self.pools.items():
            if place[0] in wanted:
                drafts[place] = pool.copy()
                rule.meet(policy, self.sku_policy(place[0]), drafts[place])
        return rule.decide(policy, drafts, demand, rule.summed(parts)), drafts

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

    def _adopt(self, decision: rule.Decision, drafts: Mapping[Place, Pool]) -> list[Held]:
        held = []
        for take in decision.takes:
            place = take.sku, take.location
            self.pools[place] = drafts[place]
            self.pools[place].version += 1
            held.append(
                Held(
                    place, take.own, take.borrowed, take.ceiling_number,
                    own_left=take.own, borrowed_left=take.borrowed,
                )
            )  # fmt: skip
        return held

    def commit(
        self, id: str, late: str | None, due: bool = False, reference: str | None = None
    ) -> Answer:
        """Reserved → committed. A record that is due must have expired first."""
        record = self.records[id]
        if record.state in "CF":
            return ALREADY
        if record.state == "K":
            return Answer("invalid_state", "cancelled")
        if record.state == "L" and late != "reacquire":
            return Answer("invalid_state", "released")
        if record.state == "R" and not due:
            for line in record.lines:
                quota = self.pools[line.place].quotas[record.channel]
                quota.reserved -= line.open
                quota.committed += line.open
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

    def _reacquire(self, record: Record) -> Answer:
        wanted: dict[str, tuple[int, list[str]]] = {}
        for line in record.lines:
            sku, location = line.place
            units, places = wanted.get(sku, (0, []))
            wanted[sku] = units + line.own + line.borrowed, [*places, location]
        order = self.channels[record.channel].locations
        lines = [
            Line(sku, units, None, list(dict.fromkeys([*places, *order])))
            for sku, (units, places) in wanted.items()
        ]
        decision, drafts = self.plan(record.channel, lines, partial=False, split=True)
        if not decision.takes:
            return Answer("expired", lines=decision.shortfalls)
        record.lines = self._adopt(decision, drafts)
        for line in record.lines:
            quota = self.pools[line.place].quotas[record.channel]
            quota.reserved -= line.open
            quota.committed += line.open
        record.state, record.version = "C", record.version + 1
        return DONE

    def extend(self, id: str, due: bool = False) -> Answer:
        """A later deadline; whether it is a later one is for the caller to know."""
        record = self.records[id]
        if record.state != "R" or due:
            return Answer("invalid_state", "expired" if due else STATES[record.state])
        record.version += 1
        return DONE

    def release(self, id: str, due: bool = False) -> Answer:
        """Reserved → released."""
        record = self.records[id]
        if record.state == "L":
            return ALREADY
        if record.state != "R" or due:
            return Answer("invalid_state", "expired" if due else STATES[record.state])
        self._give_all_back(record, "L")
        self._bump([record])
        return DONE

    def expire(self, ids: Iterable[str]) -> None:
        """Reserved → expired, in one script."""
        records = [self.records[id] for id in ids]
        for record in records:
            assert record.state == "R", record
            self._give_all_back(record, "X")
        self._bump(records)

    def cancel(self, id: str, parts: Sequence[tuple[str, int]] | None, due: bool = False) -> Answer:
        """Committed units back: all that is left, or (``sku`` or ``sku@location``, units) each."""
        record = self.records[id]
        if parts is None and not record.open and record.total("cancelled"):
            return ALREADY
        chosen = self._choose(record, parts, due)
        if isinstance(chosen, Answer):
            return chosen
        for line, units in chosen:
            self._give_back(record, line, units, "committed")
            line.cancelled += units
        self._settled(record, self._state(record), [line for line, _ in chosen])
        return DONE

    def fulfil(self, id: str, parts: Sequence[tuple[str, int]] | None, due: bool = False) -> Answer:
        """Committed → outside: all that is left, or by parts."""
        record = self.records[id]
        if parts is None and not record.open and record.total("fulfilled"):
            return ALREADY
        chosen = self._choose(record, parts, due)
        if isinstance(chosen, Answer):
            return chosen
        for line, units in chosen:
            pool = self.pools[line.place]
            pool.quotas[record.channel].committed -= units
            pool.deficit += min(0, pool.on_hand)  # it was there after all
            own = min(units, line.own_left)
            line.own_left -= own
            line.borrowed_left -= units - own
            line.fulfilled += units
        self._settled(record, self._state(record), [line for line, _ in chosen])
        return DONE

    def _choose(
        self, record: Record, parts: Sequence[tuple[str, int]] | None, due: bool
    ) -> list[tuple[Held, int]] | Answer:
        if record.state != "C":
            return Answer("invalid_state", "expired" if due else STATES[record.state])
        if parts is None:
            return [(line, line.open) for line in record.lines if line.open]
        chosen: dict[int, int] = {}
        for target, units in parts:
            for number, line in enumerate(record.lines):
                if target in (line.place[0], "@".join(line.place)):
                    part = min(units, line.open - chosen.get(number, 0))
                    chosen[number] = chosen.get(number, 0) + part
                    units -= part
            if units:
                return Answer("invalid_quantity")
        return [(record.lines[number], units) for number, units in chosen.items() if units]

    def _give_all_back(self, record: Record, state: str) -> None:
        for line in record.lines:
            own, borrowed = line.own_left, line.borrowed_left
            self._give_back(record, line, line.open, "reserved")
            line.own_left, line.borrowed_left = own, borrowed  # the record keeps what it had
        record.state = state

    def _give_back(
        self, record: Record, line: Held, units: int, account: Literal["reserved", "committed"]
    ) -> None:
        """The borrowed part goes back first."""
        borrowed = min(units, line.borrowed_left)
        own = units - borrowed
        line.borrowed_left -= borrowed
        line.own_left -= own
        rule.give_back(
            self.pools[line.place], record.channel, own, borrowed, line.ceiling, account
        )

    @staticmethod
    def _state(record: Record) -> str:
        if record.open:
            return "C"
        return "F" if record.total("fulfilled") else "K"

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
