"""Two reports beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest import compare
from loadtest.document import NotAReport, read
from tests.loaded import document, operation, values


def row(text: str, name: str) -> list[str]:
    """The cells of a line of the table."""
    (line,) = [each for each in text.split("\n") if each.startswith(f"{name}, ")]
    return line.removeprefix(f"{name}, ").split()[1:]


def test_a_run_beside_itself_has_ratios_of_one() -> None:
    a = document()
    text, within = compare.table(a, a, 1.0)
    assert within
    assert row(text, "answered")[-1] == "1.00"
    assert row(text, "reserve p99")[-1] == "1.00"
    assert row(text, "oversold") == ["0.00", "0.00", "-"]
    assert "!" not in text
    assert max(len(line) for line in text.split("\n")) <= 100


def test_a_slower_p99_passes_the_limit_and_is_named() -> None:
    slower = {"reserve": operation(41_200, 2.6), "commit": operation(10_120, 1.7)}
    a, b = document(), document(operations=slower)
    text, within = compare.table(a, b, 1.2)
    assert not within
    assert row(text, "reserve p99")[2] == f"{2.6 / 2.1:.2f}"
    assert text.endswith("worse by more than 1.2: reserve p99")
    assert compare.table(a, b, 1.3)[1]
    assert compare.table(b, a, 1.2)[1], "faster is not worse"


def test_a_lower_knee_or_rate_passes_the_limit() -> None:
    step = {"rate": 100, "achieved": 100, "p99_ms": 3, "errors": 0, "passed": True}
    a, b = (document(find_limit={"steps": [step], "knee": knee}) for knee in (5_000, 4_000))
    assert compare.table(a, b, 1.2)[0].endswith("worse by more than 1.2: knee")
    assert compare.table(a, b, 1.25)[1]
    half = values()["totals"] | {"answered": 9_000}
    assert compare.table(document(), document(totals=half), 1.2)[0].endswith(": answered")


def test_what_few_calls_said_is_shown_and_not_judged() -> None:
    a = document(operations={"reserve": operation(900, 2.0)})
    b = document(operations={"reserve": operation(900, 9.0)})
    text, within = compare.table(a, b, 1.2)
    assert within
    assert row(text, "reserve p99")[-1] == "(4.50)"
    assert row(text, "reserve p90")[-1] == "4.50"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"buyers": 5_000}}, "setting buyers: A 100000, B 5000"),
        ({"settings": {}}, "setting units: A 1000, B none"),
        ({"machine": {"cores": 4}}, "machine cores: A None, B 4"),
        ({"operations": {"reserve": operation(41_200, 2.1)}}, "only A has the operation commit"),
        ({"audit": {"passed": False, "oversold": 3}}, "B did not pass its audit"),
    ],
)
def test_what_was_not_the_same_is_marked(changed: dict[str, Any], said: str) -> None:
    text, _ = compare.table(document(), document(**changed))
    assert f"!  {said}" in text.split("\n")


def test_a_generator_that_could_not_keep_up_is_marked() -> None:
    slow = {"processes": 2, "bottleneck": True, "late_p99_ms": 40.0}
    assert any("bottleneck in B" in each
               for each in compare.differences(document(), document(generator=slow)))  # fmt: skip


def test_no_setting_steers_the_terminal() -> None:
    text, _ = compare.table(document(), document(settings={"\x1b[2J": "\x07"}))
    assert not any(each in text for each in "\x1b\x07")


def test_another_seed_is_no_difference() -> None:
    ours, theirs = (document(seed=seed, settings={"seed": seed}) for seed in (7, 8))
    assert compare.differences(ours, theirs) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scenario": "soak"}, "A has scenario flash-sale, B has soak"),
        ({"model": "closed"}, "A has model open, B has closed"),
        ({"find_limit": {"steps": [], "knee": 1.0}}, "only one of the two searched"),
        ({"totals": values()["totals"] | {"answered": 0}}, "nothing was answered in B"),
    ],
)
def test_what_does_not_compare_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(NotAReport, match=said):
        compare.table(document(), document(**changed))


def test_the_command_compares_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(json.dumps(values()))
    b.write_text(json.dumps(values(operations={"reserve": operation(41_200, 3.0)})))
    assert read(a) == document()
    assert compare.main([str(a), str(b)]) == 0
    assert "reserve p99, ms" in capsys.readouterr().out
    assert compare.main([str(a), str(b), "--fail-above", "1.2"]) == 1
    assert compare.main([str(a), str(tmp_path / "none.json")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([str(a), str(b), "--fail-above", "0.8"])
    assert "a ratio of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scenario": 7}', "\xff"])
def test_what_is_no_report_is_told(text: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(NotAReport, match="is not the report of a run"):
        read(file)
