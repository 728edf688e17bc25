"""The audit must find what is planted: it is worth what it catches."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

import loadtest.book
from loadtest.book import (
    LISTED_MAX,
    Book,
    Differences,
    Rule,
    Taken,
    moved_lines,
    settled,
    still_taken,
)
from loadtest.client import Line, Pool, PoolChannel, Reservation
from loadtest.generator import counter
from loadtest.journeys import Part
from loadtest.pools import Expected, compare, expectations, oversold

SHARES = {"north": 700_000}


def pool() -> Pool:
    """Ten received under 70/30: two reserved, three committed, one shipped, all of them own."""
    return Pool("store-1", 9, 0, 3, 0, 0, 0, {"north": PoolChannel(1, 2, 3, 4)})


def expected() -> Expected:
    return Expected(received=10, fulfilled=1, taken={"north": Taken(2, 3, own=6)})


def found(changed: Pool, wanted: Expected | None = None, rule: Rule | None = None) -> str:
    """All that differs, without what it is about."""
    rules = {} if rule is None else {"north": rule}
    told = compare(expected() if wanted is None else wanted, SHARES, changed, rules)
    return "; ".join(text for _, text in told)


def test_a_pool_as_it_should_be_has_no_differences() -> None:
    assert found(pool()) == ""


def test_an_oversold_pool_is_found() -> None:
    north = PoolChannel(free=-2, reserved=5, committed=5, available=1)
    changed = Pool("store-1", 9, 0, 1, 0, 0, 0, {"north": north})
    assert oversold(expected(), changed) == 1
    assert "10 are promised of 9" in found(changed)
    assert "free[north] is -2" in found(changed)
    assert "reserved[north] is 5, should be 2" in found(changed)


def test_a_pool_oversold_by_what_was_acknowledged_is_found() -> None:
    """The service agrees with itself, but more was promised to callers than ever arrived."""
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 1
    for number in range(2):
        grant(book, f"r{number}", own=1, borrowed=0)
    wanted = expectations(book)["tee", "store-1"]
    north = PoolChannel(free=0, reserved=2, committed=0, available=0)
    answered = Pool("store-1", 2, 0, 0, 0, 0, 0, {"north": north})
    assert oversold(wanted, answered) == 1
    assert "2 are promised of 1" in found(answered, wanted)
    assert "on_hand is 2, should be 1" in found(answered, wanted)


def test_a_pool_that_hides_what_it_oversold_is_found() -> None:
    """It shows less promised than it has acknowledged."""
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 1
    for number in range(2):
        grant(book, f"r{number}", own=1, borrowed=0)
    north = PoolChannel(free=0, reserved=1, committed=0, available=0)
    answered = Pool("store-1", 1, 0, 0, 0, 0, 0, {"north": north})
    assert oversold(expectations(book)["tee", "store-1"], answered) == 1


def test_what_a_wall_and_a_ceiling_leave_available_is_checked() -> None:
    changed = pool()
    north = changed.channels["north"]
    assert found(changed, rule=Rule(borrow=False)) == "available[north] is 4, should be 1"
    north.available = 1
    assert found(changed, rule=Rule(borrow=False)) == ""
    north.ceiling_left = 1
    assert found(changed, rule=Rule(ceiling=700_000)) == ""
    assert "north has taken 6, its ceiling is 5" in found(changed, rule=Rule(ceiling=500_000))


def test_a_wrong_quota_is_found() -> None:
    changed = pool()
    changed.shared, changed.channels["north"].free = 4, 0
    assert "shared is 4, should be 3" in found(changed)
    assert "free[north] is 0, should be 1" in found(changed)


def test_units_out_of_nowhere_are_found() -> None:
    changed = pool()
    changed.shared += 1
    assert "on_hand is 9, its accounts make 10" in found(changed)


@pytest.mark.parametrize("account", ["on_hand", "safety", "damaged", "quarantine", "deficit"])
def test_an_account_that_nothing_should_have_moved_is_found(account: str) -> None:
    changed = pool()
    setattr(changed, account, getattr(changed, account) + 1)
    assert f"{account} is {getattr(changed, account)}, should be" in found(changed)


@pytest.mark.parametrize("account", ["free", "reserved", "committed", "available"])
def test_a_channel_account_that_is_off_by_one_is_found(account: str) -> None:
    changed = pool()
    north = changed.channels["north"]
    setattr(north, account, getattr(north, account) + 1)
    assert f"{account}[north] is" in found(changed)


def test_a_channel_that_was_forgotten_and_one_that_has_no_business_are_found() -> None:
    changed = pool()
    changed.channels = {"south": changed.channels["north"]}
    assert "reserved[north] is 0, should be 2" in found(changed)
    assert "reserved[south] is 2, should be 0" in found(changed)


def held(own: int, borrowed: int, *counters: int) -> Line:
    """A line; ``counters`` are fulfilled, cancelled, returned."""
    fulfilled, cancelled, returned = counters or (0, 0, 0)
    return Line("tee", "store-1", own + borrowed, own, borrowed, fulfilled, cancelled, returned)


def answer(id: str, state: str, version: int, *lines: Line) -> Reservation:
    return Reservation(id, state, version, "north", list(lines))


def grant(book: Book, id: str, own: int, borrowed: int, over_s: float | None = None) -> None:
    wanted = Counter({("tee", "store-1"): own + borrowed})
    book.reserved(answer(id, "reserved", 1, held(own, borrowed)), "north", wanted, over_s, over_s)


def say(book: Book, id: str, verb: str, part: Part | None = None, to: str | None = None) -> None:
    """``verb`` is acknowledged just as it should be."""
    before = book.reservations[id]
    lines = moved_lines(before.lines, verb, part)
    state = {"commit": "committed", "release": "released"}.get(verb) or settled(lines)
    book.moved(id, verb, answer(id, state, before.version + 1, *lines), part, to)


def test_the_book_follows_what_was_acknowledged() -> None:
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 20
    verbs = {"r1": [], "r2": ["commit"], "r3": ["commit", "fulfil"], "r4": ["release"], "r5": []}
    for id, said in verbs.items():
        grant(book, id, own=2, borrowed=1, over_s=5.0 if id == "r5" else None)
        for verb in said:
            say(book, id, verb)
    assert book.last_deadline_s() == 5
    book.deadlines_passed()
    assert book.surprises.count == 0
    wanted = expectations(book)["tee", "store-1"]
    assert (wanted.received, wanted.fulfilled, wanted.on_hand) == (20, 3, 17)
    assert wanted.taken == {"north": Taken(reserved=3, committed=3, own=6, borrowed=3)}


def test_the_book_follows_parts() -> None:
    """Of 3 own and 2 borrowed, 3 are cancelled (the borrowed first), 2 shipped, both came back."""
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 10
    grant(book, "r1", own=3, borrowed=2)
    say(book, "r1", "commit")
    say(book, "r1", "cancel", Part("tee", "store-1", 3))
    assert book.reservations["r1"].state == "committed"
    say(book, "r1", "fulfil")
    assert book.reservations["r1"].state == "fulfilled"
    say(book, "r1", "return", Part("tee", None, 1), "damaged")
    say(book, "r1", "return", Part("tee", None, 1), "restock")
    assert book.reservations["r1"].state == "returned"
    assert book.reservations["r1"].lines == [held(3, 2, 2, 3, 2)]
    assert book.surprises.listed == []
    wanted = expectations(book)["tee", "store-1"]
    assert wanted == Expected(10, 2, 1, 1, 0, {"north": Taken(own=2)})
    assert wanted.on_hand == 10


def test_what_expired_is_booked_and_never_before_its_deadline() -> None:
    book = Book({"store-1": SHARES})
    for id in ("r1", "r2", "r3"):
        grant(book, id, own=1, borrowed=0, over_s=None if id == "r3" else 5.0)
    book.expired("r1", 5.0)
    assert book.surprises.count == 0
    book.expired("r2", 4.9)
    book.expired("r3", 9.0)
    assert [text.split(":")[0] for text in book.surprises.listed] == [
        "reservation r2",
        "reservation r3",
    ]
    assert {held.state for held in book.reservations.values()} == {"expired"}


def test_a_replay_may_tell_of_what_has_expired_meanwhile() -> None:
    wanted = Counter({("tee", "store-1"): 2})
    told = answer("r1", "expired", 2, held(2, 0))
    book = Book({})
    book.reserved(told, "north", wanted, alive_s=5.0, over_s=9.0, now_s=5.0)
    assert book.surprises.listed == []
    assert book.reservations["r1"].state == "expired"
    book = Book({})
    book.reserved(told, "north", wanted, alive_s=5.0, over_s=9.0, now_s=4.9)
    assert "expired for north when made" in book.surprises.listed[0]


def test_a_late_commit_may_take_other_units_of_the_same_pool() -> None:
    book = Book({"store-1": SHARES})
    grant(book, "r1", own=1, borrowed=1)
    again = answer("r1", "committed", 3, held(2, 0))
    again.reacquired = True
    book.moved("r1", "commit", again, None, None)
    assert book.surprises.listed == []
    assert book.reservations["r1"].lines == [held(2, 0)]


def test_what_is_too_much_to_be_known_one_by_one_is_summed_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three of four are done: one fulfilled, one left that has expired, one that has not yet."""
    monkeypatch.setattr(loadtest.book, "KNOWN_MAX", 7)
    book, whole = Book({"store-1": SHARES}), Book({"store-1": SHARES})
    for each in (book, whole):
        for number in range(9):
            grant(each, f"r{number}", own=1, borrowed=1, over_s=9.0 if number == 2 else 5.0)
        say(each, "r0", "commit")
        say(each, "r0", "fulfil")
    for id in ("r2", "r0", "r1", "r8"):
        book.over(id, 6.0)
    whole.reservations["r1"].state = "expired"
    assert (book.folded, book.acknowledged) == (2, 9)
    assert book.reservations.keys() == {f"r{number}" for number in range(2, 9)}
    assert expectations(book) == expectations(whole)
    other = Book({"store-1": SHARES})
    other.merge(book)
    assert expectations(other) == expectations(whole)
    assert other.acknowledged == 9


