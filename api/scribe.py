"""The scribe's process: carries events from the store into the ledger, behind everybody else,
reconciles the two at night, and forgets people in time.

Run by ``api.serve`` as ``python -m api.scribe BOOK_FD SHEET``, with the same standard input as a
worker: settings come in, ``ready`` goes out, and its end means that the supervisor is gone. Then,
and on SIGTERM, it writes what there is and ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

import uvloop

from api.control import CONTROL_FD, report
from api.log import configure
from core import collector
from core.embedded.cluster import stand_back
from core.errors import StockadeError
from core.meters import Meters
from core.opening import open_forgetting, open_nightly, open_scribe, open_watch
from core.settings import Settings, decode
from core.sheets import Book

CANCEL_SECONDS = 0.1

_log = logging.getLogger("stockade.scribe")


def main(book_fd: int, sheet: int) -> int:
    """Write until told to stop. Returns the exit status."""
    settings = decode(sys.stdin.buffer.readline())
    configure(settings.log_level)
    if why := stand_back():
        _log.info("the scribe may run on any core: %s", why)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_run(settings, Meters(Book(book_fd).sheet(sheet))))
        except StockadeError as error:
            report(f"refused {error.detail}")
            return 1
    return 0


async def _run(settings: Settings, meters: Meters) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(CONTROL_FD)
        asked.set()

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_reader(CONTROL_FD, stop)
    async with (
        open_nightly(settings) as nightly,
        open_forgetting(settings) as forgetting,
        open_watch(settings, meters) as watch,
        open_scribe(settings, meters) as scribe,
    ):
        collector.settle()
        report("ready")
        meters.starts["scribe"] += 1
        running = {asyncio.create_task(scribe.run()), asyncio.create_task(watch.run())}
        for each in (nightly, forgetting):
            if each is not None:
                running.add(asyncio.create_task(each.run()))
        asking = asyncio.create_task(asked.wait())
        await asyncio.wait((*running, asking), return_when=asyncio.FIRST_COMPLETED)
        # On Python 3.11 wait_for, which redis-py writes with, may swallow a cancellation.
        while left := [task for task in running if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=CANCEL_SECONDS)
        for task in running:
            if not task.cancelled():
                task.result()
        await scribe.finish(settings.drain_seconds)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
