"""Rows that come again are found, however far apart, and only those."""

from __future__ import annotations

import random

import pytest

from core.importing import repeats
from core.importing.repeats import RepeatedOrders, RepeatedStock
from core.importing.rows import Bad, Order, StockRow
from core.model import Line

NEW = dict.fromkeys(["tee", "cap", "sock"])


def row(number: int, sku: str, location: str = "main", safety: int | None = None) -> StockRow:
    return StockRow(number, number + 2, sku, location, 1, safety, None)


def stock(rows: list[StockRow], entries: dict[str, bytes | None]) -> list[tuple[int, str]]:
    """(number, why) of what is found."""
    looked = RepeatedStock()
    for each in rows:
        looked.add(each, entries)
    found = sorted((bad.number, bad.why) for part in looked.found() for bad in part)
    looked.close()
    return found


def test_a_pool_stands_in_one_row() -> None:
    rows = [row(0, "tee"), row(1, "tee", "annex"), row(2, "cap"), row(3, "tee"), row(4, "tee")]
    why = "line 2 has this SKU and location already"
    assert stock(rows, NEW) == [(3, why), (4, why)]


def test_the_rows_of_a_new_sku_agree_about_its_safety_stock() -> None:
    rows = [
        row(0, "tee", "a", 3), row(1, "tee", "b", 3), row(2, "tee", "c"), row(3, "tee", "d", 4),
        row(4, "cap", "a"), row(5, "cap", "b", 0), row(6, "sock", "a", 1), row(7, "sock", "b", 2),
    ]  # fmt: skip
    found = stock(rows, {"tee": None, "cap": None, "sock": b"1 - {}"})
    assert found == [
        (3, "safety_stock is 4; the SKU's first row, line 2, has 3"),
        (5, "safety_stock is 0; the SKU's first row, line 6, has none"),
    ]


def test_a_repeat_is_found_across_blocks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of four rows, so that most rows lie in the file and the rest in memory."""
    monkeypatch.setattr(repeats, "BLOCK_BYTES", 150)
    chosen = random.Random(seed)
    names = [f"sku-{number}" for number in range(10 * repeats.PARTS)]
    again = sorted(chosen.sample(range(len(names)), 200))
    rows = [row(number, name) for number, name in enumerate([*names, *(names[k] for k in again)])]
    found = stock(rows, dict.fromkeys(names))
    assert [number for number, _ in found] == list(range(len(names), len(rows)))
    assert [why for _, why in found] == [
        f"line {k + 2} has this SKU and location already" for k in again
    ]


def test_an_order_in_two_places_is_bad_in_both() -> None:
    looked = RepeatedOrders()

    def add(number: int, rows: int, reference: str, bad: bool = False) -> None:
        looked.add(
            Bad(number, rows, number + 2, "wrong", reference)
            if bad
            else Order(number, rows, number + 2, reference, "web", None, "committed",
                       [Line("tee", 1)]),
            {},
        )  # fmt: skip

    add(0, 2, "A")
    add(2, 1, "B", bad=True)
    add(2, 1, "B", bad=True)  # two wrong rows of one order are one order
    add(3, 1, "C")
    add(4, 3, "A")
    add(7, 1, "B")
    found = sorted((bad.number, bad.rows) for part in looked.found() for bad in part)
    looked.close()
    assert found == [(0, 2), (2, 1), (4, 3), (7, 1)]
