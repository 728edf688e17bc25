"""What ``--set key=value`` can set."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any


class WrongSetting(Exception):
    """A ``--set`` that cannot be taken."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a log is replayed.

    ``speed``: times as fast as it happened; None = as fast as ``concurrency`` callers can.
    ``abandon``: the share of baskets never paid: half are released, half left to expire.
    ``change``: the share of paid baskets that are amended: half of them are reserved with less and
    then grow to what the log says, half shrink and grow again.
    ``cancel``, ``back``: the shares of paid baskets of which a part is cancelled, comes back.
    ``stock``: how much of each pool's demand is received; below 1 some baskets are refused.
    ``ttl_seconds``: the time to live of the reservations that are left to expire.
    ``limit``: only so many baskets of the log.
    """

    speed: Decimal | None = None
    concurrency: int = 64
    abandon: Decimal = Decimal("0.1")
    change: Decimal = Decimal("0.2")
    cancel: Decimal = Decimal("0.05")
    back: Decimal = Decimal("0.05")
    seed: int = field(default_factory=lambda: secrets.randbits(32))
    stock: Decimal = Decimal(1)
    ttl_seconds: int = 2
    limit: int | None = None

    def as_dict(self) -> dict[str, str | int | float | None]:
        """As written into the report."""
        return {
            "speed": "max" if self.speed is None else float(self.speed),
            "concurrency": self.concurrency,
            "abandon": float(self.abandon),
            "change": float(self.change),
            "cancel": float(self.cancel),
            "back": float(self.back),
            "seed": self.seed,
            "stock": float(self.stock),
            "ttl_seconds": self.ttl_seconds,
            "limit": self.limit,
        }


def parse(pairs: Iterable[str]) -> Settings:
    """Settings from ``key=value`` pairs; raises WrongSetting with one line that says what to do."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or key not in _READERS:
            keys = ", ".join(_READERS)
            raise WrongSetting(f"--set {pair}: expected key=value with a key of {keys}")
        try:
            values[key] = _READERS[key](text)
        except (ValueError, InvalidOperation):
            raise WrongSetting(f"--set {pair}: not a valid {key}") from None
    return Settings(**values)


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return read


def _decimal(least: str, most: str) -> Callable[[str], Decimal]:
    def read(text: str) -> Decimal:
        value = Decimal(text)
        if not (value.is_finite() and Decimal(least) <= value <= Decimal(most)):
            raise ValueError(text)
        return value

    return read


def _speed(text: str) -> Decimal | None:
    return None if text == "max" else _decimal("0.001", "1e9")(text)


_READERS: dict[str, Callable[[str], Any]] = {
    "speed": _speed,
    "concurrency": _whole(1, 4096),
    "abandon": _decimal("0", "1"),
    "change": _decimal("0", "1"),
    "cancel": _decimal("0", "1"),
    "back": _decimal("0", "1"),
    "seed": _whole(0, 2**64 - 1),
    "stock": _decimal("0", "1000"),
    "ttl_seconds": _whole(1, 3600),
    "limit": _whole(1, 2**31),
}
