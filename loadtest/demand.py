"""Who wants what: a synthetic crowd, drawn from the seed, and the stock that it finds.

Names are the run's own, so that runs do not meet, on whatever service: its location and its SKUs.
Channels stay, as there can be but a few of them, and are told to sell what the run has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate
from math import ceil

from loadtest.arrivals import SHAPES, times
from loadtest.book import Rule
from loadtest.orders import Basket, Line
from loadtest.settings import Settings
from loadtest.stocking import SHARE_ONE, Supply

SEVERAL_SHARE = 0.2  # of lines that are of more than one unit, where a scenario has any


def location(run: str) -> str:
    """Where all of a run's stock lies."""
    return f"loadtest-{run}"


def sku(run: str, number: int) -> str:
    """The SKU of this number, the most wanted one first."""
    return f"loadtest-{run}-{number:06}"


def channel(name: str) -> str:
    """The channel of a scenario as the service knows it: not one that somebody sells through."""
    return f"loadtest-{name}"


def supply(settings: Settings, run: str) -> Supply:
    """The channels of the crowd, and the same units of each SKU."""
    place = location(run)
    floors = {channel(one.name): round(one.floor * SHARE_ONE) for one in settings.channels}
    rules = {
        channel(one.name): Rule(
            one.borrow, None if one.ceiling is None else round(one.ceiling * SHARE_ONE)
        )
        for one in settings.channels
    }
    units = settings.units
    wanted = _wanted(settings)
    return Supply(
        locations={name: [place] for name in floors},
        floors=floors,
        rules=rules,
        arriving={
            (sku(run, number), place): units or ceil(float(settings.stock) * share * wanted)
            for number, share in enumerate(popularity(settings))
        },
    )


def popularity(settings: Settings) -> list[float]:
    """The share of each SKU in what is wanted: Zipf, or all alike with an exponent of 0."""
    weights = [1 / number**settings.zipf for number in range(1, settings.skus + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def _wanted(settings: Settings) -> float:
    """The units that the crowd will ask for, about."""
    lines = (1 + min(settings.lines_max, settings.skus)) / 2
    units = 1 + SEVERAL_SHARE * settings.quantity_max / 2 if settings.quantity_max > 1 else 1.0
    return settings.buyers * lines * units


def baskets(settings: Settings, run: str, first: int = 0) -> Iterator[Basket]:
    """All of the crowd, in the order in which it comes; numbers count from ``first``."""
    rng = random.Random(f"demand {settings.seed}")
    names = [channel(one.name) for one in settings.channels]
    weights = list(accumulate(one.weight for one in settings.channels))
    shares = list(accumulate(popularity(settings)))
    place, skus = location(run), [sku(run, number) for number in range(settings.skus)]
    lines_max = min(settings.lines_max, settings.skus)
    arrivals = times(settings.buyers, settings.seconds, SHAPES[settings.shape], rng)
    for number, time_s in enumerate(arrivals, first):
        [seller] = rng.choices(names, cum_weights=weights)
        count = rng.randint(1, lines_max) if lines_max > 1 else 1
        chosen = dict.fromkeys(rng.choices(skus, cum_weights=shares, k=count))
        lines = [Line(place, name, _quantity(settings, rng)) for name in chosen]
        yield Basket(number, f"{run}-{number}", time_s, seller, lines)


def _quantity(settings: Settings, rng: random.Random) -> int:
    if settings.quantity_max > 1 and rng.random() < SEVERAL_SHARE:
        return rng.randint(2, settings.quantity_max)
    return 1
