"""The synthetic crowd: as popular, as large and as mixed as its scenario says."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from msgspec.structs import replace

from loadtest import demand
from loadtest.settings import scenario

PROMOTION = replace(scenario("promotion"), seed=7, skus=100, buyers=5000)


def test_the_same_seed_brings_the_same_crowd() -> None:
    other = replace(PROMOTION, seed=8)
    once, again, different = (
        list(islice(demand.baskets(settings, "run"), 100))
        for settings in (PROMOTION, PROMOTION, other)
    )
    assert once == again != different


def test_what_is_wanted_follows_zipf() -> None:
    wanted: Counter[str] = Counter()
    for basket in demand.baskets(replace(PROMOTION, lines_max=1), "run"):
        wanted.update(line.sku for line in basket.lines)
    shares = demand.popularity(PROMOTION)
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(10 * shares[9])
    for number in (0, 1, 9):
        expected = 5000 * shares[number]
        assert abs(wanted[demand.sku("run", number)] - expected) < 5 * expected**0.5


def test_baskets_and_channels_are_mixed_as_the_scenario_says() -> None:
    baskets = list(demand.baskets(PROMOTION, "run"))
    assert [basket.number for basket in baskets] == list(range(5000))
    assert {len(basket.lines) for basket in baskets} == set(range(1, 9))
    assert all(len({line.sku for line in basket.lines}) == len(basket.lines) for basket in baskets)
    assert {line.quantity for basket in baskets for line in basket.lines} == {1, 2, 3, 4}
    channels = Counter(basket.channel for basket in baskets)
    assert 2300 < channels["loadtest-web"] < 2700
    assert 180 < channels["loadtest-market"] < 330


def test_there_is_about_as_much_as_the_scenario_says_of_what_will_be_wanted() -> None:
    wanted: Counter[str] = Counter()
    for basket in demand.baskets(PROMOTION, "run"):
        for line in basket.lines:
            wanted[line.sku] += line.quantity
    supply = demand.supply(PROMOTION, "run")
    there = sum(supply.arriving.values())
    assert 0.8 < there / wanted.total() < 1.1  # 0.9, but what is chosen twice is one line
    assert supply.rules["loadtest-store"].borrow is False
    assert supply.rules["loadtest-market"].ceiling == 100_000
    assert sum(supply.floors.values()) == 850_000


def test_a_number_of_channels_that_are_all_alike() -> None:
    supply = demand.supply(scenario("marketplace", ["channels=64"]), "run")
    assert len(supply.floors) == 64
    assert 0.499 < sum(supply.floors.values()) / 1_000_000 <= 0.5
