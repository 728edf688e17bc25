"""Numbers that several processes count up and any of them can read: one sheet of memory each.

A sheet is a row of cells, doubles that are counted up in place: no lock, no system call, nothing
that the loss of a process could lose. The process that follows one that died goes on counting on
its sheet, so what Prometheus sees never falls. Who writes a sheet gives each cell a name when it
is first used; readers go through the names.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterator
from typing import NamedTuple

from core.rates import RATES_BYTES, Rates

WORKERS_MAX = 64
SHEETS_MAX = 1 + 2 * WORKERS_MAX  # for each worker, for the one that replaces it; the scribe's
SCRIBE_SHEET, WORKER_SHEET = 0, 1  # of the first worker; the others follow
HEAD_CELLS = 8  # of which HEARTBEAT, NAMES_BYTES and LOST are used
HEARTBEAT, NAMES_BYTES, LOST = range(3)
CELLS_MAX = 8_192  # of one sheet: 64 channels with sixty endings each, and the histograms
WIDTH_MAX = 64  # of one series: the cells of a histogram
NAMES_BYTES_MAX = 1_000_000
SHEET_BYTES = 8 * (HEAD_CELLS + CELLS_MAX) + NAMES_BYTES_MAX
SHEET_BYTES += -SHEET_BYTES % mmap.ALLOCATIONGRANULARITY  # untouched pages cost nothing
BOOK_BYTES = SHEETS_MAX * SHEET_BYTES + 2 * RATES_BYTES
FRESH_SECONDS = 10.0  # a process that did not beat for so long is gone, or as good as gone


class Series(NamedTuple):
    """One series of a sheet: its family, the values of its labels, its cells."""

    family: str
    labels: tuple[str, ...]
    values: list[float]


class Sheet:
    """The cells of one process. ``values[at] += n`` counts; ``cell`` says where."""

    def __init__(self, memory: memoryview) -> None:
        cells = 8 * (HEAD_CELLS + CELLS_MAX)
        self.values = memory[:cells].cast("d")
        self._names = memory[cells : cells + NAMES_BYTES_MAX]
        self._at: dict[str, int] = {}
        # The last WIDTH_MAX cells are no series': what finds no room is counted there.
        self._no_room = HEAD_CELLS + CELLS_MAX - WIDTH_MAX
        self._next = HEAD_CELLS
        for name, width in self._entries():
            self._at[name] = self._next
            self._next += width

    def cell(self, family: str, labels: tuple[str, ...] = (), width: int = 1) -> int:
        """Where the series is, from now on; ``width`` cells from there are its own."""
        name = "\t".join((family, *labels))
        at = self._at.get(name)
        if at is None:
            at = self._at[name] = self._enter(name, width)
        return at

    def _enter(self, name: str, width: int) -> int:
        entry = f"{width} {name}\n".encode()
        used = int(self.values[NAMES_BYTES])
        at = self._next
        if at + width > self._no_room or used + len(entry) > NAMES_BYTES_MAX:
            self.values[LOST] += 1
            return self._no_room
        self._names[used : used + len(entry)] = entry
        self.values[NAMES_BYTES] = used + len(entry)  # only now do readers see it
        self._next += width
        return at

    def beat(self) -> None:
        """Says that the process lives, and that what it measured is as it is now."""
        self.values[HEARTBEAT] = time.monotonic()

    def rest(self) -> None:
        """The process is about to end."""
        self.values[HEARTBEAT] = 0.0

    @property
    def fresh(self) -> bool:
        """True if its process said a moment ago that it lives."""
        beat = self.values[HEARTBEAT]
        return beat > 0 and time.monotonic() - beat < FRESH_SECONDS

    @property
    def lost(self) -> int:
        """Series that found no room."""
        return int(self.values[LOST])

    def series(self) -> Iterator[Series]:
        """All that there is, as it is now."""
        at = HEAD_CELLS
        for name, width in self._entries():
            family, *labels = name.split("\t")
            yield Series(family, tuple(labels), list(map(float, self.values[at : at + width])))
            at += width

    def _entries(self) -> Iterator[tuple[str, int]]:
        text = bytes(self._names[: int(self.values[NAMES_BYTES])]).decode()
        for line in text.splitlines():
            width, _, name = line.partition(" ")
            yield name, int(width)


def loose_sheet() -> Sheet:
    """A sheet that is in no book: nobody else can read it."""
    return Sheet(memoryview(mmap.mmap(-1, SHEET_BYTES)))


class Book:
    """The sheets of all processes of one service; two that live never share a sheet. And the
    ``rates`` of keys that they share, and the ``customer_rates``: whoever may name customers must
    not have a key forgotten by naming many."""

    def __init__(self, descriptor: int | None = None) -> None:
        """``descriptor``: of the book that another process made; None makes a new one."""
        if descriptor is None:
            descriptor = _new()
            weakref.finalize(self, os.close, descriptor)
        self.descriptor = descriptor
        self._memory = memoryview(mmap.mmap(self.descriptor, BOOK_BYTES))
        rates = self._memory[SHEETS_MAX * SHEET_BYTES :]
        self.rates, self.customer_rates = Rates(rates[:RATES_BYTES]), Rates(rates[RATES_BYTES:])

    def sheet(self, number: int) -> Sheet:
        """One of them, to write."""
        assert 0 <= number < SHEETS_MAX, "there is no such sheet"
        return Sheet(self._memory[number * SHEET_BYTES : (number + 1) * SHEET_BYTES])

    def used(self) -> list[Sheet]:
        """Those that hold something."""
        sheets = map(self.sheet, range(SHEETS_MAX))
        return [sheet for sheet in sheets if sheet.values[NAMES_BYTES]]


def _new() -> int:
    """A file without a name and, where the system has that, without a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("stockade-book")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, BOOK_BYTES)
    return descriptor
