"""``python -m loadtest compare A.json B.json``: how B did beside A, figure by figure.

Exit code 0: compared; 1: ``--fail-above`` was passed; 2: they cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from loadtest.document import Document, NotAReport, read
from loadtest.live import printable

BEYOND_MIN = 10  # a percentile with fewer values beyond it is chance
LATENCIES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
WIDTHS = (30, 14, 14, 9)


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    unit: str
    a: float
    b: float
    judged: int = 0  # by ``--fail-above``: 1 if more is worse, -1 if less is
    sure: bool = True  # enough was counted for the ratio to mean something

    @property
    def ratio(self) -> float | None:
        """B/A; None where A is nothing."""
        return self.b / self.a if self.a else None

    def passes(self, limit: float) -> bool:
        """False if it is judged and B is worse than A by more than ``limit``."""
        if not self.sure:
            return True
        more, less = (self.b, self.a) if self.judged > 0 else (self.a, self.b)
        return not self.judged or more <= less * limit


def comparable(a: Document, b: Document) -> None:
    """Raises NotAReport, saying why, unless the two runs did the same thing."""
    for what, left, right in (
        ("scenario", a.scenario, b.scenario),
        ("model", a.model, b.model),
    ):
        if left != right:
            raise NotAReport(
                f"not comparable: A has {what} {left}, B has {right}; compare runs of the same one"
            )
    if (a.find_limit is None) != (b.find_limit is None):
        raise NotAReport("not comparable: only one of the two searched for the limit")
    for name, run in (("A", a), ("B", b)):
        if not run.totals.answered or run.seconds <= 0:
            raise NotAReport(f"not comparable: nothing was answered in {name}")


def figures(a: Document, b: Document) -> list[Figure]:
    """What matters of the two, in the order of the table."""
    return [*_totals(a, b), *_knee(a, b), *_operations(a, b)]


def _totals(a: Document, b: Document) -> Iterator[Figure]:
    for name, judged in (("asked", 0), ("answered", -1), ("granted", 0)):
        left, right = (getattr(run.totals, name) / run.seconds for run in (a, b))
        yield Figure(name, "/s", left, right, judged)
    for name in ("refused", "errors", "unanswered"):
        left, right = (100 * getattr(run.totals, name) / max(run.totals.asked, 1) for run in (a, b))
        yield Figure(name, "%", left, right)
    yield Figure("oversold", "units", a.audit.oversold, b.audit.oversold)
    yield Figure("sent late, p99", "ms", a.generator.late_p99_ms, b.generator.late_p99_ms)


def _knee(a: Document, b: Document) -> Iterator[Figure]:
    if a.find_limit and b.find_limit:
        yield Figure("knee", "/s", a.find_limit.knee, b.find_limit.knee, judged=-1)


def _operations(a: Document, b: Document) -> Iterator[Figure]:
    for name in [each for each in a.operations if each in b.operations]:
        left, right = a.operations[name], b.operations[name]
        yield Figure(name, "/s", left.rate_per_second, right.rate_per_second)
        for label, share in LATENCIES:
            yield Figure(
                f"{name} {label.replace('999', '99.9')}",
                "ms",
                getattr(left, f"{label}_ms"),
                getattr(right, f"{label}_ms"),
                judged=int(label == "p99"),
                sure=min(left.count, right.count) * (1 - share) >= BEYOND_MIN,
            )


def differences(a: Document, b: Document) -> list[str]:
    """What was not the same for both, and what makes a run worth little."""
    found = [
        f"setting {key}: A {a.settings.get(key, 'none')}, B {b.settings.get(key, 'none')}"
        for key in sorted(a.settings.keys() | b.settings.keys())
        if a.settings.get(key) != b.settings.get(key) and key != "seed"
    ]
    if a.generator.processes != b.generator.processes:
        found.append(f"generators: A {a.generator.processes}, B {b.generator.processes}")
    for key in sorted(a.machine.keys() | b.machine.keys()):
        if a.machine.get(key) != b.machine.get(key):
            found.append(f"machine {key}: A {a.machine.get(key)}, B {b.machine.get(key)}")
    for name, one, other in (("A", a, b), ("B", b, a)):
        for each in sorted(one.operations.keys() - other.operations.keys()):
            found.append(f"only {name} has the operation {each}")
    for name, run in (("A", a), ("B", b)):
        if run.generator.bottleneck:
            found.append(f"the generator was the bottleneck in {name}: its times are not all ours")
        if not run.audit.passed:
            found.append(f"{name} did not pass its audit")
    return found


def table(a: Document, b: Document, fail_above: float | None = None) -> tuple[str, bool]:
    """The text, and whether B is within the limit. Raises NotAReport if they do not compare."""
    comparable(a, b)
    lines = [
        f"{a.scenario}, {a.model} model",
        *(
            f"{name}  run {run.run}, service {run.service_version}, {run.started_at}, "
            f"{run.seconds:,.0f} s, seed {run.seed}"
            for name, run in (("A", a), ("B", b))
        ),
        *(f"!  {each}" for each in differences(a, b)),
        "",
        _row("", "A", "B", "B/A"),
    ]
    above = []
    shown = figures(a, b)
    for figure in shown:
        fails = fail_above is not None and not figure.passes(fail_above)
        if fails:
            above.append(figure.name)
        lines.append(_line(figure) + ("  <" if fails else ""))
    lines.append("")
    if not all(figure.sure for figure in shown):
        lines.append(f"(…) fewer than {BEYOND_MIN} values lie beyond that percentile: chance")
    if fail_above is not None:
        verdict = f"worse by more than {fail_above:g}: {', '.join(above)}" if above else "passed"
        lines.append(f"--fail-above {fail_above:g}: {verdict}")
    return "\n".join(map(printable, lines)), not above


def _line(figure: Figure) -> str:
    ratio = "-" if figure.ratio is None else f"{figure.ratio:.2f}"
    name = f"{figure.name}, {figure.unit}"
    return _row(name, _number(figure.a), _number(figure.b), ratio if figure.sure else f"({ratio})")


def _row(name: str, *cells: str) -> str:
    columns = zip(cells, WIDTHS[1:], strict=True)
    return f"{name:<{WIDTHS[0]}}" + "".join(f"{cell:>{width}}" for cell, width in columns)


def _number(value: float) -> str:
    """Three figures, or whole above a hundred."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _limit(text: str) -> float:
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError("is a ratio of at least 1, such as 1.2")
    return value


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest compare", description="Two reports, figure by figure."
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="what it is compared with")
    parser.add_argument("b", type=Path, metavar="B.json", help="the run in question")
    parser.add_argument(
        "--fail-above",
        type=_limit,
        metavar="RATIO",
        help="exit code 1 if a p99, the rate answered or the knee of B is worse than A's by more "
        "than this, e.g. 1.2",
    )
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    """Prints the table; the exit code."""
    arguments = _arguments(given)
    try:
        text, within = table(read(arguments.a), read(arguments.b), arguments.fail_above)
    except NotAReport as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return 0 if within else 1
