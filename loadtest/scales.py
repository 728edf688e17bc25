"""Scales of plots: where a value lies between the ends, and which ticks a reader gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

TICKS_WANTED = 5
LOG_SPAN_MIN = 30.0  # highest by lowest: below it a linear scale reads better
MANTISSAS = (1, 2, 5, 10)
TIME_STEPS_S = (
    1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1_200, 1_800, 3_600, 7_200, 14_400, 21_600,
    43_200, 86_400,
)  # fmt: skip
PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999)


class Scale(NamedTuple):
    """Where values lie: 0 at the low end, 1 at the high one."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    unit: str = ""  # that the ticks are written in, if the scale chose it
    transform: Callable[[float], float] = float

    def at(self, value: float) -> float:
        """Its place; outside 0…1 if it lies beyond an end."""
        return (self.transform(value) - self.low) / (self.high - self.low)


def linear(values: Iterable[float]) -> Scale:
    """From nothing to a round value above the highest (or below the lowest)."""
    known = [*values, 0.0]
    step = _step(max(known) - min(known) or 1.0)
    low, high = math.floor(min(known) / step), math.ceil(max(known) / step)
    high = max(high, low + 1)
    marks = [n * step for n in range(low, high + 1)]
    return Scale(low * step, high * step, [(mark, short(mark)) for mark in marks])


def logarithmic(values: Iterable[float]) -> Scale:
    """Between the nearest 1, 2 or 5 times a power of ten around what is above zero."""
    known = [value for value in values if value > 0] or [1.0]
    low, high = _below(min(known)), _above(max(known))
    if low == high:
        low, high = _below(low * 0.99), _above(high * 1.01)
    decades = math.log10(high / low)
    mantissas = (1, 2, 5) if decades <= 3.5 else (1,)
    every = max(1, math.ceil(decades / 7))
    marks = [
        mantissa * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for mantissa in mantissas
        if power % every == 0
    ]
    ticks = [(mark, short(mark)) for mark in marks if low * 0.999 <= mark <= high * 1.001]
    return Scale(math.log10(low), math.log10(high), ticks, transform=math.log10)


def fitting(values: Iterable[float]) -> Scale:
    """Logarithmic where the values differ so much that a linear scale hides the small ones."""
    known = [value for value in values if value > 0]
    wide = bool(known) and max(known) >= LOG_SPAN_MIN * min(known)
    return logarithmic(known) if wide else linear(known)


def time(values: Iterable[float]) -> Scale:
    """Seconds, written as a clock would."""
    last = max([*values, 1.0])
    step = next((each for each in TIME_STEPS_S if last / each <= TICKS_WANTED + 2), None)
    if step is None:
        step = 86_400 * math.ceil(last / 86_400 / TICKS_WANTED)
    unit = "s" if last <= 120 else "min:s" if last <= 7_200 else "h:min"
    marks = [n * step for n in range(int(last // step) + 1)]
    return Scale(0.0, last, [(mark, _clock(mark, unit)) for mark in marks], unit)


def percentile(values: Iterable[float]) -> Scale:
    """Percentiles as HdrHistogram draws them: each further nine takes the same room."""
    last = max([each for each in values if each < 100] or [0.0])
    high = max(_nines(last), 1.0)
    marks = [each for each in PERCENTILES if _nines(each) <= high + 0.02]
    return Scale(0.0, high, [(each, f"{each:g}") for each in marks], "%", _nines)


def short(value: float) -> str:
    """A number as ticks and tiles show it: ``0.05``, ``12``, ``2,400``, ``12.5 k``, ``3 M``."""
    for factor, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor * (10 if letter == " k" else 1):
            return f"{value / factor:.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _nines(value: float) -> float:
    return -math.log10(1 - value / 100) if value < 100 else math.inf


def _clock(seconds: int, unit: str) -> str:
    if unit == "s":
        return str(seconds)
    whole = seconds // 60 if unit == "h:min" else seconds
    return f"{whole // 60}:{whole % 60:02}"


def _step(span: float) -> float:
    rough = span / TICKS_WANTED
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(each for each in MANTISSAS if each * power >= rough * 0.999)


def _below(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return power * max(each for each in MANTISSAS if each == 1 or each * power <= value * 1.001)


def _above(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(each for each in MANTISSAS if each == 10 or each * power >= value * 0.999)
