"""``stockade import``: into which store, and what is told of it meanwhile and at the end."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

from api.servers import open_store
from core.errors import ImportRefused
from core.importing.importer import Report
from core.service import open_service
from core.settings import Settings

REDRAW_SECONDS = 0.1
LINE_SECONDS = 5.0  # between two lines where there is no terminal
BAR_CELLS = 24
INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended


def import_file(
    settings: Settings, file: Path, *, orders: bool, again: bool, skip_bad: bool
) -> int:
    """Import a file and return the exit status. Raises StockadeError with one line."""
    progress = Progress()
    try:
        report = asyncio.run(_import(settings, file, orders, again, skip_bad, progress))
    except ImportRefused as refused:
        progress.end()
        _tell_bad(file.name, refused.bad, refused.count)
        raise
    except KeyboardInterrupt:
        progress.end()
        print("stockade: stopped; what was applied stands, run it again to go on", file=sys.stderr)
        return INTERRUPTED
    progress.end()
    _tell_bad(report.name, report.bad, report.reasons)
    print(_summary(report))
    return 0


async def _import(
    settings: Settings, file: Path, orders: bool, again: bool, skip_bad: bool, progress: Progress
) -> Report:
    async with open_store(settings) as settings, open_service(settings) as service:
        return await service.importer.run(
            file, orders=orders, again=again, skip_bad=skip_bad, tell=progress.tell
        )


def _tell_bad(name: str, bad: list[tuple[int, str]], count: int) -> None:
    for line, why in bad:
        print(f"{name}:{line}: {why}", file=sys.stderr)
    if count > len(bad):
        print(f"{name}: and {count - len(bad):,} more", file=sys.stderr)


def _summary(report: Report) -> str:
    name, left_out = report.name, ""
    if report.left_out:
        left_out = f"; {report.left_out:,} were left out"
    if report.known_since is not None:
        return (
            f"{name}: these {report.rows:,} rows were imported before ({report.known_since})"
            f"{left_out}; nothing was applied"
        )
    begun = f" after the first {report.begun_at:,}" if report.begun_at else ""
    made = (
        f"{report.orders:,} orders" if report.kind == "orders" else f"{report.new_skus:,} new SKUs"
    )
    return (
        f"{name}: {report.applied:,} of {report.rows:,} rows applied{begun}{left_out}: "
        f"{made}, {report.units:,} units"
    )


class Progress:
    """How far it is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._told = time.monotonic()
        self._phase = ""
        self._first = 0
        self._open = False  # a bar stands on the line

    def tell(self, phase: str, rows: int, share: float) -> None:
        """``rows`` were ``phase`` (a word like "checked"), which is ``share`` of all."""
        now = time.monotonic()
        if phase != self._phase:
            self.end()
            self._phase, self._first, self._started, self._told = phase, rows, now, now
        pause = REDRAW_SECONDS if self._terminal else LINE_SECONDS
        if share < 1 and now - self._told < pause:
            return
        self._told = now
        rate = (rows - self._first) / max(now - self._started, 1e-3)
        text = f"{phase} {rows:,} rows, {share:.0%}, {rate:,.0f}/s"
        if not self._terminal:
            print(text, file=sys.stderr, flush=True)
            return
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
