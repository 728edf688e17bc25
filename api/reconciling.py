"""``stockade reconcile``: which store and ledger, what is told, what is mended, and the status."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from api.progress import Progress
from api.reconciliations import finding, summary
from api.reports import FORMS, Report
from api.servers import open_postgres, open_store
from core.auditing.counts import Counts
from core.auditing.repair import Repair
from core.embedded.valkey import find_running
from core.errors import ImportRefused, StockadeError
from core.ledger.audit import Case
from core.opening import Audit, open_audit, open_scribe, prepare_ledger
from core.service import open_service
from core.settings import Settings

INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended
DIFFERENT, USAGE = 1, 2
TURN = 500
CANCEL_SECONDS = 0.1
REPAIRS_MAX = 10_000  # of one run; the next one goes on

Next = Callable[[int], Awaitable[list[Case]]]


def reconcile(settings: Settings, chosen: argparse.Namespace) -> int:
    """Reconcile and return the exit status: 0 if there is no difference or all were mended."""
    wrong = _wrong(chosen)
    if wrong:
        print(f"stockade: {wrong}; see stockade reconcile --help", file=sys.stderr)
        return USAGE
    progress = Progress()
    try:
        counts = Counts(chosen.counts) if chosen.counts is not None else None
    except ImportRefused as refused:
        for line, why in refused.bad:
            print(f"{chosen.counts.name}:{line}: {why}", file=sys.stderr)
        print(f"stockade: {refused.detail}", file=sys.stderr)
        return USAGE
    try:
        return asyncio.run(_reconcile(settings, chosen, counts, progress))
    except KeyboardInterrupt:
        progress.end()
        print("stockade: stopped; what was found until then is in its cases", file=sys.stderr)
        return INTERRUPTED
    finally:
        progress.end()


def _wrong(chosen: argparse.Namespace) -> str:
    """What does not go together on the command line."""
    for flag, needs in (("yes", "repair"), ("apply_counts", "repair"), ("apply_counts", "counts")):
        if getattr(chosen, flag) and not getattr(chosen, needs):
            return f"--{flag.replace('_', '-')} needs --{needs}"
    return ""


async def _reconcile(
    settings: Settings, chosen: argparse.Namespace, counts: Counts | None, progress: Progress
) -> int:
    async with _servers(settings) as settings, open_audit(settings) as audit:
        run = await audit.auditor.run(
            sku=chosen.sku, whole=chosen.full, counts=counts, tell=progress.tell
        )
        assert run is not None, "only a night's may be another's"
        progress.end()
        repairs = []
        if chosen.repair:
            repairs = await _repair(settings, audit, run, chosen)
        (done,) = await audit.files.reconciliations(run + 1, 1)
        report = FORMS[chosen.format](summary(done), chosen.yes)
        async with _writing(chosen.output) as write:
            await _tell(
                report, write, lambda last: audit.files.cases_of(run, last, TURN), repairs,
                chosen.repair,
            )  # fmt: skip
    mended = sum(repair.state == "done" for repair in repairs)
    return DIFFERENT if done.differences > mended else 0


async def _repair(
    settings: Settings, audit: Audit, run: int, chosen: argparse.Namespace
) -> list[Repair]:
    """Mends what this reconciliation found, or says what it would do."""
    person = chosen.by or getpass.getuser()
    repairs: list[Repair] = []
    async with open_service(settings) as service:
        repairer = service.repairer(audit.survey)
        last = 0
        while len(repairs) < REPAIRS_MAX and (
            cases := await audit.files.cases_of(run, last, TURN)
        ):
            for case in cases:
                repairs.append(
                    await repairer.mend(
                        case, person, apply=chosen.yes, apply_counts=chosen.apply_counts
                    )
                )
            last = cases[-1].id
    return repairs


def show_cases(settings: Settings, form: str, output: Path | None) -> int:
    """Show all cases that are not closed."""

    async def run() -> None:
        async with _servers(settings) as named, open_audit(named) as audit:
            report = FORMS[form](None, False)
            async with _writing(output) as write:
                await _tell(
                    report, write, lambda last: audit.files.unclosed(last, TURN), [], False
                )

    asyncio.run(run())
    return 0


def explain_case(settings: Settings, case: int, note: str, person: str) -> int:
    """Note why a difference is there. Raises StockadeError for a case that is not open."""
    if not note.strip() or not person.strip():
        print("stockade: --note and --by must say something", file=sys.stderr)
        return USAGE

    async def run() -> bool:
        async with _servers(settings) as named, open_audit(named) as audit:
            return await audit.files.explain(case, note, person)

    if not asyncio.run(run()):
        raise StockadeError(f"there is no open case {case}; see stockade reconcile cases")
    return 0


# --- where, and how it is told -------------------------------------------------------------------


@asynccontextmanager
async def _servers(settings: Settings) -> AsyncIterator[Settings]:
    """The settings with the addresses of both servers. If they are started for now, nobody else
    carries events into the ledger, so that is done here meanwhile."""
    alone = settings.valkey_url is None and find_running(settings.data) is None
    async with open_store(settings) as named, open_postgres(named) as named:
        await prepare_ledger(named)
        if not alone:
            yield named
            return
        async with open_scribe(named) as scribe:
            writing = asyncio.create_task(scribe.run())
            try:
                yield named
            finally:
                # On Python 3.11 wait_for, which redis-py writes with, may swallow a cancellation.
                while not writing.done():
                    writing.cancel()
                    await asyncio.wait((writing,), timeout=CANCEL_SECONDS)
            await scribe.finish(named.ledger_timeout_seconds)


async def _tell(
    report: Report,
    write: Callable[[Iterable[str]], None],
    next_cases: Next,
    repairs: Iterable[Repair],
    repaired: bool,
) -> None:
    write(report.head())
    last = 0
    while cases := await next_cases(last):
        for case in cases:
            write(report.finding(finding(case)))
        last = cases[-1].id
    for repair in repairs:
        write(report.repair(repair))
    write(report.foot(repaired))


@asynccontextmanager
async def _writing(output: Path | None) -> AsyncIterator[Callable[[Iterable[str]], None]]:
    """Writes to standard output, or to a file that is there only when it is whole."""
    if output is None:
        yield sys.stdout.writelines
        return
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8", newline="") as file:
            yield file.writelines
        fresh.replace(output)
    except OSError as error:
        raise StockadeError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)
