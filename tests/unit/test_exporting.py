"""What a cell of an export may hold, and how wide a story may be."""

from __future__ import annotations

import pytest

from api.exporting import FREE_TEXT, MOVEMENT, _cell
from api.showing import COLUMNS, wrapped


@pytest.mark.parametrize("name", sorted(FREE_TEXT))
@pytest.mark.parametrize("text", ["=1+1", "+49", "-2", "@SUM(A1)"])
def test_what_somebody_wrote_is_no_formula(name: str, text: str) -> None:
    assert _cell(name, text) == f"'{text}"


@pytest.mark.parametrize(
    ("name", "value", "cell"),
    [("reference", "order=1", "order=1"), ("reference", "", ""), ("reason", None, ""),
     ("quantity", 3, 3), ("sku", "-a", "-a")],
)  # fmt: skip
def test_everything_else_stands_as_it_is(name: str, value: object, cell: object) -> None:
    assert _cell(name, value) == cell


def test_a_movement_has_a_column_for_everything_that_is_listed() -> None:
    assert MOVEMENT == (
        "position", "time", "verb", "sku", "location", "from", "to", "quantity", "version",
        "occurred_at", "channel", "reservation", "reference", "reason", "actor",
    )  # fmt: skip


def test_a_line_goes_on_further_in_and_is_never_too_wide() -> None:
    assert list(wrapped(2, ("a", "b"))) == ["  a  b"]
    parts = ["x" * 60, "y" * 60, "z" * 250]
    lines = list(wrapped(2, parts))
    assert all(len(line) <= COLUMNS for line in lines)
    assert lines[0] == "  " + "x" * 60
    assert lines[1].startswith("      y")
    assert "".join("".join(lines).split()) == "".join(parts)
