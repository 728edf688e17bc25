"""The use cases of stock: what arrives, and what is there.

Every error is a leaf of ``core.errors``; of many lines each one has its own.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from core.errors import InvalidRequest, StockadeError, UnknownChannel, UnknownSku
from core.lane import Lane
from core.model import NAME_RULE, ChannelSpec, Key, Pool, Receive, SkuStock, is_name
from core.ops import Group, Known, ReceiveOp
from core.snapshot import as_met
from core.store import wording
from core.store.shard import Shard


class StockResult:
    """What became of one line of stock: the pool as it is now, or an error."""

    __slots__ = ("error", "pool", "replayed")

    def __init__(
        self, pool: Pool | None, error: StockadeError | None = None, replayed: bool = False
    ) -> None:
        self.pool = pool
        self.error = error
        self.replayed = replayed


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

    @property
    def now_ms(self) -> int:
        """The store's time, as well as this worker knows it."""
        return self._lane.now_ms

    async def receive(
        self, request: Receive, idempotency: Sequence[Key | None]
    ) -> list[StockResult]:
        """Units that arrived, each line on its own; results in order."""
        note = self._note(request)
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        group = Group(len(request.lines), future)
        for index, (line, key) in enumerate(zip(request.lines, idempotency, strict=True)):
            if key is None:  # so that a broken connection cannot count it twice
                key = Key(base64.urlsafe_b64encode(os.urandom(16))[:22], b"-")
            try:
                if not is_name(line.location):
                    raise InvalidRequest(NAME_RULE, [(f"/lines/{index}/location", NAME_RULE)])
                self._lane.receive(
                    ReceiveOp(line.sku, line.location, line.quantity, note, key, group, index)
                )
            except StockadeError as error:
                group.set(index, error)
        results = await future
        pools = {
            f"{line.sku}@{line.location}": None
            for line, result in zip(request.lines, results, strict=True)
            if not isinstance(result, StockadeError)
        }
        rows = dict(zip(pools, await self._shard.rows(list(pools)), strict=True))
        answers = []
        for line, result in zip(request.lines, results, strict=True):
            if isinstance(result, StockadeError):
                answers.append(StockResult(None, result))
                continue
            pool = f"{line.sku}@{line.location}"
            row = rows[pool]
            assert row is not None, "a pool that was received into has a row"
            answers.append(StockResult(self._pool(pool, row)[0], None, isinstance(result, Known)))
        return answers

    async def read(self, skus: Sequence[str], channel: str | None = None) -> list[SkuStock]:
        """All pools of these SKUs. Raises UnknownSku, UnknownChannel."""
        await self._refresh_policy()
        if channel is not None:
            self._spec(channel)
        entries = await self._shard.skus(skus)
        missing = [sku for sku, entry in zip(skus, entries, strict=True) if entry is None]
        if missing:
            raise UnknownSku(lines=[{"sku": sku} for sku in missing])
        return await self._gathered(dict(zip(skus, entries, strict=True)), channel)

    async def page(self, after: str, limit: int) -> tuple[list[SkuStock], str | None]:
        """SKUs in order, behind ``after``, with their pools; and the SKU to go on after."""
        await self._refresh_policy()
        names = await self._shard.catalog(after, limit + 1)
        more = len(names) > limit
        names = names[:limit]
        entries = dict(zip(names, await self._shard.skus(names), strict=True))
        return await self._gathered(entries, None), names[-1] if more else None

    async def availability(
        self, channel: str, skus: Sequence[str]
    ) -> list[tuple[str, int, dict[str, int]]]:
        """Per SKU what the channel can take now, in all and by location."""
        found = await self.read(skus, channel)
        locations = self._spec(channel).locations
        answers = []
        for each in found:
            places = {
                pool.location: pool.channels[channel].available
                for pool in each.pools
                if pool.location in locations
            }
            answers.append((each.sku, each.available.get(channel, 0), places))
        return answers

    # --- how -----------------------------------------------------------------------------------

    def _specs(self) -> dict[str, ChannelSpec]:
        policy = self._lane.snapshot.policy
        return policy.specs if policy is not None else {}

    def _spec(self, channel: str) -> ChannelSpec:
        spec = self._specs().get(channel)
        if spec is None:
            raise UnknownChannel()
        return spec

    def _pool(self, pool: str, row: bytes) -> tuple[Pool, dict[str, int]]:
        policy = self._lane.snapshot.policy
        assert policy is not None
        return wording.parse_pool(pool, row, policy.specs, policy.sells(pool.split("@")[1]))

    async def _gathered(
        self, entries: dict[str, bytes | None], channel: str | None
    ) -> list[SkuStock]:
        """Pools of SKUs whose entries are given."""
        places = {
            sku: wording.parse_sku(entry)[1] for sku, entry in entries.items() if entry is not None
        }
        names = [f"{sku}@{location}" for sku, found in places.items() for location in found]
        rows = dict(zip(names, await self._shard.rows(names), strict=True))
        policy = self._lane.snapshot.policy
        answers = []
        for sku, found in places.items():
            available = dict.fromkeys([channel] if channel else self._specs(), 0)
            pools = []
            for location in found:
                row, entry = rows[f"{sku}@{location}"], entries[sku]
                if row is None or entry is None or policy is None:
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
            answers.append(SkuStock(sku, available, pools))
        return answers

    @staticmethod
    def _note(request: Receive) -> str:
        """Reference, reason and time of a receipt, as words of its movements."""
        at = request.occurred_at
        return " ".join((
            wording.encode_text(request.reference).decode(),
            wording.encode_text(request.reason).decode(),
            "-" if at is None else str(int(at.timestamp() * 1000)),
        ))  # fmt: skip
