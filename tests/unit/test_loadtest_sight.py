"""What the live view shows of what was measured."""

from __future__ import annotations

from loadtest.histogram import Histogram
from loadtest.measure import Measured, Second
from loadtest.sight import snapshot


def second(asked: int, latency_us: int) -> Second:
    latencies = Histogram()
    for _ in range(asked):
        latencies.record(latency_us)
    return Second(asked, asked - 1, asked // 2, asked // 4, 1, latencies)


def test_counts_are_of_the_run_and_rates_of_its_last_whole_seconds() -> None:
    measured = Measured(seconds={n: second(100 + n, 1_000 if n < 7 else 9_000) for n in range(11)})
    now = snapshot(measured, 10.4, 0.5, (200, 20))
    assert now.asked == sum(range(100, 111))
    assert (now.errors, now.share, now.remaining, now.oversold) == (11, 0.5, 20, 0)
    assert now.rate_asked == (107 + 108 + 109) / 3
    assert now.rate_achieved == now.rate_asked - 1
    assert now.p50_ms is not None
    assert 9.0 <= now.p50_ms <= 9.1


def test_at_first_little_is_known() -> None:
    now = snapshot(Measured(), 0.1, 0.0, None)
    assert (now.rate_asked, now.p50_ms, now.p999_ms, now.remaining) == (0.0, None, None, None)


def test_less_than_nothing_is_oversold() -> None:
    assert snapshot(Measured(), 1.0, 0.0, (5, -2)).oversold == 2
    assert snapshot(Measured(), 1.0, 0.0, (-1, 3)).oversold == 1
