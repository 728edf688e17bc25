"""What ``python -m bench peers`` found: in Markdown for docs/PERFORMANCE.md, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.contest import Condition, Result
from loadtest.plots import bar_chart, standalone


def markdown(results: Sequence[Result]) -> str:
    """Grants, refusals, and the pools that did best."""
    parts = []
    for title, granted in (("granted", True), ("refused", False)):
        chosen = [result for result in results if result.condition.granted is granted]
        if chosen:
            names = list(chosen[0].rates)
            parts.append(_table([title, *names], [_rates(result) for result in chosen]))
    tried = [result for result in results if result.connections]
    if tried:
        names = list(tried[0].connections)
        rows = [
            [str(each.condition), *(str(each.connections[name]) for name in names)]
            for each in tried
        ]
        parts.append(_table(["connections that did best", *names], rows))
    return "\n\n".join(parts)


def plot(results: Sequence[Result]) -> str:
    """Calls a second of all of them, on a logarithmic scale; nothing where nobody was answered."""
    chart = bar_chart(
        "Beside what shops write themselves",
        "Reservations granted, or refused, a second, at the same durability; medians of the rounds",
        [_short(result.condition) for result in results],
        [
            (name, [round(median(result.rates[name])) or None for result in results])
            for name in results[0].rates
        ],
        "a second",
        log=True,
    )
    return standalone(chart)


def _short(condition: Condition) -> str:
    where = "hot" if condition.skus == 1 else "uniform"
    return f"{where}, {condition.callers}, {'granted' if condition.granted else 'refused'}"


def _rates(result: Result) -> list[str]:
    """A row: calls a second, and how many times theirs ours is."""
    (_, ours), *others = result.rates.items()
    where = str(result.condition).rpartition(", ")[0]
    return [where, f"{median(ours):,.0f}/s", *(_against(ours, theirs) for _, theirs in others)]


def _against(ours: list[float], theirs: list[float]) -> str:
    """Their rate, and ours as a multiple of it, round by round; none where they made nothing."""
    rate = f"{median(theirs):,.0f}/s"
    if not all(theirs):
        return f"{rate}: –"
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return f"{rate}: {_ratio(median(ratios))} × ({_ratio(min(ratios))}–{_ratio(max(ratios))})"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
