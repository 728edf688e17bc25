"""The processes that ask, from the side of the one that started them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from loadtest.book import Book
from loadtest.generator import Done, Failed, Message, Ready, Seen, Start, Task, packed, received
from loadtest.measure import Measured
from loadtest.tally import Tally

GATHER_NS = 200_000_000  # from the start being told to it being due: all hear of it before
STOP_S = 10


class GeneratorFailed(Exception):
    """A process that asks cannot go on, or is gone."""


@dataclass(slots=True)
class Fleet:
    """Several processes as one: what they saw, merged as it comes. ``baskets`` are done."""

    task: Task
    book: Book
    see: Callable[[Fleet], None] = lambda fleet: None
    measured: Measured = field(default_factory=Measured)
    tally: Tally = field(default_factory=Tally)
    began_ns: int = 0
    _baskets: dict[int, int] = field(default_factory=dict)

    @property
    def baskets(self) -> int:
        """How many are done."""
        return sum(self._baskets.values())

    async def run(self) -> None:
        """Start them, let them begin at the same moment, hear them to their end.

        Raises GeneratorFailed.
        """
        processes: list[asyncio.subprocess.Process] = []
        try:
            for part in range(self.task.parts):
                processes.append(await _started(replace(self.task, part=part)))
            for process in processes:
                await self._ready(process)
            self.began_ns = time.monotonic_ns() + GATHER_NS
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(packed(Start(self.began_ns)))
            async with asyncio.TaskGroup() as group:
                for part, process in enumerate(processes):
                    group.create_task(self._hear(part, process))
        except* GeneratorFailed as failed:
            raise failed.exceptions[0] from None
        finally:
            await asyncio.gather(*map(_ended, processes))

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        message = await _next(process)
        if not isinstance(message, Ready):
            raise GeneratorFailed(f"expected it to be ready, heard {message}")

    async def _hear(self, part: int, process: asyncio.subprocess.Process) -> None:
        while True:
            match await _next(process):
                case Seen(measured, baskets):
                    self.measured.merge(measured)
                    self._baskets[part] = baskets
                    self.see(self)
                case Done(measured, tally, book):
                    self.measured.merge(measured)
                    self._baskets[part] = tally.baskets
                    self.tally.merge(tally)
                    self.book.merge(book)
                    self.see(self)
                    return
                case Failed(why):
                    raise GeneratorFailed(why)


async def _started(task: Task) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest.generator"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(packed(task))
    return process


async def _next(process: asyncio.subprocess.Process) -> Message:
    assert process.stdout is not None
    try:
        message: Message = await received(process.stdout, Message)
    except asyncio.IncompleteReadError:
        code = await process.wait()
        raise GeneratorFailed(f"a process that asks ended with {code}") from None
    return message


async def _ended(process: asyncio.subprocess.Process) -> None:
    """It ends by itself when it has told all; one that is still at it is ended."""
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
