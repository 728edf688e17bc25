"""The lean client against servers that behave, and some that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from loadtest.transport import Transport, WrongTarget, reach

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ANSWER = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n%b\r\n{}"


@asynccontextmanager
async def served(talk: Talk) -> AsyncIterator[str]:
    """The URL of a server that talks like that, one call per connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    async with server:
        yield f"http://{host}:{port}/behind"


async def head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def test_a_request_says_what_it_must_and_its_connection_is_kept() -> None:
    heads: list[bytes] = []
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for marks in (b"Idempotent-Replayed: true\r\nRetry-After: 3\r\n", b""):
            heads.append(await head(reader))
            if b"content-length: 5" in heads[-1]:
                assert await reader.readexactly(5) == b"[1,2]"
            writer.write(ANSWER % marks)
        await reader.read()

    async with served(talk) as url, reach(url, 4, "id.secret") as transport:
        first = await transport.request("POST", "/v1/x", b"[1,2]", "key-1")
        second = await transport.request("GET", "/v1/y", b"", None)
    assert connections == 1
    assert (first.status, first.body, first.replayed, first.wait_s) == (201, b"{}", True, 3)
    assert (second.replayed, second.wait_s) == (False, 0)
    assert heads[0].startswith(b"POST /behind/v1/x HTTP/1.1\r\nhost: 127.0.0.1:")
    for line in (b"authorization: Bearer id.secret", b"idempotency-key: key-1"):
        assert line in heads[0]
    assert b"idempotency-key" not in heads[1]


async def test_no_more_connections_than_allowed_and_the_rest_waits_its_turn() -> None:
    together = most = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal together, most
        while True:
            try:
                await head(reader)
            except asyncio.IncompleteReadError:
                return
            together += 1
            most = max(most, together)
            await asyncio.sleep(0.001)
            together -= 1
            writer.write(ANSWER % b"")

    async with served(talk) as url, reach(url, 3) as transport:
        answers = await asyncio.gather(
            *(transport.request("GET", "/", b"", None) for _ in range(30))
        )
    assert [answer.status for answer in answers] == [201] * 30
    assert most == 3


async def test_an_answer_in_pieces_is_one() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await writer.drain()
        writer.write(b"2\r\nde\r\n0\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with served(talk) as url, reach(url, 1) as transport:
        assert (await transport.request("GET", "/", b"", None)).body == b"abcde"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"SSH-2.0-OpenSSH\r\n"])
async def test_what_is_no_answer_is_an_error_and_not_a_connection_to_keep(said: bytes) -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head(reader)
        writer.write(said if connections == 1 else ANSWER % b"connection: close\r\n")

    async with served(talk) as url, reach(url, 1) as transport:
        with pytest.raises(ConnectionError):
            await transport.request("GET", "/", b"", None)
        for _ in range(2):
            assert (await transport.request("GET", "/", b"", None)).status == 201
    assert connections == 3


async def test_who_gives_up_leaves_no_answer_to_the_next() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head(reader)
        if connections > 1:
            writer.write(ANSWER % b"")
        await reader.read()

    async with served(talk) as url, reach(url, 1) as transport:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.request("GET", "/", b"", None)
        assert (await transport.request("GET", "/", b"", None)).status == 201
    assert connections == 2


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "host"])
def test_a_url_that_no_service_can_be_at_is_told(url: str) -> None:
    with pytest.raises(WrongTarget, match="expected http://HOST:PORT"):
        Transport(url, 1)
