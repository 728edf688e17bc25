"""``stockade export``: what the ledger holds, as CSV or as one JSON document per line.

It goes through the ledger page by page, so that memory stays the same however long that takes.
"""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from api.noted import note
from api.servers import open_ledger
from core.errors import StartRefused
from core.model import Reservation
from core.opening import open_reading
from core.record_model import Movement, MovementFilter
from core.records import all_movements, all_reservations
from core.settings import Settings

FREE_TEXT: Final = frozenset({"reference", "reason", "actor", "customer"})
FORMULA: Final = ("=", "+", "-", "@")  # a spreadsheet takes what begins with these for a formula
MOVEMENT: Final = tuple(field.encode_name for field in msgspec.structs.fields(Movement))
LINE: Final = (
    "sku", "location", "quantity", "own", "borrowed", "fulfilled", "cancelled", "returned", "short",
)  # fmt: skip
RESERVATION: Final = (
    "id", "state", "version", "channel", "reference", "customer", "created_at", "updated_at",
    "expires_at", "committed_at",
)  # fmt: skip
EPOCH, MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
BROKEN_PIPE = 141  # what a shell gives a command whose reader went away

_encode = msgspec.json.Encoder().encode


def export(
    settings: Settings,
    what: str,
    since: datetime,
    until: datetime | None,
    form: str,
    output: Path | None,
    people: bool,
) -> int:
    """Write all of it and return the exit status. Raises StockadeError with one line.

    ``people``: with the customers of reservations, else they are masked. A file appears under its
    name when it is whole.
    """
    try:
        if output is None:
            count = asyncio.run(_export(settings, what, since, until, form, sys.stdout, people))
            sys.stdout.flush()
        else:
            with _whole(output) as file:
                count = asyncio.run(_export(settings, what, since, until, form, file, people))
    except BrokenPipeError:
        # Nobody reads any more; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    print(f"{what}: {count:,}", file=sys.stderr)
    return 0


@contextmanager
def _whole(output: Path) -> Iterator[TextIO]:
    """A file beside ``output`` that takes its place at the end."""
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise StartRefused(f"{output} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


async def _export(
    settings: Settings,
    what: str,
    since: datetime,
    until: datetime | None,
    form: str,
    file: TextIO,
    people: bool,
) -> int:
    count = 0
    pages: AsyncIterator[list[Any]]
    writer = csv.writer(file, lineterminator="\n")
    if form == "csv":
        writer.writerow(MOVEMENT if what == "movements" else RESERVATION + LINE)
    if people:
        await note(settings, "read", f"export {what}", {"since": since, "until": until})
    async with open_ledger(settings) as opened, open_reading(opened) as reading:
        if what == "movements":
            pages = all_movements(reading, MovementFilter(since=since, until=until))
        else:
            pages = all_reservations(reading, (since - EPOCH) // MS)
        async for page in pages:
            count += len(page)
            told = [each if people else _masked(each) for each in page]
            if form == "csv":
                writer.writerows(row for each in told for row in _rows(each))
            else:
                file.writelines(f"{_document(each).decode()}\n" for each in told)
    return count


def _masked(each: Any) -> Any:
    """The same, and not whose it is; a movement does not say it."""
    return each if isinstance(each, Movement) else each.masked()


def _document(each: Any) -> bytes:
    """A movement or a reservation as the API shows it."""
    return _encode(each) if isinstance(each, Movement) else each.encode()


def _rows(each: Any) -> Iterator[list[Any]]:
    """A movement as a row, a reservation as a row for each of its lines."""
    if isinstance(each, Movement):
        values = msgspec.to_builtins(each)
        yield [_cell(name, values.get(name)) for name in MOVEMENT]
        return
    reservation: Reservation = each.reservation()
    head = [_cell(name, getattr(reservation, name)) for name in RESERVATION]
    for line in reservation.lines:
        yield head + [_cell(name, getattr(line, name)) for name in LINE]


def _cell(name: str, value: Any) -> Any:
    """A value as a cell. What somebody wrote is never taken for a formula: it gets a quote before
    it, as one would type it."""
    if value is None or value is msgspec.UNSET:
        return ""
    if name in FREE_TEXT and value.startswith(FORMULA):
        return f"'{value}"
    return value
