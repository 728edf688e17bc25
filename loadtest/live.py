"""What a run does, while it does it: a few lines drawn over themselves at a terminal.

Elsewhere (a file, a CI log) it is a plain line every few seconds.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TextIO

REDRAW_S = 0.25
PLAIN_S = 5.0
BAR_CELLS_MAX = 40
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"  # the cursor
ALARM, PLAIN = "\x1b[1;31m", "\x1b[0m"
END_OF_LINE, END_OF_SCREEN = "\x1b[K", "\x1b[J"
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Snapshot(NamedTuple):
    """A run at one moment. Counts are of the run so far, rates and latencies of the last seconds;
    None where nothing is known (yet). ``share`` of what is planned is done."""

    elapsed_s: float
    share: float
    asked: int = 0
    granted: int = 0
    refused: int = 0
    errors: int = 0
    rate_asked: float = 0.0
    rate_achieved: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    remaining: int | None = None  # units that can still be sold
    oversold: int = 0


def bar(done: float, total: float, cells: int) -> str:
    """How much of the whole is done."""
    share = min(1.0, max(0.0, done / total)) if total > 0 else 1.0
    filled = int(share * cells)
    return "█" * filled + "·" * (cells - filled)


def lines(title: str, now: Snapshot, width: int) -> list[str]:
    """The run on a screen, no line wider than it."""
    head = f"{title} "
    tail = f" {clock(now.elapsed_s)} {int(100 * now.share)}%"
    cells = min(BAR_CELLS_MAX, width - len(head) - len(tail))
    shown = head + bar(now.share, 1, cells) if cells >= 4 else head.rstrip()
    remaining = "-" if now.remaining is None else f"{now.remaining:,}"
    rows = (
        ("rate", (f"asked {now.rate_asked:,.0f}/s", f"achieved {now.rate_achieved:,.0f}/s",
                  f"{now.asked:,} so far")),
        ("count", (f"granted {now.granted:,}", f"refused {now.refused:,}",
                   f"errors {now.errors:,}")),
        ("time", (f"p50 {ms(now.p50_ms)}", f"p99 {ms(now.p99_ms)}", f"p99.9 {ms(now.p999_ms)}")),
        ("stock", (f"remaining {remaining}", oversold(now))),
    )  # fmt: skip
    texts = [shown + tail]
    for name, cells_of in rows:
        texts += _row(name, cells_of, width)
    return [_fit(text, width) for text in texts]


def line(title: str, now: Snapshot) -> str:
    """The same in one line."""
    return printable(
        f"{title} {clock(now.elapsed_s)} {int(100 * now.share)}%: "
        f"{now.rate_achieved:,.0f} of {now.rate_asked:,.0f}/s, granted {now.granted:,}, "
        f"refused {now.refused:,}, errors {now.errors:,}, p50 {ms(now.p50_ms)}, "
        f"p99 {ms(now.p99_ms)}, p99.9 {ms(now.p999_ms)}, {oversold(now)}"
    )


def oversold(now: Snapshot) -> str:
    """Loud if it is not nothing."""
    return f"OVERSOLD {now.oversold:,}" if now.oversold else "oversold 0"


def ms(value: float | None) -> str:
    """A latency as a person reads it."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1_000:,.1f} s"
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def clock(seconds: float) -> str:
    """``1:05``, ``2:00:00``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _row(name: str, cells: Sequence[str], width: int) -> list[str]:
    """Cells side by side in columns, on more lines where the screen is narrow."""
    rows, row = [], f"{name:<6}"
    for number, cell in enumerate(cells):
        if number and len(row) + len(cell) + 2 > width:
            rows.append(row.rstrip())
            row = " " * 6
        row += f"  {cell:<17}"
    return [*rows, row.rstrip()]


def printable(text: str) -> str:
    """No text can steer the terminal: a scenario's name is whatever its file says."""
    return UNPRINTABLE.sub("�", text)


def _fit(text: str, width: int) -> str:
    return printable(text)[: max(1, width)]


