"""``stockade rebuild``: which store from which ledger, how far it is, and what was lost."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec

from api.progress import Progress
from api.servers import open_postgres, open_store
from core.ledger.rebuilding import Loss, Report
from core.opening import prepare_ledger, rebuild
from core.settings import Settings

INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended


def rebuild_store(settings: Settings, *, force: bool, form: str) -> int:
    """Rebuild and return the exit status. Raises StockadeError with one line."""
    progress = Progress()

    def tell(kind: str, done: int, total: int) -> None:
        progress.tell(kind, done, done / total if total else 0.0)

    async def run() -> Report | None:
        async with open_store(settings) as chosen, open_postgres(chosen) as chosen:
            await prepare_ledger(chosen)
            return await rebuild(chosen, force, tell)

    try:
        report = asyncio.run(run())
    except KeyboardInterrupt:
        progress.end()
        print("stockade: stopped; no store until it is run again", file=sys.stderr)
        return INTERRUPTED
    progress.end()
    if form == "json":
        print(msgspec.json.format(msgspec.json.encode(document(report))).decode())
    else:
        print("\n".join(lines(report)))
    return 0


def document(report: Report | None) -> dict[str, Any]:
    """What the JSON form shows."""
    if report is None:
        return {"rebuilt": False}
    loss = report.loss
    return {
        "rebuilt": True,
        "by_another": report.by_another,
        "epoch": report.epoch,
        "seconds": round(report.seconds, 3),
        "rows": report.counts,
        "rows_per_second": round(_rate(report)),
        "deadlines_moved": report.moved,
        "outage_seconds": report.outage_ms / 1000,
        "carried": loss.carried,
        "lost": None if loss.whole else _lost(loss),
    }


def _lost(loss: Loss) -> dict[str, Any]:
    pairs = [each.partition(" ")[::2] for each in loss.named]
    return {
        "unknown_after": {
            "epoch": loss.epoch, "seq": loss.seq, "position": loss.position,
            "time": _time(loss.time_ms), "seen": _time(loss.seen_ms),
        },
        "reason": loss.reason or None,
        "reservations": [
            {"id": id, "reference": None if reference == "-" else reference}
            for id, reference in pairs
        ],
    }  # fmt: skip


def lines(report: Report | None) -> list[str]:
    """What the text form shows."""
    if report is None:
        return ["the store has all that the ledger has: nothing was done"]
    loss = report.loss
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items() if count)
    who = "another process rebuilt the store" if report.by_another else "the store is rebuilt"
    said = [
        f"{who}, as epoch {report.epoch}: {kinds} in {report.seconds:.1f} s "
        f"({_rate(report):,.0f} rows/s)"
    ]
    if report.moved:
        said.append(
            f"{report.moved:,} deadlines that passed meanwhile were moved by "
            f"{report.outage_ms / 1000:,.1f} s"
        )
    if loss.carried:
        said.append(f"{loss.carried:,} events were still in the store: the ledger has them now")
    if loss.whole:
        said.append("nothing is lost: the ledger has all that the store had")
        return said
    said.append(
        f"not known: what was acknowledged after event {loss.epoch}-{loss.seq}, position "
        f"{loss.position:,}, {_time(loss.seen_ms)}"
    )
    if loss.reason:
        said.append(f"no more could be carried: {loss.reason}")
    said += [f"not known: what became of reservation {each}" for each in loss.named]
    return said


def _rate(report: Report) -> float:
    return sum(report.counts.values()) / max(report.seconds, 1e-3)


def _time(time_ms: int) -> str:
    at = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
