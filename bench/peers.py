"""The same with redis-py as a user would write it: a connection pool and one script per call."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import redis.asyncio as redis

from bench.callers import Call
from bench.stores import UNITS, Store

SCRIPT = """
if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1 then return -1 end
local quantity = tonumber(ARGV[2])
local free = tonumber(redis.call('HGET', KEYS[1], 'free') or '0')
if free < quantity then return 0 end
redis.call('HINCRBY', KEYS[1], 'free', -quantity)
redis.call('HINCRBY', KEYS[1], 'reserved', quantity)
redis.call('HSET', KEYS[2], 'state', 'reserved', 'channel', ARGV[3], 'sku', ARGV[4],
  'quantity', quantity, 'deadline', ARGV[5])
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
if KEYS[4] then redis.call('SET', KEYS[4], ARGV[1], 'EX', 3600) end
return 1
"""


@asynccontextmanager
async def redis_py(store: Store, sku: str, callers: int, keyed: bool) -> AsyncIterator[list[Call]]:
    """Callers that each send one EVALSHA per reservation of one unit of ``sku``."""
    # A connection for every caller: by default redis-py raises from the 101st on, and a pool that
    # makes callers wait for fewer connections was slower at every size that was tried.
    client = redis.Redis.from_url(store.url, max_connections=callers)
    reserve = client.register_script(SCRIPT)
    pool = f"stock:{sku}"
    await client.hset(pool, mapping={"free": UNITS, "reserved": 0})

    async def call() -> None:
        reservation = str(uuid4())
        names = [pool, f"reservation:{reservation}", "deadlines"]
        if keyed:
            names.append(f"key:{uuid4()}")
        taken = await reserve(names, [reservation, 1, "web", sku, time.time() + 900])
        assert taken == 1, taken

    try:
        yield [call] * callers
    finally:
        await client.aclose()
