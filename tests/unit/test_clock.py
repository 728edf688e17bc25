"""The server's clock as a worker believes it: what is a jump, what is drift, what is only slow."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import JUMP_MS, ServerClock, monotonic_ms

SERVER = 1_700_000_000_000  # the server's time when this machine's clock is 0


def heard(clock: ServerClock, at: float, server: float, trip: float = 2.0) -> None:
    """One reply: sent at ``at``, back ``trip`` ms later, with the server's time of half-way."""
    clock.heard(int(server + at + trip / 2), at, at + trip)


@pytest.fixture
def clock() -> ServerClock:
    """A clock that has heard the server once."""
    known = ServerClock()
    heard(known, 0, SERVER)
    return known


def test_the_first_reply_is_the_truth(clock: ServerClock) -> None:
    assert not clock.suspect
    assert abs(clock.now_ms(0) - SERVER) <= 2
    assert clock.now_ms(5_000) - clock.now_ms(0) == 5_000


def test_now_goes_on_by_the_machine_s_own_clock(clock: ServerClock) -> None:
    real = ServerClock()
    before = monotonic_ms()
    real.heard(SERVER, before, before)
    first, second = real.now_ms(), real.now_ms()
    assert SERVER <= first <= second < SERVER + 60_000


@pytest.mark.parametrize("jump", [5_000, -5_000, 3_600_000, -3_600_000])
def test_a_jump_alarms_once_and_names_go_by_the_new_time(
    clock: ServerClock, jump: int, caplog: pytest.LogCaptureFixture
) -> None:
    for at in (1_000, 2_000, 3_000):
        heard(clock, at, SERVER + jump)
        assert clock.suspect
        assert abs(clock.now_ms(at) - (SERVER + jump + at)) <= 3
    (alarm,) = caplog.records
    assert alarm.levelno == logging.ERROR
    assert f"{jump / 1000:+.1f} s" in alarm.getMessage()


@pytest.mark.parametrize("jump", [5_000, -5_000])
def test_back_on_the_old_time_line_deadlines_count_again(
    clock: ServerClock, jump: int, caplog: pytest.LogCaptureFixture
) -> None:
    heard(clock, 1_000, SERVER + jump)
    heard(clock, 2_000, SERVER)
    assert not clock.suspect
    assert abs(clock.now_ms(2_000) - (SERVER + 2_000)) <= 3
    assert [each.levelno for each in caplog.records] == [logging.ERROR, logging.WARNING]


def test_an_accepted_jump_is_the_new_truth(
    clock: ServerClock, caplog: pytest.LogCaptureFixture
) -> None:
    suspects = []
    heard(clock, 1_000, SERVER + 50_000)
    clock.accept()
    for at, server in ((2_000, SERVER + 50_000), (3_000, SERVER)):
        heard(clock, at, server)
        suspects.append(clock.suspect)
    assert suspects == [False, True], "the old time line is now the strange one"
    assert len(caplog.records) == 3


def test_accepting_without_a_jump_changes_nothing(
    clock: ServerClock, caplog: pytest.LogCaptureFixture
) -> None:
    before = clock.now_ms(10)
    clock.accept()
    assert (clock.now_ms(10), clock.suspect, caplog.records) == (before, False, [])


def test_a_second_jump_before_the_first_is_over_is_no_second_alarm(
    clock: ServerClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard(clock, 1_000, SERVER + 50_000)
    heard(clock, 2_000, SERVER - 50_000)
    assert clock.suspect
    assert len(caplog.records) == 1
    clock.accept()
    assert abs(clock.now_ms(3_000) - (SERVER - 50_000 + 3_000)) <= 3


@given(st.integers(-JUMP_MS, JUMP_MS), st.integers(0, 500))
def test_less_than_a_second_off_is_no_jump(off: int, trip: int) -> None:
    """And the estimate moves only as far as the reply proves it wrong."""
    clock = ServerClock()
    clock.heard(SERVER, 0, 0)
    clock.heard(SERVER + 1_000 + trip // 2 + off, 1_000, 1_000 + trip)
    assert not clock.suspect
    estimate = clock.now_ms(1_000 + trip)
    assert SERVER + 1_000 + trip // 2 + off <= estimate + 1
    assert estimate <= SERVER + 1_000 + trip // 2 + off + trip + 1


@pytest.mark.parametrize("slow", [1.0, 0.5, 0.0])
def test_a_slow_first_reply_is_no_jump_afterwards(slow: float) -> None:
    """Nor is any slow reply: what it proves is the interval that it took, and no more."""
    clock = ServerClock()
    clock.heard(int(SERVER + 5_000 * slow), 0, 5_000)
    assert clock.now_ms(5_000) <= SERVER + 5_000, "it may be late, nothing expires early"
    heard(clock, 6_000, SERVER)
    suspects = [clock.suspect]
    assert abs(clock.now_ms(6_000) - (SERVER + 6_000)) <= 3
    clock.heard(SERVER + 7_000, 7_000, 12_000)
    suspects.append(clock.suspect)
    assert abs(clock.now_ms(12_000) - (SERVER + 12_000)) <= 3
    heard(clock, 13_000, SERVER + JUMP_MS + 5)
    assert [*suspects, clock.suspect] == [False, False, True]


def test_a_slow_reply_of_a_jump_can_be_accepted(clock: ServerClock) -> None:
    suspects = []
    clock.heard(SERVER + 60_000, 1_000, 6_000)
    suspects.append(clock.suspect)
    clock.accept()
    heard(clock, 7_000, SERVER + 59_000)
    suspects.append(clock.suspect)
    assert suspects == [True, False]
    assert abs(clock.now_ms(7_000) - (SERVER + 66_000)) <= 3


@pytest.mark.parametrize("jump", [JUMP_MS + 2, -JUMP_MS - 2])
def test_just_more_than_a_second_is_one(clock: ServerClock, jump: int) -> None:
    clock.heard(SERVER, 0, 0)
    clock.heard(SERVER + 1_000 + jump, 1_000, 1_000)
    assert clock.suspect


def test_drift_is_followed_however_far_it_leads(clock: ServerClock) -> None:
    """100 ppm for an hour of replies: a third of a second, never a jump; a day of it neither."""
    for second in range(0, 86_400, 600):
        at = second * 1_000.0
        heard(clock, at, SERVER + at * 1e-4)
        assert not clock.suspect
        assert abs(clock.now_ms(at) - (SERVER + at * 1.0001)) <= 3


def test_a_frozen_worker_sees_no_jump(clock: ServerClock) -> None:
    """Stopped for a minute while its reply lay there: the reply only says little."""
    clock.heard(SERVER + 1_001, 1_000, 61_000)
    assert not clock.suspect
    assert abs(clock.now_ms(61_000) - (SERVER + 61_000)) <= 3


def test_a_frozen_server_sees_no_jump(clock: ServerClock) -> None:
    """It answered a minute late, with the time of then."""
    clock.heard(SERVER + 60_999, 1_000, 61_000)
    assert not clock.suspect
    assert abs(clock.now_ms(61_000) - (SERVER + 61_000)) <= 3


def test_a_jump_behind_a_slow_reply_is_found_by_the_next_quick_one(clock: ServerClock) -> None:
    clock.heard(SERVER + 61_000 + 30_000, 1_000, 61_000)
    assert clock.suspect, "even the earliest moment is too late for that"
    clock = ServerClock()
    heard(clock, 0, SERVER)
    clock.heard(SERVER + 61_000 - 30_000, 1_000, 61_000)
    assert not clock.suspect, "it may have been read half a minute ago"
    heard(clock, 62_000, SERVER - 30_000)
    assert clock.suspect
