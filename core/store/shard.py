"""The cold calls to the store, through redis-py: what it is, its policy, single reads, pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio as redis
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from core.clock import monotonic_ms
from core.errors import StartRefused, StockUnavailable
from core.model import Durability
from core.policy_model import Channel, LocationView, Mode
from core.store import keys, scripts, wording
from core.store.events import MAIN_ENTRY

CONNECTIONS_MAX = 32  # of one worker; who finds none free waits, as long as one call may take


class Meta(Struct, frozen=True):
    """What the shard is; ``epoch`` is empty if there is none.

    ``rebuilding``: how far a rebuild is that has not ended, in words; ``checked``: the run of the
    server in which it was last held against the ledger; ``run_id``: the run of now; ``time_ms``:
    the server's time, between ``sent_ms`` and ``received_ms`` of our monotonic clock.
    """

    format: str
    epoch: str
    seq: int
    policy: int
    cursor: int
    purged: int
    rebuilding: str
    checked: str
    time_ms: int
    sent_ms: float
    received_ms: float
    run_id: str


class Memory(Struct, frozen=True):
    """What the store holds. ``mark``: the last event in the ledger, ``mark_ms`` its time, or when
    the ledger was last seen to have all; ``trouble``: why it goes no further."""

    used_bytes: int
    limit_bytes: int
    events_bytes: int
    epoch: str
    mark: int
    mark_ms: int
    trouble: str


class PolicyEntries(Struct, frozen=True):
    """Channels, locations and the mode at one number of the policy."""

    epoch: str
    number: int
    channels: dict[str, Channel]
    locations: dict[str, LocationView]
    mode: Mode


def _error(error: Exception, name: bytes = b"") -> StockUnavailable:
    """What a failed call means; ``name`` is the key that it was about."""
    if isinstance(error, ResponseError):
        return StockUnavailable(f"the store refused {name.decode() or 'a call'}: {error}")
    return StockUnavailable(f"the store does not answer: {error or type(error).__name__}")


class Shard:
    """One shard of a store. Every failure is a StockUnavailable with outcome none: only reads."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS_MAX,
            timeout=timeout_seconds,  # for a free one
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1),  # a stale pooled connection; all calls here may repeat
            protocol=2,
        )
        self._redis: redis.Redis = redis.Redis.from_pool(pool)

    async def close(self) -> None:
        await self._redis.aclose()

    async def load_scripts(self) -> None:
        """SCRIPT LOAD, not EVAL: Valkey evicts scripts that EVAL loaded."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            for script in scripts.ALL:
                pipe.script_load(script.text)
            await pipe.execute()
        except RedisError as error:
            raise _error(error) from error

    async def start(self, create: bool) -> Meta:
        """What the shard is; made if the store is empty and ``create``."""
        try:
            run_id = (await self._redis.info("server"))["run_id"]
            sent_ms = monotonic_ms()
            found = await self._redis.evalsha(
                scripts.START.sha.decode(), 2, keys.META, keys.LOCATIONS, scripts.FORMAT,
                MAIN_ENTRY, int(create),
            )  # fmt: skip
            received_ms = monotonic_ms()
        except RedisError as error:
            raise _error(error) from error
        form, epoch, *numbers, rebuilding, checked = (word.decode() for word in found[:8])
        seq, policy, cursor, purged = (int(word or 0) for word in numbers)
        return Meta(
            form, epoch, seq, policy, cursor, purged, rebuilding, checked,
            int(found[8]), sent_ms, received_ms, run_id,
        )  # fmt: skip

    async def must_be_rebuilt(self, epoch: str, why: str) -> None:
        """Takes a shard of this epoch from all workers: it lacks what was acknowledged."""
        try:
            await self._redis.evalsha(
                scripts.REBUILD_BEGIN.sha.decode(), 1, keys.META,
                scripts.FORMAT, epoch, "", 0, why,
            )  # fmt: skip
        except RedisError as error:
            raise _error(error, keys.META) from error

    async def checked(self, epoch: str, run_id: str) -> None:
        """Notes that the store, in this run of its server, has all that the ledger has."""
        try:
            found_epoch, found = await self._hmget(keys.META, ("epoch", "checked"))
            if found_epoch == epoch.encode() and found != run_id.encode():
                await self._redis.hset(keys.META, "checked", run_id)
        except RedisError as error:
            raise _error(error, keys.META) from error

    async def version(self) -> str:
        """Name and version of the server. Raises StartRefused for one that is too old."""
        try:
            info = await self._redis.info("server")
        except RedisError as error:
            raise _error(error) from error
        name = info.get("server_name", "redis")
        version = str(info.get("valkey_version") or info["redis_version"])
        least = (7, 2) if name == "valkey" else (7, 0)
        if tuple(int(part) for part in version.split(".")[:2]) < least:
            raise StartRefused(
                f"the store is {name} {version}; Stockade needs Redis 7.0 or Valkey 7.2 at least"
            )
        return f"{name} {version}"

    async def durability(self) -> tuple[Durability, str]:
        """The level that the store's settings give, and why it is not more."""
        try:
            config = await self._redis.config_get("append*", "maxmemory-policy")
        except ResponseError as error:
            return "memory", f"CONFIG GET is refused ({error}), so its durability is not known"
        except RedisError as error:
            raise _error(error) from error
        if str(config.get("maxmemory-policy", "noeviction")).startswith("allkeys"):
            raise StartRefused(
                f"the store's maxmemory-policy is {config['maxmemory-policy']}: it may throw stock "
                "away; set `maxmemory-policy noeviction`"
            )
        if config.get("appendonly") != "yes":
            return "memory", "appendonly is not yes; set `appendonly yes` and `appendfsync always`"
        if config.get("appendfsync") != "always":
            return "memory", f"appendfsync is {config.get('appendfsync')}; set `appendfsync always`"
        return "fsync", ""

    async def memory(self) -> Memory:
        """What the store holds, and how far the ledger is behind it."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.info("memory")
            pipe.memory_usage(keys.EVENTS)
            pipe.hmget(keys.META, "epoch", "mark", "mark_ms", "ledger")
            info, events, (epoch, mark, mark_ms, trouble) = await pipe.execute()
        except RedisError as error:
            raise _error(error) from error
        return Memory(
            int(info["used_memory"]), int(info.get("maxmemory", 0)), int(events or 0),
            (epoch or b"").decode(), int(mark or 0), int(mark_ms or 0), (trouble or b"").decode(),
        )  # fmt: skip

    async def script_use(self) -> tuple[int, float]:
        """How many scripts the server ran since it started, and for how many seconds in all."""
        try:
            info = await self._redis.info("commandstats")
        except RedisError as error:
            raise _error(error) from error
        found = info.get("cmdstat_evalsha", {})
        return int(found.get("calls", 0)), int(found.get("usec", 0)) / 1e6

    async def mark(self) -> tuple[str, int]:
        """The epoch, and the seq of the last event that the ledger has."""
        try:
            epoch, mark = await self._hmget(keys.META, ("epoch", "mark"))
        except RedisError as error:
            raise _error(error, keys.META) from error
        return (epoch or b"").decode(), int(mark or 0)

    async def policy(self) -> PolicyEntries:
        """Channels, locations and the mode, read at one instant."""
        try:
            pipe = self._redis.pipeline(transaction=True)
            pipe.hmget(keys.META, "epoch", "policy")
            pipe.hgetall(keys.CHANNELS)
            pipe.hgetall(keys.LOCATIONS)
            pipe.hget(keys.MODES, keys.PROTECT)
            (epoch, number), channels, locations, mode = await pipe.execute()
        except RedisError as error:
            raise _error(error) from error
        return PolicyEntries(
            (epoch or b"").decode(),
            int(number or 0),
            {n.decode(): wording.parse_channel(n.decode(), e) for n, e in channels.items()},
            {n.decode(): wording.parse_location(n.decode(), e) for n, e in locations.items()},
            wording.parse_mode(mode),
        )

    async def record(self, reservation_id: str) -> tuple[bytes | None, int]:
        """A reservation's record, and the server's time in ms."""
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hget(keys.bucket_of(reservation_id), reservation_id)
            pipe.time()
            record, (seconds, microseconds) = await pipe.execute()
        except RedisError as error:
            raise _error(error, keys.bucket_of(reservation_id)) from error
        return record, seconds * 1000 + microseconds // 1000

    async def skus(self, names: Sequence[str]) -> list[bytes | None]:
        """Entries of SKUs."""
        try:
            return await self._hmget(keys.SKUS, names)
        except RedisError as error:
            raise _error(error, keys.SKUS) from error

    async def _hmget(self, name: bytes, fields: Sequence[str]) -> list[bytes | None]:
        # redis-py's types do not know that this client decodes nothing.
        values = await self._redis.hmget(name, list(fields)) if fields else []
        return cast("list[bytes | None]", values)

    async def rows(self, pools: Sequence[str]) -> list[bytes | None]:
        """Rows of pools (``sku@location``)."""
        try:
            return await self._hmget(keys.POOLS, pools)
        except RedisError as error:
            raise _error(error, keys.POOLS) from error

    async def imported(self, file: str, name: str) -> tuple[bytes, bytes]:
        """How far the file with this hash was imported, and the hash of the file that was imported
        last under ``name``; empty for what never was."""
        try:
            found = await self._hmget(keys.IMPORTS, (file, wording.import_name(name).decode()))
        except RedisError as error:
            raise _error(error, keys.IMPORTS) from error
        return found[0] or b"", found[1] or b""

    async def key(self, windows: Sequence[bytes], field: bytes) -> bytes | None:
        """What an idempotency key stands for, in the first of these windows that has it."""
        return (await self.keys(windows, [field]))[0]

    async def keys(
        self, windows: Sequence[bytes], fields: Sequence[bytes]
    ) -> list[bytes | None]:
        """The same of many keys."""
        try:
            found = [await self._spelled_out(window, fields) for window in windows]
        except RedisError as error:
            raise _error(error, windows[0]) from error
        return [
            next((value for value in values if value is not None), None)
            for values in zip(*found, strict=True)
        ]

    async def _spelled_out(self, window: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        """Values of a window's keys; those that name an entry which they share, as it says."""
        values = cast("list[bytes | None]", await self._redis.hmget(window, list(fields)))
        names = list({each for each in values if each and wording.names_entry(each)})
        found = await self._redis.hmget(window, names) if names else []
        texts = dict(zip(names, cast("list[bytes]", found), strict=True))
        return [
            wording.value_in_entry(texts[value], field) if value in texts else value
            for field, value in zip(fields, values, strict=True)
        ]

    async def limit_of(self, sku: str) -> str:
        """What the store says of the counting of a SKU's customers; empty for one without."""
        try:
            return ((await self._hmget(keys.LIMITS, [sku]))[0] or b"").decode()
        except RedisError as error:
            raise _error(error, keys.LIMITS) from error

    async def sum_of(self, names: Sequence[bytes], field: str) -> int:
        """The sum of a field over hashes."""
        try:
            pipe = self._redis.pipeline(transaction=True)
            for name in names:
                pipe.hget(name, field)
            return sum(int(units or 0) for units in await pipe.execute())
        except RedisError as error:
            raise _error(error, names[0]) from error

    async def live_of(self, customer: str) -> int:
        """How many live reservations a customer has, as its records spell it, if they are counted.
        ``parts/living.lua`` says the same."""
        try:
            return int(
                await self._redis.zlexcount(keys.LIVE, f"[{customer}@", f"({customer}A")
            )
        except RedisError as error:
            raise _error(error, keys.LIVE) from error

    async def drop(self, names: Sequence[bytes]) -> None:
        """Removes keys; the server frees them in the background, however large they are."""
        try:
            await self._redis.unlink(*names)
        except RedisError as error:
            raise _error(error, names[0]) from error

    async def policy_number(self) -> tuple[str, int]:
        """The epoch and the number of the policy now."""
        try:
            epoch, number = await self._hmget(keys.META, ("epoch", "policy"))
        except RedisError as error:
            raise _error(error, keys.META) from error
        return (epoch or b"").decode(), int(number or 0)

    async def api_keys(self) -> bytes | None:
        """The copy of the API keys, if there is one."""
        try:
            return cast("bytes | None", await self._redis.get(keys.API_KEYS))
        except RedisError as error:
            raise _error(error, keys.API_KEYS) from error

    async def copy_api_keys(self, text: bytes) -> None:
        """Keeps a copy of the API keys."""
        try:
            await self._redis.set(keys.API_KEYS, text)
        except RedisError as error:
            raise _error(error, keys.API_KEYS) from error

    async def ended(self, hour: int, count: int) -> list[str]:
        """The first ids of an hour's list of ended reservations."""
        try:
            found = await self._redis.lrange(keys.done_at(hour), 0, count - 1)
        except RedisError as error:
            raise _error(error, keys.done_at(hour)) from error
        return [each.decode() for each in cast("list[bytes]", found)]

    async def drop_old_windows(self, count: int) -> None:
        """Removes up to ``count`` windows of idempotency keys that are out of use."""
        try:
            fields = cast("list[bytes]", await self._redis.hkeys(keys.META))
            found = [(name, field) for field in fields if (name := keys.old_window(field))][:count]
            if found:
                names, noted = zip(*found, strict=True)
                pipe = self._redis.pipeline(transaction=True)
                pipe.unlink(*names)  # the server frees it in the background, however long it is
                pipe.hdel(keys.META, *noted)
                await pipe.execute()
        except RedisError as error:
            raise _error(error, keys.META) from error

    async def catalog(self, after: str, limit: int) -> list[str]:
        """SKUs in order of their bytes, behind ``after``."""
        low = f"({after}" if after else "-"
        try:
            names = await self._redis.zrangebylex(keys.CATALOG, low, "+", start=0, num=limit)
        except RedisError as error:
            raise _error(error, keys.CATALOG) from error
        return [name.decode() for name in cast("list[bytes]", names)]

    async def run(self, script: scripts.Script, names: Sequence[bytes], args: Sequence[Any]) -> Any:
        """One script, for policy and SKUs: rare calls that need no lane."""
        try:
            try:
                return await self._redis.evalsha(
                    script.sha.decode(), len(names), *names, *args
                )
            except NoScriptError:
                await self.load_scripts()
                return await self._redis.evalsha(
                    script.sha.decode(), len(names), *names, *args
                )
        except ResponseError as error:
            raise StockUnavailable(f"the store refused: {error}") from error
        except RedisError as error:
            raise StockUnavailable(f"the store does not answer: {error}", "unknown") from error

    async def clock_accepted(self) -> int:
        """How often an operator has accepted the server's clock."""
        try:
            return int(await self._redis.hget(keys.META, "clock") or 0)
        except RedisError as error:
            raise _error(error, keys.META) from error

    async def accept_clock(self) -> int:
        """Tells all workers to take the server's clock for the true one."""
        try:
            return int(await self._redis.hincrby(keys.META, "clock", 1))
        except RedisError as error:
            raise _error(error, keys.META) from error
