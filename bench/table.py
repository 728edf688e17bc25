"""A figure of the comparison table, its verdict, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

COLUMNS = ("figure", "ours", "other", "ratio (min-max)", "bar", "aim", "verdict")
WIDTHS = (58, 11, 11, 22, 8, 8, 8)


@dataclass
class Figure:
    """One line of the table.

    ``ours`` and ``other`` hold one value per round and are compared round by round. A figure with
    no ``other`` is a value of its own, like bytes per reservation.
    """

    name: str
    ours: list[float]
    other: list[float] = field(default_factory=list)
    bar: float | None = None
    aim: float | None = None
    at_most: bool = False  # a cost: bar and aim are upper bounds
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Per round, or the values themselves if there is nothing to compare with."""
        if not self.other:
            return self.ours
        return [mine / theirs for mine, theirs in zip(self.ours, self.other, strict=True)]

    @property
    def verdict(self) -> str:
        """``met`` (the aim, or the bar where there is no aim), ``bar met``, ``below``, or ``-``."""
        if self.bar is None:
            return "-"
        value = median(self.ratios)
        if not self._reaches(value, self.bar):
            return "above" if self.at_most else "below"
        return "met" if self.aim is None or self._reaches(value, self.aim) else "bar met"

    def _reaches(self, value: float, mark: float) -> bool:
        return value <= mark if self.at_most else value >= mark

    def cells(self) -> tuple[str, ...]:
        """The line as texts."""
        ratios = self.ratios
        span = f"{_ratio(median(ratios))} ({_ratio(min(ratios))}-{_ratio(max(ratios))})"
        sign = "<= " if self.at_most else ">= "
        return (
            self.name,
            _count(median(self.ours)),
            _count(median(self.other)) if self.other else "",
            span if self.other or len(ratios) > 1 else "",
            "" if self.bar is None else sign + _count(self.bar),
            "" if self.aim is None else sign + _count(self.aim),
            self.verdict,
        )

    def document(self) -> dict[str, Any]:
        """The line for JSON, with every round."""
        ratios = self.ratios
        return asdict(self) | {
            "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
            "verdict": self.verdict,
        }


def heading() -> str:
    """The first two lines of the table."""
    return f"{_line(COLUMNS)}\n{_line('-' * width for width in WIDTHS)}"


def lines(figure: Figure) -> str:
    """The figure, with its note below it."""
    note = f"\n    {figure.note}" if figure.note else ""
    return _line(figure.cells()) + note


def _line(cells: Iterable[str]) -> str:
    first, *rest = zip(cells, WIDTHS, strict=True)
    padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return "  ".join(padded).rstrip()


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
