"""The use cases of stock: what arrives, leaves, is counted and moved, and what is there.

Every error is a leaf of ``core.errors``; of many lines each one has its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from core.availability import Availability, AvailabilityOp
from core.errors import (
    KeyReused,
    StockadeError,
    StockUnavailable,
    Unavailable,
    UnknownChannel,
    UnknownSku,
)
from core.lane import Lane
from core.model import Key, Pool, SkuStock
from core.ops import Group, Known, StockLine, StockOp, stands_for
from core.policy_model import ChannelSpec
from core.refusals import same_place
from core.snapshot import as_met
from core.stock_model import (
    EPOCH,
    MS,
    Adjust,
    Count,
    OpenLine,
    Reallocate,
    Receive,
    StockRequest,
    Transfer,
)
from core.store import wording
from core.store.shard import Shard

POOLS_AT_ONCE = 500  # rows of one read; what is made of them keeps the worker for some 10 ms
PAGE_POOLS_MAX = 4_000  # of one page of stock: at some hundred bytes each that is below 2 MB


class StockResult:
    """What became of one line of stock: the pool as it is now, or an error. Of a transfer ``pool``
    is where the units were, ``to_pool`` where they are."""

    __slots__ = ("error", "pool", "replayed", "to_pool")

    def __init__(
        self,
        pool: Pool | None,
        error: StockadeError | None = None,
        replayed: bool = False,
        to_pool: Pool | None = None,
    ) -> None:
        self.pool = pool
        self.error = error
        self.replayed = replayed
        self.to_pool = to_pool


def _own_key() -> Key:
    """A key for who sent none, so that a broken connection cannot count a line twice."""
    return Key(base64.urlsafe_b64encode(os.urandom(16))[:22], b"-")


class Stock:
    """One worker's use cases of stock over its lane."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        refresh_policy: Callable[[], Awaitable[None]],
    ) -> None:
        """``refresh_policy`` reads the policy again if it changed."""
        self._lane = lane
        self._shard = shard
        self._refresh_policy = refresh_policy
        self._loop = asyncio.get_running_loop()

    def time_ms(self, monotonic: float) -> int:
        """The store's time at a time of the monotonic clock, as well as this worker knows it."""
        return self._lane.clock.now_ms(monotonic)

    async def receive(
        self, request: Receive, idempotency: Sequence[Key | None]
    ) -> list[StockResult]:
        """Units that arrived, each line on its own; results in order."""
        return await self._change("receive", request, request.lines, idempotency)

    async def adjust(self, request: Adjust, idempotency: Sequence[Key | None]) -> list[StockResult]:
        """Units that were found or lost, each line on its own."""
        return await self._change("adjust", request, request.lines, idempotency)

    async def count(self, request: Count, idempotency: Sequence[Key | None]) -> list[StockResult]:
        """What was counted, each line on its own."""
        return await self._change("count", request, request.lines, idempotency)

    async def transfer(
        self, request: Transfer, idempotency: Sequence[Key | None]
    ) -> list[StockResult]:
        """Unsold units to other locations, each line on its own."""
        return await self._change("transfer", request, request.lines, idempotency)

    async def reallocate(
        self, request: Reallocate, idempotency: Sequence[Key | None]
    ) -> list[StockResult]:
        """Unsold units to other accounts, each line on its own."""
        return await self._change("reallocate", request, request.lines, idempotency)

    async def open_pool(self, sku: str, location: str) -> None:
        """Sees to it that there is a pool, be it empty. Raises UnknownSku, UnknownLocation,
        Unavailable."""
        future: asyncio.Future[Any] = self._loop.create_future()
        line = OpenLine(sku, location)
        self._lane.submit(StockOp("open", line, "- - -", _own_key(), future))
        result = await future
        if isinstance(result, StockadeError):
            raise result

    async def read(self, skus: Sequence[str], channel: str | None = None) -> list[SkuStock]:
        """All pools of these SKUs. Raises UnknownSku, UnknownChannel."""
        await self._refresh_policy()
        if channel is not None and channel not in self._specs():
            raise UnknownChannel()
        entries = await self._shard.skus(skus)
        missing = [sku for sku, entry in zip(skus, entries, strict=True) if entry is None]
        if missing:
            raise UnknownSku(lines=[{"sku": sku} for sku in missing])
        found = [(sku, entry) for sku, entry in zip(skus, entries, strict=True) if entry]
        return await self._gathered(found, channel)

    async def page(self, after: str, limit: int) -> tuple[list[SkuStock], str | None]:
        """SKUs in order, behind ``after``, with their pools; and the SKU to go on after. Fewer
        than ``limit`` where they lie in many places."""
        await self._refresh_policy()
        names = await self._shard.catalog(after, limit + 1)
        more = len(names) > limit
        names = names[:limit]
        entries = zip(names, await self._shard.skus(names), strict=True)
        found = [(name, entry) for name, entry in entries if entry]
        last = names[-1] if more else None
        pools = 0
        for number, (_, entry) in enumerate(found):
            pools += len(wording.parse_sku(entry)[1])
            if number and pools > PAGE_POOLS_MAX:
                found, last = found[:number], found[number - 1][0]
                break
        return await self._gathered(found, None), last

    async def availability(
        self, channel: str, skus: list[str], by_location: bool = False
    ) -> Availability:
        """Per SKU what the channel can take, as it was seen within the last second.

        Raises UnknownChannel, UnknownSku (with all that are unknown), InvalidRequest, Unavailable.
        """
        future: asyncio.Future[Availability | StockadeError] = self._loop.create_future()
        self._lane.read(AvailabilityOp(channel, skus, by_location, future))
        result = await future
        if isinstance(result, StockadeError):
            raise result
        return result

    # --- how -----------------------------------------------------------------------------------

    async def _change(
        self,
        verb: str,
        request: StockRequest,
        lines: Sequence[StockLine],
        idempotency: Sequence[Key | None],
    ) -> list[StockResult]:
        """What became of each line, in order."""
        note = self._note(request)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        group = Group(len(lines), future)
        ops = [
            StockOp(verb, line, note, key or _own_key(), group, index)
            for index, (line, key) in enumerate(zip(lines, idempotency, strict=True))
        ]
        for op in ops:
            wrong = same_place(op)
            if wrong is not None:
                op.finish(wrong)
                continue
            try:
                self._lane.submit(op)
            except StockadeError as error:
                op.finish(error)
        results = await future
        try:
            await self._recall(results, idempotency)
            done = [
                op for op, result in zip(ops, results, strict=True)
                if not isinstance(result, StockadeError)
            ]  # fmt: skip
            pools = await self._pools(dict.fromkeys(pool for op in done for pool in op.pools))
        except StockUnavailable as error:  # what was done was done; a repeat with its key says so
            raise StockUnavailable(error.detail, "unknown") from error
        answers = []
        for op, result in zip(ops, results, strict=True):
            if isinstance(result, StockadeError):
                self._lane.meters.stock_line(verb, result, False)
                answers.append(StockResult(None, result))
                continue
            pool, *target = (pools[name] for name in op.pools)
            replayed = isinstance(result, Known) and result.replayed
            self._lane.meters.stock_line(verb, None, replayed)
            answers.append(StockResult(pool, None, replayed, target[0] if target else None))
        return answers

    async def _recall(self, results: list[Any], idempotency: Sequence[Key | None]) -> None:
        """What was refused, and had been done under its key before, is a replay: the first time
        left less to be moved."""
        refused = {
            index: key
            for index, (result, key) in enumerate(zip(results, idempotency, strict=True))
            if key is not None
            and isinstance(result, StockadeError)
            and not isinstance(result, (Unavailable, KeyReused))
        }
        if not refused:
            return
        fields = [key.field for key in refused.values()]
        values = await self._shard.keys(self._lane.long_window, fields)
        for (index, key), value in zip(refused.items(), values, strict=True):
            if value is not None:
                results[index] = stands_for(key, value)

    async def _pools(self, names: Iterable[str]) -> dict[str, Pool]:
        """Pools that something was just done in, as they are now."""
        names = list(names)
        found = {}
        for name, row in zip(names, await self._shard.rows(names), strict=True):
            assert row is not None, "a pool that something was done in has a row"
            found[name] = self._pool(name, row)[0]
        return found

    def _specs(self) -> dict[str, ChannelSpec]:
        """The channels that are open."""
        policy = self._lane.snapshot.policy
        specs = policy.specs if policy is not None else {}
        return {name: spec for name, spec in specs.items() if not spec.closed}

    def _pool(self, pool: str, row: bytes) -> tuple[Pool, dict[str, int]]:
        policy = self._lane.snapshot.policy
        assert policy is not None
        return wording.parse_pool(pool, row, self._specs(), policy.sells(pool.split("@")[1]))

    async def _gathered(
        self, entries: Sequence[tuple[str, bytes]], channel: str | None
    ) -> list[SkuStock]:
        """Pools of SKUs (name, entry), in portions between which others get their turn."""
        answers = []
        portion: list[tuple[str, bytes, tuple[str, ...]]] = []
        pools = 0
        for number, (sku, entry) in enumerate(entries, 1):
            places = wording.parse_sku(entry)[1]
            portion.append((sku, entry, places))
            pools += len(places)
            if pools < POOLS_AT_ONCE and number < len(entries):
                continue
            names = [f"{sku}@{location}" for sku, _, places in portion for location in places]
            rows = dict(zip(names, await self._shard.rows(names), strict=True))
            answers += [self._one(*each, rows, channel) for each in portion]
            portion, pools = [], 0
        return answers

    def _one(
        self,
        sku: str,
        entry: bytes,
        places: Iterable[str],
        rows: Mapping[str, bytes | None],
        channel: str | None,
    ) -> SkuStock:
        """A SKU's pools, of which these are the rows."""
        policy = self._lane.snapshot.policy
        assert policy is not None, "it was read"
        available = dict.fromkeys([channel] if channel else self._specs(), 0)
        pools = []
        for location in places:
            row = rows[f"{sku}@{location}"]
            if row is None:
                continue
            row = as_met(policy, sku, entry, location, row)
            pool, reach = self._pool(f"{sku}@{location}", row)
            if channel:
                own = pool.channels.get(channel)
                pool = replace(pool, channels={channel: own} if own else {})
            pools.append(pool)
            for name, units in reach.items():
                if name in available:
                    available[name] += units
        return SkuStock(sku, available, pools)

    @staticmethod
    def _note(request: StockRequest) -> str:
        """Reference, reason and time of a request, as words of its movements."""
        at = request.occurred_at
        return " ".join((
            wording.encode_text(request.reference).decode(),
            wording.encode_text(request.reason).decode(),
            "-" if at is None else str((at - EPOCH) // MS),
        ))  # fmt: skip
