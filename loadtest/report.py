"""What a run has to tell: a summary to read, and a document for programs."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loadtest.audit import Audit
from loadtest.client import Client
from loadtest.histogram import Histogram
from loadtest.replay import Tally
from loadtest.settings import Settings
from loadtest.stocking import Survey

PRINTED_DIFFERENCES = 20
VERBS = ("reserve", "amend", "commit", "fulfil", "release", "cancel", "return")


@dataclass(slots=True)
class Run:
    """One finished run."""

    id: str
    log: Path
    service_version: str
    started_at: datetime
    setup_s: float
    settings: Settings
    plan: Survey
    tally: Tally
    client: Client
    audit: Audit


def document(run: Run) -> dict[str, Any]:
    """Everything about the run, ready for JSON."""
    plan, tally = run.plan, run.tally
    return {
        "run": run.id,
        "started_at": f"{run.started_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "settings": run.settings.as_dict(),
        "log": {
            "file": run.log.name,
            "baskets": plan.baskets,
            "reservations": plan.reservations,
            "lines": plan.lines,
            "channels": {name: len(locations) for name, locations in plan.channels.items()},
            "pools": len(plan.demand),
            "units": sum(plan.demand.values()),
            **asdict(plan.dirt),
        },
        "setup_s": round(run.setup_s, 3),
        **_tally(tally),
        "baskets_per_s": round(tally.baskets / tally.elapsed_s, 1),
        "calls": {name: _calls(name, histogram, run) for name, histogram in _histograms(run)},
        "retries": dict(run.client.retries),
        "audit": {
            "passed": not run.audit.differences.count,
            "pools": run.audit.pools,
            "reservations_acknowledged": run.audit.acknowledged,
            "reservations_read_back": run.audit.read_back,
            "differences": run.audit.differences.count,
            "listed": run.audit.differences.listed,
        },
        "versions": {
            "stockade": run.service_version,
            "python": platform.python_version(),
            "aiohttp": version("aiohttp"),
        },
        "machine": machine(),
    }


def summary(run: Run) -> str:
    """A few lines to read."""
    plan, dirt, tally, audit = run.plan, run.plan.dirt, run.tally, run.audit
    refusals = _counted(tally.refused_lines)
    retries, errors = _counted(run.client.retries), _counted(tally.errors)
    amends, returns = _counted(tally.amends), _counted(tally.returns)
    lines = [
        f"log       {plan.baskets:,} baskets, {plan.lines:,} lines, {len(plan.demand):,} pools; "
        f"left out: {dirt.zero_lines:,} lines of quantity 0, {dirt.empty_baskets:,} baskets of "
        f"nothing else, {dirt.malformed_rows:,} malformed rows",
        f"replayed  {tally.baskets:,} baskets in {tally.elapsed_s:,.1f} s "
        f"({tally.baskets / tally.elapsed_s:,.0f}/s) after {run.setup_s:,.1f} s of set-up; "
        f"{dirt.large_baskets:,} in several reservations; seed {run.settings.seed}",
        f"granted   {tally.granted:,}: fulfilled {tally.fulfilled:,}, released "
        f"{tally.released:,}, left to expire {tally.left_to_expire:,}, cancelled "
        f"{tally.cancelled:,}",
        f"amended   {tally.amends.total():,}"
        + (f" ({amends})" if amends else "")
        + f", {tally.amends_refused:,} refused",
        f"cancelled {tally.units_cancelled:,} units in {tally.cancels:,} calls",
        f"returned  {tally.units_returned:,} units in {tally.returns.total():,} calls"
        + (f" ({returns})" if returns else ""),
        f"refused   {tally.refused:,}" + (f" (lines: {refusals})" if refusals else ""),
        f"retried   {run.client.retries.total():,}" + (f" ({retries})" if retries else ""),
        f"repeated  {tally.repeated_calls:,} calls under their key",
        f"errors    {tally.errors.total():,}" + (f" ({errors})" if errors else ""),
        f"{'':9} {'calls':>9} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'p99.9':>8} {'max':>8}",
    ]
    for name, histogram in _histograms(run):
        row = _calls(name, histogram, run)
        rate = f"{row['per_s']:,.0f}" if "per_s" in row else ""
        times = " ".join(f"{row[key]:8.1f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
        lines.append(f"{name:9} {histogram.count:>9,} {rate:>8} {times}")
    verdict = f"{audit.differences.count:,} DIFFERENCES" if audit.differences.count else "passed"
    lines.append(
        f"audit     {verdict}: {audit.pools:,} pools, {audit.read_back:,} of "
        f"{audit.acknowledged:,} reservations read back"
    )
    lines += [f"  {text}" for text in audit.differences.listed[:PRINTED_DIFFERENCES]]
    return "\n".join(lines)


def _counted(counter: Counter[str]) -> str:
    """What was counted, most of it first."""
    return ", ".join(f"{what} {n:,}" for what, n in counter.most_common())


def machine() -> dict[str, Any]:
    """What the run was made on."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def _tally(tally: Tally) -> dict[str, Any]:
    """Its fields; the counters as plain dicts (``asdict`` would count their items instead)."""
    values = {field.name: getattr(tally, field.name) for field in fields(tally)}
    return {k: dict(v) if isinstance(v, Counter) else v for k, v in values.items()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _histograms(run: Run) -> list[tuple[str, Histogram]]:
    return sorted(run.client.latency_us.items(), key=lambda item: -item[1].count)


def _calls(name: str, histogram: Histogram, run: Run) -> dict[str, float]:
    """One verb's calls in figures; only those of the replay have a rate."""
    figures: dict[str, float] = {
        "count": histogram.count,
        "mean_ms": round(histogram.total / max(histogram.count, 1) / 1000, 3),
        "p50_ms": histogram.quantile(0.5) / 1000,
        "p90_ms": histogram.quantile(0.9) / 1000,
        "p99_ms": histogram.quantile(0.99) / 1000,
        "p999_ms": histogram.quantile(0.999) / 1000,
        "max_ms": histogram.maximum / 1000,
    }
    if name in VERBS:
        figures["per_s"] = round(histogram.count / run.tally.elapsed_s, 1)
    return figures
