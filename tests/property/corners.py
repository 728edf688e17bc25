"""Whether what is drawn comes into every corner that a rule is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

EXAMPLES_MAX = 4_000

T = TypeVar("T")


def unreached(strategy: SearchStrategy[T], corners: Mapping[str, Callable[[T], bool]]) -> set[str]:
    """The names of those that no example is in, of a few thousand; the same ones every time."""
    left = dict(corners)

    def all_reached(example: T) -> bool:
        for name in [name for name, reached in left.items() if reached(example)]:
            del left[name]
        return not left

    try:
        find(
            strategy,
            all_reached,
            settings=settings(
                max_examples=EXAMPLES_MAX,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except NoSuchExample:
        assert left
    return set(left)
