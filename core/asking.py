"""How a use case of reservations asks the lane, and what its answers mean."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, Final, TypeVar, cast

from core.backing import Backing
from core.errors import (
    DurabilityUnavailable,
    HoldLimit,
    InvalidRequest,
    InvalidState,
    KeyReused,
    StaleVersion,
    StockadeError,
    StockUnavailable,
    UnknownChannel,
    UnknownReservation,
)
from core.lane import Lane
from core.meters import Meters, channel_of
from core.model import (
    NAME_RULE,
    SKU_RULE,
    AmendLine,
    Durability,
    Key,
    Line,
    PartLine,
    ReturnLine,
    is_name,
    is_reservation_id,
    is_sku,
)
from core.ops import Known, NoPool, Receipt, SettleOp, stands_for
from core.policy_model import ChannelSpec
from core.store import keys, wording
from core.store.shard import Shard

log = logging.getLogger("stockade.engine")


Method = TypeVar("Method", bound=Callable[..., Awaitable[Receipt]])


def counted(method: Method) -> Method:
    """A verb on a reservation, ``(id, request, key, if_version)``, that is counted as it ends."""
    verb = method.__name__.rstrip("_")

    @wraps(method)
    async def counting(self: Asking, *asked: Any, **named: Any) -> Receipt:
        try:
            receipt = await method(self, *asked, **named)
        except StockadeError as error:
            self.meters.not_ended(verb, "", error)
            raise
        self.meters.ended(verb, channel_of(receipt.record), receipt.repeated)
        return receipt

    return cast("Method", counting)


CHANNELS_KNOWN = 32_768  # of reservations, twice: some 12 MB


class KnownChannels:
    """Of which channel reservations are, of those that were seen last: it never changes."""

    def __init__(self) -> None:
        self._newer: dict[str, str] = {}
        self._older: dict[str, str] = {}

    def clear(self) -> None:
        """Forgets all of them."""
        self._newer, self._older = {}, {}

    def get(self, id: str) -> str | None:
        """The channel of one, if it is among them."""
        return self._newer.get(id) or self._older.get(id)

    def set(self, id: str, channel: str) -> None:
        """A reservation is of this channel."""
        if len(self._newer) >= CHANNELS_KNOWN:
            self._older, self._newer = self._newer, {}
        self._newer[id] = channel


class Asking:
    """What all use cases of reservations share."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        refresh_policy: Callable[[], Awaitable[None]],
        open_pool: Callable[[str, str], Awaitable[None]],
        backing: Backing,
        meters: Meters,
    ) -> None:
        """``refresh_policy`` reads the policy again if it changed; ``open_pool`` sees to it that a
        SKU has a pool at a location; ``backing`` is what the ledger does for reservations."""
        self._lane = lane
        self._shard = shard
        self.durability: Final = lane.durability
        self._refresh_policy = refresh_policy
        self._open_pool = open_pool
        self._backing = backing
        self.meters: Final = meters
        self._loop = asyncio.get_running_loop()
        self.known: Final = KnownChannels()

    @property
    def now_ms(self) -> int:
        """The store's time, as well as this worker knows it."""
        return self._lane.now_ms

    # --- names -----------------------------------------------------------------------------------

    @property
    def _specs(self) -> dict[str, ChannelSpec]:
        policy = self._lane.snapshot.policy
        return policy.specs if policy is not None else {}

    async def _channel(self, name: str) -> ChannelSpec:
        """A channel's policy. Raises InvalidRequest for no name, UnknownChannel for no channel."""
        if not is_name(name):
            raise InvalidRequest(NAME_RULE, [("/channel", NAME_RULE)])
        if name not in self._specs:
            await self._refresh_policy()
        spec = self._specs.get(name)
        if spec is None:
            raise UnknownChannel()
        return spec

    async def channel_of(self, id: str) -> str:
        """Of which channel a reservation is. Raises UnknownReservation, Unavailable."""
        known = self.known.get(id)
        if known is None:
            record, _ = await self._record(id)
            known = channel_of(record)
            self.known.set(id, known)
        return known

    def _check_durability(self, wanted: Durability | None) -> None:
        if wanted == "ledger" and not self._backing.there:
            raise DurabilityUnavailable("The durability ledger cannot be had: there is no ledger")
        if wanted == "fsync" and self.durability == "memory":
            raise DurabilityUnavailable("The durability fsync cannot be had of this store")

    async def _in_ledger(self, receipt: Receipt) -> Receipt:
        """The receipt, when the ledger has what it says. Raises LedgerUnavailable, unknown."""
        await self._backing.has_all(receipt.id)
        receipt.durability = "ledger"
        return receipt

    # --- a verb on a record ----------------------------------------------------------------------

    def _op(
        self,
        verb: str,
        id: str,
        key: Key | None = None,
        if_version: int | None = None,
        parts: bytes = b"",
        argument: bytes = b"",
    ) -> SettleOp:
        if not is_reservation_id(id) or keys.shard_of(id) != keys.SHARD:
            raise UnknownReservation()
        return SettleOp(verb, id, self._loop.create_future(), key, if_version, parts, argument)

    async def _ask(
        self,
        verb: str,
        id: str,
        key: Key | None = None,
        if_version: int | None = None,
        parts: bytes = b"",
        argument: bytes = b"",
    ) -> tuple[str, bytes]:
        return await self._settled(self._op(verb, id, key, if_version, parts, argument))

    async def _settled(self, op: SettleOp) -> tuple[str, bytes]:
        """(code, record or detail) of a verb on a record. Raises what came instead.

        A reservation that ended long ago is brought back into the store, and asked again.
        """
        waiter = op.waiter
        self._lane.settle(op)
        result = await waiter
        if type(result) is tuple and result[0] == "gone" and await self._backing.restored(op.id):
            op.waiter = waiter = self._loop.create_future()
            self._lane.settle(op)
            result = await waiter
        if isinstance(result, StockadeError):
            raise result
        code, detail = result
        return code, detail

    def _receipt(self, id: str, code: str, record: bytes) -> Receipt:
        """The receipt of a settled verb, or the error that its code stands for."""
        did, _, anew = code.partition(" ")  # anew: that of a late commit, which took its units so
        if did in ("done", "already", "replay"):
            receipt = Receipt(id, record, self.durability, did == "replay", reacquired=bool(anew))
            receipt.repeated = did != "done"
            return receipt
        if code == "gone":
            raise UnknownReservation()
        if code == "version":
            raise StaleVersion()
        if code == "reused":
            raise KeyReused()
        if code == "limit":
            raise HoldLimit()
        if code == "due":
            raise InvalidState(
                "The deadline has passed; only a commit may ask for the units anew", state="expired"
            )
        if code == "state":
            state = wording.STATES[record[:1].decode()]
            raise InvalidState(f"It is {state}, which does not allow this", state=state)
        log.error("reservation %s: %s: %r", id, code, wording.without_people(record))
        raise StockUnavailable("this reservation's record does not fit its pools; see the log")

    async def _resolved(self, result: Any) -> Receipt:
        """A demand's end that is no receipt yet: an error, or a key that was used before."""
        if isinstance(result, StockadeError):
            raise result
        record, now_ms = await self._record(result.resource)
        return Receipt(
            result.resource, record, self.durability, result.replayed, result.reacquired,
            as_of_ms=now_ms,
        )  # fmt: skip

    async def _recalled(
        self, error: StockadeError | NoPool, key: Key
    ) -> Known | StockadeError | NoPool:
        """A demand that would be refused now, or make a pool, and was granted under its key before:
        a replay."""
        window = self._lane.long_window if key.of_batch else self._lane.short_window
        value = await self._shard.key(window, key.field)
        return error if value is None else stands_for(key, value)

    async def _record(self, id: str) -> tuple[bytes, int]:
        if not is_reservation_id(id) or keys.shard_of(id) != keys.SHARD:
            raise UnknownReservation()
        self._lane.check_readable()
        record, now_ms = await self._shard.record(id)
        if record is None:
            await self._refresh_policy()  # an empty store is no proof
            record = await self._backing.record(id)
        if record is None:
            raise UnknownReservation()
        return record, now_ms


def check_names(lines: Sequence[Line | PartLine | AmendLine | ReturnLine]) -> None:
    """Raises InvalidRequest with all SKUs and locations that break the grammar."""
    wrong = []
    for number, line in enumerate(lines):
        if not is_sku(line.sku):
            wrong.append((f"/lines/{number}/sku", SKU_RULE))
        for member in ("location", "to"):
            name = getattr(line, member, None)
            if name is not None and not is_name(name):
                wrong.append((f"/lines/{number}/{member}", NAME_RULE))
    if wrong:
        raise InvalidRequest(errors=wrong)


def too_many(sku: str, location: str | None, requested: int, left: int) -> dict[str, Any]:
    """A line of InvalidQuantity: what was asked for, and what is left."""
    place = {} if location is None else {"location": location}
    return {"sku": sku, **place, "requested": requested, "available": left}
