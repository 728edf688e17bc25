"""The use cases that plan anew under a reservation's record: late commit, amend, return.

Each reads the record by a script that judges it, plans on what it read, and writes only if the
record is still that one; else it is asked again.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from core.asking import Asking, check_names, counted, too_many
from core.errors import (
    CustomerLimit,
    Expired,
    HoldLimit,
    InsufficientStock,
    InvalidQuantity,
    InvalidRequest,
    InvalidState,
    KeyRequired,
    Overloaded,
    StockadeError,
    UnknownChannel,
    UnknownSku,
)
from core.model import Amend, AmendLine, Commit, Key, Line, Return, ReturnLine
from core.ops import Known, NoPool, Receipt
from core.refusals import unknown_location
from core.replan_ops import AmendOp, Back, LateOp, ReturnOp
from core.store import keys, wording
from core.store.wording import Record

TRIES_MAX = 16  # of a change that always loses against others
NO_CHANNEL = "The channel that sold it is gone; give the money back"
CLOSED = "The channel is being deleted; try again"  # it opens again, as it has open units


def own_key() -> Key:
    """A key that the worker makes, so that what is sent again after a broken connection is not
    done again."""
    return Key(base64.urlsafe_b64encode(os.urandom(16))[:22], b"-")


class Changes(Asking):
    """Use cases that change what a reservation holds."""

    @counted
    async def commit(
        self, id: str, request: Commit, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Reserved → committed; after the deadline the units are taken anew if they are there.

        Raises Expired (too late, or units gone), InvalidState, StaleVersion, KeyReused,
        UnknownReservation or Unavailable.
        """
        self._check_durability(request.durability)
        receipt = await self._committed(id, request, key, if_version)
        safe = request.durability == "ledger" or self._backing.commits
        return await self._in_ledger(receipt) if safe else receipt

    async def _committed(
        self, id: str, request: Commit, key: Key | None, if_version: int | None
    ) -> Receipt:
        reference = wording.encode_text(request.reference) if request.reference else b""
        refused: tuple[bytes, InsufficientStock | CustomerLimit] | None = None
        for _ in range(TRIES_MAX):
            code, record = await self._ask("commit", id, key, if_version, argument=reference)
            if code != "late":
                return self._receipt(id, code, record)
            if refused is not None and refused[0] == record:
                raise Expired(lines=refused[1].lines)
            state = record[:1]
            if state == b"L" and request.late != "reacquire":
                raise InvalidState(
                    'It was released; "late": "reacquire" asks for its units anew', state="released"
                )
            if request.late == "refuse":
                raise Expired("The deadline passed, and this request refuses a late commit")
            if state == b"R":
                await self._ask("expire", id)
                if if_version is not None:
                    if_version += 1  # the expiry's; the caller named what was before it
                continue
            result = await self._planned(await self._late(id, record, request, key))
            if isinstance(result, tuple):
                continue  # another verb was faster; the record is read again
            if isinstance(result, UnknownChannel):  # it is being deleted
                raise Expired(NO_CHANNEL)
            if isinstance(result, (InsufficientStock, CustomerLimit)):
                refused = record, result  # or another commit of this reservation has the units
                continue
            return result if type(result) is Receipt else await self._resolved(result)
        raise Overloaded("Others kept changing this reservation; try again")

    @counted
    async def amend(
        self, id: str, request: Amend, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """The open units as they shall be; all or nothing.

        Raises InsufficientStock, InvalidState, HoldLimit, InvalidRequest, UnknownSku,
        UnknownLocation, StaleVersion, KeyReused, UnknownReservation or Unavailable.
        """
        check_names(request.lines)
        used = own_key() if key is None else key

        async def check(record: bytes) -> None:
            if request.ttl_seconds is not None and record.startswith(b"C "):
                detail = "Expected none: what is committed has no deadline"
                raise InvalidRequest(detail, [("/ttl_seconds", detail)])
            await self._check_basket(request.lines)

        async def plan(record: bytes) -> AmendOp:
            return await self._amendment(id, record, request, used)

        return await self._changed("amend", id, used, if_version, check, plan)

    @counted
    async def return_(
        self, id: str, request: Return, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Shipped units came back; all lines or nothing.

        Raises KeyRequired, InvalidQuantity, InvalidState, InvalidRequest, UnknownLocation,
        StaleVersion, KeyReused, UnknownReservation or Unavailable.
        """
        if key is None:
            raise KeyRequired()
        check_names(request.lines)
        named: dict[str, list[int]] = {}
        for number, line in enumerate(request.lines):
            if line.to is not None:
                named.setdefault(line.to, []).append(number)

        async def check(record: bytes) -> None:
            await self._check_to(named)

        async def plan(record: bytes) -> ReturnOp:
            was = wording.parse_record(record)
            parts = chosen(was, request.lines)
            left: dict[str, list[int]] = {}
            for part in parts:
                sku = was.lines[part.line].sku
                left[part.to] = [n for n, line in enumerate(request.lines) if line.sku == sku]
            await self._check_to(left)
            note = wording.encode_text(request.reference).decode() if request.reference else ""
            return ReturnOp(id, record, was, parts, note, key, self._loop.create_future())

        return await self._changed("return", id, key, if_version, check, plan)

    # --- how -------------------------------------------------------------------------------------

    async def _changed(
        self,
        verb: str,
        id: str,
        key: Key | None,
        if_version: int | None,
        check: Callable[[bytes], Awaitable[None]],
        plan: Callable[[bytes], Awaitable[AmendOp | ReturnOp]],
    ) -> Receipt:
        """Judges the record, plans on it, and again while others are faster.

        ``check(record)`` raises what comes before any word on version or state; what was done once
        stays done. The record is empty if there is none.
        """
        refused: tuple[bytes, InsufficientStock] | None = None
        for _ in range(TRIES_MAX):
            code, record = await self._ask(verb, id, key, if_version)
            if code not in ("done", "replay", "reused"):
                await check(record)
            if code != "plan":
                return self._receipt(id, code, record)
            if refused is not None and refused[0] == record:
                raise refused[1]
            result = await self._planned(await plan(record))
            if isinstance(result, NoPool):
                for sku, location in result.places:
                    await self._open_pool(sku, location)
            elif isinstance(result, UnknownChannel):
                raise Overloaded(CLOSED)
            elif isinstance(result, InsufficientStock):
                refused = record, result  # or another amend of this reservation has the units
            elif not isinstance(result, tuple):  # else another verb was faster
                return result if type(result) is Receipt else await self._resolved(result)
        raise Overloaded("Others kept changing this reservation; try again")

    async def _planned(
        self, op: LateOp | AmendOp | ReturnOp
    ) -> Receipt | Known | NoPool | StockadeError | tuple[str, bytes]:
        self._lane.submit(op)
        result: Receipt | Known | NoPool | StockadeError | tuple[str, bytes] = await op.waiter
        return result

    async def _late(self, id: str, record: bytes, request: Commit, key: Key | None) -> LateOp:
        """Plans the units of a record that ended anew; its present locations come first."""
        was = wording.parse_record(record)
        try:
            spec = await self._channel(was.channel)
        except UnknownChannel:
            raise Expired(NO_CHANNEL) from None
        ended_ms = was.deadline_ms if was.state == "X" and was.deadline_ms else was.updated_ms or 0
        if self._lane.now_ms > ended_ms + 1000 * spec.late_window_seconds:
            raise Expired(
                "The channel's late_window_seconds have passed since the end; give the money back"
            )
        wanted: dict[str, int] = {}
        for line in was.lines:
            wanted[line.sku] = wanted.get(line.sku, 0) + line.own + line.borrowed
        lines = [Line(sku, units) for sku, units in wanted.items()]
        named = renamed(was, request.reference)
        return LateOp(id, record, named, lines, key, self._loop.create_future())

    async def _amendment(self, id: str, record: bytes, request: Amend, key: Key) -> AmendOp:
        """An amend of a record as it was read."""
        was = wording.parse_record(record)
        longer_ms, limit_ms = 0, 0
        if request.ttl_seconds is not None and was.deadline_ms is not None:
            try:
                spec = await self._channel(was.channel)
            except UnknownChannel:  # so the reservation has ended meanwhile
                raise Overloaded(CLOSED) from None
            longer_ms = 1000 * request.ttl_seconds
            limit_ms = keys.created_ms(id) + 1000 * spec.max_hold_seconds
            if self._lane.now_ms + longer_ms > max(limit_ms, was.deadline_ms):
                raise HoldLimit()
        lines = [Line(line.sku, line.quantity, line.location) for line in request.lines]
        return AmendOp(
            id, record, renamed(was, request.reference), lines, key, self._loop.create_future(),
            longer_ms=longer_ms, limit_ms=limit_ms,
        )  # fmt: skip

    async def _check_basket(self, lines: list[AmendLine]) -> None:
        """Raises UnknownSku or UnknownLocation; what this worker knows it need not ask for."""
        known = self._lane.snapshot.skus
        new = [x for x in lines if x.sku not in known or not known[x.sku].number]
        if new:
            entries = await self._shard.skus([line.sku for line in new])
            missing = [line for line, entry in zip(new, entries, strict=True) if entry is None]
            if missing:
                await self._refresh_policy()  # an empty store is no proof
                raise UnknownSku(lines=[too_many(x.sku, None, x.quantity, 0) for x in missing])
        places = {line.location for line in lines if line.location is not None}
        if not places <= self._locations.keys():
            await self._refresh_policy()
            if unknown := sorted(places - self._locations.keys()):
                raise unknown_location(unknown)

    async def _check_to(self, wanted: Mapping[str, list[int]]) -> None:
        """Raises UnknownLocation, or InvalidRequest for a location that takes no returns.

        ``wanted``: location → numbers of the lines that go there.
        """
        refused = self._no_returns(wanted)
        if refused:
            await self._refresh_policy()
            refused = self._no_returns(wanted)
        unknown = [name for name in refused if name not in self._locations]
        if unknown:
            raise unknown_location(unknown)
        if refused:
            raise InvalidRequest(
                errors=[
                    (f"/lines/{number}/to", f"The location {name} takes no returns")
                    for name in refused
                    for number in wanted[name]
                ]
            )

    @property
    def _locations(self) -> dict[str, tuple[bool, bool]]:
        policy = self._lane.snapshot.policy
        return policy.locations if policy is not None else {}

    def _no_returns(self, names: Iterable[str]) -> list[str]:
        """Those that take no returns, or are not known."""
        known = self._locations
        return [name for name in names if not known.get(name, (False, False))[1]]


def renamed(was: Record, reference: str | None) -> Record:
    """The record with another reference, if one was sent."""
    if reference is None:
        return was
    return replace(was, reference=wording.encode_text(reference).decode())


def chosen(was: Record, lines: list[ReturnLine]) -> list[Back]:
    """Which units of which lines came back: those with a location first, then by order of lines.

    Raises InvalidQuantity with what is left, where more came back than is out.
    """
    summed: dict[tuple[str, str | None, str, str | None], int] = {}
    for line in lines:
        what = (line.sku, line.location, line.disposition, line.to)
        summed[what] = summed.get(what, 0) + line.quantity
    out = [line.fulfilled - line.returned for line in was.lines]
    back: list[Back] = []
    short: list[dict[str, Any]] = []
    for pinned in (True, False):
        for (sku, location, disposition, to), units in summed.items():
            if (location is not None) is not pinned:
                continue
            here = [
                number
                for number, line in enumerate(was.lines)
                if line.sku == sku and location in (None, line.location)
            ]
            left, missing = sum(out[number] for number in here), units
            if left < units:  # it takes nothing from those behind it
                short.append(too_many(sku, location, units, left))
                continue
            for number in here:
                part = min(missing, out[number])
                if part:
                    where = to or was.lines[number].location
                    back.append(Back(number, where, disposition, part))
                    out[number] -= part
                    missing -= part
    if short:
        raise InvalidQuantity(lines=short)
    return back
