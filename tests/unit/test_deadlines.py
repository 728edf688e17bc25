"""Which deadlines may have passed: what is looked at, what is remembered, when all is clear."""

from __future__ import annotations

import pytest

from core.deadlines import QUIET_MS, SECONDS_MAX, Deadlines

NOW_MS = 1_000_500  # in second 1,000


@pytest.fixture
def deadlines() -> Deadlines:
    """The cursor stands two seconds behind now."""
    known = Deadlines()
    known.moved(998)
    return known


def test_it_looks_from_the_cursor_to_the_second_that_may_have_begun(deadlines: Deadlines) -> None:
    assert deadlines.seconds(NOW_MS) == [998, 999, 1000, 1001]
    assert deadlines.passed(NOW_MS) == [998, 999]


def test_a_cursor_ahead_of_this_worker_s_time_still_looks_somewhere(deadlines: Deadlines) -> None:
    """Another worker's clock is a little faster."""
    deadlines.moved(1_005)
    assert deadlines.seconds(NOW_MS) == [1001]
    assert deadlines.passed(NOW_MS) == []


def test_a_look_is_bounded_however_far_the_cursor_is_behind(deadlines: Deadlines) -> None:
    deadlines.moved(0)
    assert deadlines.seconds(NOW_MS) == list(range(SECONDS_MAX))
    assert deadlines.passed(NOW_MS) == list(range(SECONDS_MAX))


def test_all_is_clear_when_every_list_up_to_now_has_nothing_due(deadlines: Deadlines) -> None:
    found: dict[int, list[bytes]] = {second: [] for second in deadlines.seconds(NOW_MS)}
    deadlines.looked(found, NOW_MS, 7, 12.5)
    assert (deadlines.clear_round, deadlines.clear_at) == (7, 12.5)
    assert deadlines.drains == {}


@pytest.mark.parametrize("found", [{}, {998: [], 999: []}, {999: [], 1000: [], 1001: []}])
def test_a_look_that_did_not_see_everything_clears_nothing(
    deadlines: Deadlines, found: dict[int, list[bytes]]
) -> None:
    """Up to now by the server's time, and from the cursor on."""
    deadlines.looked(found, NOW_MS, 7, 12.5)
    assert deadlines.clear_round == -1


def test_what_may_be_due_is_drained_next(deadlines: Deadlines) -> None:
    deadlines.looked({998: [b"a", b"b"], 999: [], 1000: [b"c"], 1001: []}, NOW_MS, 7, 12.5)
    assert deadlines.drains == {998: ["a", "b"], 1000: ["c"]}
    assert deadlines.clear_round == -1


def test_a_list_that_had_no_room_in_the_answer_waits_for_the_next_look(
    deadlines: Deadlines,
) -> None:
    """An empty name stands for it: there is something, and nothing to drain yet."""
    deadlines.looked({998: [b"a"], 999: [b""], 1000: [], 1001: []}, NOW_MS, 7, 12.5)
    assert deadlines.drains == {998: ["a"]}
    deadlines.looked({998: [], 999: [b""], 1000: [], 1001: []}, NOW_MS, 8, 13.5)
    assert deadlines.clear_round == -1


def test_a_list_is_quiet_until_it_grows_or_its_earliest_deadline_comes(
    deadlines: Deadlines,
) -> None:
    assert deadlines.quiet(1000) == (-1, 0), "never looked at: no length is the right one"
    deadlines.tidied(1000, left=3, kept=3, earliest_ms=1_000_700)
    assert deadlines.quiet(1000) == (3, 1_000_700)
    deadlines.tidied(1000, left=5, kept=3, earliest_ms=1_000_700)
    assert deadlines.quiet(1000) == (-1, 0), "two came while it was tidied"


def test_an_empty_list_is_quiet_until_something_is_in_it(deadlines: Deadlines) -> None:
    deadlines.tidied(1000, left=0, kept=0, earliest_ms=0)
    assert deadlines.quiet(1000) == (0, QUIET_MS)


def test_what_lies_behind_the_cursor_is_forgotten(deadlines: Deadlines) -> None:
    for second in (998, 999, 1000):
        deadlines.tidied(second, 1, 1, 1_000_000)
    deadlines.moved(1_000)
    assert [deadlines.quiet(second)[0] for second in (998, 999, 1000)] == [-1, -1, 1]


def test_a_cursor_that_moved_back_is_followed(deadlines: Deadlines) -> None:
    """Somebody's deadline was accepted before it."""
    deadlines.moved(990)
    assert deadlines.seconds(NOW_MS)[0] == 990


def test_a_record_that_cannot_expire_keeps_no_refusal_waiting(deadlines: Deadlines) -> None:
    """It is put off with the next tidying, and only then tried again."""
    deadlines.set_aside("bad")
    nothing: dict[int, list[bytes]] = {999: [], 1000: [], 1001: []}
    deadlines.looked({998: [b"bad"], **nothing}, NOW_MS, 7, 12.5)
    assert (deadlines.clear_round, deadlines.drains) == (7, {998: ["bad"]})
    deadlines.put_off(["bad"])
    assert not deadlines.is_set_aside("bad")
    deadlines.set_aside("bad")
    deadlines.looked({998: [b"bad", b"good"], **nothing}, NOW_MS, 8, 13.5)
    assert (deadlines.clear_round, deadlines.drains) == (7, {998: ["bad", "good"]})
