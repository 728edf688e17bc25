"""What becomes of baskets: the same for the same seed, never more than the log asks for."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from loadtest.client import Line as HeldLine
from loadtest.journeys import (
    DISPOSITIONS,
    REPEATED_SHARES,
    Change,
    Fate,
    Journey,
    Step,
    cancelled_part,
    course,
    journeys,
    lesser,
    returned_part,
)
from loadtest.orders import Basket, Dirt, Line, read
from loadtest.settings import Settings, scenario

SAMPLE = Path(__file__).parents[2] / "loadtest" / "data" / "orders-sample.csv"
TEES = Line("store-1", "tee", 3)
MUGS = Line("store-1", "mug", 1)
NOBODYS = random.Random()


def chosen(**values: Any) -> Settings:
    """What a replay has, but for some values."""
    return replace(scenario("replay"), **values)


def drawn(settings: Settings, limit: int | None = None) -> list[Journey]:
    return list(journeys(read(SAMPLE, Dirt(), limit), settings))


def told(found: list[Journey]) -> list[object]:
    """Journeys as they can be compared; their dice by what they fall on."""
    return [(*each._replace(dice=NOBODYS)[1:], each.dice.random()) for each in found]


def journey(**kinds: Any) -> Journey:
    basket = Basket(0, "b", 0.0, "north", [TEES, MUGS])
    plain = Journey(basket, Fate.FULFIL, None, False, False, None, frozenset(), random.Random(7))
    return plain._replace(**kinds)


def verbs(steps: list[Step]) -> list[str]:
    return [step.verb for step in steps]


def test_the_same_seed_gives_the_same_journeys() -> None:
    settings, other = (chosen(seed=seed, abandon=0.2) for seed in (7, 8))
    once, again, different = (told(drawn(each, 1000)) for each in (settings, settings, other))
    assert once == again != different
    fates = Counter(journey.fate for journey in drawn(settings, 1000))
    assert 50 < fates[Fate.RELEASE] < 150
    assert 50 < fates[Fate.LEAVE] < 150


def test_what_one_setting_draws_no_other_changes() -> None:
    plain = chosen(seed=7, change=0, cancel=0, back=0)
    full = chosen(seed=7, change=1, cancel=1, back=1)
    for before, after in zip(drawn(plain, 300), drawn(full, 300), strict=True):
        assert (before.fate, before.repeated) == (after.fate, after.repeated)
        assert before.dice.random() == after.dice.random()
        assert (before.change, before.cancels, before.disposition) == (None, False, None)
        paid = after.fate is Fate.FULFIL
        assert (after.change is not None, after.cancels) == (paid, paid)
        assert (after.disposition in DISPOSITIONS) == paid


def test_the_sample_exercises_every_kind_by_default() -> None:
    counted: Counter[object] = Counter()
    for found in drawn(chosen(seed=1)):
        _, steps = course(found, found.basket.lines)
        said = set(verbs(steps))
        counted.update(("repeated", verb) for verb in said & found.repeated)
        counted.update(said & {"cancel", "release"})
        if "amend" in said:
            counted[found.change, found.paid_first] += 1
        if "return" in said:
            counted[found.disposition] += 1
    kinds: set[object] = {"cancel", "release", *DISPOSITIONS}
    kinds |= {(change, paid_first) for change in Change for paid_first in (True, False)}
    kinds |= {("repeated", verb) for verb in REPEATED_SHARES if verb not in ("reserve", "release")}
    assert {kind: counted[kind] for kind in kinds if counted[kind] <= 20} == {}


def test_a_basket_that_is_not_paid_does_not_change() -> None:
    lines = [TEES, MUGS]
    assert course(journey(fate=Fate.LEAVE), lines) == (lines, [])
    assert course(journey(fate=Fate.RELEASE), lines) == (lines, [Step("release")])
    assert course(journey(), lines) == (lines, [Step("commit"), Step("fulfil")])


def test_a_basket_grows_to_what_the_log_says_or_shrinks_and_grows_again() -> None:
    lines = [TEES, MUGS]
    first, steps = course(journey(change=Change.GROW, cancels=True, disposition="restock"), lines)
    assert units(first) < units(lines)
    assert verbs(steps) == ["amend", "commit", "cancel", "fulfil", "return"]
    assert steps[0].lines == lines
    first, steps = course(journey(change=Change.SWAY, paid_first=True), lines)
    assert first == lines
    assert verbs(steps) == ["commit", "amend", "amend", "fulfil"]
    assert units(steps[1].lines or []) < units(steps[2].lines or [])
    assert steps[2].lines == lines


def test_a_basket_of_one_unit_does_not_change() -> None:
    assert course(journey(change=Change.GROW), [MUGS]) == ([MUGS], [Step("commit"), Step("fulfil")])


def units(lines: list[Line]) -> int:
    return sum(line.quantity for line in lines)


def test_less_is_a_line_fewer_or_fewer_units_of_a_line() -> None:
    dice = random.Random(7)
    found = Counter(str(lesser([TEES, MUGS], dice)) for _ in range(300))
    one, two = TEES._replace(quantity=1), TEES._replace(quantity=2)
    assert found.keys() == {str(less) for less in ([TEES], [MUGS], [one, MUGS], [two, MUGS])}
    assert {str(lesser([TEES], dice)) for _ in range(50)} == {str([one]), str([two])}
    assert lesser([MUGS], dice) is None


def held(
    sku: str, quantity: int, fulfilled: int = 0, cancelled: int = 0, back: int = 0
) -> HeldLine:
    return HeldLine(sku, "store-1", quantity, quantity, 0, fulfilled, cancelled, back)


def test_only_what_is_open_is_cancelled_and_only_what_is_away_comes_back() -> None:
    dice = random.Random(7)
    lines = [held("tee", 3, cancelled=1), held("mug", 1), held("cap", 2, fulfilled=2)]
    cancelled = {cancelled_part(lines, dice) for _ in range(200)}
    assert cancelled == {("tee", "store-1", 1), ("tee", "store-1", 2), ("mug", "store-1", 1)}
    lines = [held("tee", 3, fulfilled=2, cancelled=1), held("mug", 1, fulfilled=1, back=1)]
    returned = {returned_part(lines, dice) for _ in range(200)}
    assert returned == {("tee", None, 1), ("tee", None, 2)}
