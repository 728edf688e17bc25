"""Comparing two benchmark runs: what counts as slower, and what is not compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.compare import BOUND, main


def run(path: Path, medians: dict[str, float], loop: float | None = 0.005) -> str:
    """A file of --benchmark-json with these medians, each beside a loop of so many seconds."""
    extra = {} if loop is None else {"calibration_seconds": loop}
    benchmarks = [
        {"fullname": name, "stats": {"median": value, "mean": value}, "extra_info": extra}
        for name, value in medians.items()
    ]
    path.write_text(json.dumps({"machine_info": {}, "benchmarks": benchmarks}))
    return str(path)


def test_a_slower_machine_is_no_slower_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = run(tmp_path / "base.json", {"a": 0.010}, loop=0.005)
    new = run(tmp_path / "new.json", {"a": 0.030}, loop=0.015)
    assert main([base, new]) == 0
    assert "1.00 (1.00-1.00)" in capsys.readouterr().out


def test_what_is_slower_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = run(tmp_path / "base.json", {"a": 0.010, "b": 0.010, "c": 0.010})
    new = run(tmp_path / "new.json", {"a": 0.010 * BOUND * 1.01, "b": 0.011, "c": 0.005})
    assert main([base, new]) == 1
    verdicts = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert verdicts == ["slower", "same", "faster"]
    assert main([base, new, "--bound", "1.5"]) == 0


def test_one_disturbed_pair_of_three_is_outvoted(tmp_path: Path) -> None:
    base = run(tmp_path / "base.json", {"a": 0.010})
    new = run(tmp_path / "new.json", {"a": 0.011})
    disturbed = run(tmp_path / "disturbed.json", {"a": 0.090})
    assert main([base, new, base, disturbed, base, new]) == 0
    assert main([base, disturbed, base, disturbed, base, new]) == 1


def test_what_cannot_be_compared_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = run(tmp_path / "base.json", {"both": 0.010, "gone": 0.010})
    new = run(tmp_path / "new.json", {"both": 0.010, "added": 0.010})
    assert main([base, new]) == 0
    told = capsys.readouterr().out
    assert "added  not in the base" in told
    assert "gone   only in the base" in told
    old = run(tmp_path / "old.json", {"both": 0.010}, loop=None)
    assert main([old, new]) == 2
    assert "both   measured without the calibration loop" in capsys.readouterr().out


def test_files_that_are_none_are_told_in_a_line(tmp_path: Path) -> None:
    base = run(tmp_path / "base.json", {"a": 0.010})
    other = tmp_path / "other.json"
    other.write_text("[]")
    with pytest.raises(SystemExit, match=r"other\.json is no file of --benchmark-json"):
        main([base, str(other)])
    with pytest.raises(SystemExit, match=r"missing\.json is no file of --benchmark-json"):
        main([base, str(tmp_path / "missing.json")])
