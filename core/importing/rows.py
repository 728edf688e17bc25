"""Cells become rows: what a stock file and an orders file may say, and what is wrong otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct

from core.errors import ImportRefused
from core.importing.table import Table
from core.kernel._policy import Policy
from core.model import LINES_MAX, QUANTITY_MAX, SKU_RULE, Line, is_printable, is_sku
from core.store import wording

FREE = "free."
STOCK_COLUMNS = ("sku", "location", "quantity", "safety_stock")
ORDER_COLUMNS = ("order", "channel", "sku", "quantity", "location", "customer", "state")
STATES = ("committed", "fulfilled")


class Bad(NamedTuple):
    """A row that cannot be applied, and ``rows`` from ``number`` on that are left out with it."""

    number: int
    rows: int
    line: int
    why: str
    reference: str = ""  # of the order


class StockRow(Struct, frozen=True):
    """Units of a SKU at a location. ``free``: how many of them each channel has set aside; None in
    a file without such columns."""

    number: int
    line: int
    sku: str
    location: str
    quantity: int
    safety_stock: int | None
    free: dict[str, int] | None

    @property
    def rows(self) -> int:
        return 1

    @property
    def skus(self) -> tuple[str, ...]:
        return (self.sku,)

    def bad(self, why: str) -> Bad:
        """This row, left out."""
        return Bad(self.number, 1, self.line, why)

    def unfit(self, policy: Policy, entries: Mapping[str, bytes | None]) -> str | None:
        """Why the store as it is cannot take the row; a SKU without an entry is new."""
        if self.location not in policy.locations:
            return f"there is no location {self.location[:40]!r}"
        for name, units in self.free.items() if self.free else ():
            if not _is_open(policy, name):
                return f"there is no channel {name}"
            if units and self.location not in policy.specs[name].locations:
                return f"{name} does not sell from {self.location}"
        entry = entries[self.sku]
        if entry is not None and self.safety_stock is not None:
            own = wording.parse_sku(entry)[2].safety_stock
            if own != self.safety_stock:
                return (
                    f"the SKU exists with safety_stock {own}, the row says {self.safety_stock}; "
                    "change it with PUT /v1/skus, or leave the cell empty"
                )
        return None


class Order(Struct, frozen=True):
    """An open order: its rows stand one behind the other."""

    number: int
    rows: int
    line: int
    reference: str
    channel: str
    customer: str | None
    state: str
    lines: list[Line]

    @property
    def skus(self) -> tuple[str, ...]:
        return tuple(line.sku for line in self.lines)

    def bad(self, why: str) -> Bad:
        """This order, left out."""
        return Bad(self.number, self.rows, self.line, why, self.reference)

    def unfit(self, policy: Policy, entries: Mapping[str, bytes | None]) -> str | None:
        """Why the store as it is cannot take the order."""
        if not _is_open(policy, self.channel):
            return f"there is no channel {self.channel[:40]!r}"
        for line in self.lines:
            if entries[line.sku] is None:
                return f"there is no SKU {line.sku}; import the stock first"
            if line.location is not None and line.location not in policy.locations:
                return f"there is no location {line.location[:40]!r}"
            if not selling(policy, self.channel, line.location):
                where = line.location or f"any location of {self.channel}"
                return f"nothing is sold from {where}"
        return None


Item = StockRow | Order


class _Wrong(Exception):
    """A cell says what it may not; the message says which and why."""


def whole(name: str, text: str, least: int) -> int:
    """A whole number as a cell writes it. Raises _Wrong: nothing is guessed."""
    if text.isascii() and text.isdigit() and len(text) <= 16:
        value = int(text)
        if least <= value <= QUANTITY_MAX:
            return value
    _no_formula(name, text)
    raise _Wrong(
        f"{name} is {text[:40]!r}; expected a whole number from {least} to {QUANTITY_MAX}, "
        "digits only (1000, not 1,000 or 1e3 or 1.0)"
    )


def _no_formula(name: str, text: str) -> None:
    if text.startswith("="):
        raise _Wrong(f"{name} is the formula {text[:40]!r}; export values, not formulas")


def _sku(text: str) -> str:
    _no_formula("sku", text)
    if not is_sku(text):
        raise _Wrong(f"sku is {text[:80]!r}. {SKU_RULE}")
    return text


def _text(name: str, text: str) -> str:
    _no_formula(name, text)
    if not is_printable(text) or (name == "customer" and "@" in text):
        also = " without @" if name == "customer" else ""
        raise _Wrong(f"{name} is {text[:40]!r}; expected 1 to 128 printable characters{also}")
    return text


def _indices(table: Table, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, int]:
    """Where the known columns stand. Raises ImportRefused for one that is missing or unknown."""
    found = {name: at for at, name in enumerate(table.columns)}
    for name in found:
        if name not in known:
            raise ImportRefused(
                f"{table.name}: there is no column {name[:40]!r}; there are {', '.join(known)}"
            )
    for name in needed:
        if name not in found:
            raise ImportRefused(f"{table.name}: the column {name!r} is missing")
    return found


class StockFile:
    """Columns sku, location (``main``), quantity, safety_stock, and ``free.<channel>``."""

    kind = "stock"

    def __init__(self, table: Table, policy: Policy) -> None:
        """Raises ImportRefused for columns that are missing or unknown."""
        self._table = table
        open_ones = [FREE + name for name in policy.channels if _is_open(policy, name)]
        found = _indices(table, (*STOCK_COLUMNS, *open_ones), ("sku", "quantity"))
        self._sku, self._quantity = found["sku"], found["quantity"]
        self._location, self._safety = found.get("location"), found.get("safety_stock")
        self._free = {
            name.removeprefix(FREE): at for name, at in found.items() if name.startswith(FREE)
        }

    def items(self) -> Iterator[StockRow | Bad]:
        """Every row of the file, or what is wrong with it."""
        for number, line, cells in self._table.rows():
            if isinstance(cells, str):
                yield Bad(number, 1, line, cells)
                continue
            try:
                yield self._row(number, line, cells)
            except _Wrong as wrong:
                yield Bad(number, 1, line, str(wrong))

    def _row(self, number: int, line: int, cells: list[str]) -> StockRow:
        quantity = whole("quantity", cells[self._quantity], 0)
        safety = None
        if self._safety is not None and cells[self._safety]:
            safety = whole("safety_stock", cells[self._safety], 0)
        free = None
        if self._free:
            free = {
                name: whole(FREE + name, cells[at], 0) if cells[at] else 0
                for name, at in self._free.items()
            }
            if sum(free.values()) > quantity:
                raise _Wrong(
                    f"the free columns make {sum(free.values())}, the quantity is {quantity}"
                )
        location = "main" if self._location is None else cells[self._location] or "main"
        return StockRow(number, line, _sku(cells[self._sku]), location, quantity, safety, free)


class OrdersFile:
    """Columns order, channel, sku, quantity, and location, customer, state (``committed``)."""

    kind = "orders"

    def __init__(self, table: Table, policy: Policy) -> None:
        """Raises ImportRefused for columns that are missing or unknown."""
        self._table = table
        self._at = _indices(table, ORDER_COLUMNS, ORDER_COLUMNS[:4])

    def items(self) -> Iterator[Order | Bad]:
        """Every order of the file; one with a wrong row is left out whole."""
        at = self._at["order"]
        group: list[tuple[int, list[str]]] = []  # line and cells
        first = count = 0
        for number, line, cells in self._table.rows():
            if group and (isinstance(cells, str) or cells[at] != group[0][1][at]):
                yield from self._order(first, count, group)
                group, count = [], 0
            if isinstance(cells, str):
                yield Bad(number, 1, line, cells)
                continue
            if not group:
                first = number
            count += 1
            if len(group) < LINES_MAX:  # a file that is one order takes no more memory than others
                group.append((line, cells))
        if group:
            yield from self._order(first, count, group)

    def _order(
        self, first: int, count: int, group: list[tuple[int, list[str]]]
    ) -> Iterator[Order | Bad]:
        """The order that some rows are, or what is wrong with them."""
        if count > LINES_MAX:
            why = f"the order has {count} rows; an order may have {LINES_MAX} at most"
            yield Bad(first, count, group[0][0], why, group[0][1][self._at["order"]])
            return
        lines: list[Line] = []
        head: tuple[str, str, str | None, str] | None = None
        wrong = False
        for line, cells in group:
            try:
                said = self._head(cells)
                lines.append(self._line(cells))
                if head is not None and said != head:
                    raise _Wrong("channel, customer or state differ from the order's first row")
                head = said
            except _Wrong as why:
                wrong = True
                yield Bad(first, count, line, str(why), self._cell(cells, "order"))
        if not wrong:
            assert head is not None
            reference, channel, customer, state = head
            yield Order(first, count, group[0][0], reference, channel, customer, state, lines)

    def _cell(self, cells: list[str], name: str) -> str:
        at = self._at.get(name)
        return "" if at is None else cells[at]

    def _head(self, cells: list[str]) -> tuple[str, str, str | None, str]:
        """(reference, channel, customer, state)"""
        customer, state = self._cell(cells, "customer"), self._cell(cells, "state")
        if state not in ("", *STATES):
            raise _Wrong(f"state is {state[:40]!r}; expected {' or '.join(STATES)}, or nothing")
        return (
            _text("order", self._cell(cells, "order")),
            self._cell(cells, "channel"),
            _text("customer", customer) if customer else None,
            state or STATES[0],
        )

    def _line(self, cells: list[str]) -> Line:
        return Line(
            _sku(self._cell(cells, "sku")),
            whole("quantity", self._cell(cells, "quantity"), 1),
            self._cell(cells, "location") or None,
        )


def selling(policy: Policy, channel: str, location: str | None) -> list[str]:
    """Where a line may take its units, in order: the location that it pins, else its channel's."""
    places = policy.specs[channel].locations if location is None else [location]
    return [place for place in dict.fromkeys(places) if policy.sells(place)]


def _is_open(policy: Policy, channel: str) -> bool:
    """True for a channel that is there and is not being deleted."""
    spec = policy.specs.get(channel)
    return spec is not None and not getattr(spec, "closed", False)
