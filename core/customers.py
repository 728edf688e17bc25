"""What a customer has of SKUs of which one may have only so many, and what a script is told of it.

Units count that a customer holds or has bought: reserved + committed + fulfilled − returned. They
follow from the record, so whatever changes a record changes the count by the difference. They are
booked on the day (UTC) of the reservation's id. ``parts/customers.lua`` counts; nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from core.errors import CustomerLimit
from core.model import Line
from core.policy_model import SkuEntry
from core.store import keys
from core.store.wording import Record

NOBODY = "-"  # the customer of a record that names none


class Excess(Struct, frozen=True, gc=False):
    """A demand that would pass the limit of a SKU: what the customer has, and what it wants."""

    sku: str
    has: int
    wants: int
    most: int

    @property
    def room(self) -> int:
        """Units that the customer may still have."""
        return max(0, self.most - self.has)


def units_of(record: Record) -> dict[str, int]:
    """Units that count, by SKU."""
    found: dict[str, int] = {}
    if record.state in ("L", "X"):
        return found
    for line in record.lines:
        units = line.own + line.borrowed - line.cancelled - line.returned
        found[line.sku] = found.get(line.sku, 0) + units
    return found


def field_of(sku: str, counting: int, customer: str) -> str:
    """The field of a day that counts a SKU for a customer, as its record names it."""
    return f"{sku}@{counting}@{customer}"


def live_member(customer: str, id: str) -> str:
    """What stands for a live reservation of a customer, as its record names it."""
    return f"{customer}@{id}"


def refusal(found: Sequence[Excess]) -> CustomerLimit:
    """What a caller is told whose demand passes limits."""
    return CustomerLimit(
        lines=[
            {
                "sku": each.sku, "requested": each.wants, "available": each.room,
                "limited_by": "customer_limit",
            }
            for each in found
        ]
    )  # fmt: skip


def crowded(has: int, most: int) -> CustomerLimit:
    """What a caller is told whose customer has as many live reservations as one may."""
    held = f"{has} reservation" if has == 1 else f"{has} reservations"
    return CustomerLimit(
        f"This customer holds {held} not paid yet, and one may hold {most}: "
        "commit or release one first"
    )


def days_before(today: int, days: int) -> list[bytes]:
    """The hashes that a limit over so many days sums, tomorrow's first: a worker's clock that is
    ahead may have begun it."""
    return [keys.customers_on(today + 1 - back) for back in range(days + 1)]


Shortfall = tuple[int, str, str | None, int, int, int, str]  # as `Batch.shortfalls` says


class Cut:
    """The lines of a demand that is content with less, and what of them the customer may have."""

    def __init__(self, lines: Sequence[Line]) -> None:
        summed: dict[tuple[str, str | None, tuple[str, ...]], Line] = {}
        for line in lines:
            place = (line.sku, line.location, tuple(line.locations or ()))
            known = summed.get(place)
            more = line.quantity + (known.quantity if known is not None else 0)
            summed[place] = replace(line, quantity=more)
        self._asked = list(summed.values())
        self._room: dict[str, int] = {}
        self._left: dict[int, Line] = {}  # by the number of the line that asked

    def to(self, found: Sequence[Excess]) -> list[Line]:
        """What is left of the lines, those that come first first."""
        self._room |= {each.sku: each.room for each in found}
        room = dict(self._room)
        self._left = {}
        for number, line in enumerate(self._asked):
            units = min(line.quantity, room.get(line.sku, line.quantity))
            if line.sku in room:
                room[line.sku] -= units
            if units:
                self._left[number] = replace(line, quantity=units)
        return list(self._left.values())

    def shortfalls(self, planned: Sequence[Shortfall]) -> list[Shortfall]:
        """What was not granted of what was asked. ``planned``: of what was left."""
        numbers = list(self._left)
        short = {numbers[each[0]]: each for each in planned}
        found: list[Shortfall] = []
        for number, line in enumerate(self._asked):
            left = self._left.get(number)
            units = left.quantity if left is not None else 0
            if number in short:
                _, _, _, _, available, granted, limit = short[number]
                place = (number, line.sku, line.location, line.quantity)
                found.append((*place, available, granted, limit))
            elif units < line.quantity:
                place = (number, line.sku, line.location, line.quantity)
                found.append((*place, units, units, "customer_limit"))
        return found


class _Entry(Struct, frozen=True, gc=False):
    index: int  # of the op
    sku: str
    field: str
    units: int
    beyond: int
    day: int
    days: int
    most: int | None


class Entries:
    """What one script books and judges."""

    def __init__(self, now_ms: int) -> None:
        """``now_ms``: by which the script's ops were planned."""
        self._today = now_ms // keys.DAY_MS
        self._entries: list[_Entry] = []

    def add(
        self,
        index: int,
        id: str,
        customer: str,
        limits: Mapping[str, SkuEntry],
        before: Mapping[str, int],
        after: Mapping[str, int],
        fact: bool = False,
    ) -> None:
        """A reservation that had units ``before`` and has them ``after``. A ``fact`` is counted,
        and never refused; what nobody asked for is not counted."""
        if customer == NOBODY:
            return
        day = keys.created_ms(id) // keys.DAY_MS
        for sku, spec in limits.items():
            units = after.get(sku, 0) - before.get(sku, 0)
            if not units:
                continue
            days = spec.customer_limit_days
            beyond = before.get(sku, 0) if day <= self._today - days else 0
            most = spec.customer_limit if units > 0 and not fact else None
            field = field_of(sku, spec.counting, customer)
            self._entries.append(_Entry(index, sku, field, units, beyond, day, days, most))

    def __len__(self) -> int:
        return len(self._entries)

    def days(self) -> list[bytes]:
        """The hashes that the script sums, in the order that it wants; they come first."""
        if not self._entries:
            return []
        return days_before(self._today, max(entry.days for entry in self._entries))

    def words(self, names: list[bytes]) -> list[Any]:
        """The entries as arguments. ``names``: KEYS, which get the days that are not there yet."""
        words: list[Any] = []
        places = {name: at for at, name in enumerate(names, 1)}
        for entry in self._entries:
            own = keys.customers_on(entry.day)
            if own not in places:
                names.append(own)
                places[own] = len(names)
            words += (
                entry.field, entry.units, entry.beyond, places[own], entry.day, entry.days,
                "" if entry.most is None else entry.most,
            )  # fmt: skip
        return words

    def over(self, found: Sequence[bytes | int]) -> dict[int, list[Excess]]:
        """By the op's index, what the script's outcome `limit` says."""
        over: dict[int, list[Excess]] = {}
        for place, has in zip(found[::2], found[1::2], strict=True):
            entry = self._entries[int(place)]
            assert entry.most is not None, "what is only counted is never refused"
            excess = Excess(entry.sku, int(has), entry.units, entry.most)
            over.setdefault(entry.index, []).append(excess)
        return over
