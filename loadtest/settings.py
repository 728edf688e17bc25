"""What a scenario says: a small TOML file of keys, each of which ``--set key=value`` overrides."""

from __future__ import annotations

import secrets
import tomllib
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from loadtest.arrivals import SHAPES

SCENARIOS = Path(__file__).parent / "scenarios"
BUYERS_PER_SECOND = 1000
SECONDS_MIN = 15.0
SECONDS_MAX = 604_800  # a week
CHANNELS_MAX = 64  # of a service


class WrongSetting(Exception):
    """A scenario or a ``--set`` that cannot be taken."""


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A channel: its share of the buyers, as a weight, and of what arrives."""

    name: str
    weight: float = 1.0
    floor: float = 0.0
    ceiling: float | None = None
    borrow: bool = True


class Settings(msgspec.Struct, frozen=True):
    """What is done, how often and how fast; what each key means stands in the scenarios' files.

    A key that is left out is the one of a service at rest: nobody comes, nothing happens to them.
    """

    seed: int = msgspec.field(default_factory=lambda: secrets.randbits(32))
    processes: int = 1
    workers: int = 1
    connections: int = 1000
    patience_seconds: float = 30.0
    ledger_seconds: float = 60.0
    # A replay.
    speed: Decimal | None = None
    concurrency: int = 64
    stock: Decimal = Decimal(1)
    limit: int = 0
    # A search for the limit.
    p99_ms: float = 0.0
    errors_max: float = 0.0
    step_seconds: float = 5.0
    # Who comes when, and what there is.
    buyers: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    real_seconds: float = 0.0
    shape: str = "steady"
    skus: int = 1
    units: int = 0
    zipf: float = 0.0
    lines_max: int = 1
    quantity_max: int = 1
    channels: tuple[Channel, ...] = ()
    restocks: int = 0
    counts: int = 0
    # What becomes of them.
    abandon: float = 0.0
    extend: float = 0.0
    change: float = 0.0
    cancel: float = 0.0
    back: float = 0.0
    fulfil: float = 0.0
    double_click: float = 0.0
    retry: float = 0.0
    look: float = 0.0
    look_seconds: float = 0.0
    pay_seconds: float = 0.0
    pay_sigma: float = 0.0
    pause_seconds: float = 0.0
    ttl_seconds: int = 0

    def scaled(self, seconds: float) -> float:
        """``seconds`` of the truth in the run."""
        return seconds * self.seconds / self.real_seconds if self.real_seconds else seconds

    @property
    def held_seconds(self) -> int:
        """For how long a cart is held in the run."""
        return max(1, round(self.scaled(self.ttl_seconds)))

    @property
    def is_open(self) -> bool:
        """Whether baskets come at times of their own, or each when one before is done."""
        return bool(self.buyers or self.searches) or self.speed is not None

    @property
    def searches(self) -> bool:
        """Whether the limit is wanted, not one run."""
        return self.p99_ms > 0

    @property
    def crowded(self) -> bool:
        """Whether there is a crowd of its own, not an order log."""
        return bool(self.buyers) or self.searches

    def check(self, has_log: bool) -> None:
        """Raises WrongSetting when there is nobody to come, or a log for nobody."""
        if has_log and self.crowded:
            raise WrongSetting("a scenario with buyers of its own takes no order log")
        if not has_log and not self.crowded:
            raise WrongSetting("expected an order log to replay, or a scenario that sets buyers")
        if self.crowded and not self.channels:
            raise WrongSetting("a scenario with buyers needs at least one [[channel]]")
        if self.searches and not (self.rate and self.step_seconds > 1):
            raise WrongSetting("a search needs a rate to begin with and step_seconds above 1")

    def as_dict(self) -> dict[str, Any]:
        """As written into the report."""
        told = asdict(self)
        told["speed"] = "max" if self.speed is None else float(self.speed)
        told["stock"] = float(self.stock)
        told["channels"] = [asdict(channel) for channel in self.channels]
        return told


def scenario(name: str, pairs: Iterable[str] = ()) -> Settings:
    """The scenario of this name, or of this file, with ``key=value`` pairs instead of its own.

    Raises WrongSetting with one line that says what to do.
    """
    path = SCENARIOS / f"{name}.toml"
    if not path.exists():
        path = Path(name)
    if path.suffix != ".toml" or not path.exists():
        known = ", ".join(scenarios())
        raise WrongSetting(f"{name}: expected one of {known}, or the path of a .toml file")
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WrongSetting(f"{path}: {error}") from None
    values: dict[str, Any] = {}
    if "channel" in told:
        values["channels"] = _channels(told.pop("channel"), path)
    for key, value in told.items():
        values[key] = _value(key, str(value), f"{path}: {key} = {value}")
    for pair in pairs:
        key, equals, text = pair.partition("=")
        values[key] = _value(key if equals else "", text, f"--set {pair}")
    settings = Settings(**values)
    if settings.rate and settings.seconds and not settings.buyers:
        return replace(settings, buyers=round(settings.rate * settings.seconds))
    if settings.buyers and not settings.seconds:
        rate = settings.rate or BUYERS_PER_SECOND
        return replace(settings, seconds=max(SECONDS_MIN, settings.buyers / rate))
    return settings


def scenarios() -> list[str]:
    """The names of those that come with the harness."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def _channels(tables: object, path: Path) -> tuple[Channel, ...]:
    try:
        return msgspec.convert(tables, tuple[Channel, ...])
    except msgspec.ValidationError as error:
        raise WrongSetting(f"{path}: [[channel]]: {error}") from None


