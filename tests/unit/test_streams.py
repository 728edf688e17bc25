"""An answer without an end: it goes as fast as its caller takes it, and ends with the caller, with
the worker, or with patience."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import call as calls
from api.app import App
from api.call import Call, Stream, send_stream

PATIENCE_SECONDS = 20.0


class Line:
    """A connection, and the stream that is sent over it."""

    def __init__(self, app: App, method: str = "GET") -> None:
        self.sent: list[dict[str, Any]] = []
        self.made = 0  # pieces that were asked for
        self.closed = False
        self.taken = asyncio.Event()  # the caller takes what is sent
        self.taken.set()
        self.gone = asyncio.Event()
        self.drained = asyncio.Event()
        self.news = asyncio.Event()
        scope = {"type": "http", "method": method, "path": "/v1/events", "query_string": b"",
                 "headers": [(b"x-request-id", b"r-1")]}  # fmt: skip
        self.call = Call(scope, app)

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            self.made += 1
            yield b"piece"

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.taken.wait()
        self.sent.append(message)
        self.news.set()
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.closed = True

    def start(self, pieces: AsyncIterator[bytes] | None = None) -> asyncio.Task[None]:
        stream = Stream([(b"a", b"b")], pieces or self.pieces(), self.close)
        return asyncio.create_task(
            send_stream(self.call, stream, self.receive, self.send, self.drained)
        )

    async def until(self, pieces: int) -> None:
        """So many pieces went out."""
        while len(self.sent) <= pieces:
            self.news.clear()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.news.wait()


async def done(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await task


@pytest.mark.parametrize("why", ["gone", "drained"])
async def test_it_ends_with_its_caller_or_its_worker(app: App, why: str) -> None:
    line = Line(app)
    task = line.start()
    await line.until(3)
    getattr(line, why).set()
    await done(task)
    assert line.closed
    assert line.sent[0]["headers"] == [(b"a", b"b"), (b"x-request-id", b"r-1")]
    assert line.sent[1] == {"type": "http.response.body", "body": b"piece", "more_body": True}
    assert line.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_nothing_is_made_that_is_not_taken(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And who takes nothing for too long makes room."""
    monkeypatch.setattr(calls, "STALL_SECONDS_MAX", 0.05)
    monkeypatch.setattr(calls, "END_SECONDS_MAX", 0.05)
    line = Line(app)
    task = line.start()
    await line.until(2)
    line.taken.clear()
    await done(task)
    assert line.closed
    assert line.made == len([each for each in line.sent if each.get("more_body")]) + 1


async def test_a_head_gets_the_head(app: App) -> None:
    line = Line(app, "HEAD")
    await done(line.start())
    assert [each["type"] for each in line.sent] == ["http.response.start", "http.response.body"]
    assert (line.made, line.closed) == (0, True)


async def test_a_defect_is_not_an_end(app: App) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"piece"
        raise KeyError("a defect")

    line = Line(app)
    with pytest.raises(KeyError):
        await done(line.start(broken()))
    assert line.closed
    assert line.sent[-1]["more_body"], "the caller sees that it broke"
