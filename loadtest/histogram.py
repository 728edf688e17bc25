"""Latencies in log-linear buckets, as in HdrHistogram: bounded memory, bounded relative error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec

PRECISION_BITS = 7  # a bucket is at most 1/128 of its value wide


class Histogram(msgspec.Struct):
    """Counts of non-negative integers, each known to within 0.8 %.

    ``buckets`` are those that have any. Two of them become one by ``merge``, so that each process
    may count for itself; a struct, so that it travels as it is.
    """

    buckets: dict[int, int] = {}
    count: int = 0
    total: int = 0
    maximum: int = 0

    def record(self, value: int) -> None:
        """Count ``value``."""
        shift = max(0, value.bit_length() - PRECISION_BITS - 1)
        bucket = (shift << PRECISION_BITS) + (value >> shift)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        self.maximum = max(self.maximum, value)

    def merge(self, other: Histogram) -> None:
        """Count all that ``other`` has counted, too."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count
        self.count += other.count
        self.total += other.total
        self.maximum = max(self.maximum, other.maximum)

    def quantile(self, share: float) -> int:
        """The least value that at least ``share`` of the counted ones do not exceed, or up to
        0.8 % more; 0 when nothing was counted."""
        return next(self.quantiles((share,)))

    def quantiles(self, shares: Sequence[float]) -> Iterator[int]:
        """The quantile of each of ``shares``, which ascend."""
        seen, buckets = 0, iter(sorted(self.buckets))
        value = 0
        for share in shares:
            wanted = max(1, math.ceil(share * self.count))
            while seen < wanted and (bucket := next(buckets, None)) is not None:
                seen += self.buckets[bucket]
                value = min(_highest(bucket), self.maximum)
            yield value


def _highest(bucket: int) -> int:
    """The highest value that falls into ``bucket``."""
    shift = max(0, (bucket >> PRECISION_BITS) - 1)
    return (((bucket - (shift << PRECISION_BITS)) + 1) << shift) - 1
