"""What a run has to tell: a summary to read, and a document for programs."""

from __future__ import annotations

import os
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import orjson

from loadtest.checks import Audit
from loadtest.document import Document
from loadtest.histogram import Histogram
from loadtest.limit import Step
from loadtest.measure import CURVE, Measured, Second
from loadtest.page import render
from loadtest.settings import Settings
from loadtest.stocking import Survey
from loadtest.tally import Tally

PRINTED_DIFFERENCES = 20
LATE_MS = 20.0  # what the harness may be late at the 99th percentile: a few turns of its loop
BUSY = 0.9  # the share of its time that a process that asks may be busy


@dataclass(slots=True)
class Look:
    """The stock of the most wanted SKUs at a moment; ``quota``: channel → units left of its own.

    ``memory_mib``: of the service, if it is the harness's own.
    """

    at_s: float
    on_hand: int
    available: int
    quota: dict[str, int]
    memory_mib: float | None = None


@dataclass(slots=True)
class Run:
    """One finished run. ``plan`` and ``log``: of a replay alone."""

    scenario: str
    id: str
    service_version: str
    started_at: datetime
    setup_s: float
    settings: Settings
    tally: Tally
    measured: Measured
    audit: Audit
    looks: list[Look] = field(default_factory=list)
    processes: int = 1
    restocked: int = 0
    counted: int = 0
    steps: list[Step] = field(default_factory=list)
    knee: float = 0.0
    log: Path | None = None
    plan: Survey | None = None


def document(run: Run) -> dict[str, Any]:
    """Everything about the run, ready for JSON."""
    measured, tally, audit = run.measured, run.tally, run.audit
    found: dict[str, Any] = {
        "scenario": run.scenario,
        "run": run.id,
        "service_version": run.service_version,
        "started_at": f"{run.started_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "seconds": round(tally.elapsed_s, 3),
        "setup_seconds": round(run.setup_s, 3),
        "settings": run.settings.as_dict(),
        "model": "open" if run.settings.is_open else "closed",
        "seed": run.settings.seed,
        "generator": generator(run),
        "totals": totals(run),
        "refusals": measured.refusals,
        "errors": measured.errors,
        "retries": measured.retries,
        "operations": {
            name: _operation(histogram, tally.elapsed_s)
            for name, histogram in _by_count(measured.operations)
        },
        "timeline": list(_timeline(run)),
        "happened": _tally(tally) | {"restocked": run.restocked, "counted": run.counted},
        "audit": {
            "passed": audit.passed,
            "oversold": audit.oversold,
            "acknowledged": audit.acknowledged,
            "checks": [
                {
                    "name": str(about),
                    "passed": not check.differences.count,
                    "checked": check.checked,
                    "differences": check.differences.listed,
                    "count": check.differences.count,
                }
                for about, check in audit.checks.items()
            ],
        },
        "versions": {"stockade": run.service_version, "python": platform.python_version()},
        "machine": machine(),
    }
    if run.steps:
        found["find_limit"] = {"steps": [asdict(step) for step in run.steps], "knee": run.knee}
    if run.plan is not None and run.log is not None:
        found["log"] = _log(run.plan, run.log)
    return found


def totals(run: Run) -> dict[str, int]:
    """What was asked and what came of it: granted and refused are reservations, the rest requests.

    ``gave_up``: asked by who did not wait, so neither answered nor unanswered.
    """
    whole = run.measured.total()
    return {
        "asked": whole.asked,
        "answered": whole.answered,
        "granted": whole.granted,
        "refused": whole.refused,
        "errors": whole.errors,
        "unanswered": run.measured.unanswered,
        "gave_up": run.measured.gave_up,
        "replayed": run.measured.replayed,
    }


