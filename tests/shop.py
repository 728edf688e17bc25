"""Several engines on one store in one event loop, as several workers would be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import redis.asyncio as redis

from core.clock import monotonic_ms
from core.errors import Expired, InsufficientStock
from core.model import Key, Reserve
from core.ops import Receipt
from core.service import Service, open_service
from core.settings import Settings
from core.store import keys
from tests.audit import audit
from tests.stored import Audit
from tests.workers import PATIENT, stop_reaper

T = TypeVar("T")

# Moves a living reservation's deadline into the past, in record and due list alike, and leaves the
# cursor where the deadline is found. No event tells of it: the audit is told the id instead.
PASS_DEADLINE = """
local text = redis.call('HGET', KEYS[2], ARGV[1])
local head, deadline, rest = string.match(text, '^(R %d+ %S+ )(%d+)( .*)$')
if not head then return 0 end
local time = redis.call('TIME')
local past = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[2])
local second = math.floor(past / 1000)
redis.call('HSET', KEYS[2], ARGV[1], head .. string.format('%d', past) .. rest)
local before = string.format('%d', math.floor(tonumber(deadline) / 1000))
redis.call('LREM', ARGV[3] .. before, 1, ARGV[1])
redis.call('RPUSH', ARGV[3] .. string.format('%d', second), ARGV[1])
if second < tonumber(redis.call('HGET', KEYS[1], 'cursor')) then
  redis.call('HSET', KEYS[1], 'cursor', string.format('%d', second))
end
return 1
"""


def key_of(number: int) -> Key:
    """An idempotency key; equal numbers are the same request."""
    text = b"%022d" % number
    return Key(text, text)


class Shop:
    """An empty store with engines on it."""

    def __init__(self, url: str, directory: Path) -> None:
        """``directory``: a new one, so that no earlier store is remembered there."""
        self.url = url
        self.services: list[Service] = []
        self.edited: set[str] = set()  # reservations whose deadline was moved
        self._directory = directory
        self._staleness_ms = 0
        self._stack = AsyncExitStack()

    async def open(self, count: int, staleness_ms: int = 0) -> None:
        """Empties the store and opens ``count`` engines on it."""
        self._staleness_ms = staleness_ms
        self._redis: redis.Redis = redis.Redis.from_url(self.url, decode_responses=True)
        self._stack.push_async_callback(self._redis.aclose)
        await self._redis.flushall()
        settings = Settings(
            data=self._directory, valkey_url=self.url, staleness_ms=staleness_ms, **PATIENT
        )
        for _ in range(count):
            self.services.append(await self._stack.enter_async_context(open_service(settings)))

    async def __aenter__(self) -> Shop:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes everything."""
        await self._stack.aclose()

    async def stop_reapers(self) -> None:
        """From now on only verbs see to deadlines."""
        for service in self.services:
            await stop_reaper(service)

    async def audit(self) -> Audit:
        """Holds the store to the laws."""
        return await audit(self._redis, self.edited)

    async def pass_deadline(self, id: str, ago_ms: int = 0) -> bool:
        """The deadline of a living reservation was ``ago_ms`` ago. False if it is not alive."""
        prefix = keys.due_at(0).decode()[:-1]
        names = (keys.META.decode(), keys.bucket_of(id).decode())
        self.edited.add(id)
        return bool(await self._redis.eval(PASS_DEADLINE, 2, *names, id, ago_ms, prefix))

    async def reserve(self, service: Service, request: Reserve, key: Key | None = None) -> Receipt:
        """A demand that is not content with a refusal older than the demand."""
        return await self.again(lambda: service.engine.reserve(request, key))

    async def again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks again while a refusal may rest on rows from before it was first asked."""
        began = monotonic_ms()
        while True:
            asked = monotonic_ms()
            try:
                return await ask()
            except (InsufficientStock, Expired):
                if self._staleness_ms == 0 or asked - began > self._staleness_ms:
                    raise

    @staticmethod
    async def all(works: Sequence[Awaitable[Any]]) -> list[Any]:
        """What each came to, errors as values."""
        return await asyncio.gather(*works, return_exceptions=True)
