"""Where the time of a reservation goes: one hot SKU, 256 callers, batches of 128.

What the worker does is timed in the worker as it runs, in CPU time of its thread, each part without
what it calls of the others. What the store does is timed while recorded bytes are sent again: the
script by the store itself (``INFO commandstats``), fsync as what ``appendfsync always`` takes more
than ``no``. Worker and store work at the same time, so a reservation takes less than the sum.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

from bench.callers import CALLERS, Measured, drive, reserve_calls
from bench.ceiling import SECONDS, TRIES_MAX, Recording, TooLate, record, replay
from bench.stores import Store, fill, private_store
from core.lane import Lane
from loadtest.plots import stacked_chart, standalone

PARTS = {
    "client": "tasks and futures of 256 callers, alone in a loop and answered by nobody",
    "loop": "what is left of the worker's CPU: engine, queue, answers, the event loop",
    "kernel": "the planner: what waits becomes a plan, packed rows and records",
    "packing": "the plan becomes the bytes of a command",
    "socket": "CPU of sending the same bytes and reading the replies, by a blocking socket",
    "store": "what is left of the store: words read, log written, reply sent, processes woken",
    "script": "in the script, by the store's own commandstats",
    "fsync": "what the same bytes take longer with appendfsync always than with no",
}
WORKER = ("client", "kernel", "packing", "socket")


class Spent(NamedTuple):
    """Microseconds per reservation: of each part, medians; and between two answers, 1 ÷ rate."""

    kind: str
    parts: dict[str, float]
    apart_us: float


class Stopwatch:
    """CPU time of this thread by part; a part that calls another one does not count it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._parts: list[str] = []
        self._since = 0.0

    def watch(self, owner: object, part: str, *names: str) -> None:
        """Counts these methods of an object for a part."""
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            self._turn()
            self._parts.append(part)
            try:
                return method(*arguments)
            finally:
                self._turn()
                self._parts.pop()

        return timed

    def _turn(self) -> None:
        """What went by since the last turn was the part that is on top now."""
        now = time.thread_time()
        if self._parts:
            self.seconds[self._parts[-1]] += now - self._since
        self._since = now


async def where(rounds: int) -> list[Spent]:
    """Without a key and with one."""
    found = []
    async with private_store() as store:
        names = await fill(store, 1)
        for keyed in (False, True):
            rows = [await _round(store, names, keyed) for _ in range(rounds)]
            parts = {part: median(row[part] for row in rows) for part in PARTS}
            kind = "with key" if keyed else "no key"
            found.append(Spent(kind, parts, median(row["apart"] for row in rows)))
    return found


def markdown(found: Sequence[Spent]) -> str:
    """The table, as it stands in docs/PERFORMANCE.md."""
    head = ["µs a reservation", *(each.kind for each in found), "how it is measured"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for part, how in PARTS.items():
        cells = [f"{each.parts[part]:.2f}" for each in found]
        lines.append(f"| {part} | {' | '.join(cells)} | {how} |")
    sums = [f"{sum(each.parts.values()):.2f}" for each in found]
    lines.append(f"| one after another | {' | '.join(sums)} | the sum |")
    apart = [f"{each.apart_us:.2f}" for each in found]
    lines.append(f"| as it runs | {' | '.join(apart)} | 1 ÷ rate: both sides work at once |")
    return "\n".join(lines)


def plot(found: Sequence[Spent]) -> str:
    """The parts, stacked."""
    chart = stacked_chart(
        "Where the time of a reservation goes",
        "Microseconds per reservation of each part, one after another, for one hot SKU",
        [each.kind for each in found],
        [(part, [round(each.parts[part], 3) for each in found]) for part in PARTS],
        "µs a reservation",
    )
    return standalone(chart)


async def _round(store: Store, names: list[str], keyed: bool) -> dict[str, float]:
    """Microseconds per reservation, once."""
    calls = partial(reserve_calls, names=names, callers=CALLERS, keyed=keyed)
    synced, _ = await _replayed(store, calls, "always")
    plain, script_us = await _replayed(store, calls, "no")
    plain_us = 1e6 / plain.measured.rate
    parts = {
        "client": await _client(),
        "socket": 1e6 * plain.cpu_seconds / plain.measured.ops,
        "script": script_us,
        "fsync": max(0.0, 1e6 / synced.measured.rate - plain_us),
    }
    parts["store"] = max(0.0, plain_us - parts["script"] - parts["socket"])
    store.reset()
    store.tidy()
    watch, cpu = Stopwatch(), []
    async with store.open() as service:
        _watch(watch, service.lane)

        def edge() -> None:
            cpu.append(time.thread_time())
            if len(cpu) == 1:
                watch.seconds.clear()

        measured = await drive(calls(service.engine), SECONDS, on_edge=edge)
    for part in ("kernel", "packing"):
        parts[part] = 1e6 * watch.seconds[part] / measured.ops
    worker_us = 1e6 * (cpu[1] - cpu[0]) / measured.ops
    parts["loop"] = max(0.0, worker_us - sum(parts[each] for each in WORKER))
    return parts | {"apart": 1e6 / measured.rate}


def _watch(watch: Stopwatch, lane: Lane) -> None:
    watch.watch(lane.planner, "kernel", "planned_steps", "step_ahead")
    watch.watch(lane, "packing", "_take_off")
    watch.watch(lane, "socket and answers", "_launch", "_landed")


class _Replay(NamedTuple):
    """Recorded bytes, sent again."""

    measured: Measured
    cpu_seconds: float


async def _replayed(
    store: Store, calls: Callable[[Any], list[Any]], appendfsync: str
) -> tuple[_Replay, float]:
    """The store alone with what the lane sent, and its script's microseconds per reservation."""
    for last in (False,) * (TRIES_MAX - 1) + (True,):
        store.reset()
        store.tidy()
        recording: Recording = await record(store, calls)
        store.admin.config_set("appendfsync", appendfsync)
        store.admin.config_resetstat()
        try:
            measured = replay(store, recording)
        except TooLate:
            if last:
                raise
            continue
        finally:
            store.admin.config_set("appendfsync", "always")
        script = store.admin.info("commandstats")["cmdstat_evalsha"]
        return (
            _Replay(measured, recording.replay_cpu_seconds),
            float(script["usec_per_call"]) / recording.batch,
        )
    raise AssertionError("the last try returns or raises")


async def _client() -> float:
    """CPU of callers that are all answered in the next turn of the loop, by nobody: µs a call."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []
    cpu: list[float] = []

    def answer() -> None:
        answered, waiting[:] = waiting[:], []
        for future in answered:
            future.set_result(None)

    async def call() -> None:
        future: asyncio.Future[None] = loop.create_future()
        waiting.append(future)
        if len(waiting) == 1:
            loop.call_soon(answer)
        await future

    measured = await drive(
        [call] * CALLERS, SECONDS, on_edge=lambda: cpu.append(time.thread_time())
    )
    return 1e6 * (cpu[1] - cpu[0]) / measured.ops
