"""The use cases of reservations and stock, one short function per verb.

The engine says what is asked of the lane and what its answers mean; it plans nothing itself.
Every error is a leaf of ``core.errors``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from core.errors import (
    DurabilityUnavailable,
    Expired,
    HoldLimit,
    InsufficientStock,
    InvalidQuantity,
    InvalidRequest,
    InvalidState,
    KeyRequired,
    KeyReused,
    Overloaded,
    StaleVersion,
    StockadeError,
    StockUnavailable,
    UnknownChannel,
    UnknownReservation,
)
from core.lane import Lane
from core.model import (
    NAME_RULE,
    SKU_RULE,
    Cancel,
    ChannelSpec,
    Commit,
    Durability,
    Extend,
    Fulfil,
    Key,
    Line,
    PartLine,
    Release,
    Reserve,
    is_name,
    is_reservation_id,
    is_sku,
)
from core.ops import Group, ReacquireOp, Receipt, ReserveOp, SettleOp
from core.store import keys, wording
from core.store.shard import Shard

LATE_TRIES_MAX = 16  # a late commit that always loses against others

log = logging.getLogger("stockade.engine")


class Engine:
    """One worker's use cases over its lane."""

    def __init__(
        self,
        lane: Lane,
        shard: Shard,
        refresh_policy: Callable[[], Awaitable[None]],
    ) -> None:
        """``refresh_policy`` reads the policy again if it changed."""
        self._lane = lane
        self._shard = shard
        self.durability: Final = lane.durability
        self._refresh_policy = refresh_policy
        self._loop = asyncio.get_running_loop()

    @property
    def now_ms(self) -> int:
        """The store's time, as well as this worker knows it."""
        return self._lane.now_ms

    # --- reservations --------------------------------------------------------------------------

    async def reserve(self, request: Reserve, key: Key | None = None) -> Receipt:
        """Takes units until a deadline.

        Raises InsufficientStock, UnknownSku, UnknownChannel, UnknownLocation, InvalidRequest,
        KeyReused, DurabilityUnavailable or Unavailable.
        """
        spec = self._specs.get(request.channel)
        if spec is None:
            spec = await self._channel(request.channel)
        future = self._loop.create_future()
        self._lane.reserve(self._demand(request, spec, key, future))
        result = await future
        if type(result) is Receipt:
            return result
        return await self._resolved(result)

    async def reserve_batch(
        self, requests: Sequence[Reserve], idempotency: Sequence[Key | None]
    ) -> list[Receipt | StockadeError]:
        """Many demands at once, each on its own; results in order, errors as values."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        group = Group(len(requests), future)
        for index, (request, key) in enumerate(zip(requests, idempotency, strict=True)):
            try:
                spec = self._specs.get(request.channel)
                if spec is None:
                    spec = await self._channel(request.channel)
                self._lane.reserve(self._demand(request, spec, key, group, index))
            except StockadeError as error:
                group.set(index, error)
        results = await future
        for index, result in enumerate(results):
            if type(result) is not Receipt:
                try:
                    results[index] = await self._resolved(result)
                except StockadeError as error:
                    results[index] = error
        return results

    async def commit(
        self, id: str, request: Commit, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Reserved → committed; after the deadline the units are taken anew if they are there.

        Raises Expired (too late, or units gone), InvalidState, StaleVersion, KeyReused,
        UnknownReservation or Unavailable.
        """
        self._check_durability(request.durability)
        reference = wording.encode_text(request.reference) if request.reference else b""
        refused: tuple[bytes, InsufficientStock] | None = None
        for _ in range(LATE_TRIES_MAX):
            code, record = await self._ask("commit", id, key, if_version, argument=reference)
            if code != "late":
                return self._receipt(id, code, record)
            if refused is not None and refused[0] == record:
                raise Expired(lines=refused[1].lines)
            state = wording.record_head(record)[0]
            if state == "L" and request.late != "reacquire":
                raise InvalidState(
                    'It was released; "late": "reacquire" asks for its units anew', state="released"
                )
            if request.late == "refuse":
                raise Expired("The deadline passed, and this request refuses a late commit")
            if state == "R":
                await self._ask("expire", id)
                if if_version is not None:
                    if_version += 1  # the expiry's; the caller named what was before it
                continue
            result = await self._reacquire(id, record, request, key)
            if isinstance(result, tuple):
                continue  # another verb was faster; the record is read again
            if isinstance(result, InsufficientStock):
                refused = record, result  # or another commit of this reservation has the units
                continue
            return result if type(result) is Receipt else await self._resolved(result)
        raise Overloaded("Others kept changing this reservation; try again")

    async def extend(
        self, id: str, request: Extend, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """A later deadline. Raises HoldLimit past the channel's max_hold_seconds."""
        record, _ = await self._record(id)
        spec = await self._channel(wording.record_head(record)[5])
        op = self._op("extend", id, key, if_version)
        op.deadline_ms = 1000 * request.ttl_seconds
        op.limit_ms = keys.created_ms(id) + 1000 * spec.max_hold_seconds
        return self._receipt(id, *await self._settled(op))

    async def release(
        self, id: str, request: Release, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Reserved → released: the units are free again."""
        return self._receipt(id, *await self._ask("release", id, key, if_version))

    async def cancel(
        self, id: str, request: Cancel, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Committed units back, all that is left or by lines. Raises InvalidQuantity."""
        argument = wording.encode_text(request.reason) if request.reason else b""
        return await self._parts("cancel", id, request.lines, key, if_version, argument)

    async def fulfil(
        self, id: str, request: Fulfil, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Shipped or handed over, all that is left or by lines. Raises InvalidQuantity."""
        argument = wording.encode_text(request.reference) if request.reference else b""
        return await self._parts("fulfil", id, request.lines, key, if_version, argument)

    async def reservation(self, id: str) -> Receipt:
        """A reservation as it is."""
        record, now_ms = await self._record(id)
        return Receipt(id, record, self.durability, as_of_ms=now_ms)

    # --- how -----------------------------------------------------------------------------------

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

    def _demand(
        self,
        request: Reserve,
        spec: ChannelSpec,
        key: Key | None,
        waiter: Any,
        index: int = 0,
    ) -> ReserveOp:
        ttl = request.ttl_seconds
        if ttl is not None and ttl > spec.max_hold_seconds:
            raise self._ttl_error(spec)
        if request.durability is not None:
            self._check_durability(request.durability)
        tail = b"%s %s %s" % (
            request.channel.encode(),
            wording.encode_text(request.customer),
            wording.encode_text(request.reference),
        )
        return ReserveOp(
            request.channel, request.lines, tail, ttl, request.partial, request.split, key, waiter,
            index,
        )  # fmt: skip

    @staticmethod
    def _ttl_error(spec: ChannelSpec) -> InvalidRequest:
        limit = f"Expected at most {spec.max_hold_seconds}, the channel's max_hold_seconds"
        return InvalidRequest(limit, [("/ttl_seconds", limit)])

    def _check_durability(self, wanted: Durability | None) -> None:
        if wanted == "ledger" or (wanted == "fsync" and self.durability == "memory"):
            raise DurabilityUnavailable(
                f"The durability {wanted} cannot be had; this store gives {self.durability}"
            )

    async def _reacquire(
        self, id: str, record: bytes, request: Commit, key: Key | None
    ) -> Any:
        """Plans the units of a record that ended anew; its present locations come first."""
        state, version, updated_ms, deadline_ms, tail, channel = wording.record_head(record)
        spec = await self._channel(channel)
        ended_ms = deadline_ms if state == "X" and deadline_ms else updated_ms
        if self._lane.now_ms > ended_ms + 1000 * spec.late_window_seconds:
            raise Expired(
                "The channel's late_window_seconds have passed since the end; give the money back"
            )
        if request.reference:
            tail = tail.rsplit(b" ", 1)[0] + b" " + wording.encode_text(request.reference)
        wanted: dict[str, tuple[int, list[str]]] = {}
        for line in wording.record_lines(record):
            quantity, places = wanted.get(line.sku, (0, []))
            wanted[line.sku] = (quantity + line.quantity, [*places, line.location])
        lines = [
            Line(sku, quantity, None, list(dict.fromkeys([*places, *spec.locations])))
            for sku, (quantity, places) in wanted.items()
        ]
        future = self._loop.create_future()
        self._lane.reacquire(
            ReacquireOp(id, record, channel, lines, tail, version + 1, key, future)
        )
        return await future

    async def _parts(
        self,
        verb: str,
        id: str,
        lines: list[PartLine] | None,
        key: Key | None,
        if_version: int | None,
        argument: bytes,
    ) -> Receipt:
        if lines is None:
            return self._receipt(id, *await self._ask(verb, id, key, if_version, b"", argument))
        if key is None:
            raise KeyRequired()
        _check_names(lines)
        targets = [f"{x.sku}@{x.location}" if x.location else x.sku for x in lines]
        parts = " ".join(f"{t} {x.quantity}" for t, x in zip(targets, lines, strict=True))
        code, detail = await self._ask(verb, id, key, if_version, parts.encode(), argument)
        if code == "quantity":
            left = dict(zip(*[iter(detail.decode().split(" "))] * 2, strict=True))
            raise InvalidQuantity(
                lines=[
                    _part_problem(line, int(left[target]))
                    for target, line in zip(targets, lines, strict=True)
                    if target in left
                ]
            )
        return self._receipt(id, code, detail)

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
        """(code, record or detail) of a verb on a record. Raises what came instead."""
        self._lane.settle(op)
        result = await op.waiter
        if isinstance(result, StockadeError):
            raise result
        code, detail = result
        return code, detail

    def _receipt(self, id: str, code: str, record: bytes) -> Receipt:
        """The receipt of a settled verb, or the error that its code stands for."""
        if code in ("done", "already"):
            return Receipt(id, record, self.durability)
        if code == "replay":
            return Receipt(id, record, self.durability, replayed=True)
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
        log.error("reservation %s: %s: %r", id, code, record)
        raise StockUnavailable("this reservation's record does not fit its pools; see the log")

    async def _resolved(self, result: Any) -> Receipt:
        """A demand's end that is no receipt yet: an error, or a key that was used before."""
        if isinstance(result, StockadeError):
            raise result
        record, now_ms = await self._record(result.resource)
        return Receipt(result.resource, record, self.durability, True, as_of_ms=now_ms)

    async def _record(self, id: str) -> tuple[bytes, int]:
        if not is_reservation_id(id) or keys.shard_of(id) != keys.SHARD:
            raise UnknownReservation()
        self._lane.check_readable()
        record, now_ms = await self._shard.record(id)
        if record is None:
            await self._refresh_policy()  # an empty store is no proof
            raise UnknownReservation()
        return record, now_ms


def _check_names(lines: list[PartLine]) -> None:
    """Raises InvalidRequest with all SKUs and locations that break the grammar."""
    wrong = []
    for number, line in enumerate(lines):
        if not is_sku(line.sku):
            wrong.append((f"/lines/{number}/sku", SKU_RULE))
        if line.location is not None and not is_name(line.location):
            wrong.append((f"/lines/{number}/location", NAME_RULE))
    if wrong:
        raise InvalidRequest(errors=wrong)


def _part_problem(line: PartLine, left: int) -> dict[str, Any]:
    problem: dict[str, Any] = {"sku": line.sku}
    if line.location:
        problem["location"] = line.location
    return problem | {"requested": line.quantity, "available": left}

