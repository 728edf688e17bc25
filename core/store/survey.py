"""All that lies in a shard, looked at turn by turn while everybody works on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, cast

import redis.asyncio as redis
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from core.errors import StockUnavailable
from core.store import keys
from core.store.events import Entry

TURN = 500  # of one call: a millisecond of the server's time


class Look(Struct, frozen=True):
    """What was there at one instant, and which event was the last then. ``texts``: name → text, of
    those that were there."""

    epoch: int
    seq: int
    texts: dict[str, str]


class Customers(Struct, frozen=True):
    """What customers had at one instant, by (day, field)."""

    look: Look
    units: dict[tuple[int, str], int]


class Survey:
    """Reads one shard, pool by pool and record by record. Every failure is a StockUnavailable.

    A walk sees everything that is there all the time, perhaps twice; memory is bounded by a turn.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),  # a stale connection; all calls here only read
            protocol=2,
            decode_responses=True,
            encoding_errors="backslashreplace",  # whatever lies there is shown, not stumbled over
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def position(self) -> tuple[int, int, str]:
        """Epoch, seq of the last event, and why the scribe goes no further, if it does not. The
        epoch of an empty store is 0."""
        try:
            found = await cast("Any", self._redis.hmget(_META, ["epoch", "seq", "ledger"]))
        except RedisError as error:
            raise _error(error) from error
        return int(found[0] or 0), int(found[1] or 0), found[2] or ""

    async def now_ms(self) -> int:
        """The server's time."""
        try:
            seconds, microseconds = await self._redis.time()
        except RedisError as error:
            raise _error(error) from error
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def pools(self, names: Sequence[str]) -> Look:
        """Rows of pools (``sku@location``)."""
        pipe = self._redis.pipeline(transaction=True)
        if names:
            pipe.hmget(_POOLS, list(names))
        values, meta = await self._look(pipe)
        return _look(meta, zip(names, values[0] if names else (), strict=True))

    async def records(self, ids: Sequence[str]) -> Look:
        """Records of reservations."""
        pipe = self._redis.pipeline(transaction=True)
        for each in ids:
            pipe.hget(keys.bucket_of(each).decode(), each)
        values, meta = await self._look(pipe)
        return _look(meta, zip(ids, values, strict=True))

    async def limits(self) -> dict[str, str]:
        """SKU → number with which counting of its customers began, " past" behind it while what was
        before is still being added."""
        try:
            found = await cast("Any", self._redis.hgetall(keys.LIMITS.decode()))
        except RedisError as error:
            raise _error(error) from error
        return cast("dict[str, str]", found)

    async def customers(self, places: Iterable[tuple[int, str]]) -> Customers:
        """What customers have; ``places``: (day, field) each."""
        asked = list(places)
        pipe = self._redis.pipeline(transaction=True)
        for day, field in asked:
            pipe.hget(keys.customers_on(day).decode(), field)
        values, meta = await self._look(pipe)
        units = dict(zip(asked, (int(value or 0) for value in values), strict=True))
        return Customers(_look(meta, ()), units)

    def all_customers(self, day: int) -> AsyncIterator[dict[str, str]]:
        """What customers have by the reservations of a day, turn by turn: field → units."""
        return self._hash(keys.customers_on(day).decode())

    async def all_live(self) -> AsyncIterator[list[str]]:
        """The live reservations of customers that are counted, turn by turn: "customer@id" each."""
        cursor = 0
        while True:
            try:
                cursor, pairs = await self._redis.zscan(_LIVE, cursor, count=TURN)
            except RedisError as error:
                raise _error(error) from error
            if pairs:
                yield [str(member) for member, _ in pairs]
            if cursor == 0:
                return

    async def live(self, members: Mapping[str, str]) -> dict[str, str]:
        """Those of ``members`` (→ id) that are counted still, with their records as of the same
        instant; "" for none."""
        if not members:
            return {}
        pipe = self._redis.pipeline(transaction=True)
        pipe.zmscore(_LIVE, list(members))
        for id in members.values():
            pipe.hget(keys.bucket_of(id).decode(), id)
        (scores, *records), _ = await self._look(pipe)
        return {
            member: record or ""
            for member, score, record in zip(members, scores, records, strict=True)
            if score is not None
        }

    async def _look(self, pipe: Any) -> tuple[list[Any], list[str | None]]:
        pipe.hmget(_META, ["epoch", "seq"])
        try:
            *values, meta = await pipe.execute()
        except RedisError as error:
            raise _error(error) from error
        return values, meta

    async def events(self, epoch: int, seq: int, count: int) -> list[Entry]:
        """The first events behind (epoch, seq)."""
        try:
            found = await self._redis.xrange(
                keys.EVENTS.decode(), f"({epoch}-{seq}", "+", count=count
            )
        except RedisError as error:
            raise _error(error) from error
        entries = []
        for name, fields in cast("list[tuple[str, dict[str, str]]]", found):
            of, _, number = name.partition("-")
            entries.append(Entry(int(of), int(number), fields))
        return entries

    async def all_pools(self) -> AsyncIterator[list[str]]:
        """The names of all pools, turn by turn."""
        async for pairs in self._hash(_POOLS):
            yield list(pairs)

    async def all_records(self) -> AsyncIterator[dict[str, str]]:
        """All records, turn by turn: id → text."""
        cursor, turn = 0, dict[str, str]()
        while True:
            try:
                cursor, buckets = await self._redis.scan(cursor, keys.BUCKETS.decode(), TURN)
            except RedisError as error:
                raise _error(error) from error
            for bucket in buckets:
                async for pairs in self._hash(str(bucket)):
                    turn |= pairs
                    if len(turn) >= TURN:
                        yield turn
                        turn = {}
            if cursor == 0:
                break
        if turn:
            yield turn

    async def _hash(self, name: str) -> AsyncIterator[dict[str, str]]:
        cursor = 0
        while True:
            try:
                cursor, pairs = await cast("Any", self._redis.hscan(name, cursor, count=TURN))
            except RedisError as error:
                raise _error(error) from error
            if pairs:
                yield pairs
            if cursor == 0:
                return


_META, _POOLS, _LIVE = keys.META.decode(), keys.POOLS.decode(), keys.LIVE.decode()


def _look(meta: list[str | None], pairs: Iterable[tuple[str, str | None]]) -> Look:
    found = {name: text for name, text in pairs if text is not None}
    return Look(int(meta[0] or 0), int(meta[1] or 0), found)


def _error(error: RedisError) -> StockUnavailable:
    if isinstance(error, ResponseError):
        return StockUnavailable(f"the store refused to be read: {error}")
    return StockUnavailable(f"the store does not answer: {error or type(error).__name__}")
