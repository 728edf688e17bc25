"""The event stream: read behind a mark, marked, and trimmed up to the mark, never further."""

from __future__ import annotations

from typing import Any, cast

import redis.asyncio as redis
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from core.errors import StockUnavailable
from core.policy_model import LocationSpec
from core.store import keys, scripts, wording

# What a new shard begins with; no event tells of it.
MAIN_ENTRY = wording.location_entry(1, LocationSpec()).decode()
BLOCK_SECONDS = 1.0  # how long a read waits for the next event


class Entry(Struct, frozen=True, gc=False):
    """One event, as its script wrote it: see ``docs/ARCHITECTURE.md``, Events."""

    epoch: int
    seq: int
    fields: dict[str, str]

    @property
    def verb(self) -> str:
        return self.fields["v"]

    @property
    def time_ms(self) -> int:
        return int(self.fields["t"])


class Position(Struct, frozen=True):
    """Where a shard is: epoch (0 if it is empty), the seq of its last event, how far a rebuild is
    that has not ended, in words, and the server's time."""

    epoch: int
    seq: int
    rebuilding: str
    time_ms: int


class EventStream:
    """The stream of one shard, for its one reader. Every failure is a StockUnavailable."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        self._redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds + BLOCK_SECONDS,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),  # a stale connection; all calls here may repeat
            protocol=2,
            single_connection_client=False,
        )

    async def close(self) -> None:
        await self._redis.aclose()

    async def position(self) -> Position:
        """Where the shard is."""
        try:
            pipe = self._redis.pipeline(transaction=True)
            pipe.hmget(keys.META, "epoch", "seq", "rebuilding")
            pipe.time()
            (epoch, seq, rebuilding), (seconds, microseconds) = await pipe.execute()
        except RedisError as error:
            raise _error(error) from error
        return Position(
            int(epoch or 0), int(seq or 0), (rebuilding or b"").decode(),
            seconds * 1000 + microseconds // 1000,
        )  # fmt: skip

    async def read(self, epoch: int, seq: int, count: int, wait: bool = True) -> list[Entry]:
        """Up to ``count`` events behind (epoch, seq); may wait BLOCK_SECONDS for the first."""
        block = int(1000 * BLOCK_SECONDS) if wait else None
        try:
            found = await self._redis.xread(
                {keys.EVENTS: f"{epoch}-{seq}"}, count=count, block=block
            )
        except RedisError as error:
            raise _error(error) from error
        # redis-py's types do not know that this client decodes nothing.
        streams = cast("list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]", found or [])
        return [_entry(name, fields) for _, entries in streams for name, fields in entries]

    async def mark(self, epoch: int, seq: int, time_ms: int, trouble: str = "") -> bool:
        """Tells the shard how far the ledger is, and trims the stream up to there. False if the
        shard has another epoch. ``trouble``: why it goes no further for now."""
        args: list[Any] = [epoch, seq, time_ms, trouble]
        try:
            try:
                done = await self._mark(args)
            except NoScriptError:
                await self._redis.script_load(scripts.MARK.text)
                done = await self._mark(args)
        except RedisError as error:
            raise _error(error) from error
        return bool(done)

    async def _mark(self, args: list[Any]) -> Any:
        return await self._redis.evalsha(
            scripts.MARK.sha.decode(), 2, keys.META, keys.EVENTS, *args
        )


def _entry(name: bytes, fields: dict[bytes, bytes]) -> Entry:
    epoch, _, seq = name.partition(b"-")
    return Entry(int(epoch), int(seq), {k.decode(): v.decode() for k, v in fields.items()})


def _error(error: RedisError) -> StockUnavailable:
    if isinstance(error, ResponseError):
        return StockUnavailable(f"the store refused to give its events: {error}")
    return StockUnavailable(f"the store does not answer: {error or type(error).__name__}")
