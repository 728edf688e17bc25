"""Rows that come again, found in a file of any length with little memory.

Digests are scattered by their first bytes over the parts of one temporary file; what is the same
lies in the same part, and one part at a time fits.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

from core.importing.rows import Bad, Item, StockRow

PARTS = 2_048  # of ten million rows one is 5,000: 2 MB while it is looked through
BLOCK_BYTES = 2_048  # of a part, written at once: 4 MB for all of them

_STOCK = struct.Struct("<16s8sIIi")  # sku, location, number, line, safety stock
_ORDER = struct.Struct("<16sIII")  # reference, number, rows, line
NOT_SAID, NOT_ASKED = -1, -2  # a row without safety stock; one whose SKU exists, which has its own


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


class _Parts:
    """Records of one size, each in the part that its first two bytes name."""

    def __init__(self, record: struct.Struct) -> None:
        self._record = record
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this does
        self._block_bytes = BLOCK_BYTES // record.size * record.size
        self._end = 0
        self._open = [bytearray() for _ in range(PARTS)]
        self._places = [array("Q") for _ in range(PARTS)]

    def add(self, record: bytes) -> None:
        part = (record[0] << 8 | record[1]) % PARTS
        block = self._open[part]
        block += record
        if len(block) == self._block_bytes:
            self._places[part].append(self._end)
            self._end += self._file.write(block)
            block.clear()

    def parts(self) -> Iterator[Iterator[tuple[Any, ...]]]:
        """Part after part, its records in the order in which they came."""
        for places, block in zip(self._places, self._open, strict=True):
            found = []
            for place in places:
                self._file.seek(place)
                found.append(self._file.read(self._block_bytes))
            yield self._record.iter_unpack(b"".join([*found, bytes(block)]))

    def close(self) -> None:
        self._file.close()


class RepeatedStock:
    """A SKU at a location stands in one row, and its rows agree about its safety stock."""

    def __init__(self) -> None:
        self._parts = _Parts(_STOCK)
        self._locations: dict[str, bytes] = {}  # few: only those of the policy come here

    def add(self, row: Item | Bad, entries: Mapping[str, bytes | None]) -> None:
        """Takes a row in; its SKU is made by this file if its entry is None."""
        if not isinstance(row, StockRow):
            return
        is_new = entries.get(row.sku, b"") is None
        location = self._locations.get(row.location)
        if location is None:
            location = self._locations[row.location] = _digest(row.location, 8)
        said = NOT_SAID if row.safety_stock is None else row.safety_stock
        self._parts.add(
            _STOCK.pack(
                _digest(row.sku, 16), location, row.number, row.line, said if is_new else NOT_ASKED
            )
        )

    def found(self) -> Iterator[list[Bad]]:
        """Part by part, every row that repeats an earlier one, or makes a SKU otherwise than its
        first row."""
        for part in self._parts.parts():
            bad: list[Bad] = []
            pools: dict[tuple[bytes, bytes], int] = {}
            makers: dict[bytes, tuple[int, int]] = {}
            for sku, location, number, line, safety in part:
                before = pools.setdefault((sku, location), line)
                if before != line:
                    why = f"line {before} has this SKU and location already"
                    bad.append(Bad(number, 1, line, why))
                    continue
                if safety == NOT_ASKED:
                    continue
                maker, said = makers.setdefault(sku, (line, safety))
                if safety not in (said, NOT_SAID):
                    has = "none" if said == NOT_SAID else said
                    why = f"safety_stock is {safety}; the SKU's first row, line {maker}, has {has}"
                    bad.append(Bad(number, 1, line, why))
            yield bad

    def close(self) -> None:
        """Gives the temporary file back."""
        self._parts.close()


class RepeatedOrders:
    """The rows of an order stand one behind the other."""

    def __init__(self) -> None:
        self._parts = _Parts(_ORDER)

    def add(self, order: Item | Bad, entries: Mapping[str, bytes | None]) -> None:
        """Takes an order in, also one that is left out: then its other half is none either."""
        if not isinstance(order, StockRow) and order.reference:
            self._parts.add(
                _ORDER.pack(_digest(order.reference, 16), order.number, order.rows, order.line)
            )

    def found(self) -> Iterator[list[Bad]]:
        """Part by part, both places of every order that stands in two: neither is all of it."""
        for part in self._parts.parts():
            bad: list[Bad] = []
            orders: dict[bytes, Bad] = {}
            for order, number, rows, line in part:
                why = "the order stands in two places; put its rows together"
                first = orders.setdefault(order, Bad(number, rows, line, why))
                if first.number != number:
                    why = f"{why} (it begins on line {first.line})"
                    bad += (first, Bad(number, rows, line, why))
            yield bad

    def close(self) -> None:
        """Gives the temporary file back."""
        self._parts.close()
