"""How receipts are set aside for channels, as far as the audit must know it."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import pytest

from loadtest.pools import Expected, allotments, allotted
from loadtest.stocking import receipts


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


def arrived(receipts: list[int], shares: dict[str, int], seed: int) -> dict[str, int]:
    """What each party was given of ``receipts``, each by shares with credit, in any order."""
    random.Random(seed).shuffle(receipts)
    weights = {**dict(sorted(shares.items())), "": 1_000_000 - sum(shares.values())}
    credits, given = dict.fromkeys(weights, 0), dict.fromkeys(weights, 0)
    for units in receipts:
        for party, weight in weights.items():
            credits[party] += units * weight
        for _ in range(units):
            largest = max(weights, key=lambda party: credits[party])
            credits[largest] -= 1_000_000
            given[largest] += 1
    return given


@pytest.mark.parametrize(
    "shares",
    [
        {"north": 700_000},
        {"north": 500_000},
        {"north": 1_000_000},
        {"a": 350_000, "b": 350_000},
        {"a": 100_000, "b": 200_000, "c": 300_000, "d": 333_333},
    ],
)
def test_restocks_stay_within_the_bound_of_the_credits(shares: dict[str, int]) -> None:
    dice, width = random.Random(7), 0
    for seed in range(300):
        first, back = dice.randint(1, 9), [dice.randint(1, 3) for _ in range(dice.randint(1, 20))]
        bounds = allotments(Expected(first, restocked=sum(back)), shares)
        for party, units in arrived([first, *back], shares, seed).items():
            least, most = bounds[party]
            assert least <= units <= most, f"seed {seed}, {party}: {units} not in {bounds}"
            width = max(width, most - least)
    owed = sum(Fraction(1, k) for k in range(2, len(shares) + 2))
    assert width <= 1 + owed  # so that what goes the wrong way shows soon
