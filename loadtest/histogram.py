"""Latencies in log-linear buckets, as in HdrHistogram: bounded memory, bounded relative error."""

from __future__ import annotations

import math
from collections import Counter

PRECISION_BITS = 7  # a bucket is at most 1/128 of its value wide


class Histogram:
    """Counts of non-negative integers, each known to within 0.8 %."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.maximum = 0

    def record(self, value: int) -> None:
        """Count ``value``."""
        shift = max(0, value.bit_length() - PRECISION_BITS - 1)
        self._buckets[(shift << PRECISION_BITS) + (value >> shift)] += 1
        self.count += 1
        self.total += value
        self.maximum = max(self.maximum, value)

    def quantile(self, share: float) -> int:
        """The least value that at least ``share`` of the counted ones do not exceed, or up to
        0.8 % more; 0 when nothing was counted."""
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(_highest(bucket), self.maximum)
        return 0


def _highest(bucket: int) -> int:
    """The highest value that falls into ``bucket``."""
    shift = max(0, (bucket >> PRECISION_BITS) - 1)
    return (((bucket - (shift << PRECISION_BITS)) + 1) << shift) - 1
