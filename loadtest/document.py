"""What a run leaves behind for programs (``report.json``): its shape, checked where it is read.

Times are in the unit that their name ends with; rates and counts of the timeline are per second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class NotAReport(Exception):
    """A file that is no report of a run, or of none that can be used here."""


class Generator(msgspec.Struct, frozen=True):
    """Who made the load, and whether it could keep up with it."""

    processes: int
    bottleneck: bool
    late_p99_ms: float  # sent so much later than intended
    note: str = ""


class Totals(msgspec.Struct, frozen=True):
    """Of the whole run. ``asked`` is what was intended, answered or not; granted and refused are
    reservations, the others requests. Who ``gave_up`` asked and did not wait for the answer."""

    asked: int
    answered: int
    granted: int
    refused: int
    errors: int
    unanswered: int
    replayed: int
    gave_up: int = 0


class Operation(msgspec.Struct, frozen=True):
    """The latencies of one verb; the curve is of (percentile, ms), rising."""

    count: int
    rate_per_second: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    curve: list[tuple[float, float]] = []


class Moment(msgspec.Struct, frozen=True):
    """One second: no latency where nothing was answered, no stock where nobody looked."""

    t: float
    asked: int
    answered: int
    granted: int
    refused: int
    errors: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    on_hand: int | None = None
    available: int | None = None
    quota: dict[str, int] = {}


class Check(msgspec.Struct, frozen=True):
    """One thing that the audit holds the service to; ``count`` are the differences of which some
    are described."""

    name: str
    passed: bool
    checked: int
    differences: list[str] = []
    count: int = 0


class Audit(msgspec.Struct, frozen=True):
    """What was found from outside after the run."""

    passed: bool
    oversold: int
    checks: list[Check] = []


class Step(msgspec.Struct, frozen=True):
    """One rate that was tried in search of the knee."""

    rate: float
    achieved: float
    p99_ms: float
    errors: int
    passed: bool


class FindLimit(msgspec.Struct, frozen=True):
    """The search for the highest rate within the bounds."""

    steps: list[Step]
    knee: float


class Document(msgspec.Struct, frozen=True):
    """A run; ``model`` is how its requests came, by the clock or one after the other."""

    scenario: str
    run: str
    service_version: str
    started_at: str
    seconds: float
    setup_seconds: float
    settings: dict[str, Any]
    model: str
    seed: int
    generator: Generator
    totals: Totals
    refusals: dict[str, int]
    errors: dict[str, int]
    operations: dict[str, Operation]
    timeline: list[Moment]
    audit: Audit
    find_limit: FindLimit | None = None
    versions: dict[str, str] = {}
    machine: dict[str, Any] = {}


def read(path: Path) -> Document:
    """The report in a file. Raises NotAReport if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Document)
    except OSError as error:
        raise NotAReport(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotAReport(f"{path} is not the report of a run: {error}") from None
