"""What a run has seen so far, as the live view shows it."""

from __future__ import annotations

from loadtest.histogram import Histogram
from loadtest.live import Snapshot
from loadtest.measure import Measured, Second

RECENT_S = 3  # whole seconds that rates and latencies are of


def snapshot(
    measured: Measured, elapsed_s: float, share: float, stock: tuple[int, int] | None
) -> Snapshot:
    """``share`` of the baskets are done; ``stock`` is what was on hand and available at last."""
    now = int(elapsed_s)
    recent = [measured.seconds.get(n, Second()) for n in range(max(0, now - RECENT_S), now)]
    latency_us = Histogram()
    for second in [*recent, measured.seconds.get(now, Second())]:
        latency_us.merge(second.latency_us)
    p50, p99, p999 = (
        value / 1000 if latency_us.count else None
        for value in latency_us.quantiles((0.5, 0.99, 0.999))
    )
    seen = measured.seconds.values()
    return Snapshot(
        elapsed_s=elapsed_s,
        share=share,
        asked=sum(second.asked for second in seen),
        granted=sum(second.granted for second in seen),
        refused=sum(second.refused for second in seen),
        errors=sum(second.errors for second in seen),
        rate_asked=sum(second.asked for second in recent) / max(len(recent), 1),
        rate_achieved=sum(second.answered for second in recent) / max(len(recent), 1),
        p50_ms=p50,
        p99_ms=p99,
        p999_ms=p999,
        remaining=stock[1] if stock else None,
        oversold=-min(0, *stock) if stock else 0,
    )
