"""``python -m loadtest replay ORDERS.csv [--set k=v]… [--url U] [--output DIR]``.

Exit code 0: the audit passed; 1: it did not; 2: the run could not be made; 130: interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import orjson
import uvloop

from loadtest import report
from loadtest.audit import audit
from loadtest.client import Call, Client, Refused, Unanswered, connect
from loadtest.orders import Dirt, NotAnOrderLog, read
from loadtest.replay import Replay
from loadtest.service import ServiceFailed, own_service
from loadtest.settings import Settings, WrongSetting, parse
from loadtest.stocking import stock_up, survey

CANNOT_RUN = (NotAnOrderLog, Refused, ServiceFailed, Unanswered, WrongSetting)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest", description="Real orders against a real service, audited."
    )
    scenarios = parser.add_subparsers(dest="scenario", required=True)
    replay = scenarios.add_parser("replay", help="replay an order log")
    replay.add_argument("log", type=Path, metavar="ORDERS.csv")
    replay.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="speed=max|FACTOR concurrency abandon change cancel back stock seed ttl_seconds limit",
    )
    replay.add_argument("--url", help="a fresh service; without it one is started")
    replay.add_argument("--output", type=Path, metavar="DIR", help="write replay.json into DIR")
    return parser.parse_args()


async def _replay(log: Path, settings: Settings, url: str | None) -> report.Run:
    plan = survey(log, settings.limit)
    for line in plan.dirt.malformed:
        print(f"{log}: {line}", file=sys.stderr)
    if not plan.baskets:
        raise NotAnOrderLog(f"{log}: no basket has anything to sell")
    run, started_at = secrets.token_hex(4), datetime.now(UTC)
    # Not the seed's own generator: back-off and sampling must not change what is replayed.
    rng = random.Random(settings.seed + 1)
    async with (
        nullcontext(url) if url else own_service() as base,
        connect(base, settings.concurrency, rng) as client,
    ):
        service_version = await _version(client)
        print(f"run {run} against {base}, seed {settings.seed}", flush=True)
        began_s = time.monotonic()
        book = await stock_up(client, plan, settings.stock, run, settings.concurrency)
        setup_s = time.monotonic() - began_s
        replay = Replay(client, book, plan, settings, run)
        await replay.run(read(log, Dirt(), settings.limit))
        audited = await audit(client, book, settings.concurrency, rng)
        return report.Run(
            id=run,
            log=log,
            service_version=service_version,
            started_at=started_at,
            setup_s=setup_s,
            settings=settings,
            plan=plan,
            tally=replay.tally,
            client=client,
            audit=audited,
        )


async def _version(client: Client) -> str:
    answer = await client.must(Call("read", "GET", "/openapi.json"), 200)
    return str(orjson.loads(answer.body)["info"]["version"])


async def _interruptible(log: Path, settings: Settings, url: str | None) -> report.Run:
    """A replay that SIGTERM ends as Ctrl-C does: the harness's own service is stopped first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await _replay(log, settings, url)


def main() -> int:
    """Run what the command line asks for; the exit code."""
    arguments = _arguments()
    try:
        settings = parse(arguments.set)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = runner.run(_interruptible(arguments.log, settings, arguments.url))
    except CANNOT_RUN as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return 130
    print(report.summary(run))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        document = orjson.dumps(report.document(run), option=orjson.OPT_INDENT_2)
        (arguments.output / "replay.json").write_bytes(document + b"\n")
    return 1 if run.audit.differences.count else 0


if __name__ == "__main__":
    sys.exit(main())
