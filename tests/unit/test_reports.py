"""Reports of a reconciliation: whatever was found is text, in every form."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from api.reconciliations import Document, Finding, Oversold, Summary, Variance
from api.reports import COLUMNS, CSV_COLUMNS, FORMS, plain
from core.auditing.differences import CAUSES
from core.auditing.repair import Repair

HOSTILE = "=cmd|'/c calc'!A1 <script>alert(1)</script> \x1b[31m\u202e\n\"'&"
AT = "2026-11-26T03:30:00.000Z"


def done(differences: int) -> Summary:
    return Summary(
        id=7, status="watch", reasons=[HOSTILE], checked=6, pools=3, reservations=2, counts=1,
        position=4_711, differences_total=differences, variance_rate=0.0123,
        variance=Variance(1_000, 12, 100, 1), oversold=Oversold(2, 1), started_at=AT,
        finished_at=AT, seconds=0.5, night=None, sku=None, whole=False,
    )  # fmt: skip


def found(**changed: Any) -> Finding:
    values: dict[str, Any] = {
        "case": 3, "kind": "record", "subject": HOSTILE, "cause": "record_edited",
        "meaning": CAUSES["record_edited"], "expected": HOSTILE * 4, "found": "", "units": 5,
        "movements": [9, 8], "state": "explained", "person": HOSTILE, "note": HOSTILE,
        "opened_at": AT, "age_seconds": 200_000,
    }  # fmt: skip
    return Finding(**values | changed)


def told(form: str, findings: list[Finding], repairs: list[Repair], applied: bool = False) -> str:
    report = FORMS[form](done(len(findings)), applied)
    pieces = [*report.head()]
    for each in findings:
        pieces += report.finding(each)
    for repair in repairs:
        pieces += report.repair(repair)
    return "".join([*pieces, *report.foot(bool(repairs))])


REPAIRS = [Repair(3, HOSTILE, "planned", HOSTILE), Repair(4, "tee@main", "left", "a person")]


def test_text_fits_a_terminal_and_does_nothing_to_it() -> None:
    text = told("text", [found()], REPAIRS)
    for line in text.split("\n"):
        assert len(line) <= COLUMNS
        assert line.isprintable(), line
    assert "Case 3, explained: record_edited, " in text
    assert "2 days old" in text
    assert "variance     1.23%: 12 of 1,000 units, 1 of 100 counted" in text
    assert "Nothing was changed; with --yes it is done." in text
    assert "Nothing was changed" not in told("text", [found()], REPAIRS, applied=True)


def test_json_is_the_document() -> None:
    for repairs in ([], REPAIRS):
        for findings in ([], [found(), found(case=4, movements=[])]):
            document = json.loads(told("json", findings, repairs))
            assert [each["subject"] for each in document["differences"]] == [
                HOSTILE for _ in findings
            ]
            assert ("repairs" in document) == bool(repairs)
            document.pop("repairs", None)
            decoded = msgspec.convert(document, Document)
            assert decoded.differences == findings
            assert (decoded.checked, decoded.position, decoded.variance_rate) == (6, 4_711, 0.0123)


def test_json_of_repairs_that_were_not_needed() -> None:
    report = FORMS["json"](done(0), False)
    text = "".join([*report.head(), *report.foot(True)])
    assert json.loads(text)["repairs"] == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formula(start: str) -> None:
    text = told("csv", [found(subject=f"{start}1+1", note=f"{start}x")], REPAIRS)
    names, row = csv.reader(io.StringIO(text))
    assert tuple(names) == CSV_COLUMNS
    cells = dict(zip(names, row, strict=True))
    assert (cells["case"], cells["units"], cells["movements"]) == ("3", "5", "9 8")
    for value in row:
        assert not value.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cells["subject"].endswith("1+1")


class Page(HTMLParser):
    """Which elements a page has, whether they are closed, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_a_hostile_text_as_text() -> None:
    """Nothing is loaded, nothing is run, nothing is left open."""
    page = Page(told("html", [found(), found(state="open", note=None)], REPAIRS))
    assert page.open == []
    assert {"script", "img", "link", "a", "iframe"}.isdisjoint(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "onclick", "style")]
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "\x1b" not in page.text
    assert page.tags.count("article") == 4
    calm = Page(told("html", [], []))
    assert "No differences." in calm.text


def test_cases_alone() -> None:
    """A list of cases has no figures before it."""
    for form, kind in FORMS.items():
        report = kind(None, False)
        text = "".join([*report.head(), *report.finding(found()), *report.foot(False)])
        assert "record_edited" in text, form
        assert "variance" not in text.partition("</style>")[2 if form == "html" else 0]


def test_plain() -> None:
    assert plain("tee\x1b[0m\u202e\n é") == r"tee\x1b[0m\u202e\n é"
