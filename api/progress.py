"""How far a command is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0  # between two lines where there is no terminal
BAR_CELLS = 24


class Progress:
    """How far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._told = time.monotonic()
        self._phase = ("", "")
        self._first = 0
        self._open = False  # a bar stands on the line

    def tell(self, phase: str, rows: int, share: float | None, noun: str = "rows") -> None:
        """``rows`` were ``phase`` (a word like "checked"), which is ``share`` of all, if known."""
        now = time.monotonic()
        if (phase, noun) != self._phase:
            self.end()
            self._phase, self._first, self._started, self._told = (phase, noun), rows, now, now
        pause = REDRAW_SECONDS if self._terminal else LINE_SECONDS
        if (share is None or share < 1) and now - self._told < pause:
            return
        self._told = now
        rate = (rows - self._first) / max(now - self._started, 1e-3)
        part = "" if share is None else f", {share:.0%}"
        text = f"{phase} {rows:,} {noun}{part}, {rate:,.0f}/s"
        if not self._terminal:
            print(text, file=sys.stderr, flush=True)
            return
        if share is not None:
            filled = int(BAR_CELLS * min(share, 1))
            text = f"{'█' * filled}{'·' * (BAR_CELLS - filled)} {text}"
        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
        self._open = True

    def end(self) -> None:
        """What comes next stands on a line of its own."""
        if self._open:
            sys.stderr.write("\n")
            sys.stderr.flush()
            self._open = False
