"""A reconciliation as people and programs read it: text, JSON, CSV, one page of HTML.

A report is written piece by piece, so that a million differences need no more memory than one.
What was found is shown, whatever it is: nothing of it reaches a terminal, a spreadsheet or a
browser as anything but text.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

import msgspec

from api.reconciliations import Finding, Summary
from core.auditing.repair import Repair

COLUMNS = 100
CSV_COLUMNS = (
    "case", "state", "kind", "cause", "subject", "expected", "found", "units", "movements",
    "person", "note", "opened_at", "age_seconds",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one


class Report:
    """One report: ``head``, a piece per finding, one per repair, ``foot``. This is the text form.

    ``done`` is None for a list of cases.
    """

    def __init__(self, done: Summary | None, applied: bool) -> None:
        """``applied``: repairs were done, not only planned."""
        self.done = done
        self.applied = applied

    def head(self) -> Iterable[str]:
        """What stands before all findings."""
        done = self.done
        if done is None:
            return
        yield f"Reconciliation {done.id}, {done.started_at}, {done.seconds:.1f} s\n"
        yield f"  looked at    {_looked(done)}\n"
        yield f"  differences  {done.differences_total:,}\n"
        yield f"  variance     {done.variance_rate:.2%}{_variance(done)}\n"
        yield f"  oversold     {done.oversold.units:,} units, {done.oversold.orders:,} orders\n"
        yield _wrapped("  status       ", plain("; ".join([done.status, *done.reasons])))

    def finding(self, each: Finding) -> Iterable[str]:
        """One difference."""
        told = f"{each.units:,} units, {_age(each.age_seconds)} old"
        yield _wrapped(
            f"\nCase {each.case}, {each.state}: ", f"{each.cause}, {plain(each.subject)}, {told}"
        )
        yield _wrapped("  ", each.meaning)
        yield _wrapped("  expected   ", plain(each.expected) or "nothing")
        yield _wrapped("  found      ", plain(each.found) or "nothing")
        if each.movements:
            yield _wrapped("  movements  ", ", ".join(map(str, each.movements)))
        if each.note is not None:
            yield _wrapped("  note       ", plain(f"{each.note} ({each.person})"))

    def repair(self, each: Repair) -> Iterable[str]:
        """What became of a case, or would."""
        yield _wrapped(f"\nCase {each.case}: {_BECAME[each.state]}: ", plain(each.text))

    def foot(self, repaired: bool) -> Iterable[str]:
        """What stands behind all of it."""
        if repaired and not self.applied:
            yield "\nNothing was changed; with --yes it is done.\n"


class JsonReport(Report):
    """One document: the members of ``api.reconciliations.Document``, and ``repairs`` if asked."""

    _first = True
    _list = "differences"

    def head(self) -> Iterable[str]:
        whole = msgspec.json.encode(self.done).decode()[:-1] + "," if self.done else "{"
        yield f'{whole}"differences":['

    def finding(self, each: Finding) -> Iterable[str]:
        yield from self._item(each)

    def repair(self, each: Repair) -> Iterable[str]:
        if self._list != "repairs":
            yield '\n],"repairs":['
            self._list, self._first = "repairs", True
        yield from self._item(each)

    def foot(self, repaired: bool) -> Iterable[str]:
        if repaired and self._list != "repairs":
            yield '\n],"repairs":['
        yield "\n]}\n"

    def _item(self, each: Finding | Repair) -> Iterator[str]:
        yield ("\n" if self._first else ",\n") + msgspec.json.encode(each).decode()
        self._first = False


class CsvReport(Report):
    """The differences, a line each; what became of them stands in their state and note."""

    def head(self) -> Iterable[str]:
        yield _line(CSV_COLUMNS)

    def finding(self, each: Finding) -> Iterable[str]:
        cells = {**msgspec.structs.asdict(each), "movements": " ".join(map(str, each.movements))}
        yield _line([cells[name] for name in CSV_COLUMNS])

    def repair(self, each: Repair) -> Iterable[str]:
        return ()

    def foot(self, repaired: bool) -> Iterable[str]:
        return ()


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2530;background:#f6f7f9;margin:0}
main{max-width:70rem;margin:0 auto;padding:2rem 1.5rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .75rem}
p.when{color:#5b6673;margin:.25rem 0 1.5rem}
.badge{display:inline-block;padding:.1rem .7rem;border-radius:1rem;font-weight:600}
.normal{background:#d9f2e1;color:#115c2b}.watch{background:#fdf0cd;color:#6b4a00}
.alarm{background:#fbdcdc;color:#8c1616}
dl.figures{display:flex;flex-wrap:wrap;gap:.75rem;margin:1rem 0}
dl.figures div{background:#fff;border:1px solid #dfe3e8;border-radius:.5rem;padding:.6rem 1rem}
dt{color:#5b6673;font-size:.85rem}dd{margin:0;font-size:1.15rem;font-weight:600}
article{background:#fff;border:1px solid #dfe3e8;border-radius:.5rem;padding:1rem 1.25rem;
margin:0 0 .75rem}
article h3{font-size:1rem;margin:0 0 .25rem;overflow-wrap:anywhere}
article p{margin:.25rem 0}
table{border-collapse:collapse;margin-top:.5rem}
th{text-align:left;font-weight:500;color:#5b6673;padding:.1rem 1rem .1rem 0;vertical-align:top}
td{font-family:ui-monospace,monospace;font-size:.9rem;overflow-wrap:anywhere;
white-space:pre-wrap}
@media print{body{background:#fff}article{break-inside:avoid}}
""".strip()


