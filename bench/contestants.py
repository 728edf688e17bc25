"""Who is compared in ``peers``: the product, and what a shop would write with redis-py.

Each reserves one unit per call and answers whether it was granted. After a round its own rows are
recounted: what is free, what its stock says is reserved, and what its reservations add up to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple, Protocol
from uuid import uuid4

import redis.asyncio as redis

from bench.peers import SCRIPT
from bench.stores import CHANNEL, LOCATION, Store, copy_sku
from core.errors import InsufficientStock
from core.model import Line, Reserve
from core.policy_model import ChannelSpec, SkuSpec
from core.stock_model import Adjust, AdjustLine, Receive, ReceiveLine
from core.store import keys, wording

HOLD_SECONDS = 900
PAGE = 60
UNITS_MAX = 10_000_000_000

Ask = Callable[[str], Awaitable[bool]]  # one unit of a SKU: granted?


class Held(NamedTuple):
    """A SKU recounted: ``reserved`` as its stock says, ``in_rows`` as its reservations add up."""

    free: int
    reserved: int
    in_rows: int


class Contestant(Protocol):
    """Somebody who reserves."""

    name: str
    units_max: int  # of all SKUs together: where each is a row of its own, few enough to make

    async def stock(self, names: list[str], units: int) -> None:
        """Begins anew, with these SKUs and as many units of each; its server has nothing left to
        do of its own accord (a rewrite of the log, a checkpoint) when this returns."""

    def sizes(self, callers: int) -> tuple[int, ...]:
        """How many connections so many callers may share; what is best for them is tried."""

    def open(self, names: list[str], connections: int) -> AbstractAsyncContextManager[Ask]:
        """What is connected, all of it, and knows the SKUs as well as it ever will."""

    async def recount(self, names: list[str]) -> dict[str, Held]:
        """What lies there now."""


def _bytes(value: bytes | str) -> bytes:
    """What this client answers, for a type checker: it decodes nothing."""
    assert isinstance(value, bytes)
    return value


class Stockade:
    """The product, in process, as its own worker has it."""

    name = "Stockade"
    units_max = UNITS_MAX

    def __init__(self, store: Store) -> None:
        self._store = store

    async def stock(self, names: list[str], units: int) -> None:
        self._store.reset()
        async with self._store.open() as service:
            await service.catalogue.put_channel(CHANNEL, ChannelSpec(floor_share=1))
            await service.catalogue.put_sku(names[0], SkuSpec())
            line = ReceiveLine(names[0], LOCATION, max(units, 1))
            (result,) = await service.stock.receive(Receive([line]), [None])
            assert result.error is None, result.error
            if not units:
                gone = AdjustLine(names[0], LOCATION, -1)
                (result,) = await service.stock.adjust(Adjust([gone]), [None])
                assert result.error is None, result.error
        copy_sku(self._store, names[0], names[1:])
        self._store.tidy()

    def sizes(self, callers: int) -> tuple[int, ...]:
        return (1,)

    @asynccontextmanager
    async def open(self, names: list[str], connections: int) -> AsyncIterator[Ask]:
        async with self._store.open() as service:
            reserve = service.engine.reserve
            # As the pages of a shop ask before anyone buys.
            for start in range(0, len(names), PAGE):
                await service.stock.availability(CHANNEL, names[start : start + PAGE])

            async def ask(sku: str) -> bool:
                try:
                    await reserve(Reserve(CHANNEL, [Line(sku, 1)], ttl_seconds=HOLD_SECONDS))
                except InsufficientStock:
                    return False
                return True

            yield ask

    async def recount(self, names: list[str]) -> dict[str, Held]:
        admin = self._store.admin
        in_rows: Counter[str] = Counter()
        for bucket in admin.scan_iter(match=keys.BUCKETS, count=1000):
            for text in admin.hvals(bucket):
                for line in wording.parse_record(_bytes(text)).lines:
                    in_rows[line.pool] += line.own + line.borrowed
        held = {}
        rows = admin.hgetall(keys.POOLS)
        for name in names:
            pool = f"{name}@{LOCATION}"
            free, reserved, _ = wording.quota(_bytes(rows[pool.encode()]), CHANNEL)
            held[name] = Held(free, reserved, in_rows[pool])
        return held


class _RedisPy:
    """Stock and reservations as hashes, deadlines in a sorted set; a connection per caller."""

    units_max = UNITS_MAX

    def __init__(self, store: Store) -> None:
        self._store = store

    async def stock(self, names: list[str], units: int) -> None:
        self._store.reset()
        pipe = self._store.admin.pipeline(transaction=False)
        for name in names:
            pipe.hset(f"stock:{name}", mapping={"free": units, "reserved": 0})
        pipe.execute()
        self._store.tidy()

    def sizes(self, callers: int) -> tuple[int, ...]:
        # A pool that makes callers wait for fewer was slower at every size that was tried.
        return (callers,)

    @asynccontextmanager
    async def _connected(self, connections: int) -> AsyncIterator[redis.Redis]:
        client = redis.Redis.from_url(self._store.url, max_connections=connections)
        try:
            await asyncio.gather(*(client.ping() for _ in range(connections)))
            yield client
        finally:
            await client.aclose()

    async def recount(self, names: list[str]) -> dict[str, Held]:
        admin = self._store.admin
        reservations = list(admin.scan_iter(match="reservation:*", count=1000))
        pipe = admin.pipeline(transaction=False)
        for reservation in reservations:
            pipe.hmget(reservation, ("sku", "quantity"))
        in_rows: Counter[str] = Counter()
        for sku, quantity in pipe.execute():
            in_rows[sku.decode()] += int(quantity)
        for name in names:
            pipe.hmget(f"stock:{name}", ("free", "reserved"))
        return {
            name: Held(int(free), int(reserved), in_rows[name])
            for name, (free, reserved) in zip(names, pipe.execute(), strict=True)
        }


class LuaScript(_RedisPy):
    """One script per request."""

    name = "redis-py, Lua"

    @asynccontextmanager
    async def open(self, names: list[str], connections: int) -> AsyncIterator[Ask]:
        async with self._connected(connections) as client:
            reserve = client.register_script(SCRIPT)

            async def ask(sku: str) -> bool:
                reservation = str(uuid4())
                names = [f"stock:{sku}", f"reservation:{reservation}", "deadlines"]
                deadline = time.time() + HOLD_SECONDS
                return bool(await reserve(names, [reservation, 1, CHANNEL, sku, deadline]) == 1)

            yield ask


class WatchMulti(_RedisPy):
    """Reads, decides, writes if nobody else wrote meanwhile; else again."""

    name = "redis-py, WATCH"

    @asynccontextmanager
    async def open(self, names: list[str], connections: int) -> AsyncIterator[Ask]:
        async with self._connected(connections) as client:

            async def ask(sku: str) -> bool:
                stock, reservation = f"stock:{sku}", str(uuid4())
                async with client.pipeline() as pipe:
                    while True:
                        await pipe.watch(stock)
                        if int(await pipe.hget(stock, "free")) < 1:  # type: ignore[arg-type]
                            return False
                        deadline = time.time() + HOLD_SECONDS
                        pipe.multi()  # type: ignore[no-untyped-call]
                        pipe.hincrby(stock, "free", -1)
                        pipe.hincrby(stock, "reserved", 1)
                        pipe.hset(
                            f"reservation:{reservation}",
                            mapping={"state": "reserved", "channel": CHANNEL, "sku": sku,
                                     "quantity": 1, "deadline": deadline},
                        )  # fmt: skip
                        pipe.zadd("deadlines", {reservation: deadline})
                        try:
                            await pipe.execute()
                        except redis.WatchError:
                            continue
                        return True

            yield ask