class Screen:
    """Draws lines over the ones before; leaves the last ones and the cursor as they should be."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.terminal = self.stream.isatty()
        self._drawn = 0  # lines that stand on the screen
        self._at_s = float("-inf")

    def enter(self) -> None:
        """No cursor runs about in what is drawn."""
        if self.terminal:
            self.stream.write(HIDE)

    def leave(self) -> None:
        """What stands there stays; whoever writes next begins below it."""
        if self.terminal:
            self.stream.write(("\r\n" if self._drawn else "") + SHOW)
            self.stream.flush()
        self._drawn = 0

    def due(self) -> bool:
        """True if it is time for the next picture, which then counts as drawn."""
        now_s = time.monotonic()
        due = now_s - self._at_s >= (REDRAW_S if self.terminal else PLAIN_S)
        if due:
            self._at_s = now_s
        return due

    def draw(self, shown: Sequence[str], alarm: bool = False) -> None:
        """``shown`` instead of what stood there; at most as many lines as there is room for."""
        rows = shutil.get_terminal_size().lines
        kept = list(shown[: max(1, rows - 1)])
        up = f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else ""
        style = (ALARM, PLAIN) if alarm else ("", "")
        text = f"{END_OF_LINE}\r\n".join(f"{style[0]}{each}{style[1]}" for each in kept)
        self.stream.write(f"\r{up}{text}{END_OF_LINE}{END_OF_SCREEN}")
        self.stream.flush()
        self._drawn = len(kept)

    def say(self, text: str) -> None:
        """One plain line."""
        print(text, file=self.stream, flush=True)


class Live:
    """A run as it goes: ``show`` as often as there is news, in a ``with`` block."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self._screen = Screen(stream)
        self._last: Callable[[], Snapshot] | None = None

    def __enter__(self) -> Self:
        self._screen.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._last is not None:
                self._draw(self._last())
        finally:
            self._screen.leave()

    def show(self, look: Callable[[], Snapshot]) -> None:
        """Looks and draws if the last picture is old enough; and once more at the end."""
        self._last = look
        if self._screen.due():
            self._draw(look())

    def _draw(self, now: Snapshot) -> None:
        if self._screen.terminal:
            width = shutil.get_terminal_size().columns - 1
            self._screen.draw(lines(self.title, now, width), alarm=bool(now.oversold))
        else:
            self._screen.say(line(self.title, now))


class Progress:
    """``done`` of ``total`` of a phase that is not timed, with its rate and what it has to tell.

    Without a total it is over when ``end`` says so.
    """

    def __init__(
        self,
        phase: str,
        total: int = 0,
        tell: Callable[[], str] = str,
        stream: TextIO | None = None,
    ) -> None:
        self.phase, self.total, self.done = phase, total, 0
        self._tell = tell
        self._began_s = time.monotonic()
        self._screen = Screen(stream)
        self._screen.due()  # what is soon over is not shown before it is

    def step(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        if self.done >= self.total > self.done - count:
            self.end()
        elif self._screen.due():
            self._show()

    def end(self) -> None:
        """Shows how far it came; whoever writes next begins below."""
        self._show()
        self._screen.leave()

    def _show(self) -> None:
        if self._screen.terminal:
            width = shutil.get_terminal_size().columns - 1
            self._screen.draw([_fit(self._line(bar(self.done, self.total, 16)), width)])
        else:
            self._screen.say(printable(self._line("")))

    def _line(self, drawn: str) -> str:
        rate = self.done / max(time.monotonic() - self._began_s, 1e-9)
        if not self.total:
            return f"{self.phase:9} {self.done:,} {rate:,.0f}/s {self._tell()}".rstrip()
        left = clock((self.total - self.done) / max(rate, 1e-9))
        counted = f"{self.done:,}/{self.total:,} {rate:,.0f}/s"
        parts = (f"{self.phase:9}", drawn, counted, f"{left} left", self._tell())
        return " ".join(part for part in parts if part)
