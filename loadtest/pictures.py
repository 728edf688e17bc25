"""Which plots a report gets, and what each of them says in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from loadtest import scales
from loadtest.document import Document, Moment
from loadtest.plots import Mark, Series, bar_chart, heat_map, line_chart

LINES_MAX = 8  # more channels than that are told apart by place, not by colour
COLUMNS_MAX = 160  # of a heat map
BLUE, VERMILION, TEAL, PURPLE, OCHRE, GREY = 0, 1, 2, 3, 4, 7
RATES = (("asked", GREY), ("answered", BLUE), ("granted", TEAL), ("refused", OCHRE),
         ("errors", VERMILION))  # fmt: skip
LATENCIES = (("p50", "p50_ms", BLUE), ("p99", "p99_ms", PURPLE), ("p99.9", "p999_ms", VERMILION))
STOCK = (("on hand", "on_hand", GREY), ("available", "available", BLUE))


class Picture(NamedTuple):
    """A plot with its heading and what it says."""

    title: str
    text: str
    plot: str


def pictures(run: Document) -> Iterator[Picture]:
    """All that there is something to draw for, in reading order."""
    if run.timeline:
        yield _throughput(run)
        if any(moment.answered and moment.p99_ms is not None for moment in run.timeline):
            yield _latency(run)
    if any(operation.curve for operation in run.operations.values()):
        yield _percentiles(run)
    if any(moment.available is not None for moment in run.timeline):
        yield _stock(run)
    if any(moment.quota for moment in run.timeline):
        yield _quotas(run)
    if any(run.refusals.values()):
        yield _refusals(run)
    if run.find_limit and run.find_limit.steps:
        yield _limit(run)


def _throughput(run: Document) -> Picture:
    series = [
        Series(name, _points(run.timeline, name), colour, dashed=name == "asked")
        for name, colour in RATES
        if name != "errors" or any(moment.errors for moment in run.timeline)
    ]
    top = max(run.timeline, key=lambda moment: moment.asked)
    text = (
        f"Most was asked {_at(top)}: {top.asked:,} requests; {top.answered:,} were answered "
        f"then. At most {max(m.answered for m in run.timeline):,} were "
        "answered in a second."
    )
    title = "Throughput over time"
    return Picture(title, text, _over_time(title, text, series, "per second", run))


def _latency(run: Document) -> Picture:
    series = [
        Series(name, _points(run.timeline, member), colour) for name, member, colour in LATENCIES
    ]
    worst = max(run.timeline, key=lambda moment: moment.p99_ms or 0.0)
    text = (
        f"The p99 was highest {_at(worst)}: {_ms(worst.p99_ms or 0.0)}. Timed from when a request "
        "was meant to be sent."
        if run.model == "open"
        else f"The p99 was highest {_at(worst)}: {_ms(worst.p99_ms or 0.0)}."
    )
    title = "Latency over time"
    return Picture(title, text, _over_time(title, text, series, "latency, ms", run, scales.fitting))


def _percentiles(run: Document) -> Picture:
    series = []
    for name, operation in run.operations.items():
        # The slowest call is drawn where it lies: nothing is beyond 100 %.
        last = 100 * (1 - 1 / max(operation.count, 2))
        points = [(min(percentile, last), ms) for percentile, ms in operation.curve]
        series.append(Series(name, points))
    title = "Latency by percentile"
    text = "; ".join(
        f"{name}: p50 {_ms(each.p50_ms)}, p99 {_ms(each.p99_ms)}, slowest {_ms(each.max_ms)}"
        for name, each in run.operations.items()
    )
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points if y is not None]
    plot = line_chart(
        title,
        text,
        series,
        ("percentile", scales.percentile(xs)),
        ("latency, ms", scales.fitting(ys)),
    )
    return Picture(title, f"{text}.", plot)


def _stock(run: Document) -> Picture:
    series = [
        Series(name, _points(run.timeline, member), colour)
        for name, member, colour in STOCK
        if any(getattr(moment, member) is not None for moment in run.timeline)
    ]
    seen = [moment for moment in run.timeline if moment.available is not None]
    gone = next((moment for moment in seen if moment.available == 0), None)
    text = (
        f"{seen[0].available:,} units were available at first, {seen[-1].available:,} at the end; "
        + (f"first sold out {_at(gone)}." if gone else "never sold out.")
    )
    title = "Stock"
    return Picture(title, text, _over_time(title, text, series, "units", run))


def _quotas(run: Document) -> Picture:
    names = list(dict.fromkeys(name for moment in run.timeline for name in moment.quota))
    title = "Quota left by channel"
    last = next(moment for moment in reversed(run.timeline) if moment.quota)
    empty = sum(not units for units in last.quota.values())
    text = (
        f"At the end {sum(last.quota.values()):,} units were left; {empty:,} of {len(names):,} "
        f"channel{'s' if len(names) > 1 else ''} had none."
    )
    if len(names) <= LINES_MAX:
        series = [Series(name, [(m.t, m.quota.get(name)) for m in run.timeline]) for name in names]
        return Picture(title, text, _over_time(title, text, series, "units left", run))
    text += " The fuller the colour, the more is left of the most that the channel had."
    every = max(1, len(run.timeline) // COLUMNS_MAX)
    shown = run.timeline[::every]
    rows = []
    for name in names:
        most = max(moment.quota.get(name, 0) for moment in run.timeline)
        left = [moment.quota.get(name) for moment in shown]
        rows.append((name, [None if units is None else units / max(most, 1) for units in left]))
    times = [moment.t for moment in shown]
    plot = heat_map(title, text, rows, ("time", scales.time(times)), times)
    return Picture(title, text, plot)


def _refusals(run: Document) -> Picture:
    known = sorted(run.refusals.items(), key=lambda item: -item[1])
    most, count = known[0]
    share = 100 * count / sum(run.refusals.values())
    text = f"Most often {most}: {share:.0f} % of {sum(run.refusals.values()):,} refusals."
    title = "Refusals by reason"
    names, counts = [name for name, _ in known], [float(count) for _, count in known]
    return Picture(title, text, bar_chart(title, text, names, [("refused", counts)], "requests"))


def _limit(run: Document) -> Picture:
    assert run.find_limit is not None
    steps = sorted(run.find_limit.steps, key=lambda step: step.rate)
    kinds = (("within the bounds", True, BLUE), ("beyond them", False, VERMILION))
    series = [
        Series(name, [(step.rate, step.p99_ms) for step in steps if step.passed is passed], colour)
        for name, passed, colour in kinds
        if any(step.passed is passed for step in steps)
    ]
    knee = run.find_limit.knee
    title = "Search for the limit"
    text = f"The highest rate within the bounds was {knee:,.0f} requests per second."
    plot = line_chart(
        title,
        text,
        series,
        ("requests per second", scales.linear([step.rate for step in steps])),
        ("p99, ms", scales.fitting([step.p99_ms for step in steps])),
        [Mark(knee, f"knee {knee:,.0f}/s")] if knee > 0 else [],
    )
    return Picture(title, text, plot)


def _over_time(
    title: str,
    text: str,
    series: Sequence[Series],
    label: str,
    run: Document,
    scale: Callable[[Sequence[float]], scales.Scale] = scales.linear,
) -> str:
    values = [y for each in series for _, y in each.points if y is not None]
    times = scales.time([moment.t for moment in run.timeline])
    return line_chart(title, text, series, ("time", times), (label, scale(values)))


def _points(timeline: Sequence[Moment], member: str) -> list[tuple[float, float | None]]:
    if member.endswith("_ms"):  # of a second without an answer there is no latency
        return [(m.t, getattr(m, member) if m.answered else None) for m in timeline]
    return [(moment.t, getattr(moment, member)) for moment in timeline]


def _at(moment: Moment) -> str:
    return f"{moment.t:,.0f} s after the start" if moment.t >= 1 else "in the first second"


def _ms(value: float) -> str:
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f} ms"