def test_books_of_several_processes_become_one() -> None:
    one, other = Book({"store-1": SHARES}), Book({"store-1": SHARES})
    grant(one, "r1", own=1, borrowed=0)
    grant(other, "r2", own=1, borrowed=0)
    other.surprises.add("planted")
    other.unheard.add("b7")
    other.unheard_over_s = 7.0
    one.merge(msgspec.msgpack.decode(msgspec.msgpack.encode(other), type=Book, dec_hook=counter))
    assert one.reservations.keys() == {"r1", "r2"}
    assert one.surprises.listed == ["planted"]
    assert (one.unheard, one.last_deadline_s()) == ({"b7"}, 7)
    assert one.keys.count == 0
    one.merge(other)
    assert "two baskets were given this id" in one.keys.listed[0]


def test_a_basket_that_is_cancelled_down_to_nothing_leaves_nothing_taken() -> None:
    book = Book({"store-1": SHARES})
    grant(book, "r1", own=1, borrowed=1)
    say(book, "r1", "commit")
    say(book, "r1", "cancel", Part("tee", "store-1", 2))
    assert book.reservations["r1"].state == "cancelled"
    assert expectations(book)["tee", "store-1"] == Expected(taken={"north": Taken()})


def test_a_part_without_a_location_goes_through_the_lines_in_order() -> None:
    lines = [held(2, 0), Line("mug", "store-1", 1, 1, 0, 0, 0, 0), held(3, 0)]
    lines[2].location = "store-2"
    after = moved_lines(lines, "cancel", Part("tee", None, 4))
    assert [line.cancelled for line in after] == [2, 0, 2]
    after = moved_lines(after, "fulfil", Part("tee", "store-2", 1))
    assert [line.fulfilled for line in after] == [0, 0, 1]
    assert [line.cancelled for line in lines] == [0, 0, 0]


