"""The calibration loop itself, for pytest-benchmark: every other time is told as a ratio to it."""

from __future__ import annotations

from typing import Any

from bench import calibration


def test_calibration(benchmark: Any) -> None:
    assert benchmark.pedantic(calibration.loop, rounds=20) == calibration.loop()
