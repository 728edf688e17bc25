"""Bodies in pieces, too large or cut off, and the lifespan: message by message."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from api import call
from api.app import App
from core.errors import StartRefused
from core.service import Service
from tests.fake_service import BASKET, FakeService


class Connection:
    """One exchange with the application, message by message."""

    def __init__(self, app: App, headers: list[tuple[bytes, bytes]]) -> None:
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/reservations",
            "raw_path": b"/v1/reservations",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), *headers],
        }
        self._app = app
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[Any] = []

    def feed(self, body: bytes, more: bool = True) -> None:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    async def run(self) -> None:
        async def send(message: Any) -> None:
            self.sent.append(message)

        async with asyncio.timeout(5):
            await self._app(self._scope, self.incoming.get, send)

    @property
    def body(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent))


async def test_a_body_may_come_in_pieces(app: App, service: FakeService) -> None:
    connection = Connection(app, [])
    whole = json.dumps(BASKET).encode()
    connection.feed(whole[:9])
    connection.feed(b"")
    connection.feed(whole[9:], more=False)
    await connection.run()
    assert connection.sent[0]["status"] == 201
    assert len(service.engine.calls) == 1


async def test_a_body_that_says_it_is_too_large_is_not_read(app: App) -> None:
    connection = Connection(app, [(b"content-length", b"%d" % (call.BODY_BYTES_MAX + 1))])
    connection.feed(b"", more=False)
    await connection.run()
    assert connection.sent[0]["status"] == 413
    assert connection.body["code"] == "body_too_large"
    assert (b"connection", b"close") in connection.sent[0]["headers"]
    assert connection.sent[-1]["body"] == b""


async def test_a_body_that_grows_too_large_is_cut_off(app: App, service: FakeService) -> None:
    connection = Connection(app, [(b"transfer-encoding", b"chunked")])
    for _ in range(17):
        connection.feed(b" " * 2**16)
    connection.feed(b"late")
    connection.incoming.put_nowait({"type": "http.disconnect"})
    await connection.run()
    assert connection.sent[0]["status"] == 413
    assert connection.incoming.empty()
    assert service.engine.calls == []


async def test_what_is_dropped_of_a_refused_body_is_bounded(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "LINGER_BYTES_MAX", 2**20)
    monkeypatch.setattr(call, "LINGER_SECONDS_MAX", 0.01)
    endless = Connection(app, [(b"content-length", b"9999999999")])
    for _ in range(20):
        endless.feed(b" " * 2**16)
    await endless.run()
    assert endless.incoming.qsize() == 4
    silent = Connection(app, [(b"content-length", b"9999999999")])
    await silent.run()
    assert silent.sent[0]["status"] == 413
    assert silent.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_a_caller_that_goes_away_is_not_answered(app: App, service: FakeService) -> None:
    connection = Connection(app, [])
    connection.feed(b"{")
    connection.incoming.put_nowait({"type": "http.disconnect"})
    await connection.run()
    assert connection.sent == []
    assert service.engine.calls == []


async def lifespan(app: App) -> tuple[asyncio.Queue[Any], asyncio.Queue[Any], asyncio.Task[None]]:
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()

    async def run() -> None:
        await app({"type": "lifespan"}, incoming.get, outgoing.put)

    incoming.put_nowait({"type": "lifespan.startup"})
    return incoming, outgoing, asyncio.create_task(run())


async def test_the_lifespan_opens_and_closes_the_service(app: App, service: FakeService) -> None:
    incoming, outgoing, task = await lifespan(app)
    assert await outgoing.get() == {"type": "lifespan.startup.complete"}
    assert service.history == ["opened"]
    assert app.opened is cast(Service, service)
    incoming.put_nowait({"type": "lifespan.shutdown"})
    assert await outgoing.get() == {"type": "lifespan.shutdown.complete"}
    await task
    assert service.history == ["opened", "closed"]
    assert app.service is None


class Refused(AbstractAsyncContextManager[Service]):
    """A service that cannot be opened."""

    async def __aenter__(self) -> Service:
        raise StartRefused("The store is weaker than fsync")

    async def __aexit__(self, *exc: object) -> None: ...


async def test_a_service_that_does_not_open_says_why() -> None:
    _, outgoing, task = await lifespan(App(Refused))
    assert (await outgoing.get())["type"] == "lifespan.startup.failed"
    with pytest.raises(StartRefused, match="weaker than fsync"):
        await task
