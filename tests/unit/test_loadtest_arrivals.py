"""Arrivals against what a Poisson process of that shape must look like."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from loadtest.arrivals import RISE, SHAPES, drop, steady, times


@pytest.mark.parametrize("name", SHAPES)
def test_so_many_come_in_their_order_within_the_time(name: str) -> None:
    found = list(times(5000, 20.0, SHAPES[name], random.Random(7)))
    assert len(found) == 5000
    assert found == sorted(found)
    assert found[0] >= 0
    assert found[-1] <= 20
    assert found == list(times(5000, 20.0, SHAPES[name], random.Random(7)))


def test_steady_arrivals_are_a_poisson_process() -> None:
    """Gaps are exponential: as many above the mean as there must be, and no memory."""
    found = list(times(20_000, 20_000.0, steady, random.Random(7)))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert 0.97 < sum(gaps) / len(gaps) < 1.03
    assert 0.35 < sum(gap > 1 for gap in gaps) / len(gaps) < 0.385  # 1/e = 0.368
    seconds = Counter(int(time) for time in found)
    counts = [seconds[number] for number in range(20_000)]
    variance = sum((count - 1) ** 2 for count in counts) / len(counts)
    assert 0.95 < variance < 1.05  # of a Poisson distribution: its mean


def test_a_drop_rises_steeply_and_has_a_long_tail() -> None:
    found = list(times(100_000, 100.0, drop, random.Random(7)))
    seconds = Counter(int(time) for time in found)
    peak = max(seconds, key=lambda second: seconds[second])
    assert abs(peak - 100 * RISE) <= 1
    assert 3300 < seconds[peak] < 3900
    assert seconds[0] < seconds[peak] / 10
    assert seconds[50] < seconds[peak] / 4
    assert seconds[99] > 150


@pytest.mark.parametrize("shape", [steady, drop])
def test_a_shape_ascends_from_nobody_to_all(shape: object) -> None:
    assert callable(shape)
    moments = [shape(number / 1000) for number in range(1001)]
    assert (moments[0], moments[-1]) == (0, 1)
    assert all(later > earlier for earlier, later in pairwise(moments))


def test_hours_of_them_are_drawn_one_by_one() -> None:
    found = times(10**9, 86_400.0, steady, random.Random(7))
    assert len(list(islice(found, 10))) == 10