@pytest.mark.parametrize("order", [(("cancel", 2), ("fulfil", 3)), (("fulfil", 3), ("cancel", 2))])
def test_own_units_ship_first_and_borrowed_ones_go_back_first(
    order: tuple[tuple[str, int], ...],
) -> None:
    for own, taken in ((5, (3, 0)), (4, (3, 0)), (3, (3, 0)), (2, (2, 1)), (0, (0, 3))):
        lines = [held(own, 5 - own)]
        for verb, units in order:
            lines = moved_lines(lines, verb, Part("tee", None, units))
        assert still_taken(lines[0]) == taken


def amended(version: int, *lines: Line, state: str = "reserved", wanted: int = 4) -> str:
    book = Book({})
    grant(book, "r1", own=2, borrowed=1)
    book.amended("r1", answer("r1", state, version, *lines), Counter({("tee", "store-1"): wanted}))
    if not book.surprises.count:
        assert book.reservations["r1"].lines == list(lines)
    return "; ".join(book.surprises.listed)


def test_an_amend_is_booked_as_it_was_answered_and_must_be_what_was_asked_for() -> None:
    assert amended(2, held(3, 1)) == ""
    assert "wanted" in amended(2, held(3, 1), wanted=3)
    assert "wanted" in amended(2, held(2, 1))
    assert "amend answered r1 committed" in amended(2, held(3, 1), state="committed")
    assert "version 1 after 1" in amended(1, held(3, 1))
    assert "when nothing happened to it" in amended(2, held(3, 1, 0, 1, 0))
    assert "4 is not" in amended(2, Line("tee", "store-1", 4, 3, 2, 0, 0, 0))


def surprised(book: Book, answer: Reservation, wanted: int = 3) -> str:
    book.reserved(answer, "north", Counter({("tee", "store-1"): wanted}))
    return "; ".join(book.surprises.listed)


