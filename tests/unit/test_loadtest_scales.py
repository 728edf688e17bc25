"""Ticks that a reader can use, and places that keep their order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import scales
from loadtest.scales import Scale

SCALES: list[Callable[[Sequence[float]], Scale]] = [
    scales.linear,
    scales.logarithmic,
    scales.fitting,
    scales.time,
]
VALUES = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20)


@given(VALUES, st.sampled_from(SCALES))
def test_values_lie_between_the_ends_and_keep_their_order(
    values: list[float], scale_of: Callable[[Sequence[float]], Scale]
) -> None:
    scale = scale_of(values)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert places[0] >= -1e-3
    assert places[-1] <= 1 + 1e-3


@given(VALUES, st.sampled_from(SCALES))
def test_ticks_are_few_different_and_inside(
    values: list[float], scale_of: Callable[[Sequence[float]], Scale]
) -> None:
    scale = scale_of(values)
    assert 1 <= len(scale.ticks) <= 12
    labels = [label for _, label in scale.ticks]
    assert len(set(labels)) == len(labels)
    assert all(-1e-3 <= scale.at(value) <= 1 + 1e-3 for value, _ in scale.ticks)


@pytest.mark.parametrize("scale_of", SCALES)
def test_there_is_a_scale_for_nothing(scale_of: Callable[[Sequence[float]], Scale]) -> None:
    for values in ([], [0.0], [0.0, 0.0]):
        scale = scale_of(values)
        assert scale.high > scale.low
        assert scale.ticks


def test_a_linear_scale_has_round_steps_from_nothing() -> None:
    assert [label for _, label in scales.linear([3, 2_417]).ticks] == [
        "0", "500", "1,000", "1,500", "2,000", "2,500",
    ]  # fmt: skip
    assert [value for value, _ in scales.linear([-3, 4]).ticks] == [-4, -2, 0, 2, 4]


def test_a_logarithmic_scale_has_one_two_five_or_decades_alone() -> None:
    assert [label for _, label in scales.logarithmic([1.3, 90]).ticks] == [
        "1", "2", "5", "10", "20", "50", "100",
    ]  # fmt: skip
    assert [label for _, label in scales.logarithmic([0.01, 9_999]).ticks] == [
        "0.01", "0.1", "1", "10", "100", "1,000", "10 k",
    ]  # fmt: skip


def test_a_scale_is_logarithmic_only_where_it_helps() -> None:
    assert scales.fitting([1, 20]).transform is float
    assert scales.fitting([1, 40]).transform is not float
    assert scales.fitting([0, 0]).transform is float


@pytest.mark.parametrize(
    ("last", "unit", "labels"),
    [
        (59, "s", ["0", "10", "20", "30", "40", "50"]),
        (180, "min:s", ["0:00", "0:30", "1:00", "1:30", "2:00", "2:30", "3:00"]),
        (4 * 3_600, "h:min", ["0:00", "1:00", "2:00", "3:00", "4:00"]),
    ],
)
def test_time_is_written_as_a_clock_would(last: int, unit: str, labels: list[str]) -> None:
    scale = scales.time(range(last + 1))
    assert scale.unit == unit
    assert [label for _, label in scale.ticks] == labels


def test_every_further_nine_takes_the_same_room() -> None:
    scale = scales.percentile([50, 99.999])
    places = [scale.at(value) for value in (0, 90, 99, 99.9, 99.99, 99.999)]
    steps = [right - left for left, right in pairwise(places)]
    assert all(math.isclose(step, 0.2, rel_tol=1e-6) for step in steps)
    assert [label for _, label in scale.ticks][-2:] == ["99.99", "99.999"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (12, "12"), (2_400, "2,400"), (12_500, "12.5 k"), (3e6, "3 M"),
     (2e9, "2 G")],
)  # fmt: skip
def test_numbers_are_short(value: float, text: str) -> None:
    assert scales.short(value) == text
