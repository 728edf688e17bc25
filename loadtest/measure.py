"""What a run saw: latencies by operation, and what happened in each of its seconds.

Latencies count from when a request was due, not from when it was sent: a service that keeps its
callers waiting is not forgiven for those who could not ask meanwhile (coordinated omission).
"""

from __future__ import annotations

import time

import msgspec

from loadtest.histogram import Histogram

CURVE = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0)


class Second(msgspec.Struct):
    """One second of a run; ``granted`` and ``refused`` are reservations, the rest requests."""

    asked: int = 0
    answered: int = 0
    granted: int = 0
    refused: int = 0
    errors: int = 0
    latency_us: Histogram = msgspec.field(default_factory=Histogram)

    def merge(self, other: Second) -> None:
        """Add ``other`` to it."""
        self.asked += other.asked
        self.answered += other.answered
        self.granted += other.granted
        self.refused += other.refused
        self.errors += other.errors
        self.latency_us.merge(other.latency_us)


class Measured(msgspec.Struct):
    """All that was measured, or all since it was last taken: two of them become one by ``merge``.

    ``seconds`` by number from the start. ``late_us``: by how much the harness itself was behind
    what it meant to do. ``busy_s``: CPU time of the processes that asked.
    """

    operations: dict[str, Histogram] = {}
    seconds: dict[int, Second] = {}
    refusals: dict[str, int] = {}
    errors: dict[str, int] = {}
    retries: dict[str, int] = {}
    unanswered: int = 0
    gave_up: int = 0
    replayed: int = 0
    late_us: Histogram = msgspec.field(default_factory=Histogram)
    busy_s: float = 0.0

    def merge(self, other: Measured) -> None:
        """Add ``other`` to it."""
        for verb, histogram in other.operations.items():
            self.operations.setdefault(verb, Histogram()).merge(histogram)
        for number, second in other.seconds.items():
            self.seconds.setdefault(number, Second()).merge(second)
        for mine, others in (
            (self.refusals, other.refusals),
            (self.errors, other.errors),
            (self.retries, other.retries),
        ):
            for name, count in others.items():
                mine[name] = mine.get(name, 0) + count
        self.unanswered += other.unanswered
        self.gave_up += other.gave_up
        self.replayed += other.replayed
        self.late_us.merge(other.late_us)
        self.busy_s += other.busy_s

    def total(self) -> Second:
        """All of its seconds as one."""
        whole = Second()
        for second in self.seconds.values():
            whole.merge(second)
        return whole


class Meter:
    """Counts as it happens; ``began_ns`` is second 0 of the run.

    What was due before ``counted_ns`` is not in the latencies of its operation.
    """

    def __init__(self, began_ns: int | None = None) -> None:
        self.began_ns = time.monotonic_ns() if began_ns is None else began_ns
        self.counted_ns = 0
        self._troubles: dict[str, int] = {}
        self.measured = Measured()
        self._busy_s = time.process_time()

    def take(self) -> Measured:
        """All that was measured since it was last taken."""
        taken, self.measured = self.measured, Measured()
        busy_s = time.process_time()
        taken.busy_s, self._busy_s = busy_s - self._busy_s, busy_s
        return taken

    def asked(self, due_ns: int | None) -> int:
        """A request is made that was due then, or now; since when it counts."""
        since_ns = time.monotonic_ns() if due_ns is None else due_ns
        self._second(since_ns).asked += 1
        return since_ns

    def answered(self, verb: str, since_ns: int, replayed: bool) -> None:
        """It got its final answer."""
        now_ns = time.monotonic_ns()
        taken_us = max(0, now_ns - since_ns) // 1000
        operations = self.measured.operations
        histogram = operations.get(verb)
        if histogram is None:
            histogram = operations[verb] = Histogram()
        if since_ns >= self.counted_ns:
            histogram.record(taken_us)
        second = self._second(now_ns)
        second.answered += 1
        second.latency_us.record(taken_us)
        self.measured.replayed += replayed

    def granted(self) -> None:
        """A reservation was granted."""
        self._now().granted += 1

    def refused(self, reasons: list[str]) -> None:
        """A reservation was refused, or what it became could not go on as it wanted."""
        self._now().refused += 1
        for reason in reasons:
            _count(self.measured.refusals, reason)

    def failed(self, code: str) -> None:
        """An answer that should not have come."""
        self._now().errors += 1
        _count(self.measured.errors, code)

    def retried(self, trouble: str) -> None:
        """An attempt has to be repeated."""
        _count(self.measured.retries, trouble)

    def unanswered(self, trouble: str) -> None:
        """No answer came, however often it was asked for."""
        self.measured.unanswered += 1
        self.failed(trouble)
        _count(self._troubles, trouble)

    def troubles(self) -> str:
        """Why calls were not answered, in all of the run."""
        return ", ".join(f"{trouble} {count:,}" for trouble, count in self._troubles.items())

    def gave_up(self) -> None:
        """A request of which nobody waits for the answer."""
        self.measured.gave_up += 1

    def late(self, due_ns: int) -> None:
        """Something that was due then is done now."""
        self.measured.late_us.record(max(0, time.monotonic_ns() - due_ns) // 1000)

    def _now(self) -> Second:
        return self._second(time.monotonic_ns())

    def _second(self, at_ns: int) -> Second:
        number = max(0, at_ns - self.began_ns) // 1_000_000_000
        second = self.measured.seconds.get(number)
        if second is None:
            second = self.measured.seconds[number] = Second()
        return second


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
