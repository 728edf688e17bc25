"""When buyers come: an open model, in which they come whether those before were answered or not.

So many buyers at independent times are a Poisson process of that many events. The times are drawn
in their order, one by one, so hours of them need no memory: of n times uniform on the rest of the
interval, the first leaves a share of V^(1/n) of it, V uniform (J. L. Bentley, J. B. Saxe,
Generating sorted lists of random numbers, 1980). A shape then bends them: a time u of the flat
interval becomes the moment by which a share u of the crowd has come.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate

# A drop: the crowd that stood ready comes within moments of the opening, and the rest hears of it
# over the rest of the time. A rise over the first 3 % to 3.6 times the mean rate, then a tail that
# falls as 1/(1 + t)^1.6, the way attention does.
RISE = 0.03
TAIL = 0.25  # of the interval: how long it takes the tail to fall to a third
FALL = 1.6
KNOTS = 2000


def times(
    count: int, seconds: float, shape: Callable[[float], float], rng: random.Random
) -> Iterator[float]:
    """``count`` moments within ``seconds``, in their order."""
    left = 1.0
    for remaining in range(count, 0, -1):
        left *= rng.random() ** (1 / remaining)
        yield seconds * shape(1 - left)


def steady(share: float) -> float:
    """As many in each moment as in any other."""
    return share


def drop(share: float) -> float:
    """A short, steep rise and a long tail."""
    at = min(max(bisect_left(_CROWD, share), 1), KNOTS)
    low, high = _CROWD[at - 1], _CROWD[at]
    return (at - 1 + (share - low) / (high - low)) / KNOTS


def _density(moment: float) -> float:
    if moment < RISE:
        return (moment / RISE) ** 2
    return float((1 + (moment - RISE) / TAIL) ** -FALL)


def _come() -> list[float]:
    """The share of a drop's crowd that has come by each of the knots of the interval."""
    summed = list(accumulate((_density((at + 0.5) / KNOTS) for at in range(KNOTS)), initial=0.0))
    return [part / summed[-1] for part in summed]


_CROWD = _come()
SHAPES: dict[str, Callable[[float], float]] = {"steady": steady, "drop": drop}
