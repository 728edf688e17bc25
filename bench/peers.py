"""The same with redis-py: a connection pool and one script per call.

Once with a script as a user would write it, and once with the product's own: the same writes (row,
record, deadline, key, event), one reservation each.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import redis.asyncio as redis

from bench.callers import Call, fresh_key
from bench.stores import CHANNEL, LOCATION, UNITS, Store
from core.store import keys, scripts, wording

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


@asynccontextmanager
async def own_script(
    store: Store, sku: str, callers: int, keyed: bool
) -> AsyncIterator[list[Call]]:
    """Callers that each send the product's reserve script for one reservation of one unit.

    All of them plan on the row as it was at first: the script adds their deltas to the fresh one.
    """
    client = redis.Redis.from_url(store.url, max_connections=callers)
    pool = f"{sku}@{LOCATION}"
    row = store.admin.hget(keys.POOLS, pool)
    fields = ("epoch", "h", "hp", "w", "wp")
    known = store.admin.hmget(keys.META, fields)
    told = zip(fields, known, strict=True)
    meta = {name: value.decode() for name, value in told if isinstance(value, bytes)}
    head = [
        meta["epoch"], "", "", meta["h"], meta["hp"], 3_600_000, meta["w"], meta["wp"],
        604_800_000, "1",
    ]  # fmt: skip
    plan = [pool, row, row, f"0 {CHANNEL}@1:-1 {CHANNEL}@2:1"]
    reserve = client.register_script(scripts.RESERVE.text.decode())
    numbers = count()

    async def call() -> None:
        now_ms = time.time_ns() // 1_000_000
        deadline = now_ms + 900_000
        stamp, bits = f"{now_ms:012x}", os.urandom(6).hex()
        id = f"{stamp[:8]}-{stamp[8:]}-7{next(numbers) % 4096:03x}-8{bits[:3]}-{bits[2:]}00"
        names = [
            keys.META, keys.POOLS, keys.EVENTS, keys.short_keys(meta["h"]),
            keys.short_keys(meta["hp"]), keys.long_keys(meta["w"]), keys.long_keys(meta["wp"]),
            keys.bucket_at(now_ms), keys.done_at(now_ms // keys.HOUR_MS),
            keys.due_at(deadline // 1000),
        ]  # fmt: skip
        record = f"R 1 - {deadline} - - {CHANNEL} - - {pool}@1,0"
        key = fresh_key()
        field, value = wording.pack_key(key, 201, id)
        used, line = ([field], b"%s %s" % (field, value)) if keyed else ([], b"")
        texts = (f"{id}\n{record}", line, "")
        args: list[Any] = [
            *head, 1, 1, len(used), 0, 1, deadline, "", 0, 0, *texts, *plan, id, record,
            *used, 1, id,
        ]  # fmt: skip
        reply = await reserve(names, args)
        assert reply[0] in (b"rebased", b"applied"), reply

    try:
        yield [call] * callers
    finally:
        await client.aclose()
