"""The audit must find what is planted: it is worth what it catches."""

from __future__ import annotations

import copy
from collections import Counter
from decimal import Decimal

import pytest

from loadtest.audit import Expected, Taken, allotted, compare, expectations
from loadtest.book import LISTED_MAX, Book, Differences
from loadtest.client import Line, Pool, PoolChannel, Reservation
from loadtest.stocking import receipts

SHARES = {"north": 700_000}


def pool() -> Pool:
    """Ten received under 70/30: two reserved, three committed, one shipped, all of them own."""
    return Pool("store-1", 9, 0, 3, 0, 0, 0, {"north": PoolChannel(1, 2, 3, 4)})


def expected() -> Expected:
    return Expected(received=10, fulfilled=1, taken={"north": Taken(2, 3, own=6)})


def found(changed: Pool) -> str:
    return "; ".join(compare(expected(), SHARES, changed))


def test_a_pool_as_it_should_be_has_no_differences() -> None:
    assert found(pool()) == ""


def test_an_oversold_pool_is_found() -> None:
    north = PoolChannel(free=-2, reserved=5, committed=5, available=1)
    changed = Pool("store-1", 9, 0, 1, 0, 0, 0, {"north": north})
    assert "10 are promised of 9: oversold" in found(changed)
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
    differences = "; ".join(compare(wanted, SHARES, answered))
    assert "2 are promised of 1: oversold" in differences
    assert "on_hand is 2, should be 1" in differences


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


@pytest.mark.parametrize(
    ("units", "shares", "quotas"),
    [
        (10, {"north": 700_000}, {"north": 7}),
        (1, {"north": 700_000}, {"north": 1}),
        (1, {"north": 300_000}, {"north": 0}),
        (1, {"north": 500_000}, {"north": 1}),
        (3, {"b": 350_000, "a": 350_000}, {"a": 1, "b": 1}),
        (2, {"b": 350_000, "a": 350_000}, {"a": 1, "b": 1}),
        (1, {"b": 350_000, "a": 350_000}, {"a": 1, "b": 0}),
        (0, {"north": 700_000}, {"north": 0}),
    ],
)
def test_a_receipt_is_set_aside_by_largest_remainder(
    units: int, shares: dict[str, int], quotas: dict[str, int]
) -> None:
    assert allotted(units, shares) == quotas


@pytest.mark.parametrize("stock", ["0", "0.5", "0.9", "1", "1.25"])
def test_receipts_are_exact_in_total_and_never_more_than_asked_for(stock: str) -> None:
    demand = {(f"sku-{number}", "store-1"): 1 + number % 3 for number in range(100)}
    received = dict(receipts(demand, Decimal(stock)))
    assert sum(received.values()) == int(sum(demand.values()) * Decimal(stock))
    if Decimal(stock) <= 1:
        assert all(units <= demand[pool] for pool, units in received.items())


def grant(book: Book, id: str, own: int, borrowed: int, left: bool = False) -> Reservation:
    line = Line("tee", "store-1", own + borrowed, own, borrowed)
    answer = Reservation(id, "reserved", "north", [line])
    wanted = Counter({("tee", "store-1"): own + borrowed})
    book.reserved(answer, "north", wanted, left)
    return answer


def test_the_book_follows_what_was_acknowledged() -> None:
    book = Book({"store-1": SHARES})
    book.received["tee", "store-1"] = 20
    verbs = {"r1": [], "r2": ["commit"], "r3": ["commit", "fulfil"], "r4": ["release"], "r5": []}
    for id, said in verbs.items():
        answer = grant(book, id, own=2, borrowed=1, left=id == "r5")
        for verb in said:
            state = {"commit": "committed", "fulfil": "fulfilled", "release": "released"}[verb]
            moved = copy.copy(answer)
            moved.state = state
            book.moved(id, verb, moved)
    book.deadlines_passed()
    assert book.surprises.count == 0
    wanted = expectations(book)["tee", "store-1"]
    assert (wanted.received, wanted.fulfilled) == (20, 3)
    assert wanted.taken == {"north": Taken(reserved=3, committed=3, own=6, borrowed=3)}


def surprised(book: Book, answer: Reservation, wanted: int = 3) -> str:
    book.reserved(answer, "north", Counter({("tee", "store-1"): wanted}), False)
    return "; ".join(book.surprises.listed)


def test_answers_that_are_not_what_was_asked_for_are_surprises() -> None:
    good = Line("tee", "store-1", 3, 2, 1)
    as_asked = Reservation("r1", "reserved", "north", [good])
    assert surprised(Book({}), as_asked) == ""
    assert "wanted" in surprised(Book({}), as_asked, wanted=4)
    wrong_sum = Reservation("r1", "reserved", "north", [Line("tee", "store-1", 3, 2, 2)])
    assert "3 is not 2 own + 2 borrowed" in surprised(Book({}), wrong_sum)
    assert "south" in surprised(Book({}), Reservation("r1", "reserved", "south", [good]))
    book = Book({})
    surprised(book, as_asked)
    assert "two baskets were given this id" in surprised(book, as_asked)
    book.moved("r1", "commit", Reservation("r1", "released", "north", [good]))
    assert "commit answered r1 released" in book.surprises.listed[-1]


def test_differences_are_all_counted_and_the_first_described() -> None:
    differences = Differences()
    for number in range(LISTED_MAX + 7):
        differences.add(str(number))
    assert (differences.count, len(differences.listed)) == (LISTED_MAX + 7, LISTED_MAX)
