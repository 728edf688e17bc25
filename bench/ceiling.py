"""The store's own ceiling: the very bytes that the lane sent, ready packed, one pipeline in flight.

A run of the product is recorded, its store is put back to where the run began, and the bytes go
out again through a blocking socket: send a pipeline, read its replies, send the next. Nothing is
planned, packed or waited for on the way, so no lane can be faster with the same batches.

The scripts refuse bytes whose estimate of the server's time is off by more than a second. So the
lane that is recorded believes to be almost a second ahead: its bytes hold while they are recorded
and again just afterwards, when they are a little old; a machine too busy for that does both once
more. Every outcome is compared with the recorded one: a ceiling made of refusals would be none.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hiredis

from bench.callers import Call, Measured, drive
from bench.stores import Store
from core.clock import ServerClock, monotonic_ms
from core.engine import Engine
from core.store.link import Link, Replies

Calls = Callable[[Engine], list[Call]]

AHEAD_MS = 950
SECONDS = 0.8  # of a window: what was recorded is good for two seconds
TRIES_MAX = 8
READ_BYTES = 1 << 20


class CeilingVoid(Exception):
    """The store answered a recorded pipeline otherwise than when it was recorded."""


class TooLate(CeilingVoid):
    """The recorded bytes were too old before all of them were sent."""


@dataclass
class Recording:
    """The pipelines of one run, and how fast the product was with them."""

    pipelines: list[tuple[bytes, int]] = field(default_factory=list)
    outcomes: list[list[bytes]] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)  # pipelines sent before each edge of the window
    measured: Measured = field(default_factory=lambda: Measured(0, 1.0))
    alone: Measured = field(default_factory=lambda: Measured(0, 1.0))
    replay_cpu_seconds: float = 0.0  # of the process that sent the window's pipelines once more

    @property
    def batch(self) -> float:
        """Operations per pipeline in the window."""
        return self.measured.ops / (self.edges[1] - self.edges[0])


class RecordingLink(Link):
    """A link that remembers what it sent, and the outcome of every script."""

    def __init__(self) -> None:
        super().__init__()
        self.recording = Recording()

    def send(
        self, payload: bytes, count: int, done: Callable[[Replies], None], crowd: bool = False
    ) -> None:
        self.recording.pipelines.append((payload, count))

        def landed(replies: Replies) -> None:
            if isinstance(replies, list):
                self.recording.outcomes.append(list(map(outcome, replies)))
            done(replies)

        super().send(payload, count, landed, crowd)


class AheadClock(ServerClock):
    """The server's clock, believed to be later than it is."""

    def now_ms(self, monotonic: float | None = None) -> int:
        return super().now_ms(monotonic) + AHEAD_MS


def outcome(reply: Any) -> bytes:
    """What a script says that it did."""
    return bytes(reply[0]) if isinstance(reply, list) else repr(reply).encode()


async def against_ceiling(store: Store, calls: Calls) -> tuple[Recording, Measured]:
    """One alternation from the store's start state: the product, then its ceiling."""
    for last in (False,) * (TRIES_MAX - 1) + (True,):
        store.reset()
        store.tidy()
        recording = await record(store, calls)
        try:
            ceiling = replay(store, recording)
        except TooLate:
            if last:
                raise
            continue
        recording.alone = await _alone(store, calls)
        return recording, ceiling
    raise AssertionError("the last try returns or raises")


async def _alone(store: Store, calls: Calls) -> Measured:
    """The product as it is, from the same start state, and with nothing recorded."""
    store.reset()
    store.tidy()
    async with store.open() as service:
        return await drive(calls(service.engine), SECONDS)


async def record(store: Store, calls: Calls) -> Recording:
    """Runs the product from the store's start state, and notes what its lane sends."""
    _, link = await asyncio.get_running_loop().create_unix_connection(RecordingLink, store.socket)
    async with store.open() as service:
        lane = service.lane
        clock, monotonic = AheadClock(), monotonic_ms()
        clock.heard(lane.clock.now_ms(monotonic), monotonic, monotonic)
        lane.clock = clock
        plain = lane._link
        assert plain is not None
        lane.use(link)
        plain.abort("a recording link took its place")
        recording = link.recording
        recording.measured = await drive(
            calls(service.engine), SECONDS, on_edge=lambda: recording.edges.append(_sent(recording))
        )
    return recording


def _sent(recording: Recording) -> int:
    return len(recording.pipelines)


def replay(store: Store, recording: Recording) -> Measured:
    """Sends the recorded pipelines from the same start state; the window's are timed."""
    store.reset()
    begin, end = recording.edges
    wanted = recording.outcomes
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(store.socket)
        replies = blast(connection, recording.pipelines[:begin])
        since, cpu_since = time.perf_counter(), time.thread_time()
        replies += blast(connection, recording.pipelines[begin:end])
        seconds = time.perf_counter() - since
        recording.replay_cpu_seconds = time.thread_time() - cpu_since
    for number, (found, expected) in enumerate(zip(replies, wanted[:end], strict=True)):
        told = list(map(outcome, found))
        if told != expected:
            error = TooLate if b"clock" in told else CeilingVoid
            raise error(f"pipeline {number} of {end}: {told}, recorded {expected}")
    return Measured(recording.measured.ops, seconds)


def blast(connection: socket.socket, pipelines: list[tuple[bytes, int]]) -> list[list[Any]]:
    """One pipeline in flight; the replies of each."""
    reader = hiredis.Reader()
    send, receive, feed, gets = connection.sendall, connection.recv, reader.feed, reader.gets
    answers = []
    for payload, count in pipelines:
        send(payload)
        replies: list[Any] = []
        while len(replies) < count:
            feed(receive(READ_BYTES))
            while (reply := gets()) is not False:
                replies.append(reply)
        answers.append(replies)
    return answers
