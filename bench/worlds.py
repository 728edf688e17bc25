"""A worker that is stepped by hand: for benchmarks that are plain functions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bench.callers import fresh_key
from bench.ceiling import blast, outcome
from bench.stores import CHANNEL, Store
from core.availability import AvailabilityOp
from core.model import Line
from core.ops import Group, ReserveOp, SettleOp
from core.service import Service
from core.store.link import Link, Replies

SKUS = 1_000
TURNS_MAX = 100
# The clock's: on a very busy machine a pipeline is sent too late, and the lane makes it anew.
EXPECTED = {b"applied", b"clock"}


class World:
    """A store with 1,000 SKUs and a worker on it; its event loop runs only while it is asked."""

    def __init__(
        self, runner: asyncio.Runner, store: Store, service: Service, names: list[str]
    ) -> None:
        self.runner = runner
        self.store = store
        self.service = service
        self.lane = service.lane
        self.names = names
        self._at = 0

    def time(
        self,
        benchmark: Any,
        once: Callable[[], Awaitable[object]],
        rounds: int,
        warm_rounds: int = 5,
    ) -> Any:
        """Times a coroutine from its start to its end; returns what the last one did."""

        async def run() -> object:
            return await once()

        return benchmark.pedantic(
            lambda: self.runner.run(run()), rounds=rounds, warmup_rounds=warm_rounds
        )

    def next_skus(self, count: int) -> list[str]:
        """The SKUs whose turn it is."""
        start, self._at = self._at, self._at + count
        return [self.names[number % len(self.names)] for number in range(start, self._at)]

    def demands(self, skus: Sequence[str], keyed: bool = False) -> asyncio.Future[list[Any]]:
        """Hands the lane a demand of one unit of each, as the engine does for a batch."""
        future: asyncio.Future[list[Any]] = self.runner.get_loop().create_future()
        group = Group(len(skus), future)
        for index, sku in enumerate(skus):
            self.lane.reserve(
                ReserveOp(
                    CHANNEL, [Line(sku, 1)], CHANNEL.encode() + b" - -", None, False, False,
                    fresh_key() if keyed else None, group, index,
                )
            )  # fmt: skip
        return future

    def settles(self, verb: str, ids: Sequence[str]) -> asyncio.Future[list[Any]]:
        """Hands the lane a verb on each of these reservations."""
        future: asyncio.Future[list[Any]] = self.runner.get_loop().create_future()
        group = Group(len(ids), future)
        for index, id in enumerate(ids):
            self.lane.settle(SettleOp(verb, id, group, index=index))
        return future

    def reads(self, skus: list[str]) -> asyncio.Future[Any]:
        """Asks the lane what the channel can take of these."""
        future: asyncio.Future[Any] = self.runner.get_loop().create_future()
        self.lane.read(AvailabilityOp(CHANNEL, skus, False, future))
        return future


class HeldLink(Link):
    """Keeps what it is to send until somebody sends it."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[bytes, int, Callable[[Replies], None]]] = []

    def send(
        self, payload: bytes, count: int, done: Callable[[Replies], None], crowd: bool = False
    ) -> None:
        self.held.append((payload, count, done))


class Scripts:
    """The scripts alone: the lane makes a pipeline, a blocking socket sends it, and what the store
    answered goes back to the lane when nobody measures."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(world.store.socket)
        self._replies: list[list[Any]] = []
        self._link = self._take_over()

    def _take_over(self) -> HeldLink:
        lane, run = self.world.lane, self.world.runner.run

        async def connect() -> HeldLink:
            loop = asyncio.get_running_loop()
            _, link = await loop.create_unix_connection(HeldLink, self.world.store.socket)
            return link

        link = run(connect())
        while lane._flights:  # a look of the worker's own
            run(asyncio.sleep(0.001))
        plain = lane._link
        assert plain is not None
        lane.use(link)
        plain.abort("a link that holds took its place")
        return link

    def time(self, benchmark: Any, prepare: Callable[[], None], rounds: int) -> None:
        """Times the pipeline that ``prepare`` lets the lane make."""
        benchmark.pedantic(self.send, setup=prepare, rounds=rounds)
        self.land()

    def reserved(self, skus: Sequence[str]) -> list[str]:
        """New reservations of one unit each: their ids."""
        futures = []
        self.prepare(lambda: futures.append(self.world.demands(skus)))
        self.send()
        self.land()
        return [receipt.id for receipt in futures[0].result()]

    def prepare(self, submit: Callable[[], object]) -> None:
        """Lets the lane make the next pipeline, of what ``submit`` hands it."""
        lane, run = self.world.lane, self.world.runner.run
        self.land()

        async def ask() -> None:
            submit()
            await asyncio.sleep(0)

        run(ask())
        for _ in range(TURNS_MAX):
            if self._link.held and lane.queues.waiting() == len(lane.queues.reads):
                return  # a read goes on waiting until its look has landed
            self.send()  # a look of the worker's own, which the ops wait behind
            run(self._tell())
        raise RuntimeError(f"the lane makes no pipeline of it: {lane.closed or 'all was answered'}")

    def send(self) -> None:
        """What is measured: one write, the scripts, their replies."""
        self._replies += blast(self._socket, [each[:2] for each in self._link.held])

    def land(self) -> None:
        """Everything that was sent, back to the lane; and whatever it asks thereupon."""
        while self._replies or self._link.held:
            if not self._replies:
                self.send()
            self.world.runner.run(self._tell())

    async def _tell(self) -> None:
        """What was sent, back to the lane, which may hand over the next pipeline thereupon."""
        sent, self._link.held = self._link.held, []
        replies, self._replies = self._replies, []
        for (_, _, done), told in zip(sent, replies, strict=True):
            found = {outcome(each) for each in told}
            if not found <= EXPECTED:
                raise RuntimeError(f"the store answered {found}")
            done(told)
        await asyncio.sleep(0)

    def close(self) -> None:
        self.send()
        self.land()
        self._socket.close()
