"""The writing side of a rebuild: takes the shard into its hands, empties it, fills it, gives it
back. Every call but the first says who it is, so that a rebuild that was given up for dead writes
nothing any more.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from typing import Any, cast

import redis.asyncio as redis
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from core.errors import RebuildRefused, StockUnavailable
from core.store import keys, scripts
from core.store.scripts import Script

BEGUN = "begun"
KEYS_MAX = 1_000  # removed by one script, which takes them in the background


class Begun(Struct, frozen=True):
    """A shard in the hands of a rebuild: its new epoch, the server's time; and the epoch that it
    had before, with the seq of its last event. Either is -1 if it is not known."""

    epoch: int
    time_ms: int
    was_epoch: int
    was_seq: int


class Part:
    """What one script writes: at most some thousand values, in as many keys as it takes."""

    def __init__(self) -> None:
        self.size = 0  # values
        self.records: list[str] = []  # of reservations that an event tells of: id, record
        self._keys: dict[tuple[bytes, str], list[Any]] = defaultdict(list)

    def field(self, name: bytes, field: str, value: str) -> None:
        """A field of a hash."""
        self._keys[name, "hash"] += (field, value)
        self.size += 2

    def id(self, name: bytes, id: str) -> None:
        """An id in a list; those of one part share an entry, as those of one script do."""
        self._keys[name, "list"].append(id)
        self.size += 1

    def member(self, name: bytes, value: str) -> None:
        """A member of a sorted set that is in order of its bytes."""
        self._keys[name, "zset"] += (0, value)
        self.size += 2

    def gone(self, name: bytes) -> None:
        """A key that goes."""
        self._keys[name, "gone"] = []
        self.size += 1

    def words(self) -> tuple[list[bytes], list[Any]]:
        """Names of keys, and what becomes of them."""
        names: list[bytes] = []
        args: list[Any] = []
        for (name, kind), values in self._keys.items():
            names.append(name)
            if kind == "list":
                args += (kind, 1, " ".join(values))
            else:
                args += (kind, len(values), *values)
        return names, args


class Refill:
    """One rebuild of one shard. Failures are StockUnavailable; RebuildRefused if another one has
    taken the shard over."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        # Nothing is sent twice: a part that may have been written leaves the rebuild to be begun
        # again.
        self._redis: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._token = secrets.token_hex(8)

    async def close(self) -> None:
        await self._redis.aclose()

    async def begin(self, ledger_epoch: int, silence_ms: int) -> Begun | str:
        """Takes the shard; or how far the rebuild is that has it."""
        reply = await self._run(
            scripts.REBUILD_BEGIN, [keys.META],
            [scripts.FORMAT, ledger_epoch, self._token, silence_ms, BEGUN],
        )  # fmt: skip
        if reply[0] == b"busy":
            return str(reply[1].decode())
        return Begun(int(reply[1]), reply[2], int(reply[3] or -1), int(reply[4] or -1))

    async def taken(self) -> bool:
        """True while a rebuild has the shard."""
        try:
            found = await self._redis.hexists(keys.META, "rebuilding")
        except RedisError as error:
            raise _error(error) from error
        return bool(found)

    async def put(self, part: Part, progress: str) -> int:
        """Writes a part; the server's time in ms."""
        names, args = part.words()
        done, time_ms = await self._run(
            scripts.REBUILD_PUT, [keys.META, keys.EVENTS, *names],
            [self._token, progress, "\n".join(part.records), *args],
        )  # fmt: skip
        if not done:
            raise RebuildRefused("another rebuild has taken the store over")
        return int(time_ms)

    async def empty(self, progress: str) -> int:
        """Removes every key of the shard but its meta, in bounded turns; how many those were."""
        removed = 0
        cursor = 0
        while True:
            try:
                cursor, names = await self._redis.scan(cursor, keys.EVERY, count=KEYS_MAX)
            except RedisError as error:
                raise _error(error) from error
            part = Part()
            for name in cast("list[bytes]", names):  # this client decodes nothing
                if name != keys.META:
                    part.gone(name)
            removed += part.size
            await self.put(part, progress)
            if not cursor:
                return removed

    async def end(
        self, policy: int, cursor: int, short: tuple[int, int], long: tuple[int, int]
    ) -> None:
        """Gives the shard back. ``short``, ``long``: starts of the two key windows in use."""
        try:
            run_id = (await self._redis.info("server"))["run_id"]
        except RedisError as error:
            raise _error(error) from error
        done = await self._run(
            scripts.REBUILD_END, [keys.META],
            [self._token, policy, cursor, *short, *long, run_id],
        )  # fmt: skip
        if not done:
            raise RebuildRefused("another rebuild has taken the store over")

    async def _run(self, script: Script, names: list[bytes], args: list[Any]) -> Any:
        try:
            try:
                return await self._redis.evalsha(
                    script.sha.decode(), len(names), *names, *args
                )
            except NoScriptError:
                await self._redis.script_load(script.text)
                return await self._redis.evalsha(
                    script.sha.decode(), len(names), *names, *args
                )
        except RedisError as error:
            raise _error(error) from error


def _error(error: RedisError) -> StockUnavailable:
    if isinstance(error, ResponseError):
        return StockUnavailable(f"the store refused the rebuild: {error}")
    return StockUnavailable(f"the store does not answer: {error or type(error).__name__}")
