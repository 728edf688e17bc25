"""What a channel can take now, for product pages: from what this worker saw a moment ago.

Nothing is asked if all that an answer rests on was seen within the last second; else what is
missing is looked at with the next pipeline, one look for all who wait. Names that nobody knows are
always looked up first, so whoever has just made one finds it. Plain sync code.

A row that a pipeline under way is to change stands in the snapshot as that plan leaves it. It
counts as seen if the last state that was seen is fresh: the difference is what this worker has
granted since, which all but surely happened, and a hot SKU is hardly ever without such a plan, so
waiting for its end would cost each page of it a look.

What was worked out for a SKU is kept until one of its rows, its entry or the policy is another: a
page of a shop is asked far more often than its stock changes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from core.errors import (
    InvalidRequest,
    Overloaded,
    StockadeError,
    StockUnavailable,
    UnknownChannel,
    UnknownSku,
)
from core.kernel._plan import Batch
from core.kernel._policy import Policy, Row, Sku
from core.kernel._pool import ChannelUnknown, RowCorrupt
from core.meters import Counts
from core.model import SKU_RULE, Available, is_sku
from core.ops import Waiting
from core.snapshot import Snapshot

FRESH_MS = 1_000  # as long as `Cache-Control: max-age=1` lets any cache keep the answer
POOLS_MAX = 20_000  # behind one answer: more would keep the worker from all others too long
ROUND_POOLS_MAX = 2_000  # that the kernel takes in before it must begin anew
GUESSES_MAX = 8  # pools that are looked at along with the entry of a SKU that was never seen
TURNS_MAX = 64  # looks that one answer may wait for
NEVER = -1e9  # before any pipeline, monotonic
TILES_MAX = 100_000  # about 30 MB; the SKUs of a shop's pages fit many times over

Pair = tuple[str, str | None]  # a SKU and a location, or its entry alone


class Availability:
    """What the channel can take of each SKU, in the order asked for.

    ``seen_ms``: when the oldest part of it was seen, on the monotonic clock.
    """

    __slots__ = ("items", "seen_ms")

    def __init__(self, items: list[Available], seen_ms: float) -> None:
        self.items = items
        self.seen_ms = seen_ms


class AvailabilityOp(Waiting):
    """What can this channel take of these SKUs?"""

    __slots__ = ("by_location", "channel", "index", "round", "since_ms", "skus", "turns", "waiter")

    def __init__(self, channel: str, skus: list[str], by_location: bool, waiter: Any) -> None:
        self.channel = channel
        self.skus = skus
        self.by_location = by_location
        self.waiter = waiter
        self.index = 0
        self.since_ms = 0.0
        self.round = 0  # pipelines sent when it was submitted
        self.turns = 0


class Tile:
    """What one channel can take of one SKU, and the entry and rows that this was read from."""

    __slots__ = ("item", "places", "pools", "sku")

    def __init__(self, sku: Sku, pools: list[tuple[Row, bytes]], places: dict[str, int]) -> None:
        self.sku = sku
        self.pools = pools  # rows, each with the text that it had
        self.places = places
        self.item = Available(sku.name, sum(places.values()))


class Reader:
    """Answers from a snapshot, as long as it is fresh."""

    def __init__(self, snapshot: Snapshot, counts: Counts) -> None:
        self._snapshot = snapshot
        self._counts = counts
        self._batch = Batch()  # its own: it reads between two plans, and plans nothing
        self._room = 0  # pools that the kernel takes in before it must begin anew
        self._policy: Policy | None = None  # that all tiles are of
        self._tiles: dict[str, dict[str, Tile]] = {}  # channel → SKU → tile
        self._kept = 0

    def answer_all(
        self, queue: deque[AvailabilityOp], policy_seen: tuple[int, float], monotonic: float
    ) -> list[Pair]:
        """Answers who can be answered. The others stay, and what they miss is returned."""
        missing: list[Pair] = []
        for _ in range(len(queue)):
            op = queue.popleft()
            if op.gone():
                continue
            more = self.answer(op, policy_seen, monotonic)
            if not more:
                continue
            op.turns += 1
            if op.turns > TURNS_MAX:
                op.finish(Overloaded("These SKUs could not be seen all at once; try again"))
                continue
            missing += more
            queue.append(op)
        return missing

    def answer(
        self, op: AvailabilityOp, policy_seen: tuple[int, float], monotonic: float
    ) -> list[Pair]:
        """Answers, or says what must be looked at first.

        ``policy_seen``: the pipeline that last found the policy current, and when it was sent.
        """
        policy = self._snapshot.policy
        since = monotonic - FRESH_MS
        round, seen_ms = policy_seen
        any_look: list[Pair] = [(op.skus[0], None)]  # confirms the policy
        if policy is None:
            return any_look
        spec = policy.specs.get(op.channel)
        if spec is None or spec.closed:
            if round <= op.round:
                return any_look
            op.finish(UnknownChannel())
            return []
        if policy is not self._policy or self._kept >= TILES_MAX:
            self._policy, self._kept = policy, 0
            self._tiles.clear()
        self._room = 0
        missing = [] if round > op.round or seen_ms >= since else any_look
        result: Availability | StockadeError
        try:
            result = self._read(op, spec.locations, since, seen_ms, missing)
        except StockadeError as error:
            missing.clear()
            result = error
        if not missing:
            op.finish(result)
        return missing

    def _read(
        self, op: AvailabilityOp, places: list[str], since: float, seen_ms: float,
        missing: list[Pair],
    ) -> Availability:  # fmt: skip
        """The answer, if nothing is ``missing`` afterwards."""
        tiles = self._tiles.setdefault(op.channel, {})
        found: list[Tile] = []
        unknown: list[str] = []
        pools = 0
        for name in op.skus:
            tile = tiles.get(name)
            seen = NEVER if tile is None else _seen_ms(tile)
            if tile is None or seen < since:
                tile = self._tile(op, name, places, since, missing, unknown)
                if tile is None:
                    continue
                self._kept += name not in tiles
                tiles[name] = tile
                seen = _seen_ms(tile)
            if seen < seen_ms:
                seen_ms = seen
            found.append(tile)
            pools += len(tile.pools)
            if pools > POOLS_MAX:
                detail = f"Expected SKUs that lie in {POOLS_MAX} pools at most; ask for fewer"
                raise InvalidRequest(detail, [("?sku", detail)])
        if unknown and not missing:
            raise UnknownSku(lines=[{"sku": name} for name in unknown])
        if not op.by_location:
            return Availability([tile.item for tile in found], seen_ms)
        items = [Available(tile.sku.name, tile.item.available, tile.places) for tile in found]
        return Availability(items, seen_ms)

    def _tile(
        self, op: AvailabilityOp, name: str, places: list[str], since: float,
        missing: list[Pair], unknown: list[str],
    ) -> Tile | None:  # fmt: skip
        """What the kernel makes of a SKU's rows; None if it is ``missing`` or ``unknown``."""
        sku = self._snapshot.skus.get(name)
        if sku is None and not is_sku(name):
            raise InvalidRequest(SKU_RULE, [("?sku", SKU_RULE)])
        if sku is None or (sku.seen_at < since and sku.round <= op.round):
            missing += _guesses(sku, name, places)
            return None
        if not sku.number:
            if sku.round <= op.round:  # it may have been made a moment ago
                missing.append((name, None))
            unknown.append(name)
            return None
        pools: list[tuple[Row, bytes]] = []
        units: dict[str, int] = {}
        wanted, before = set(places), len(missing)
        for location in sku.locations:
            if location not in wanted:
                continue
            row = sku.rows.get(location)
            if row is None or (row.seen_at < since and row.round <= op.round):
                missing.append((name, location))
            elif row.text:
                pools.append((row, row.text))
                found = self._available(row, sku, op.channel)
                if found is None:
                    missing.append((name, location))
                else:
                    units[location] = found
        return Tile(sku, pools, units) if len(missing) == before else None

    def _available(self, row: Row, sku: Sku, channel: str) -> int | None:
        """What the channel can take of a pool; None if its row has met a policy, or names a
        channel, that this worker does not know: it is to be looked at."""
        if not self._room:
            assert self._policy is not None, "it was set before anything was read"
            self._batch.begin(self._policy, self._snapshot.skus)
            self._room = ROUND_POOLS_MAX
        self._room -= 1
        try:
            return self._batch.available(row, sku, channel)
        except ChannelUnknown:
            return None
        except RowCorrupt as error:
            self._counts["corrupt"] += 1
            raise StockUnavailable(f"the store holds a row that is not one: {error}") from error


def _seen_ms(tile: Tile) -> float:
    """When the oldest part of a tile was seen; NEVER if it is not what the SKU's rows say now."""
    oldest = tile.sku.seen_at
    for row, text in tile.pools:
        if row.text is not text:
            return NEVER
        seen = row.seen_at
        if seen < oldest:
            oldest = seen
    return oldest


def _guesses(sku: Sku | None, name: str, places: list[str]) -> list[Pair]:
    """What to look at for a SKU that was not seen lately."""
    if sku is not None:
        wanted = set(places)
        return [(name, None), *((name, location) for location in sku.rows if location in wanted)]
    if len(places) > GUESSES_MAX:
        return [(name, None)]  # its entry says where it lies
    return [(name, location) for location in places]
