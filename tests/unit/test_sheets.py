"""Sheets of memory that several processes count on, and what is read of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from core.errors import InsufficientStock, Overloaded, StockUnavailable, UnknownSku
from core.meters import FAMILIES, Meters, merged
from core.sheets import CELLS_MAX, HEAD_CELLS, HEARTBEAT, Book, Sheet, loose_sheet

BASE_UNITS = ("seconds", "bytes", "ratio")
OF_OURS = (
    "reservations", "units", "lines", "scripts", "errors", "events", "operations", "requests",
    "retries", "starts", "workers", "pools", "differences", "cases", "series", "calls", "orders",
)  # fmt: skip
STATES = ("stockade_ledger_up", "stockade_store_up", "stockade_store_durability",
          "stockade_clock_suspect", "stockade_protect_mode")  # fmt: skip
RECORD = b"X 2 1 2 - 7 web - - tee@main@3,2 cap@main@1,0,0,0,0,1"


def total(book: Book, family: str, *labels: str) -> float:
    return merged(book.used())[family][labels][0]


def test_names_say_the_unit_last() -> None:
    """Prometheus' conventions: base units, plural, counters end in _total and nothing else does."""
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"stockade_[a-z_]+", name)
        assert name.endswith("_total") == (family.kind == "counter")
        unit = name.removesuffix("_total").rpartition("_")[2]
        assert unit in (*BASE_UNITS, *OF_OURS) or name in STATES, name
        assert family.help.endswith(".")
        assert bool(family.bounds) == (family.kind == "histogram")
        assert list(family.bounds) == sorted(family.bounds)


def test_who_comes_after_a_process_that_died_counts_on() -> None:
    book = Book()
    Meters(book.sheet(1)).ended("reserve", "web", repeated=False)
    after = Meters(book.sheet(1))
    after.ended("commit", "web", repeated=False)
    after.ended("reserve", "web", repeated=False)
    Meters(book.sheet(2)).ended("reserve", "web", repeated=False)
    assert total(book, "stockade_reservations_total", "reserve", "done", "", "web") == 3
    assert total(book, "stockade_reservations_total", "commit", "done", "", "web") == 1


def test_another_process_counts_on_its_own_sheet() -> None:
    book = Book()
    Meters(book.sheet(1)).starts["worker"] += 1
    code = (
        "import sys; from core.meters import Meters; from core.sheets import Book\n"
        "meters = Meters(Book(int(sys.argv[1])).sheet(2)); meters.starts['worker'] += 2\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(book.descriptor)],
        pass_fds=[book.descriptor], check=False,
    )  # fmt: skip
    assert done.returncode == -9
    assert total(book, "stockade_process_starts_total", "worker") == 3


def test_gauges_of_a_process_that_is_silent_are_not_shown() -> None:
    book = Book()
    one, other = Meters(book.sheet(1)), Meters(book.sheet(2))
    one.beat(3, "ready")
    other.beat(4, "ready")
    assert total(book, "stockade_queue_operations") == 7
    assert total(book, "stockade_workers", "ready") == 2
    other.sheet.values[HEARTBEAT] -= 60
    assert total(book, "stockade_queue_operations") == 3
    one.sheet.rest()
    assert "stockade_workers" not in merged(book.used())


def test_a_full_sheet_says_what_it_lost_and_counts_nothing_wrong() -> None:
    book = Book()
    meters = Meters(book.sheet(1))
    meters.starts["worker"] += 1
    for number in range(CELLS_MAX):
        meters.ended("reserve", f"c{number}", repeated=False)
    meters.batches.observe("new", 3)
    meters.starts["worker"] += 1
    found = merged(book.used())
    assert found["stockade_dropped_series"][()][0] > 0
    shown = found["stockade_reservations_total"]
    assert all(cells == [1.0] for cells in shown.values())
    assert len(shown) < CELLS_MAX
    assert found["stockade_process_starts_total"]["worker",] == [2.0]


def test_a_sheet_of_another_version_is_passed_over() -> None:
    book = Book()
    sheet = book.sheet(1)
    sheet.cell("stockade_of_yesterday", ("a",), 5)
    sheet.cell("stockade_workers", ("too", "many"))
    Meters(sheet).starts["worker"] += 1
    found = merged(book.used())
    assert "stockade_of_yesterday" not in found
    assert "stockade_workers" not in found
    assert found["stockade_process_starts_total"]["worker",] == [1.0]


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.5, 0), (1, 0), (1.5, 1), (2, 1), (2048, 11), (2049, 12)]
)
def test_a_bucket_has_its_upper_end(value: float, bucket: int) -> None:
    meters = Meters()
    meters.batches.observe("reserve", value)
    (series,) = [each for each in meters.sheet.series() if each.values[-1]]
    assert series.values.index(1.0) == bucket
    assert series.values[-1] == value


class Op:
    def __init__(self, entered_ms: float) -> None:
        self.entered_ms = entered_ms


def test_a_wait_is_counted_once() -> None:
    meters = Meters()
    ops = [Op(1_000.0), Op(1_900.0), Op(0.0)]
    for _ in range(2):  # planned anew after a conflict, it is sent again
        meters.landed("reserve", ops, 2_000.0)
    found = {each.family: each.values for each in meters.sheet.series()}
    waits = found["stockade_queue_wait_seconds"]
    assert sum(waits[:-1]) == 2
    assert waits[-1] == pytest.approx(1.1)
    assert sum(found["stockade_batch_operations"][:-1]) == 2


def test_what_expired_is_counted_in_units_too() -> None:
    book = Book()
    Meters(book.sheet(1)).expired(RECORD)
    assert total(book, "stockade_expired_units_total", "web") == 6
    assert total(book, "stockade_reservations_total", "expire", "done", "", "web") == 1


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (InsufficientStock(lines=[{"sku": "a", "limited_by": "channel_quota"}]),
         "refused", "channel_quota"),
        (UnknownSku(lines=[{"sku": "a"}]), "refused", "unknown_sku"),
        (Overloaded(), "failed", "overloaded"),
        (StockUnavailable("gone", "unknown"), "unknown", "stock_unavailable"),
    ],
)  # fmt: skip
def test_what_went_wrong_has_a_reason(error: Exception, outcome: str, reason: str) -> None:
    book = Book()
    meters = Meters(book.sheet(1))
    meters.not_ended("reserve", "web", error)  # type: ignore[arg-type]
    assert total(book, "stockade_reservations_total", "reserve", outcome, reason, "web") == 1


def test_a_book_that_nobody_has_any_more_is_closed() -> None:
    book = Book()
    descriptor = book.descriptor
    os.fstat(descriptor)
    del book
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_cells_follow_the_head() -> None:
    sheet: Sheet = loose_sheet()
    assert sheet.cell("stockade_scribe_events_total") == HEAD_CELLS
    assert sheet.cell("stockade_scribe_retries_total") == HEAD_CELLS + 1
    assert sheet.cell("stockade_scribe_events_total") == HEAD_CELLS
