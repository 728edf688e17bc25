"""``stockade import``: into which store, and what is told of it meanwhile and at the end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from api.progress import Progress
from api.servers import open_postgres, open_store
from core.errors import ImportRefused
from core.importing.importer import Report
from core.opening import prepare_ledger
from core.service import open_service
from core.settings import Settings

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
    async with open_store(settings) as settings, open_postgres(settings) as settings:
        await prepare_ledger(settings)
        async with open_service(settings) as service:
            await service.notes.note("import", file.name, after={"orders": orders, "again": again})
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
