"""The latency histogram against exact percentiles."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.histogram import Histogram

SHARES = (0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0)


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.lists(st.integers(0, 2**40), min_size=1), st.sampled_from(SHARES))
def test_quantiles_are_at_most_one_bucket_above_the_exact_ones(
    values: list[int], share: float
) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert exact <= filled(values).quantile(share) <= exact * (1 + 1 / 128)


@given(st.lists(st.integers(0, 255), min_size=1), st.sampled_from(SHARES))
def test_small_values_are_exact(values: list[int], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert filled(values).quantile(share) == exact


@pytest.mark.parametrize("bits", range(1, 50))
def test_buckets_meet_at_powers_of_two(bits: int) -> None:
    histogram = filled([2**bits - 1, 2**bits])
    assert 2**bits - 1 <= histogram.quantile(0.5) < 2**bits
    assert histogram.quantile(1) == 2**bits


def test_count_total_and_maximum_are_exact() -> None:
    histogram = filled([1, 2, 3_000_000])
    assert (histogram.count, histogram.total, histogram.maximum) == (3, 3_000_003, 3_000_000)


def test_nothing_counted_is_zero() -> None:
    assert Histogram().quantile(0.99) == 0


@given(st.lists(st.lists(st.integers(0, 2**40)), max_size=4))
def test_several_histograms_become_one_also_after_a_journey(parts: list[list[int]]) -> None:
    merged = Histogram()
    for values in parts:
        sent = msgspec.msgpack.encode(filled(values))
        merged.merge(msgspec.msgpack.decode(sent, type=Histogram))
    together = filled([value for values in parts for value in values])
    assert merged == together
    assert list(merged.quantiles(SHARES)) == [together.quantile(share) for share in SHARES]
