"""What a run saw: latencies from when a request was due, counted in the second it belongs to."""

from __future__ import annotations

import time

import msgspec
import pytest

from loadtest.measure import Measured, Meter

SECOND = 1_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that stands where its only item says."""
    at = [10 * SECOND]
    monkeypatch.setattr(time, "monotonic_ns", lambda: at[0])
    return at


def test_a_request_counts_from_when_it_was_due(clock: list[int]) -> None:
    """Due in second 0, sent and answered in second 2: the wait before it was sent counts."""
    meter = Meter()
    clock[0] += 2 * SECOND
    since = meter.asked(10 * SECOND + SECOND // 2)
    clock[0] += SECOND // 4
    meter.answered("reserve", since, replayed=True)
    meter.late(since)
    measured = meter.take()
    assert measured.operations["reserve"].maximum == 1_750_000
    assert measured.late_us.maximum == 1_750_000
    assert (measured.seconds[0].asked, measured.seconds[0].answered) == (1, 0)
    assert (measured.seconds[2].asked, measured.seconds[2].answered) == (0, 1)
    assert measured.replayed == 1


def test_what_was_due_before_the_warm_up_ended_is_not_judged(clock: list[int]) -> None:
    meter = Meter()
    meter.counted_ns = 11 * SECOND
    early, late = meter.asked(None), meter.asked(11 * SECOND)
    clock[0] = 12 * SECOND
    meter.answered("reserve", early, False)
    meter.answered("reserve", late, False)
    measured = meter.take()
    assert measured.operations["reserve"].count == 1
    assert measured.total().answered == 2


def test_what_is_taken_bit_by_bit_by_several_comes_to_the_whole(clock: list[int]) -> None:
    whole = Measured()
    for meter in (Meter(10 * SECOND), Meter(10 * SECOND)):
        for number in range(3):
            clock[0] = (10 + number) * SECOND
            since = meter.asked(None)
            clock[0] += 1000 * (number + 1)
            meter.answered("reserve", since, False)
            meter.granted()
            meter.refused(["on_hand", "on_hand"])
            meter.failed("overloaded")
            meter.unanswered("TimeoutError")
            meter.retried("503")
            sent = msgspec.msgpack.encode(meter.take())
            whole.merge(msgspec.msgpack.decode(sent, type=Measured))
    total = whole.total()
    assert (total.asked, total.answered, total.granted, total.refused) == (6, 6, 6, 6)
    assert total.errors == 12
    assert sorted(whole.seconds) == [0, 1, 2]
    assert whole.refusals == {"on_hand": 12}
    assert whole.errors == {"overloaded": 6, "TimeoutError": 6}
    assert (whole.unanswered, whole.retries) == (6, {"503": 6})
    assert whole.operations["reserve"].count == total.latency_us.count == 6
