"""Who asks, as events say it; and an event of its own for what no other one tells of.

A change of policy says in its own event who made it, so it cannot be made without that. What
changes nothing here, and is to be known all the same, is noted first: if it cannot be, it is not
done.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from core.access import ASKS
from core.errors import StockUnavailable
from core.lane import Lane
from core.store import keys, scripts, wording
from core.store.shard import Shard

TRIES_MAX: Final = 3  # while key windows move on


def who() -> bytes:
    """The caller and its request, as events name them; empty for what nobody asked for."""
    asks = ASKS.get()
    if asks is None:
        return b""
    return b"%b %b" % (wording.encode_text(asks.caller.id), wording.encode_text(asks.request_id))


class Notes:
    """Notes of one shard."""

    def __init__(self, lane: Lane, shard: Shard) -> None:
        self._lane = lane
        self._shard = shard

    async def note(self, verb: str, target: str, before: Any = None, after: Any = None) -> None:
        """Writes down that whoever asks does this now. Raises StockUnavailable: then do not."""
        self._lane.check_readable()
        told = [b"" if each is None else msgspec.json.encode(each) for each in (before, after)]
        for _ in range(TRIES_MAX):
            reply = await self._shard.run(
                scripts.NOTE, [keys.META, keys.EVENTS],
                [*self._lane.head(None, who=who()), verb, target, *told],
            )  # fmt: skip
            if reply[0] == b"applied":
                return
            if reply[0] != b"clock":
                break
            self._lane.told_windows(reply)
        raise StockUnavailable("the store is not the one that this worker knows")
