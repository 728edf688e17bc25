"""What ``stockade top`` makes of two scrapes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from api.metrics import render
from api.top import ALARM, Between, Line, Scrape, _show, lines, top
from core.errors import StartRefused, StockUnavailable
from core.meters import Meters, merged
from core.sheets import Book


def scraped(book: Book, at: float) -> Scrape:
    text, _ = render(merged(book.used()), "text/plain")
    return Scrape(text.decode(), at)


@pytest.fixture
def book() -> Book:
    return Book()


def test_rates_and_quantiles_are_of_what_lies_between(book: Book) -> None:
    meters = Meters(book.sheet(1))
    for _ in range(50):
        meters.ended("reserve", "web", repeated=False)
        meters.flights.observe((), 9.0)
    before = scraped(book, 100.0)
    for number in range(10):
        meters.ended("reserve", "web", repeated=False)
        meters.ended("commit", "store", repeated=True)
        meters.flights.observe((), 0.002 if number < 9 else 0.2)
    found = Between(before, scraped(book, 102.0))
    name = "stockade_reservations_total"
    assert found.rate(name, verb="reserve", outcome="done") == 5.0
    assert found.rates("outcome", name) == {"done": 5.0, "repeated": 5.0}
    assert found.rates("outcome", name, channel="nowhere") == {}
    times = "stockade_script_duration_seconds"
    assert 0.001 < (found.quantile(0.5, times) or 0) <= 0.0025
    assert 0.1 < (found.quantile(0.99, times) or 0) <= 0.25
    assert found.quantile(0.5, "stockade_queue_wait_seconds") is None


def test_what_is_wrong_stands_out(book: Book) -> None:
    meters = Meters(book.sheet(1))
    meters.beat(0, "closed")
    meters.show("stockade_deficit_units", 3)
    scrape = scraped(book, 1.0)
    shown = lines("http://here", Between(scrape, scrape))
    wrong = [text for text, style in shown if style == ALARM]
    assert any("1 closed" in text for text in wrong)
    assert any("deficit 3" in text for text in wrong)
    assert any("AWAY" in text for text in wrong)
    assert all(len(line.text) <= 90 for line in shown)
    assert len(shown) <= 30


def test_a_small_terminal_gets_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "4")
    screen = io.StringIO()
    _show(screen, [Line("0123456789more")] * 9)
    drawn = screen.getvalue().split("\r\n")
    assert len(drawn) == 3
    assert not any("more" in each for each in drawn)


def test_who_cannot_be_asked_is_told_of_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="begins with http"):
        top("127.0.0.1:1", None, 1.0, once=True)
    with pytest.raises(StartRefused, match="cannot be read"):
        top("http://127.0.0.1:1", tmp_path / "none", 1.0, once=True)
    with pytest.raises(StockUnavailable, match="cannot be reached"):
        top("http://127.0.0.1:1", None, 1.0, once=True)