class HtmlReport(Report):
    """One page that needs nothing from elsewhere."""

    _repairs = False

    def head(self) -> Iterable[str]:
        done = self.done
        title = "Cases" if done is None else f"Reconciliation {done.id}"
        yield (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            f"<title>Stockade: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
            f"<h1>{title}"
        )
        if done is None:
            yield "</h1>\n"
            return
        figures = {
            "looked at": _looked(done),
            "differences": f"{done.differences_total:,}",
            "variance": f"{done.variance_rate:.2%}{_variance(done)}",
            "oversold": f"{done.oversold.units:,} units, {done.oversold.orders:,} orders",
        }
        yield f' <span class="badge {done.status}">{done.status}</span></h1>\n'
        yield f'<p class="when">{done.started_at}, {done.seconds:.1f} s</p>\n'
        yield "".join(f"<p>{escape(plain(reason))}</p>\n" for reason in done.reasons)
        yield '<dl class="figures">\n'
        for name, value in figures.items():
            yield f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>\n"
        yield "</dl>\n"
        yield "<h2>Differences</h2>\n" if done.differences_total else "<p>No differences.</p>\n"

    def finding(self, each: Finding) -> Iterable[str]:
        rows: dict[str, Any] = {
            "expected": each.expected or "nothing",
            "found": each.found or "nothing",
            "movements": ", ".join(map(str, each.movements)),
            "note": "" if each.note is None else f"{each.note} ({each.person})",
        }
        yield (
            f"<article>\n<h3>Case {each.case}: {escape(plain(each.subject))}</h3>\n"
            f"<p>{escape(each.cause)}, {each.units:,} units, {each.state}, "
            f"{_age(each.age_seconds)} old</p>\n<p>{escape(each.meaning)}</p>\n<table>\n"
        )
        for name, value in rows.items():
            if value:
                yield f"<tr><th>{name}</th><td>{escape(plain(value))}</td></tr>\n"
        yield "</table>\n</article>\n"

    def repair(self, each: Repair) -> Iterable[str]:
        if not self._repairs:
            self._repairs = True
            yield "<h2>Repairs</h2>\n"
        yield (
            f"<article>\n<h3>Case {each.case}: {escape(plain(each.subject))}</h3>\n"
            f"<p>{_BECAME[each.state]}: {escape(plain(each.text))}</p>\n</article>\n"
        )

    def foot(self, repaired: bool) -> Iterable[str]:
        for line in super().foot(repaired):
            yield f"<p>{escape(line.strip())}</p>\n"
        yield "</main>\n</body>\n</html>\n"


FORMS = {"text": Report, "json": JsonReport, "csv": CsvReport, "html": HtmlReport}
_BECAME = {"planned": "would be repaired", "done": "repaired", "left": "left as it is"}


def plain(text: str) -> str:
    """Text with nothing in it that a terminal would do, or that hides."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _line(cells: Iterable[Any]) -> str:
    """A line of CSV of which no cell is a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(each) for each in cells])
    return out.getvalue()


def _cell(value: Any) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _wrapped(label: str, text: str) -> str:
    """Text behind its label, in as many lines as it takes."""
    start = label.lstrip("\n")
    lines = textwrap.wrap(
        text, COLUMNS - len(start), break_on_hyphens=False, replace_whitespace=False
    ) or [""]
    edge = "\n" + " " * len(start)
    return f"{label}{edge.join(lines)}\n"


def _looked(done: Summary) -> str:
    counts = f", {done.counts:,} counts" if done.counts else ""
    return (
        f"{done.pools:,} pools, {done.reservations:,} reservations{counts}, ledger at position "
        f"{done.position:,}"
    )


def _variance(done: Summary) -> str:
    variance = done.variance
    told = f": {variance.units_off:,} of {variance.on_hand:,} units"
    if done.counts:
        told += f", {variance.counted_off:,} of {variance.counted_on_hand:,} counted"
    return told


def _age(seconds: int) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
