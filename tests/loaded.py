"""Reports of load tests that never were, as a run would leave them."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from loadtest.document import Document


def operation(count: int, typical_ms: float) -> dict[str, Any]:
    """The latencies of a verb whose slowest calls take a hundred times as long as usual."""

    def at(percentile: float) -> float:
        return float(typical_ms * (1 + math.log10(1 / (1 - percentile / 100)) ** 3.3))

    percentiles = [p for p in (0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99) if p < 100]
    return {
        "count": count,
        "rate_per_second": count / 60,
        "p50_ms": at(50),
        "p90_ms": at(90),
        "p99_ms": at(99),
        "p999_ms": at(99.9),
        "max_ms": at(99.99) * 1.4,
        "curve": [*([p, at(p)] for p in percentiles), [100, at(99.99) * 1.4]],
    }


def moment(second: int, seconds: int, channels: dict[str, int]) -> dict[str, Any]:
    """A second of a sale that begins with a rush and sells out after a third."""
    rush = math.exp(-(((second - seconds / 6) / (seconds / 8)) ** 2))
    asked = round(120 + 2400 * rush)
    sold = min(1.0, 3 * second / seconds)
    answered = asked - (second % 7)
    granted = round(answered * max(0.0, 0.8 - 0.8 * sold))
    slow = 1 + 14 * rush + (60 if second == seconds // 5 else 0)
    return {
        "t": float(second),
        "asked": asked,
        "answered": answered,
        "granted": granted,
        "refused": answered - granted - (second % 3 == 0),
        "errors": int(second % 3 == 0),
        "p50_ms": 1.2 * slow**0.5,
        "p99_ms": 4.0 * slow,
        "p999_ms": 6.5 * slow**1.1,
        "on_hand": sum(channels.values()),
        "available": round(sum(channels.values()) * (1 - sold)),
        "quota": {
            name: round(units * max(0.0, 1 - sold * (1 + number / 3)))
            for number, (name, units) in enumerate(channels.items())
        },
    }


def values(
    seconds: int = 60, channels: dict[str, int] | None = None, **changed: Any
) -> dict[str, Any]:
    """The members of a report; ``changed`` replaces some of them."""
    shelves = channels or {"web": 600, "store": 250, "app": 150}
    timeline = [moment(second, seconds, shelves) for second in range(seconds)]
    names = ("asked", "answered", "granted", "refused", "errors")
    totals = {name: sum(each[name] for each in timeline) for name in names}
    checks = ("nothing oversold", "quotas kept", "every reservation found", "ledger = store")
    return {
        "scenario": "flash-sale",
        "run": "9f31c2aa",
        "service_version": "0.1.0",
        "started_at": "2026-11-27T02:20:32Z",
        "seconds": float(seconds),
        "setup_seconds": 1.4,
        "settings": {"buyers": 100_000, "units": 1_000, "seconds": seconds, "abandon": 0.25},
        "model": "open",
        "seed": 7,
        "generator": {"processes": 2, "bottleneck": False, "late_p99_ms": 0.9, "note": ""},
        "totals": totals | {"unanswered": totals["asked"] - totals["answered"], "replayed": 812},
        "refusals": {"insufficient_stock": 21_044, "customer_limit": 931, "overloaded": 12},
        "errors": {"503 overloaded": 12},
        "operations": {"reserve": operation(41_200, 2.1), "commit": operation(10_120, 1.7)},
        "timeline": timeline,
        "audit": {
            "passed": True,
            "oversold": 0,
            "checks": [
                {"name": name, "passed": True, "checked": 1_000, "differences": []}
                for name in checks
            ],
        },
    } | changed


def document(seconds: int = 60, channels: dict[str, int] | None = None, **changed: Any) -> Document:
    """The same as a document."""
    return msgspec.convert(values(seconds, channels, **changed), Document)
