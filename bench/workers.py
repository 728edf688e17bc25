"""Two workers on one hot SKU: how often their plans meet, and what they do together.

Workers are processes of their own, as in the service; each has as many callers as the only one in
the comparison. Run as ``python -m bench.workers URL DATA SKU`` this module is such a worker: it
says ``ready``, waits for a line, and prints what it measured.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import uvloop

from bench.callers import CALLERS, Measured, drive, reserve_calls
from bench.stores import Store, fill, private_store
from bench.table import Figure
from core import collector, slices
from core.service import Service, open_service
from core.settings import Settings

SECONDS = 1.2
WARM_SECONDS = 0.5  # processes do not begin at the same instant


class Report(msgspec.Struct):
    """What one worker saw in its window."""

    measured: Measured
    outcomes: dict[str, int]  # of its reserve scripts


async def _worker(url: str, data: Path, sku: str) -> Report:
    counts: list[Counter[str]] = []
    async with open_service(Settings(data=data, valkey_url=url)) as service:
        slices.shorten()  # as a worker has them
        collector.settle()  # and does
        print("ready", flush=True)
        sys.stdin.readline()
        measured = await drive(
            reserve_calls(service.engine, [sku], CALLERS, False),
            SECONDS,
            warm_seconds=WARM_SECONDS,
            on_edge=lambda: counts.append(_outcomes(service)),
        )
    return Report(measured, dict(counts[1] - counts[0]))


def _outcomes(service: Service) -> Counter[str]:
    """How often the script that reserves ended how."""
    found: Counter[str] = Counter()
    for family, labels, values in service.lane.meters.sheet.series():
        if family == "stockade_scripts_total" and labels[0] == "reserve":
            found[labels[1]] = int(values[0])
    return found


async def _start(store: Store, sku: str) -> Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.workers", store.url, str(store.settings.data), sku),
        stdin=PIPE,
        stdout=PIPE,
    )
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("a worker did not start")
    return process


async def _measure(store: Store, sku: str, workers: int) -> list[Report]:
    store.reset()
    store.tidy()
    processes = [await _start(store, sku) for _ in range(workers)]
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    return [msgspec.json.decode(out, type=Report) for out, _ in answers]


async def two_workers(rounds: int) -> AsyncIterator[Figure]:
    """Two together against one alone, and the share of scripts that did what they were sent for."""
    alone, together, shares = [], [], []
    outcomes: Counter[str] = Counter()
    async with private_store() as store:
        (sku,) = await fill(store, 1)
        for _ in range(rounds):
            (one,) = await _measure(store, sku, 1)
            two = await _measure(store, sku, 2)
            alone.append(one.measured.rate)
            together.append(sum(report.measured.rate for report in two))
            seen = sum((Counter(report.outcomes) for report in two), Counter[str]())
            shares.append((seen["applied"] + seen["rebased"]) / seen.total())
            outcomes += seen
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(outcomes.items()))
    yield Figure("two workers, one hot SKU: together vs one", together, alone, 0.9)
    yield Figure("two workers: applied or rebased", shares, bar=0.95, note=told)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_worker(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
    print(msgspec.json.encode(report).decode())
