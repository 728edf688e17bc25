"""The calibration loop: work that never changes, done by the processor alone.

Its time says how fast this machine is just now for one process. A benchmark's time divided by it
can be compared with another run, on another day or another machine, much better than seconds can.
It says nothing of the disk: what waits for fsync is compared in turns, see ``.ci/bench``.
"""

from __future__ import annotations

import time
from statistics import median

STEPS = 100_000  # about 6 ms
TURNS = 7


def loop() -> int:
    """A linear congruential generator, step by step (the constants of ANSI C)."""
    value = 1
    for _ in range(STEPS):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return value


def seconds() -> float:
    """What one loop takes now: the median of a few."""
    taken = []
    for _ in range(TURNS):
        since = time.perf_counter()
        loop()
        taken.append(time.perf_counter() - since)
    return median(taken)
