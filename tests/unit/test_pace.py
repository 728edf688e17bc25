"""How much goes into one pipeline: on stores that are fast, slow, far away, busy for a moment."""

from __future__ import annotations

from collections.abc import Callable

from core.pace import PIPELINE_MS, ROOM_FIRST, ROOM_MAX, ROOM_MIN, Pace


class Store:
    """Answers pipelines one after the other; a crowd fills each as far as there is room."""

    def __init__(self, takes_ms: Callable[[int], float]) -> None:
        self.takes_ms = takes_ms
        self.pace = Pace()
        self.now_ms = 1_000.0

    def carry(self, number: int) -> float:
        """One pipeline with so much in it, or with what there is room for; what it took."""
        sent_ms = self.now_ms
        self.pace.take(min(number, self.pace.room))
        carried = self.pace.launched()
        self.now_ms += self.takes_ms(carried)
        self.pace.landed(carried, sent_ms, self.now_ms)
        return self.now_ms - sent_ms

    def crowd(self, pipelines: int) -> float:
        """So many full ones; what the last one took."""
        took_ms = 0.0
        for _ in range(pipelines):
            took_ms = self.carry(ROOM_MAX)
        return took_ms


def test_a_store_that_keeps_up_is_given_all_that_a_script_may_carry() -> None:
    store = Store(lambda carried: 1.0 + carried / 200)
    store.crowd(50)
    assert store.pace.room == ROOM_MAX


def test_a_slow_store_is_given_what_it_does_in_a_tenth_of_a_second() -> None:
    store = Store(lambda carried: 1.0 + carried)  # a thousand a second
    store.carry(1)
    store.crowd(3)
    for _ in range(50):
        assert store.carry(ROOM_MAX) < 2.5 * PIPELINE_MS
    assert ROOM_MIN < store.pace.room < 200


def test_a_store_that_is_too_slow_for_that_is_given_little() -> None:
    store = Store(lambda carried: 10.0 * carried)
    store.crowd(20)
    rooms = {store.pace.room for _ in range(50) if store.carry(ROOM_MAX)}
    assert min(rooms) >= ROOM_MIN
    assert max(rooms) <= 2 * ROOM_MIN


def test_a_store_that_is_far_away_is_given_as_much_as_a_near_one() -> None:
    store = Store(lambda carried: 250.0 + carried / 200)
    for _ in range(30):
        store.carry(1)
    store.crowd(10)
    assert store.pace.room == ROOM_MAX


def test_a_way_that_becomes_longer_is_no_work() -> None:
    store = Store(lambda carried: 1.0 + carried / 200)
    store.crowd(10)
    store.takes_ms = lambda carried: 250.0 + carried / 200
    for _ in range(30):
        store.crowd(1)
        assert store.pace.room > ROOM_MAX / 2


def test_a_moment_of_trouble_is_soon_forgotten() -> None:
    store = Store(lambda carried: 1.0 + carried / 200)
    store.crowd(5)
    usual, store.takes_ms = store.takes_ms, lambda carried: 800.0
    store.carry(3)
    store.takes_ms = usual
    store.crowd(3)
    assert store.pace.room == ROOM_MAX


def test_what_waited_behind_another_is_not_held_against_it() -> None:
    pace = Pace()
    for carried, sent_ms, received_ms in ((500, 0.0, 90.0), (500, 1.0, 180.0)):
        pace.take(carried)
        pace.landed(pace.launched(), sent_ms, received_ms)
    assert pace.room == 4 * ROOM_FIRST


def test_what_broke_is_tried_again_with_little() -> None:
    pace = Pace()
    pace.lost()
    assert pace.room == ROOM_MIN
