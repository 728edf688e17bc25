"""A CSV file as lines of cells: UTF-8, commas, one line a row. Whatever else comes is told apart.

None of our cells holds a line end, so a line is a row, and a quote that is never closed spoils
that line alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from core.errors import ImportRefused

LINE_BYTES_MAX = 65_536  # a row of all our columns is far below; more is no CSV file
ROWS_MAX = 100_000_000  # one bit each is kept in memory
BUFFER_BYTES = 1 << 20

_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SAVE_AS = 'not UTF-8; save it as "CSV UTF-8" and try again'


class Table:
    """An open CSV file; ``columns`` are its header's cells, ``digest`` the SHA-256 of all of it."""

    def __init__(self, path: Path) -> None:
        """Raises ImportRefused for a file that cannot be read, or whose header cannot."""
        self.path = path
        # As it is kept and shown: a name may hold bytes that no text has.
        self.name = os.fsencode(path.name).decode(errors="replace")[:128]
        try:
            self._file = io.BufferedReader(io.FileIO(path), BUFFER_BYTES)
        except OSError as error:
            raise ImportRefused(f"{path} cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(self._file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ImportRefused(f"{path} is not a file: it is read twice, so it must be one")
            self.bytes = found.st_size
            self._as_it_was = (found.st_size, found.st_mtime_ns)
            self.digest = hashlib.file_digest(self._file, "sha256").hexdigest()
            self.columns = self._header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Table:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def read_bytes(self) -> int:
        """How much of it the present pass has read, or a buffer more."""
        return min(self._file.tell(), self.bytes)

    def check_unchanged(self) -> None:
        """Raises ImportRefused if the file was written to since it was opened."""
        found = os.fstat(self._file.fileno())
        if (found.st_size, found.st_mtime_ns) != self._as_it_was:
            raise ImportRefused(f"{self.name} was changed while it was read; run it again")

    def rows(self) -> Iterator[tuple[int, int, list[str] | str]]:
        """(number from 0, line, cells) of every row from the first on; in place of the cells what
        is wrong with them. Lines with nothing in them count as no row."""
        wanted = len(self.columns)
        number = 0
        lines = self._lines()
        next(lines)
        for line, text in lines:
            cells = _cells(text)
            if isinstance(cells, list):
                if not any(cells):
                    continue
                if len(cells) != wanted:
                    cells = f"expected {wanted} cells as in the first line, found {len(cells)}"
            yield number, line, cells
            number += 1
            if number > ROWS_MAX:
                raise self._refused(f"it has more than {ROWS_MAX:,} rows: split it")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """(number from 1, text without its end). Raises ImportRefused for what is no text."""
        self._file.seek(0)
        number = 0
        while line := self._file.readline(LINE_BYTES_MAX):
            number += 1
            if len(line) == LINE_BYTES_MAX and line[-1:] != b"\n":
                raise self._refused(f"line {number} is longer than {LINE_BYTES_MAX - 1:,} bytes")
            if number == 1:
                if line.startswith(_OTHER_BOMS):
                    raise self._refused(_SAVE_AS)
                line = line.removeprefix(_BOM)
            if b"\0" in line:
                raise self._refused(f"line {number} holds a NUL byte: it is no text, or {_SAVE_AS}")
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise self._refused(f"line {number} is {_SAVE_AS}") from None
            yield number, text.removesuffix("\n").removesuffix("\r")

    def _header(self) -> list[str]:
        _, text = next(self._lines(), (0, ""))
        columns = _cells(text)
        if isinstance(columns, str):
            raise self._refused(f"line 1: {columns}")
        if not any(columns):
            raise self._refused("its first line must name the columns")
        if len(columns) == 1 and any(mark in text for mark in ";\t"):
            raise self._refused("its first line has no comma: separate columns by commas")
        for name in columns:
            if columns.count(name) > 1:
                raise self._refused(f"the column {name!r} is there twice")
        return columns

    def _refused(self, why: str) -> ImportRefused:
        return ImportRefused(f"{self.name}: {why}")


def _cells(text: str) -> list[str] | str:
    """The cells of a line, or what is wrong with it."""
    if "\r" in text:
        return "a carriage return stands inside the line; end lines with LF or CRLF"
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        if str(error) == "unexpected end of data":
            return "a quoted cell does not end on its line"
        return f"quotes are not as in CSV: {error}"
