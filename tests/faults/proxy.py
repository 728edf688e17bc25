"""A proxy before a store that breaks connections at the moment that a test chooses.

A fault is armed for the next request that contains some bytes, e.g. the hash of a script, so the
test says exactly which exchange breaks; ``struck`` is set when it has. Delays are drawn from a
seed. It listens on TCP, where a reset is to be seen, and encrypts if it is asked to.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["lose request", "cut reply", "silence"]
CHUNK_BYTES = 65_536
SLICE_BYTES = 2_048  # of a narrow way, so that connections share it


@dataclass
class Fault:
    """What happens to the next request that contains ``needle``.

    ``lose request``: it never arrives, and the connection is cut. ``cut reply``: it arrives, then
    ``reply_bytes`` of the answer come back before the cut. ``silence``: it arrives, and nothing
    comes back on this connection, which stays open.
    """

    kind: Kind
    needle: bytes
    reply_bytes: int = 0
    reset: bool = False
    struck: asyncio.Event = field(default_factory=asyncio.Event)


class Proxy:
    """One address before one server."""

    def __init__(
        self, target: Path, seed: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        """``target``: the server's socket. ``tls``: the way to the proxy is encrypted with it."""
        self._target = target
        self._tls = tls
        self._random = random.Random(seed)
        self._faults: list[Fault] = []
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.delay_seconds = (0.0, 0.0)  # of each chunk of a reply, drawn evenly between the two
        self.bytes_per_second = 0.0  # of requests, of all connections together; 0: as they come
        self._free_at = 0.0  # when the narrow way has room again
        self.refusing = False  # True: new connections are closed at once
        self.accepted = 0  # connections since the start
        self.url = ""
        self.port = 0

    async def start(self) -> None:
        """Listens; ``url`` is the address from now on."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Closes everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(
        self, kind: Kind, needle: bytes, reply_bytes: int = 0, reset: bool = False
    ) -> asyncio.Event:
        """Arms a fault; the event is set when it strikes. Faults strike once, in their order."""
        fault = Fault(kind, needle, reply_bytes, reset)
        self._faults.append(fault)
        return fault.struck

    def cut(self, reset: bool = False) -> None:
        """Cuts every connection now."""
        for pair in list(self._pairs):
            self._cut_pair(pair, reset)

    def _cut_pair(
        self, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], reset: bool
    ) -> None:
        self._pairs.discard(pair)
        client, server = pair
        connection = client.get_extra_info("socket")
        if reset:
            linger = struct.pack("ii", 1, 0)  # close() now sends RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.transport.abort()
        server.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            client.transport.abort()
            return
        try:
            answers, server = await asyncio.open_unix_connection(self._target)
        except OSError:  # the server is down; so are we
            client.transport.abort()
            return
        pair = (client, server)
        self._pairs.add(pair)
        allowed: list[Fault] = []  # at most one: what the next bytes back are subject to
        both = [
            asyncio.ensure_future(self._requests(reader, pair, allowed)),
            asyncio.ensure_future(self._replies(answers, pair, allowed)),
        ]
        self._tasks.update(both)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._cut_pair(pair, reset=bool(allowed) and allowed[0].reset)
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self._tasks.difference_update(both)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        allowed: list[Fault],
    ) -> None:
        before = b""
        while chunk := await reader.read(CHUNK_BYTES):
            seen = before + chunk
            for fault in self._faults:
                if fault.needle in seen:
                    self._faults.remove(fault)
                    if fault.kind == "lose request":
                        fault.struck.set()
                        return
                    allowed.append(fault)
                    break
            before = chunk[-64:]
            await self._carry(chunk, pair[1])

    async def _carry(self, chunk: bytes, server: asyncio.StreamWriter) -> None:
        """On to the server, no faster than the way is wide."""
        if not self.bytes_per_second:
            server.write(chunk)
            return
        clock = asyncio.get_running_loop().time
        for start in range(0, len(chunk), SLICE_BYTES):
            piece = chunk[start : start + SLICE_BYTES]
            self._free_at = max(clock(), self._free_at) + len(piece) / self.bytes_per_second
            await asyncio.sleep(self._free_at - clock())
            server.write(piece)

    async def _replies(
        self,
        reader: asyncio.StreamReader,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
        allowed: list[Fault],
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            if allowed:
                fault = allowed[0]
                fault.struck.set()
                if fault.kind == "cut reply":
                    pair[0].write(chunk[: fault.reply_bytes])
                    await pair[0].drain()
                    return
                continue
            low, high = self.delay_seconds
            if high:
                await asyncio.sleep(self._random.uniform(low, high))
            pair[0].write(chunk)
