"""``python -m loadtest SCENARIO [ORDERS.csv] [--set k=v]… [--url U] [--key K] [--output DIR]``.
``python -m loadtest compare A.json B.json [--fail-above RATIO]``: see ``compare``.

Exit code 0: the audit passed; 1: it did not; 2: the run could not be made; 130: interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from loadtest import compare, report
from loadtest.client import Refused, Unanswered
from loadtest.fleet import GeneratorFailed
from loadtest.orders import NotAnOrderLog
from loadtest.run import Target, run
from loadtest.service import ServiceFailed
from loadtest.settings import Settings, WrongSetting, scenario, scenarios
from loadtest.transport import WrongTarget

CANNOT_RUN = (
    GeneratorFailed,
    NotAnOrderLog,
    Refused,
    ServiceFailed,
    Unanswered,
    WrongSetting,
    WrongTarget,
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="A crowd against a real service, audited from outside.",
        epilog="python -m loadtest compare A.json B.json: two reports, figure by figure",
    )
    known = ", ".join(scenarios())
    parser.add_argument("scenario", metavar="SCENARIO", help=f"{known}, or a .toml file")
    parser.add_argument("log", type=Path, nargs="?", metavar="ORDERS.csv", help="what to replay")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="instead of what the scenario says; its file explains each key",
    )
    parser.add_argument("--url", help="a running service; without it one is started")
    parser.add_argument("--key", metavar="ID.SECRET", help="the service's key for the harness")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the report into DIR")
    return parser.parse_args()


async def _interruptible(
    name: str, settings: Settings, target: Target, log: Path | None
) -> report.Run:
    """A run that SIGTERM ends as Ctrl-C does: the harness's own service is stopped first."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(name, settings, target, log)


def main() -> int:
    """Run what the command line asks for; the exit code."""
    if sys.argv[1:2] == ["compare"]:
        return compare.main(sys.argv[2:])
    arguments = _arguments()
    name = Path(arguments.scenario).stem
    try:
        settings = scenario(arguments.scenario, arguments.set)
        settings.check(arguments.log is not None)
        target = Target(arguments.url, arguments.key)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            made = runner.run(_interruptible(name, settings, target, arguments.log))
    except CANNOT_RUN as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return 130
    print(report.summary(made))
    if arguments.output is not None:
        report.write(made, arguments.output)
    return 0 if made.audit.passed else 1


if __name__ == "__main__":
    sys.exit(main())
