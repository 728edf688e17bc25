"""What was counted: a CSV file with the columns sku, location, counted, or the same as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from core.errors import ImportRefused
from core.importing.table import Table
from core.model import NAME_RULE, QUANTITY_MAX, SKU_RULE, is_name, is_sku

COLUMNS = ("sku", "location", "counted")
JSON_BYTES_MAX = 64 * 2**20  # it is read at once; a CSV file may be larger
BAD_SHOWN = 20


class Counted(Struct, frozen=True, forbid_unknown_fields=True):
    """One place where somebody counted."""

    sku: str
    location: str
    counted: Annotated[int, Meta(ge=0, le=QUANTITY_MAX)]

    @property
    def pool(self) -> str:
        return f"{self.sku}@{self.location}"


class Counts:
    """A file of counts that was read once and found good."""

    def __init__(self, path: Path) -> None:
        """Raises ImportRefused for a file that cannot be used, with its bad rows."""
        self._path = path
        self._list: list[Counted] | None = _json(path) if path.suffix == ".json" else None
        bad: list[tuple[int, str]] = []
        seen: set[str] = set()
        self.count = wrong = 0
        for line, found in self._all():
            self.count += 1
            why = found if isinstance(found, str) else _check(found)
            if not why and isinstance(found, Counted):
                if found.pool in seen:
                    why = f"{found.sku} at {found.location} was counted above already"
                seen.add(found.pool)
            if why:
                wrong += 1
                if len(bad) < BAD_SHOWN:
                    bad.append((line, why))
        if wrong:
            raise ImportRefused(
                f"{path.name}: {wrong:,} of {self.count:,} counts cannot be used; nothing was "
                "compared", bad, wrong,
            )  # fmt: skip
        if not self.count:
            raise ImportRefused(f"{path.name} holds no counts")

    def __iter__(self) -> Iterator[Counted]:
        """All of them; a CSV file is read again, so that no list of it is kept."""
        for _, found in self._all():
            if isinstance(found, str):
                raise ImportRefused(f"{self._path.name} was changed while it was read")
            yield found

    def _all(self) -> Iterator[tuple[int, Counted | str]]:
        """(line or number, what was counted or what is wrong)."""
        if self._list is not None:
            yield from enumerate(self._list, 1)
            return
        with Table(self._path) as table:
            if sorted(table.columns) != sorted(COLUMNS):
                raise ImportRefused(
                    f"{table.name}: its first line must name {', '.join(COLUMNS)}, and nothing "
                    f"else; found {', '.join(table.columns)}"
                )
            places = [table.columns.index(name) for name in COLUMNS]
            for _, line, cells in table.rows():
                yield line, cells if isinstance(cells, str) else _row(*(cells[i] for i in places))
            table.check_unchanged()


def _row(sku: str, location: str, counted: str) -> Counted | str:
    if not (counted.isascii() and counted.isdecimal()) or int(counted) > QUANTITY_MAX:
        return f"counted: expected a whole number from 0 to {QUANTITY_MAX}, found {counted!r}"
    return Counted(sku, location, int(counted))


def _check(found: Counted) -> str:
    if not is_sku(found.sku):
        return f"sku: {SKU_RULE}"
    return "" if is_name(found.location) else f"location: {NAME_RULE}"


def _json(path: Path) -> list[Counted]:
    try:
        if path.stat().st_size > JSON_BYTES_MAX:
            raise ImportRefused(f"{path.name} is larger than {JSON_BYTES_MAX:,} bytes: use CSV")
        return msgspec.json.decode(path.read_bytes(), type=list[Counted])
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImportRefused(
            f"{path.name}: expected a list of objects with {', '.join(COLUMNS)}: {error}"
        ) from None
