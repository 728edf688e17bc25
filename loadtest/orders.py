"""Reads an order log: CSV of ``time,basket,channel,location,sku,quantity``, in the order of time.

Rows of one basket stand together; a basket that comes up again later is another basket. Real logs
have dirt: a line of quantity 0 is dropped and counted, a row that cannot be read is left out,
counted and reported with its line number. Nothing of that stops the reading; a wrong header does.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("time", "basket", "channel", "location", "sku", "quantity")
QUANTITY_MAX = 2**31 - 1
LINES_MAX = 100  # of one reservation; a larger basket is sent as several
REPORTED_MAX = 20  # malformed rows described one by one; all of them are counted

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_SKU = re.compile(r"[!#-?A-Z\[\]^_a-z|~]{1,64}")
_QUANTITY = re.compile(r"[0-9]{1,10}")


class NotAnOrderLog(Exception):
    """The file cannot be read as an order log at all."""


class Line(NamedTuple):
    """``quantity`` units of ``sku`` wanted at ``location``."""

    location: str
    sku: str
    quantity: int


@dataclass(slots=True)
class Basket:
    """What one customer bought at once; ``number`` counts from 0 through the log."""

    number: int
    name: str
    time_s: float
    channel: str
    lines: list[Line]

    def parts(self) -> Iterator[list[Line]]:
        """Its lines in as many parts as it takes to have at most ``LINES_MAX`` in each."""
        for start in range(0, len(self.lines), LINES_MAX):
            yield self.lines[start : start + LINES_MAX]


@dataclass(slots=True)
class Dirt:
    """What of a log could not be replayed as it stands."""

    rows: int = 0
    zero_lines: int = 0
    empty_baskets: int = 0
    large_baskets: int = 0
    malformed_rows: int = 0
    malformed: list[str] = field(default_factory=list)

    def report(self, line_number: int, reason: str) -> None:
        """Count a row that cannot be read, and describe the first of them."""
        self.malformed_rows += 1
        if len(self.malformed) < REPORTED_MAX:
            self.malformed.append(f"line {line_number}: {reason}")


class Row(NamedTuple):
    """One row, checked."""

    time_s: float
    basket: str
    channel: str
    line: Line


class _Parser:
    """Checks rows; names that were good once are not looked at again."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._skus: set[str] = set()

    def row(self, cells: list[str]) -> Row:
        """The row in ``cells``; ValueError says what is wrong with it."""
        if len(cells) != len(COLUMNS):
            raise ValueError(f"{len(cells)} cells instead of {len(COLUMNS)}")
        time, basket, channel, location, sku, quantity = cells
        self._check("channel", channel, self._names, _NAME)
        self._check("location", location, self._names, _NAME)
        self._check("sku", sku, self._skus, _SKU)
        if not (1 <= len(basket) <= 120 and basket.isprintable()):
            raise ValueError(f"basket {basket[:40]!r} is not 1 to 120 printable characters")
        if not _QUANTITY.fullmatch(quantity) or int(quantity) > QUANTITY_MAX:
            raise ValueError(f"quantity {quantity[:40]!r} is not a whole number up to 2^31-1")
        return Row(_seconds(time), basket, channel, Line(location, sku, int(quantity)))

    @staticmethod
    def _check(what: str, text: str, known: set[str], grammar: re.Pattern[str]) -> None:
        if text not in known:
            if not grammar.fullmatch(text):
                raise ValueError(f"{what} {text[:40]!r} is not a valid name")
            known.add(text)


def _seconds(time: str) -> float:
    if not time.endswith("Z"):
        raise ValueError(f"time {time[:40]!r} is not RFC 3339 in UTC (…Z)")
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        raise ValueError(f"time {time[:40]!r} is not RFC 3339 in UTC (…Z)") from None


def read(path: Path, dirt: Dirt, limit: int | None = None) -> Iterator[Basket]:
    """The first ``limit`` baskets of the log that have something to sell, as they come.

    What is left out is counted in ``dirt``. Raises NotAnOrderLog if the file cannot be opened or
    its header is not ``COLUMNS``.
    """
    try:
        file = path.open(encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise NotAnOrderLog(f"cannot read {path}: {error.strerror}") from error
    with file:
        reader = csv.reader(file)
        try:
            header = next(reader, [])
        except csv.Error:
            header = []
        if tuple(header) != COLUMNS:
            raise NotAnOrderLog(f"{path}: the first line must be {','.join(COLUMNS)}")
        number = 0
        for name, channel, rows in _grouped(_rows(reader, dirt)):
            lines = [row.line for row in rows if row.line.quantity]
            dirt.zero_lines += len(rows) - len(lines)
            if not lines:
                dirt.empty_baskets += 1
                continue
            dirt.large_baskets += len(lines) > LINES_MAX
            yield Basket(number, name, rows[0].time_s, channel, lines)
            number += 1
            if number == limit:
                return


def _rows(reader: Iterator[list[str]], dirt: Dirt) -> Iterator[Row]:
    """The rows that can be read."""
    parser = _Parser()
    while True:
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:  # a blank line
                continue
            row = parser.row(cells)
        except (csv.Error, ValueError) as error:
            dirt.rows += 1
            dirt.report(reader.line_num, str(error))  # type: ignore[attr-defined]
        else:
            dirt.rows += 1
            yield row


def _grouped(rows: Iterator[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """(basket, channel, rows) of rows that stand together."""
    held: list[Row] = []
    for row in rows:
        if held and (row.basket, row.channel) != (held[0].basket, held[0].channel):
            yield held[0].basket, held[0].channel, held
            held = []
        held.append(row)
    if held:
        yield held[0].basket, held[0].channel, held
