"""What a run shows while it goes, on a terminal that is played here."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable

import pytest

from loadtest import live
from loadtest.live import HIDE, PLAIN_S, REDRAW_S, SHOW, Live, Progress, Snapshot, line, lines

NOW = Snapshot(
    elapsed_s=42.0, share=0.3599, asked=31_204, granted=812, refused=30_270,
    errors=18, rate_asked=2_412.0, rate_achieved=2_398.4, p50_ms=1.9, p99_ms=11.7, p999_ms=48.0,
    remaining=188,
)  # fmt: skip


class Terminal(io.StringIO):
    """Plays what is written: the screen is what a person sees of it."""

    def __init__(self, terminal: bool = True) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def screen(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif part.endswith("A") and part[0] == "\x1b":
                row -= int(part[2:-1])
                assert row >= 0, "above what it has drawn"
            elif part == live.END_OF_LINE:
                rows[row] = rows[row][:column]
            elif part == live.END_OF_SCREEN:
                rows[row:] = [rows[row][:column]]
            elif part[0] != "\x1b":
                rows[row] = rows[row][:column] + part + rows[row][column + len(part) :]
                column += len(part)
        return rows


def at(now: Snapshot) -> Callable[[], Snapshot]:
    """A look at it."""
    return lambda: now


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(live, "time", made)
    return made


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))


@pytest.mark.parametrize("width", [1, 12, 30, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    for now in (NOW, NOW._replace(oversold=3, asked=10**12, p999_ms=1e9), Snapshot(0.0, 0.0)):
        shown = lines("flash-sale", now, width)
        assert all(len(each) <= width for each in shown)
        assert len(shown) <= 16


def test_all_that_matters_is_on_the_screen() -> None:
    for width in (40, 80):
        text = "\n".join(lines("flash-sale", NOW, width))
        for said in (
            "flash-sale", "0:42 35%", "asked 2,412/s", "achieved 2,398/s", "granted 812",
            "refused 30,270", "errors 18", "31,204 so far", "p50 1.90 ms", "p99 12 ms",
            "p99.9 48 ms",
            "remaining 188", "oversold 0",
        ):  # fmt: skip
            assert said in text
    assert len(lines("flash-sale", NOW, 80)) == 5
    assert "OVERSOLD 3" in "\n".join(lines("x", NOW._replace(oversold=3), 80))


def test_the_bar_fills() -> None:
    assert live.bar(0, 10, 4) == "····"
    assert live.bar(5, 10, 4) == "██··"
    assert live.bar(11, 10, 4) == live.bar(0, 0, 4) == "████"


def test_pictures_are_drawn_over_each_other(clock: Clock) -> None:
    terminal = Terminal()
    with Live("flash-sale", terminal) as shown:
        for number in range(5):
            shown.show(at(NOW._replace(granted=10**number)))
            clock.now_s += REDRAW_S
    assert terminal.screen == [*lines("flash-sale", NOW._replace(granted=10_000), 79), ""]
    assert terminal.getvalue().startswith(HIDE)
    assert terminal.getvalue().endswith(SHOW)


def test_a_shorter_picture_leaves_nothing_of_a_longer_one(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    with Live("sale", terminal) as shown:
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((30, 24)))
        shown.show(at(NOW))
        clock.now_s += REDRAW_S
        monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((80, 3)))
        shown.show(at(NOW))
    assert terminal.screen == [*lines("sale", NOW, 79)[:2], ""]


def test_it_draws_at_most_four_times_a_second_and_the_last_at_the_end(clock: Clock) -> None:
    terminal = Terminal()
    with Live("sale", terminal) as shown:
        for number in range(100):
            shown.show(at(NOW._replace(granted=number)))
            clock.now_s += 0.01
        drawn = terminal.getvalue().count(live.END_OF_SCREEN)
    assert drawn == 4
    assert "granted 99" in "\n".join(terminal.screen)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_cursor_comes_back_whatever_happens(error: type[BaseException]) -> None:
    terminal = Terminal()

    def run() -> None:
        with Live("sale", terminal) as shown:
            shown.show(at(NOW))
            raise error

    with pytest.raises(error):
        run()
    assert terminal.getvalue().endswith(SHOW)
    assert terminal.screen[-1] == ""


def test_elsewhere_it_is_a_line_now_and_then(clock: Clock) -> None:
    file = Terminal(terminal=False)
    with Live("sale", file) as shown:
        for second in range(11):
            shown.show(at(NOW._replace(elapsed_s=float(second))))
            clock.now_s += 1.0
    told = file.getvalue().splitlines()
    assert len(told) == 1 + 10 // PLAIN_S + 1  # at the end, too
    assert told[0] == line("sale", NOW._replace(elapsed_s=0.0))
    assert "\x1b" not in file.getvalue()
    assert "granted 812, refused 30,270, errors 18" in told[0]


def test_no_name_steers_the_terminal() -> None:
    assert "\x1b" not in "".join(lines("\x1b[2Jsale\n", NOW, 80)) + line("\x1b[2Jsale", NOW)


def test_a_phase_is_shown_till_it_is_over(clock: Clock) -> None:
    terminal = Terminal()
    progress = Progress("audit", 1_000, lambda: "3 differences", stream=terminal)
    for _ in range(10):
        clock.now_s += REDRAW_S
        progress.step(100)
    assert terminal.screen == [
        "audit     ████████████████ 1,000/1,000 400/s 0:00 left 3 differences", ""
    ]  # fmt: skip


def test_a_phase_that_is_soon_over_is_told_once_in_a_file() -> None:
    file = Terminal(terminal=False)
    progress = Progress("stock", 3, stream=file)
    for _ in range(3):
        progress.step()
    assert len(file.getvalue().splitlines()) == 1
    assert file.getvalue().startswith("stock     3/3 ")


def test_a_phase_without_a_total_ends_when_it_is_told(clock: Clock) -> None:
    terminal = Terminal()
    progress = Progress("ledger", stream=terminal)
    for _ in range(3):
        clock.now_s += REDRAW_S
        progress.step(50)
    assert terminal.screen == ["ledger    150 200/s"]
    progress.end()
    assert terminal.screen == ["ledger    150 200/s", ""]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.834, "0.83 ms"), (48.2, "48 ms"), (2_048.0, "2,048 ms"), (12_345, "12.3 s")],
)
def test_latencies_are_as_precise_as_they_matter(value: float | None, text: str) -> None:
    assert live.ms(value) == text
