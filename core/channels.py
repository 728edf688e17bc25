"""The end of a channel: its pools are swept, in bounded turns, whatever is sold meanwhile.

The channel is closed before: it takes nothing and is given nothing any more, so units that are
open in a pool can only become fewer, and a row that has forgotten the channel never learns of it
again. All pools are looked at before it is closed, so that a DELETE that is refused disturbs
nobody, and once more behind it, so that it has moved nothing; then what is left of the channel's
quota goes to ``shared``.

A SKU's own floors and ceilings for the channel stay in its policy: they are without effect, and
deleting a channel changes nobody else's floors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from core.errors import (
    ChannelInUse,
    Overloaded,
    StaleVersion,
    StockadeError,
    StockUnavailable,
    UnknownChannel,
)
from core.kernel import _pool
from core.kernel._plan import Batch, Stage
from core.kernel._policy import Policy, Row, Sku
from core.policy_model import Channel
from core.store import keys, scripts, wording
from core.store.shard import Shard

SKUS_A_TURN = 1_000  # of the catalog
ROWS_A_READ = 4_000
ROWS_A_SCRIPT = 500  # that are swapped at once: the store is kept for some milliseconds
TRIES_MAX = 64  # conflicts of single rows, in one turn
PLACES_TOLD = 100  # where units are open, of a refusal
CUT_OFF_SECONDS = 60.0  # closed for so long: whoever wanted it gone went away

log = logging.getLogger("stockade.channels")

Run = Callable[[scripts.Script, list[bytes], int, list[Any]], Awaitable[list[Any]]]
Pools = list[tuple[str, str]]  # (SKU, location)


class Sweep:
    """All pools of a shard, for one channel."""

    def __init__(self, shard: Shard, run: Run, channel: str) -> None:
        """``run(script, keys, policy number, arguments)`` is one script; its reply."""
        self._shard = shard
        self._script = run
        self._channel = channel
        self._checked = False  # no pool has open units, and none will get any
        self._swept = ""  # the SKU up to which the channel is out of all pools

    async def run(self, policy: Policy) -> bool:
        """Takes the channel out of all rows. False if the policy moved on: go on with that one.

        Raises ChannelInUse with where it has open units; then nothing was moved.
        """
        if not self._checked:
            await self.check()
            self._checked = True
        return await self._drop_all(policy)

    async def check(self) -> None:
        """Looks at all pools. Raises ChannelInUse with where it has open units."""
        places: list[dict[str, Any]] = []
        async for _, turn in self._turns(""):
            for (sku, location), row in (await self._rows(turn)).items():
                try:
                    _, reserved, committed = wording.quota(row, self._channel)
                except ValueError as error:
                    raise _corrupt(error) from error
                if reserved + committed:
                    places.append(
                        {"sku": sku, "location": location, "requested": reserved + committed,
                         "available": 0}
                    )  # fmt: skip
            if places:
                raise ChannelInUse(_told(places), places[:PLACES_TOLD])

    async def _drop_all(self, policy: Policy) -> bool:
        async for last, turn in self._turns(self._swept):
            pools = list(await self._rows(turn))
            for first in range(0, len(pools), ROWS_A_SCRIPT):
                if not await self._drop(policy, pools[first : first + ROWS_A_SCRIPT]):
                    return False
            self._swept = last
        return True

    async def _turns(self, after: str) -> AsyncIterator[tuple[str, Pools]]:
        """Per turn: the last SKU that is then behind it, and pools."""
        while names := await self._shard.catalog(after, SKUS_A_TURN):
            pools: Pools = []
            before = after
            for name, entry in zip(names, await self._shard.skus(names), strict=True):
                places = wording.parse_sku(entry)[1] if entry else ()
                if pools and len(pools) + len(places) > ROWS_A_READ:
                    yield before, pools
                    pools = []
                pools += ((name, location) for location in places)
                before = name
            yield before, pools
            after = names[-1]

    async def _rows(self, pools: Pools) -> dict[tuple[str, str], bytes]:
        """The rows that name the channel."""
        rows = await self._shard.rows([f"{sku}@{location}" for sku, location in pools])
        mark = b" %s@" % self._channel.encode()
        return {
            pool: row for pool, row in zip(pools, rows, strict=True) if row and mark in row
        }  # fmt: skip

    async def _drop(self, policy: Policy, pools: Pools) -> bool:
        """Swaps rows. After a conflict each half goes alone, so that a pool that others change all
        the time keeps none but itself waiting."""
        waiting, tries = [pools], 0
        while waiting:
            some = waiting.pop()
            outcome = await self._swap(policy, some)
            if outcome == b"policy":
                return False
            if outcome == b"applied":
                continue
            tries += len(some) == 1
            if tries > TRIES_MAX:
                raise Overloaded("The pools of this channel keep changing; try again")
            half = len(some) // 2
            waiting += [each for each in (some[:half], some[half:]) if each]
        return True

    async def _swap(self, policy: Policy, pools: Pools) -> bytes:
        """The outcome of one script."""
        names = list(dict.fromkeys(sku for sku, _ in pools))
        entries = dict(zip(names, await self._shard.skus(names), strict=True))
        rows = await self._rows(pools)  # last, so that little can come between
        if not rows:
            return b"applied"
        try:
            stage, moves = self._plan(policy, entries, rows)
        except _pool.ChannelUnknown:  # a row has met a newer policy, or one of its SKU
            return b"policy"
        reply = await self._script(
            scripts.DROP,
            [keys.META, keys.POOLS, keys.EVENTS],
            policy.number,
            [
                len(stage.pools), "\n".join(moves), *stage.pools, *stage.old, *stage.new,
                *stage.deltas,
            ],
        )  # fmt: skip
        outcome: bytes = reply[0]
        return outcome

    def _plan(
        self,
        policy: Policy,
        entries: dict[str, bytes | None],
        rows: dict[tuple[str, str], bytes],
    ) -> tuple[Stage, list[str]]:
        """(the rows without the channel, the movements). Raises ChannelInUse, StockUnavailable."""
        skus: dict[str, Sku] = {}
        for name, entry in entries.items():
            assert entry is not None, "a SKU with pools has an entry"
            number, places, spec = wording.parse_sku(entry)
            skus[name] = Sku(name, number, entry, spec, places, {})
        batch = Batch()
        batch.begin(policy, skus)
        moves: list[str] = []
        for (name, location), text in rows.items():
            row = Row(name, location)
            row.text = text
            try:
                found = batch.drop_channel(row, skus[name], self._channel)
            except _pool.ChannelInUse:
                raise ChannelInUse(f"It has open units in {name} at {location}") from None
            except _pool.RowCorrupt as error:
                raise _corrupt(error) from error
            assert found is not None, "a batch takes in as many rows as a script"
            moves += (
                f"{name}@{location} {source} {target} {units} {self._channel}"
                for source, target, units in found
            )
        return batch.pack(), moves


def _corrupt(error: Exception) -> StockUnavailable:
    return StockUnavailable(f"the store holds a row that is not one: {error}")


def _told(places: list[dict[str, Any]]) -> str:
    """Where units are open, in words."""
    first = ", ".join(
        f"{place['requested']} in {place['sku']} at {place['location']}" for place in places[:3]
    )
    more = " and elsewhere" if len(places) > 3 else ""
    return f"It has open units: {first}{more}; it stays open"


class CutOff:
    """Carries a DELETE to its end whose worker went away; a turn a minute in every worker.

    One that is still under way is none the worse for it: two that delete a channel agree.
    """

    def __init__(
        self,
        channels: Callable[[], Awaitable[list[Channel]]],
        delete: Callable[[str, int], Awaitable[None]],
    ) -> None:
        """``channels`` reads them as they are; ``delete`` goes on where another stopped, if the
        channel has that version still."""
        self._channels = channels
        self._delete = delete
        self._seen: set[tuple[str, int]] = set()  # closed at the last turn, with their versions

    async def run(self) -> None:
        """Turn after turn; one that fails is logged and the next one tries."""
        while True:
            await asyncio.sleep(CUT_OFF_SECONDS)
            try:
                await self.turn()
            except StockadeError as error:
                log.warning("a channel that is closed could not be deleted: %s", error)

    async def turn(self) -> None:
        """Deletes one that was closed at the last turn and is so still: what is known of another
        would be old by then."""
        closed = {(each.name, each.version) for each in await self._channels() if each.spec.closed}
        left, self._seen = sorted(closed & self._seen), closed
        for name, version in left[:1]:
            log.warning("the deletion of channel %s was cut off; it goes on", name)
            try:
                await self._delete(name, version)
            except (UnknownChannel, StaleVersion):
                log.info("somebody else saw to channel %s", name)
            except ChannelInUse as error:
                log.warning("channel %s is open again: %s", name, error)