def test_answers_that_are_not_what_was_asked_for_are_surprises() -> None:
    good = held(2, 1)
    as_asked = answer("r1", "reserved", 1, good)
    assert surprised(Book({}), as_asked) == ""
    assert "wanted" in surprised(Book({}), as_asked, wanted=4)
    wrong_sum = answer("r1", "reserved", 1, Line("tee", "store-1", 3, 2, 2, 0, 0, 0))
    assert "3 is not 2 own + 2 borrowed" in surprised(Book({}), wrong_sum)
    shipped = answer("r1", "reserved", 1, held(2, 1, 1, 0, 0))
    assert "when nothing happened to it" in surprised(Book({}), shipped)
    assert "south" in surprised(Book({}), Reservation("r1", "reserved", 1, "south", [good]))
    book = Book({})
    surprised(book, as_asked)
    surprised(book, as_asked)
    assert "two baskets were given this id" in book.keys.listed[-1]
    book.moved("r1", "commit", answer("r1", "released", 2, good), None, None)
    assert "commit answered r1 released" in book.surprises.listed[-1]
    book.moved("r1", "fulfil", answer("r1", "fulfilled", 3, good), None, None)
    assert "fulfil answered" in book.surprises.listed[-1]


def test_what_came_back_must_lie_where_it_was_put() -> None:
    """Of ten, all own: eight shipped, seven back: one damaged, one quarantined, five for sale."""
    wanted = Expected(10, 8, 5, 1, 1, {"north": Taken(own=8)})

    def compared(free: int, shared: int, damaged: int = 1, quarantine: int = 1) -> str:
        on_hand = free + shared + damaged + quarantine
        north = PoolChannel(free, 0, 0, free + shared)
        pool = Pool("store-1", on_hand, 0, shared, damaged, quarantine, 0, {"north": north})
        return found(pool, wanted)

    # 70 % of fifteen: the half goes to whoever was owed it when it came.
    assert compared(2, 5) == compared(3, 4) == ""
    assert compared(1, 6) == "shared is 6, should be 4 to 5; free[north] is 1, should be 2 to 3"
    assert "damaged is 2, should be 1" in compared(2, 5, damaged=2, quarantine=0)
    assert "quarantine is 2, should be 1" in compared(2, 5, damaged=0, quarantine=2)
    assert "free and shared are 8, should be 7" in compared(3, 5)
    assert "on_hand is 10, should be 9" in compared(3, 5)


def test_what_arrived_and_what_a_count_did_not_find_are_expected() -> None:
    """Ten, ten more, one lost: 70 % of twenty are 14, or 13 if it was lost there."""
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 10
    book.arrived["tee", "store-1"] = 10
    book.lost["tee", "store-1"] = 1
    wanted = expectations(book)["tee", "store-1"]
    assert wanted.on_hand == 19

    def compared(free: int, shared: int) -> str:
        north = PoolChannel(free, 0, 0, free + shared)
        pool = Pool("store-1", free + shared, 0, shared, 0, 0, 0, {"north": north})
        return found(pool, wanted)

    assert compared(14, 5) == compared(13, 6) == ""
    assert "free[north] is 15" in compared(15, 4)
    assert "free and shared are 20, should be 19" in compared(14, 6)


def test_a_ceiling_counts_what_arrived_later_and_what_came_back() -> None:
    wanted = Expected(10, restocked=1, taken={"north": Taken(6, own=6)}, arrived=10)
    told = found(Pool("store-1", 21, 0, 6, 0, 0, 0, {}), wanted, Rule(ceiling=200_000))
    assert "north has taken 6, its ceiling is 5" in told


def test_an_extended_reservation_lives_no_shorter_than_it_did() -> None:
    book = Book({"store-1": SHARES})
    grant(book, "r1", own=1, borrowed=0, over_s=9.0)
    book.extended("r1", answer("r1", "reserved", 1, held(1, 0)), 5.0, 6.0)
    assert (book.reservations["r1"].alive_s, book.reservations["r1"].over_s) == (9, 9)
    book.extended("r1", answer("r1", "reserved", 2, held(1, 0)), 20.0, 21.0)
    assert (book.reservations["r1"].alive_s, book.last_deadline_s()) == (20, 21)
    assert book.surprises.listed == []
    book.extended("r1", answer("r1", "reserved", 1, held(1, 0)), 20.0, 21.0)
    assert "extend answered version 1 after 2" in book.surprises.listed[0]


def test_differences_are_all_counted_and_the_first_described() -> None:
    differences = Differences()
    for number in range(LISTED_MAX + 7):
        differences.add(str(number))
    assert (differences.count, len(differences.listed)) == (LISTED_MAX + 7, LISTED_MAX)