def generator(run: Run) -> dict[str, Any]:
    """Whether the harness itself was what held the run up."""
    late_ms = run.measured.late_us.quantile(0.99) / 1000
    busy = run.measured.busy_s / max(run.tally.elapsed_s, 1e-9) / run.processes
    if run.steps:  # what counts is why the search went no higher
        failed = [step for step in run.steps if not step.passed]
        late_ms = min(failed, key=lambda step: step.rate).late_p99_ms if failed else 0.0
    notes = []
    if run.settings.is_open and late_ms > LATE_MS:
        notes.append(f"it was {late_ms:.1f} ms late at the 99th percentile")
    if busy > BUSY:
        notes.append(f"it was busy for {busy:.0%} of the time")
    note = ""
    if notes:
        note = (
            f"the harness itself was the bottleneck: {' and '.join(notes)}; "
            f"{'the knee may be its own' if run.steps else 'latencies are too long'}: set more "
            "processes, where there are cores for them, or come more slowly"
        )
    return {
        "processes": run.processes,
        "bottleneck": bool(notes),
        "late_p99_ms": late_ms,
        "busy": round(busy, 3),
        "note": note,
    }


def summary(run: Run) -> str:
    """A few lines to read."""
    tally, audit, measured = run.tally, run.audit, run.measured
    whole, asked = totals(run), generator(run)
    amends, returns = _counted(tally.amends), _counted(tally.returns)
    lines = [] if run.plan is None else [_log_line(run.plan)]
    lines += [
        f"came      {tally.baskets:,} in {tally.elapsed_s:,.1f} s "
        f"({tally.baskets / tally.elapsed_s:,.0f}/s) after {run.setup_s:,.1f} s of set-up; "
        f"seed {run.settings.seed}",
        f"granted   {tally.granted:,}: paid {tally.paid:,}, fulfilled {tally.fulfilled:,}, "
        f"released {tally.released:,}, left to expire {tally.left_to_expire:,}, too late "
        f"{tally.too_late:,}, cancelled {tally.cancelled:,}",
        f"amended   {tally.amends.total():,}"
        + (f" ({amends})" if amends else "")
        + f", {tally.amends_refused:,} refused",
        f"cancelled {tally.units_cancelled:,} units in {tally.cancels:,} calls",
        f"returned  {tally.units_returned:,} units in {tally.returns.total():,} calls"
        + (f" ({returns})" if returns else ""),
        f"stock     {run.restocked:,} restocks, {run.counted:,} counts meanwhile",
        f"refused   {whole['refused']:,}" + _by(measured.refusals),
        f"repeated  {tally.repeated_calls:,} calls under their key, {tally.pressed_twice:,} "
        f"pressed twice, {tally.hasty:,} did not wait",
        f"retried   {sum(measured.retries.values()):,}" + _by(measured.retries),
        f"errors    {whole['errors']:,}" + _by(measured.errors),
        f"{'':12} {'calls':>9} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'p99.9':>8} {'max':>8}",
    ]
    for name, histogram in _by_count(measured.operations):
        row = _operation(histogram, tally.elapsed_s)
        times = " ".join(f"{row[key]:8.1f}" for key in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
        lines.append(f"{name:12} {row['count']:>9,} {row['rate_per_second']:>8,.0f} {times}")
    if grown := [look.memory_mib for look in run.looks if look.memory_mib is not None]:
        lines.append(f"memory    {grown[0]:,.0f} MiB at first, {grown[-1]:,.0f} MiB at last")
    lines += [
        f"step      {step.rate:>8,.0f}/s: answered {step.achieved:,.0f}/s, reserve p99 "
        f"{step.p99_ms:,.1f} ms, errors {step.errors:,}{'' if step.passed else ': did not pass'}"
        for step in run.steps
    ]
    if run.steps:
        lines.append(f"knee      {run.knee:,.0f} requests a second")
    if asked["note"]:
        lines.append(f"WARNING   {asked['note']}")
    lines.append(
        f"audit     {'passed' if audit.passed else f'{audit.count:,} DIFFERENCES'}: oversold "
        f"{audit.oversold:,}; "
        + ", ".join(f"{about} ({check.checked:,})" for about, check in audit.checks.items())
    )
    return "\n".join([*lines, *(f"  {text}" for text in audit.listed[:PRINTED_DIFFERENCES])])


def _log_line(plan: Survey) -> str:
    dirt = plan.dirt
    return (
        f"log       {plan.baskets:,} baskets, {plan.lines:,} lines, {len(plan.demand):,} pools; "
        f"left out: {dirt.zero_lines:,} lines of quantity 0, {dirt.empty_baskets:,} baskets of "
        f"nothing else, {dirt.malformed_rows:,} malformed rows; {dirt.large_baskets:,} in several "
        "reservations"
    )


def _log(plan: Survey, log: Path) -> dict[str, Any]:
    return {
        "file": log.name,
        "baskets": plan.baskets,
        "reservations": plan.reservations,
        "lines": plan.lines,
        "channels": {name: len(locations) for name, locations in plan.channels.items()},
        "pools": len(plan.demand),
        "units": sum(plan.demand.values()),
        **asdict(plan.dirt),
    }


def _timeline(run: Run) -> list[dict[str, Any]]:
    """One entry a second, with the last look at the stock by then."""
    seconds, looks = run.measured.seconds, iter(run.looks)
    coming = next(looks, None)
    stock: dict[str, Any] = {"on_hand": None, "available": None, "quota": {}, "memory_mib": None}
    entries = []
    for number in range(max(seconds, default=-1) + 1):
        second = seconds.get(number, Second())
        while coming is not None and coming.at_s < number + 1:
            stock = {
                "on_hand": coming.on_hand,
                "available": coming.available,
                "quota": coming.quota,
                "memory_mib": coming.memory_mib,
            }
            coming = next(looks, None)
        entry: dict[str, Any] = {
            "t": number,
            "asked": second.asked,
            "answered": second.answered,
            "granted": second.granted,
            "refused": second.refused,
            "errors": second.errors,
        }
        if second.answered:
            values = second.latency_us.quantiles((0.5, 0.99, 0.999))
            for name, value in zip(("p50_ms", "p99_ms", "p999_ms"), values, strict=True):
                entry[name] = value / 1000
        entries.append(entry | stock)
    return entries


def _operation(histogram: Histogram, seconds: float) -> dict[str, Any]:
    """One verb's calls in figures."""
    p50, p90, p99, p999 = histogram.quantiles((0.5, 0.9, 0.99, 0.999))
    return {
        "count": histogram.count,
        "rate_per_second": round(histogram.count / max(seconds, 1e-9), 1),
        "mean_ms": round(histogram.total / max(histogram.count, 1) / 1000, 3),
        "p50_ms": p50 / 1000,
        "p90_ms": p90 / 1000,
        "p99_ms": p99 / 1000,
        "p999_ms": p999 / 1000,
        "max_ms": histogram.maximum / 1000,
        "curve": [
            [round(share * 100, 4), value / 1000]
            for share, value in zip(CURVE, histogram.quantiles(CURVE), strict=True)
        ],
    }


def _by(counts: Mapping[str, int]) -> str:
    """What was counted in brackets, most of it first; nothing if it was nothing."""
    return f" ({_counted(Counter(counts))})" if counts else ""


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
    values = {name: getattr(tally, name) for name in tally.__struct_fields__}
    return {k: dict(v) if isinstance(v, Counter) else v for k, v in values.items()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _by_count(operations: dict[str, Histogram]) -> list[tuple[str, Histogram]]:
    return sorted(operations.items(), key=lambda item: -item[1].count)


def write(run: Run, directory: Path) -> None:
    """``report.json`` and, made of it, ``report.html``."""
    directory.mkdir(parents=True, exist_ok=True)
    written = orjson.dumps(document(run), option=orjson.OPT_INDENT_2) + b"\n"
    (directory / "report.json").write_bytes(written)
    page = render(msgspec.json.decode(written, type=Document))
    (directory / "report.html").write_text(page, "utf-8")
