"""What a worker has counted, as one Counter: ``reserve:conflict``, ``resent``, …"""

from __future__ import annotations

from collections import Counter

from core.service import Service

FAMILIES = ("stockade_scripts_total", "stockade_lane_events_total")


def counted(*services: Service) -> Counter[str]:
    """Scripts by outcome, and what happened in the lanes, of all these together."""
    found: Counter[str] = Counter()
    for service in services:
        for family, labels, values in service.lane.meters.sheet.series():
            if family in FAMILIES:
                found[":".join(labels)] += int(values[0])
    return found
