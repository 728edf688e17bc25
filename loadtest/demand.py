"""Who wants what: a synthetic crowd, drawn from the seed, and the stock that it finds.

Names are the run's own, so that runs do not meet, on whatever service: its location and its SKUs.
Channels stay, as there can be but a few of them, and are told to sell what the run has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate

from loadtest.arrivals import SHAPES, times
from loadtest.book import Rule
from loadtest.orders import Basket, Line
from loadtest.settings import Settings
from loadtest.stocking import SHARE_ONE, Supply


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
    return Supply(
        locations={name: [place] for name in floors},
        floors=floors,
        rules=rules,
        arriving={(sku(run, number), place): settings.units for number in range(settings.skus)},
    )


def baskets(settings: Settings, run: str) -> Iterator[Basket]:
    """All of the crowd, in the order in which it comes."""
    rng = random.Random(f"demand {settings.seed}")
    names = [channel(one.name) for one in settings.channels]
    weights = list(accumulate(one.weight for one in settings.channels))
    place = location(run)
    skus = [sku(run, number) for number in range(settings.skus)]
    arrivals = times(settings.buyers, settings.seconds, SHAPES[settings.shape], rng)
    for number, time_s in enumerate(arrivals):
        [seller] = rng.choices(names, cum_weights=weights)
        lines = [Line(place, rng.choice(skus), 1)]
        yield Basket(number, f"{run}-{number}", time_s, seller, lines)
