"""What becomes of each basket: drawn from the seed in the order of the log.

A paid basket may change before or after it is paid (reserved with less and amended up to what the
log says, or amended down and up again), lose a part that is cancelled, and come back in part.
Nothing ever asks for more than the log does.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from loadtest.client import Line as HeldLine
from loadtest.orders import Basket, Line
from loadtest.settings import Settings

# How many of its calls are made twice. The rare verbs more often, so that a small log has some.
REPEATED_SHARES = {
    "reserve": 0.02,
    "commit": 0.02,
    "fulfil": 0.02,
    "release": 0.02,
    "amend": 0.1,
    "cancel": 0.25,
    "return": 0.25,
}
DISPOSITIONS = ("restock", "damaged", "quarantine")
SEVERAL_SHARE = 0.5  # how often a line of several units is preferred, where there is one


class Fate(StrEnum):
    """What becomes of a basket."""

    FULFIL = "fulfil"
    RELEASE = "release"
    LEAVE = "leave"


class Change(StrEnum):
    """How a basket changes after it was reserved."""

    GROW = "grow"  # reserved with less, then all of it
    SWAY = "sway"  # all of it, less, all of it again


class Journey(NamedTuple):
    """A basket, what becomes of it, and which of its calls are made twice.

    ``dice`` draws what depends on the lines; it is the journey's own, so that concurrent ones do
    not change each other. What a basket is too small for does not happen to it.
    """

    basket: Basket
    fate: Fate
    change: Change | None
    paid_first: bool  # it changes after it was paid
    cancels: bool
    disposition: str | None  # of what comes back
    repeated: frozenset[str]
    dice: random.Random
    ships: bool = True
    twice: bool = False  # presses twice: two requests at once under one key
    hasty: bool = False  # does not wait for the first answer, and asks again under its key
    pays_after_s: float = 0.0
    extends: bool = False
    ttl_s: int | None = None  # how long the cart is held; None: as long as the channel has it


class Step(NamedTuple):
    """A call on a reservation; ``lines`` are what an amend asks for."""

    verb: str
    lines: list[Line] | None = None


class Part(NamedTuple):
    """Some units of a SKU; without a location, in the order of the reservation's lines."""

    sku: str
    location: str | None
    quantity: int


def journeys(baskets: Iterable[Basket], settings: Settings) -> Iterator[Journey]:
    """What becomes of each basket: drawn from the seed and its number, whoever draws it."""
    abandon, pay_s = settings.abandon, settings.scaled(settings.pay_seconds)
    for basket in baskets:
        dice = random.Random(f"{settings.seed} {basket.number}")
        drawn = dice.random()
        fate = Fate.FULFIL
        if drawn < abandon:
            fate = Fate.RELEASE if drawn < abandon / 2 else Fate.LEAVE
        repeated = [verb for verb, share in REPEATED_SHARES.items() if dice.random() < share]
        # All of it is drawn for every basket: one setting does not change what another one draws.
        changed, cancels, returns, ships, twice, hasty, extends = (
            dice.random() < share
            for share in (
                settings.change,
                settings.cancel,
                settings.back,
                settings.fulfil,
                settings.double_click,
                settings.retry,
                settings.extend,
            )
        )
        swayed, paid_first = dice.random() < 0.5, dice.random() < 0.5
        disposition = dice.choice(DISPOSITIONS)
        pays_after_s = dice.lognormvariate(0, settings.pay_sigma) * pay_s
        paid = fate is Fate.FULFIL
        kind = Change.SWAY if swayed else Change.GROW
        yield Journey(
            basket=basket,
            fate=fate,
            change=kind if paid and changed else None,
            paid_first=paid_first,
            cancels=paid and cancels,
            disposition=disposition if paid and returns else None,
            repeated=frozenset(repeated),
            dice=dice,
            ships=ships,
            twice=twice,
            hasty=hasty,
            pays_after_s=pays_after_s,
            extends=extends,
            # Who pays at once needs no time to live, except for being left.
            ttl_s=settings.held_seconds if pay_s or fate is Fate.LEAVE else None,
        )


def course(journey: Journey, lines: list[Line]) -> tuple[list[Line], list[Step]]:
    """What is reserved of ``lines``, one reservation's part of the basket, and what follows."""
    longer = [Step("extend")] if journey.extends and journey.ttl_s is not None else []
    if journey.fate is Fate.LEAVE:
        return lines, longer
    if journey.fate is Fate.RELEASE:
        return lines, [*longer, Step("release")]
    less = None if journey.change is None else lesser(lines, journey.dice)
    amends: list[Step] = []
    first = lines
    if less is not None:
        amends = [Step("amend", lines)]
        if journey.change is Change.GROW:
            first = less
        else:
            amends.insert(0, Step("amend", less))
    steps = [*longer, Step("commit")]
    steps = steps + amends if journey.paid_first else amends + steps
    if journey.cancels:
        steps.append(Step("cancel"))
    if journey.ships:
        steps.append(Step("fulfil"))
        if journey.disposition is not None:
            steps.append(Step("return"))
    return first, steps


def lesser(lines: list[Line], dice: random.Random) -> list[Line] | None:
    """A line fewer, or fewer units of a line; None where only one unit is wanted."""
    several = [at for at, line in enumerate(lines) if line.quantity > 1]
    if several and (len(lines) == 1 or dice.random() < SEVERAL_SHARE):
        at = dice.choice(several)
        fewer = lines[at]._replace(quantity=dice.randrange(1, lines[at].quantity))
        return [*lines[:at], fewer, *lines[at + 1 :]]
    if len(lines) == 1:
        return None
    at = dice.randrange(len(lines))
    return [*lines[:at], *lines[at + 1 :]]


def cancelled_part(lines: Sequence[HeldLine], dice: random.Random) -> Part:
    """Some open units of one of the lines, by its location."""
    line, units = _portion([(line, line.open) for line in lines if line.open], dice)
    return Part(line.sku, line.location, units)


def returned_part(lines: Sequence[HeldLine], dice: random.Random) -> Part:
    """Some shipped units of one of the lines, from wherever they came."""
    line, units = _portion([(line, line.away) for line in lines if line.away], dice)
    return Part(line.sku, None, units)


def _portion(choices: list[tuple[HeldLine, int]], dice: random.Random) -> tuple[HeldLine, int]:
    """One of the lines and 1 … all of its units; part of a line where there are several."""
    several = [choice for choice in choices if choice[1] > 1]
    if several and dice.random() < SEVERAL_SHARE:
        line, units = dice.choice(several)
        return line, dice.randrange(1, units)
    line, units = dice.choice(choices)
    return line, dice.randint(1, units)
