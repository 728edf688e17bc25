"""A plain model of a shard: dicts, one thing at a time, planned by ``core.kernel.reference``.

Each verb works as DESIGN §3 says it and returns what a caller is told, so that a test can ask the
model and the real thing the same and compare. The model knows no clock: what is due it is told.
Policy and stock are in ``tests.shelves``, what is planned of reservations in ``tests.planned``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.kernel import reference_orders as orders
from tests.planned import STATES, Held, Planned, Record, invalid_quantity
from tests.shelves import ALREADY, DONE, Answer


@dataclass
class Model(Planned):
    """What the store should hold."""

    def copy(self) -> Model:
        """A model with the same numbers that shares nothing that changes."""
        records = {
            id: replace(record, lines=[replace(line) for line in record.lines])
            for id, record in self.records.items()
        }
        pools = {place: pool.copy() for place, pool in self.pools.items()}
        return replace(
            self, channels=dict(self.channels), locations=dict(self.locations),
            skus=dict(self.skus), closed=set(self.closed), pools=pools, records=records,
        )  # fmt: skip

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
        self._ship(chosen, record.channel)
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
        short = []
        for target, units in sorted(parts, key=lambda part: "@" not in part[0]):
            there = {
                number: line.open - chosen.get(number, 0)
                for number, line in enumerate(record.lines)
                if target in (line.place[0], "@".join(line.place))
            }
            left = sum(there.values())
            if left < units:  # it takes nothing from those behind it
                sku, _, location = target.partition("@")
                short.append((sku, location or None, units, left))
                continue
            for number, free in there.items():
                part = min(units, free)
                chosen[number] = chosen.get(number, 0) + part
                units -= part
        if short:
            return invalid_quantity(short)
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
        orders.give_back(
            self.pools[line.place], record.channel, own, borrowed, line.ceiling, account
        )
