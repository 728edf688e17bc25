"""A progress bar in the terminal; silent when the output is none."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

REDRAW_S = 0.1
BAR_CELLS = 16


class Progress:
    """``done`` of ``total`` of one phase, with its rate, what it has to tell and what is left."""

    def __init__(self, phase: str, total: int, tell: Callable[[], str] = str) -> None:
        self.phase, self.total, self.done = phase, total, 0
        self._tell = tell
        self._started = self._drawn = time.monotonic()
        self._shown = sys.stdout.isatty()

    def step(self, count: int = 1) -> None:
        """``count`` more are done."""
        self.done += count
        now = time.monotonic()
        if self._shown and (self.done >= self.total or now - self._drawn >= REDRAW_S):
            self._drawn = now
            self._draw(now - self._started)

    def _draw(self, elapsed_s: float) -> None:
        rate = self.done / max(elapsed_s, 1e-9)
        filled = BAR_CELLS * self.done // max(self.total, 1)
        bar = "█" * filled + "·" * (BAR_CELLS - filled)
        left_s = (self.total - self.done) / max(rate, 1e-9)
        text = (
            f"{self.phase:9} {bar} {self.done:,}/{self.total:,} {rate:,.0f}/s {left_s:,.0f} s left "
        )
        text = (text + self._tell())[: shutil.get_terminal_size().columns - 1]
        end = "\n" if self.done >= self.total else ""
        sys.stdout.write(f"\r\x1b[K{text}{end}")
        sys.stdout.flush()
