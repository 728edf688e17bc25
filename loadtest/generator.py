"""A process that asks: its share of the crowd, on an event loop of its own.

``python -m loadtest.generator`` is told on standard input what to do, and on standard output it
tells what it sees, message by message. It ends when its input does, so it outlives nobody.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from loadtest import demand
from loadtest.book import Book, Rule
from loadtest.client import Client, Refused, Unanswered
from loadtest.crowd import Crowd
from loadtest.journeys import journeys
from loadtest.measure import Measured, Meter
from loadtest.orders import Dirt, NotAnOrderLog, read
from loadtest.settings import Settings
from loadtest.tally import Tally
from loadtest.transport import reach

TELL_S = 0.25
HEAD = struct.Struct("!I")
CANNOT_GO_ON = (NotAnOrderLog, Refused, Unanswered)


class Task(msgspec.Struct):
    """What one of ``parts`` processes has to do: every basket whose number is ``part`` modulo it.

    ``log`` and ``first_s``: of a replay alone. ``plenty``: nothing may be refused. ``first``: the
    number of the first basket. ``zero_ns``: second 0, if that was before the start; ``warm_s``: how
    long after the start latencies do not count.
    """

    url: str
    key: str | None
    run: str
    settings: Settings
    part: int
    parts: int
    shares: dict[str, dict[str, int]]
    rules: dict[str, Rule]
    log: str | None = None
    first_s: float = 0.0
    plenty: bool = False
    first: int = 0
    zero_ns: int = 0
    warm_s: float = 0.0


class Start(msgspec.Struct):
    """When to begin, for all of them: second 0 of the run, on the machine's monotonic clock."""

    began_ns: int


class Ready(msgspec.Struct, tag="ready"):
    """It is there, and waits for the start."""


class Seen(msgspec.Struct, tag="seen"):
    """What was measured since it told last, and how many of its baskets are done."""

    measured: Measured
    baskets: int


class Done(msgspec.Struct, tag="done"):
    """All of its share is done."""

    measured: Measured
    tally: Tally
    book: Book


class Failed(msgspec.Struct, tag="failed"):
    """It cannot go on."""

    why: str


Message = Ready | Seen | Done | Failed


def counter(kind: type, value: Any) -> Any:
    """Decodes what is counted, which travels as a dictionary."""
    return Counter(value)


def packed(message: object) -> bytes:
    """A message as it travels: its length, then itself."""
    body = msgspec.msgpack.encode(message)
    return HEAD.pack(len(body)) + body


async def received(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next message. Raises asyncio.IncompleteReadError at the end."""
    (length,) = HEAD.unpack(await reader.readexactly(HEAD.size))
    return msgspec.msgpack.decode(await reader.readexactly(length), type=kind, dec_hook=counter)


def _tell(message: Message) -> None:
    os.write(sys.stdout.fileno(), packed(message))


async def _do(task: Task, inbox: asyncio.StreamReader) -> Done:
    settings, book = task.settings, Book(task.shares, task.rules)
    connections = max(1, settings.connections // task.parts)
    async with reach(task.url, connections, task.key) as transport:
        # Not the seed's own generator: back-off must not change what becomes of baskets.
        client = Client(transport, random.Random(), Meter(), settings.patience_seconds)
        crowd = Crowd(client, book, settings, task.run, task.plenty)
        _tell(Ready())
        start: Start = await received(inbox, Start)
        client.meter.began_ns = task.zero_ns or start.began_ns
        client.meter.counted_ns = start.began_ns + round(task.warm_s * 1e9)
        telling = asyncio.create_task(_keep_telling(client.meter, crowd))
        try:
            await _come(crowd, task, start.began_ns)
        finally:
            telling.cancel()
        return Done(client.meter.take(), crowd.tally, book)


async def _come(crowd: Crowd, task: Task, began_ns: int) -> None:
    """Its share of the crowd: at times of its own, where baskets have them; else one by one."""
    settings = task.settings
    if task.log is None:
        baskets = demand.baskets(settings, task.run, task.first)
    else:
        baskets = read(Path(task.log), Dirt(), settings.limit or None)
    mine = journeys(islice(baskets, task.part, None, task.parts), settings)
    await asyncio.sleep((began_ns - time.monotonic_ns()) / 1e9)
    if settings.is_open:
        speed = 1.0 if settings.speed is None else float(settings.speed)
        await crowd.arrive(mine, began_ns, task.first_s, speed)
    else:
        await crowd.queue(mine, max(1, settings.concurrency // task.parts))


async def _keep_telling(meter: Meter, crowd: Crowd) -> None:
    while True:
        await asyncio.sleep(TELL_S)
        _tell(Seen(meter.take(), crowd.tally.baskets))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    inbox = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(inbox), sys.stdin)
    task: Task = await received(inbox, Task)
    doing = asyncio.create_task(_do(task, inbox))
    try:
        _tell(await doing)
    except CANNOT_GO_ON as error:
        _tell(Failed(str(error)))


def main() -> None:
    """Do what standard input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it hears Ctrl-C, too, and ends it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())


if __name__ == "__main__":
    main()