def _value(key: str, text: str, told: str) -> Any:
    if key not in _READERS:
        raise WrongSetting(f"{told}: expected a key of {', '.join(_READERS)}, and its value")
    try:
        return _READERS[key](text)
    except (ValueError, InvalidOperation):
        raise WrongSetting(f"{told}: not a valid {key}") from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return read


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # what is no number is not, either
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


def _alike(text: str) -> tuple[Channel, ...]:
    """So many channels that are all alike: each with as much of half of what arrives."""
    count = _whole(1, CHANNELS_MAX)(text)
    floor = int(500_000 / count) / 1_000_000
    return tuple(Channel(f"shop-{number:02}", floor=floor) for number in range(count))


def _shape(text: str) -> str:
    if text not in SHAPES:
        raise ValueError(text)
    return text


_SHARE, _SECONDS = _number(0, 1), _number(0, SECONDS_MAX)
_READERS: dict[str, Callable[[str], Any]] = {
    "seed": _whole(0, 2**64 - 1),
    "processes": _whole(1, 64),
    "workers": _whole(1, 64),
    "connections": _whole(1, 16_384),  # as many as a worker takes
    "patience_seconds": _number(0, 3600),
    "ledger_seconds": _number(0, 3600),
    "speed": _speed,
    "concurrency": _whole(1, 4096),
    "stock": _decimal("0", "1000"),
    "limit": _whole(0, 2**31),
    "p99_ms": _number(0, 600_000),
    "errors_max": _SHARE,
    "step_seconds": _SECONDS,
    "buyers": _whole(0, 2**31),
    "rate": _number(0, 1_000_000),
    "seconds": _SECONDS,
    "real_seconds": _SECONDS,
    "shape": _shape,
    "skus": _whole(1, 1_000_000),
    "units": _whole(0, 2**31 - 1),
    "zipf": _number(0, 5),
    "lines_max": _whole(1, 100),
    "quantity_max": _whole(1, 1000),
    "channels": _alike,
    "restocks": _whole(0, 1_000_000),
    "counts": _whole(0, 1_000_000),
    "abandon": _SHARE,
    "extend": _SHARE,
    "change": _SHARE,
    "cancel": _SHARE,
    "back": _SHARE,
    "fulfil": _SHARE,
    "double_click": _SHARE,
    "retry": _SHARE,
    "look": _SHARE,
    "look_seconds": _SECONDS,
    "pay_seconds": _SECONDS,
    "pay_sigma": _number(0, 5),
    "pause_seconds": _SECONDS,
    "ttl_seconds": _whole(1, 2_592_000),
}
