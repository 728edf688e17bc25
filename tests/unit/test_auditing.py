"""What is judged and told of a reconciliation, without servers: thresholds, differences, counts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from core.auditing import differences as of
from core.auditing.counts import Counted, Counts
from core.auditing.repair import _moves
from core.auditing.variance import judge
from core.chronicle import Accounts
from core.errors import ImportRefused
from core.happenings import MOVED
from core.ledger.audit import Totals
from core.model import QUANTITY_MAX
from core.record_model import VERBS
from core.store.wording import changed_row

ROW = "7 2 3 5,1,2,0,0,-300000 store@4,0,1,0,2,u50,48,0 web@3,2,0,300000"


@pytest.mark.parametrize(
    ("rate", "before", "units", "orders", "status", "reasons"),
    [
        (0.0, None, 0, 0, "normal", 0),
        (0.0049, 0.9, 0, 0, "normal", 0),
        (0.005, None, 0, 0, "watch", 1),
        (0.0101, None, 0, 0, "watch", 1),  # not known to be the second day
        (0.0101, 0.01, 0, 0, "watch", 1),
        (0.01, 0.5, 0, 0, "watch", 1),
        (0.0101, 0.0101, 0, 0, "alarm", 1),
        (0.0, None, 1, 0, "watch", 1),
        (0.0, None, 1, 2, "watch", 1),
        (0.0, None, 0, 1, "watch", 1),
        (0.0, None, 1, 3, "alarm", 1),
        (0.02, 0.02, 1, 1, "alarm", 2),
        (0.006, 0.02, 1, 3, "alarm", 2),
    ],
)
def test_thresholds(
    rate: float, before: float | None, units: int, orders: int, status: str, reasons: int
) -> None:
    found, why = judge(rate, before, Totals(oversold_units=units, oversold_orders=orders))
    assert (found, len(why)) == (status, reasons)


def test_units_that_lie_elsewhere_count_once() -> None:
    assert of.units_between({"shared": 5}, {"shared": 3, "safety": 2}) == 2
    assert of.units_between({"shared": 5}, {"shared": 3}) == 2
    assert of.units_between({}, {"shared": 3, "free:web": 1}) == 4
    assert of.units_between({"shared": 1, "safety": 4}, {"shared": 9, "safety": 1}) == 8
    assert of.units_between({"shared": 1}, {"shared": 1}) == 0


def test_only_accounts_that_differ_are_named() -> None:
    found = of.of_accounts(
        "fold", "ledger_gap", "tee@main", {"shared": 5, "safety": 1}, {"safety": 1, "free:web": 2}
    )
    assert (found.expected, found.found) == ("free:web 0, shared 5", "free:web 2, shared 0")
    assert found.units == 5


def test_a_row_that_is_none_is_told_as_it_is() -> None:
    found = of.of_rows("store_edited", "tee@main", ROW, "no\0row" + "x" * 5_000)
    assert found.found.startswith("no�row")
    assert len(found.found) == of.TEXT_CHARS_MAX
    assert found.units == 18


def test_a_case_does_not_keep_whose_it_was() -> None:
    record = "R 2 10 20 - 7 web {} {} tee@main@1,0"
    found = of.of_records(
        "record_edited", "id", record.format("c-9", "-"), record.format("c-8", "order%2017")
    )
    assert found.expected == record.format("***", "-")
    assert found.found == record.format("***", "***")
    assert of.quoted_record("no record") == "no record"


@pytest.mark.parametrize("word", ["12", "-", "~0123456789abcdef"])
def test_a_record_that_came_back_is_the_same(word: str) -> None:
    one = f"R 2 10 20 - {word} web - - tee@main@1,0"
    assert of.same_record(one, one.replace(f"{word} web", "99 web"))
    assert not of.same_record(one, one.replace("tee", "cap"))
    assert not of.same_record(one, "?")
    assert not of.same_record("?", one)
    assert (of.version_of(one, 1), of.version_of("R x", 1), of.version_of("", 0)) == (2, 0, 0)


def test_open_units() -> None:
    assert of.open_units("C 2 1 - 1 9 web - - tee@main@3,2,1,1,0,0 cap@main@1,0") == 4
    assert of.open_units("F 2 1 - 1 9 web - - tee@main@3,2,5,0,0,0") == 0
    assert of.open_units("R 1 1 2 - 9 web - - tee@main@x") == 0


def test_a_changed_row_keeps_all_else() -> None:
    after = changed_row(ROW, 9, {"shared": 0, "deficit": -4, "free:web": 8, "committed:store": 0})
    assert after == "9 2 3 0,1,2,0,4,-300000 store@4,0,0,0,2,u50,48,0 web@8,2,0,300000"
    assert changed_row(ROW, 7, Accounts(ROW).units) == ROW


def test_movements_make_one_of_the_other(seed: int) -> None:
    dice = random.Random(seed)
    names = ("shared", "safety", "deficit", "free:web", "reserved:web")
    for _ in range(200):
        before, after = ({name: dice.randint(-3, 5) for name in names} for _ in range(2))
        sums = dict(before)
        for move in _moves("repair", "tee@main", before, after, 7):
            verb, pool, source, target, units, reference, reason, occurred = move.split(" ")
            assert (verb, pool, reference, occurred) == ("repair", "tee@main", "-", "-")
            assert reason == "reconciliation%20case%207"
            assert int(units) > 0
            assert source != target
            sums[source] = sums.get(source, 0) - int(units)
            sums[target] = sums.get(target, 0) + int(units)
        sums.pop("outside", 0)
        assert sums == after


# --- counts --------------------------------------------------------------------------------------


def test_counts_come_as_csv_and_as_json(tmp_path: Path) -> None:
    table, document = tmp_path / "c.csv", tmp_path / "c.json"
    table.write_bytes(b'\xef\xbb\xbfcounted,location,sku\r\n5,main,"tee"\r\n0,back,cap\r\n')
    document.write_text(
        '[{"sku": "tee", "location": "main", "counted": 5},'
        ' {"sku": "cap", "location": "back", "counted": 0}]'
    )
    for path in (table, document):
        counts = Counts(path)
        for _ in range(2):  # it may be read as often as it is wanted
            assert list(counts) == [Counted("tee", "main", 5), Counted("cap", "back", 0)]
        assert counts.count == 2


@pytest.mark.parametrize(
    ("name", "text", "line", "why"),
    [
        ("c.csv", "sku,location,counted\ntee,main,-1\n", 2, "counted: expected a whole number"),
        ("c.csv", "sku,location,counted\ntee,main,1.5\n", 2, "counted: expected a whole number"),
        ("c.csv", "sku,location,counted\ntee,main,١\n", 2, "counted: expected a whole number"),
        ("c.csv", f"sku,location,counted\ntee,main,{QUANTITY_MAX + 1}\n", 2, "counted: expected"),
        ("c.csv", "sku,location,counted\n\ntee,main\n", 3, "expected 3 cells"),
        ("c.csv", "sku,location,counted\ntee,MAIN,1\n", 2, "location: "),
        ("c.csv", "sku,location,counted\nt e,main,1\n", 2, "sku: "),
        ("c.csv", "sku,location,counted\ntee,main,1\ntee,main,2\n", 3, "was counted above already"),
        ("c.json", '[{"sku": "t e", "location": "main", "counted": 1}]', 1, "sku: "),
        ("c.csv", "sku,location\n", 0, "its first line must name sku, location, counted"),
        ("c.csv", "sku,location,counted\n", 0, "holds no counts"),
        ("c.json", "[]", 0, "holds no counts"),
        ("c.json", '{"sku": "tee"}', 0, "expected a list of objects"),
        ("c.json", '[{"sku": "tee", "location": "main", "counted": -1}]', 0, "expected a list"),
        ("c.json", '[{"sku": "tee", "location": "main", "counted": 1, "x": 1}]', 0, "expected a"),
        ("c.json", "\xff", 0, "expected a list of objects"),
    ],
)  # fmt: skip
def test_counts_that_cannot_be_used(
    tmp_path: Path, name: str, text: str, line: int, why: str
) -> None:
    """Line by line what is wrong, and nothing is compared."""
    path = tmp_path / name
    path.write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    with pytest.raises(ImportRefused) as caught:
        Counts(path)
    if line:
        assert caught.value.bad[0][0] == line
        assert why in caught.value.bad[0][1]
        assert "nothing was compared" in caught.value.detail
    else:
        assert why in caught.value.detail


@pytest.mark.parametrize("name", ["c.csv", "c.json"])
def test_counts_that_are_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImportRefused, match="cannot be read: No such file"):
        Counts(tmp_path / name)


def test_readers_of_movements_know_what_repairs_move() -> None:
    for verb in ("drift", "repair"):
        assert verb in VERBS
        assert MOVED[verb] == "adjusted"
