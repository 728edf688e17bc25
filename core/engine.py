"""The use cases of reservations, one short function per verb.

The engine says what is asked of the lane and what its answers mean; it plans nothing itself.
Every error is a leaf of ``core.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from core.asking import check_names, counted, too_many
from core.changes import Changes
from core.customers import NOBODY, Cut, Excess, crowded, days_before, field_of, refusal
from core.errors import (
    InvalidQuantity,
    InvalidRequest,
    InvalidState,
    KeyRequired,
    Overloaded,
    StockadeError,
    UnknownChannel,
)
from core.model import (
    Cancel,
    DryRun,
    DryRunLine,
    Extend,
    Fulfil,
    Key,
    PartLine,
    RefusedLine,
    Release,
    Reserve,
    timestamp,
)
from core.ops import Group, NoPool, Receipt, ReserveOp, TrialOp
from core.policy_model import ChannelSpec
from core.store import keys, wording

POOLS_TRIES_MAX = 4  # of a recorded sale whose pools must be opened first
STATES = ("reserved", "committed", "fulfilled")  # by the kernel's number

Element = tuple[str, str, Any, Key | None]  # (verb, id, its request, key)


class Engine(Changes):
    """One worker's use cases over its lane."""

    # --- new reservations ------------------------------------------------------------------------

    async def reserve(self, request: Reserve, key: Key | None = None) -> Receipt:
        """Takes units until a deadline; or sold, or shipped, if that has happened already.

        Raises InsufficientStock, UnknownSku, UnknownChannel, UnknownLocation, InvalidRequest,
        KeyReused, DurabilityUnavailable or Unavailable.
        """
        try:
            try:
                result = await self._reserved(request, key)
            except (InvalidRequest, UnknownChannel) as error:
                result = error
            if type(result) is not Receipt:
                result = await self._answered(result, request, key)
            if request.durability == "ledger":
                result = await self._in_ledger(result)
        except StockadeError as error:
            self._count_reserve(request, error)
            raise
        self.meters.ended("reserve", request.channel, result.repeated)
        return result

    async def reserve_batch(
        self, requests: Sequence[Reserve], idempotency: Sequence[Key | None]
    ) -> list[Receipt | StockadeError]:
        """Many demands at once, each on its own; results in order, errors as values."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        group = Group(len(requests), future)
        specs = self._specs
        for index, (request, key) in enumerate(zip(requests, idempotency, strict=True)):
            try:
                spec = specs.get(request.channel) if _is_plain(request) else None
                if spec is None:
                    spec = await self._spec(request)
                self._lane.reserve(self._demand(ReserveOp, request, spec, key, group, index))
            except StockadeError as error:
                group.set(index, error.with_traceback(None))
        results = await future

        async def finish(n: int) -> None:
            try:
                if type(results[n]) is not Receipt:
                    results[n] = await self._answered(results[n], requests[n], idempotency[n])
                if requests[n].durability == "ledger":
                    results[n] = await self._in_ledger(results[n])
            except StockadeError as error:
                results[n] = error.with_traceback(None)  # its frames hold it

        # Those that the ledger must have wait for it all at once, and from now on: one bound for
        # all of them, and none waits in another epoch than it was done in.
        waiting = asyncio.gather(
            *(finish(n) for n, each in enumerate(requests) if each.durability == "ledger")
        )
        for n, request in enumerate(requests):
            if request.durability != "ledger" and type(results[n]) is not Receipt:
                await finish(n)
        await waiting
        for request, result in zip(requests, results, strict=True):
            self._count_reserve(request, result)
        return results

    def _count_reserve(self, request: Reserve, result: Receipt | StockadeError) -> None:
        """A demand has ended; one for a channel that does not exist counts for none."""
        if not isinstance(result, StockadeError):
            self.meters.ended("reserve", request.channel, result.repeated)
        else:
            channel = request.channel if request.channel in self._specs else ""
            self.meters.not_ended("reserve", channel, result)

    async def batch(self, elements: Sequence[Element]) -> list[Receipt | StockadeError]:
        """Many verbs at once, without an order among them; results in order, errors as values.

        The verb of a demand is ``reserve``, and its id is empty.
        """
        results: list[Receipt | StockadeError | None] = [None] * len(elements)
        demands = [n for n, (verb, _, _, _) in enumerate(elements) if verb == "reserve"]

        async def reserve_all() -> None:
            found = await self.reserve_batch(
                [elements[n][2] for n in demands], [elements[n][3] for n in demands]
            )
            for n, result in zip(demands, found, strict=True):
                results[n] = result

        async def act(n: int) -> None:
            verb, id, request, key = elements[n]
            try:
                results[n] = await self._verbs[verb](id, request, key)
            except StockadeError as error:
                results[n] = error.with_traceback(None)  # its frames hold it

        others = [n for n, (verb, _, _, _) in enumerate(elements) if verb != "reserve"]
        works = [reserve_all()] if demands else []
        await asyncio.gather(*works, *map(act, others))
        return [result for result in results if result is not None]

    async def dry_run(self, request: Reserve) -> DryRun:
        """What reserving would give now; nothing is written. Raises what reserving would."""
        spec = await self._spec(request)
        lines: list[DryRunLine] = []
        op: TrialOp | None = None
        cut: Cut | None = None
        left = list(request.lines)
        while left:
            future = self._loop.create_future()
            op = self._demand(TrialOp, request, spec, None, future)
            op.lines, op.cut = left, cut
            self._lane.submit(op)
            result = await future
            if isinstance(result, StockadeError):
                raise result
            if not isinstance(result, NoPool):
                await self._check_live(request)
                found = await self._excess(result)
                if not found:
                    break
                if not (result.content and result.cut_to(found)):
                    raise refusal(found)
                left, cut = result.lines, result.cut
                continue
            # It would be recorded where a pool is opened for it, and be short there in full.
            kept = []
            for line in left:
                wanted = [line.location] if line.location else line.locations or spec.locations
                known = self._lane.snapshot.skus[line.sku].locations
                if (line.sku, wanted[0]) in result.places and not set(wanted) & set(known):
                    units = line.quantity
                    lines.append(DryRunLine(line.sku, wanted[0], units, 0, units, units))
                else:
                    kept.append(line)
            left = kept
            op = None
        return self._trial(request, spec, op, lines)

    async def _check_live(self, request: Reserve) -> None:
        """Raises CustomerLimit if its customer has as many live reservations as one may. What is
        due makes room first."""
        most = self._lane.planner.limiter.live_most
        if most is None or request.state != "reserved" or request.customer is None:
            return
        customer = wording.encode_text(request.customer).decode()
        if await self._shard.live_of(customer) >= most:
            await self._lane.tidy()
            has = await self._shard.live_of(customer)
            if has >= most:
                raise crowded(has, most)

    async def _excess(self, op: TrialOp) -> list[Excess]:
        """The limits that a trial would pass now. What is due gives its units back first."""
        customer = op.tail.split(b" ")[1].decode()
        if not op.limits or op.fact or customer == NOBODY:
            return []
        units: dict[str, int] = {}
        for pool, own, borrowed, _, _ in op.takes or []:
            sku = pool.decode().partition("@")[0]
            units[sku] = units.get(sku, 0) + own + borrowed
        for tidied in (False, True):
            found = []
            today = self._lane.now_ms // keys.DAY_MS
            for sku, wants in units.items():
                limit = op.limits.get(sku)
                if limit is None:
                    continue
                has = await self._shard.sum_of(
                    days_before(today, limit.customer_limit_days),
                    field_of(sku, limit.counting, customer),
                )
                if has + wants > limit.customer_limit:
                    found.append(Excess(sku, has, wants, limit.customer_limit))
            if not found or tidied:
                break
            await self._lane.tidy()
        return found

    # --- verbs -----------------------------------------------------------------------------------

    @counted
    async def extend(
        self, id: str, request: Extend, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """A later deadline. Raises HoldLimit past the channel's max_hold_seconds."""
        record, _ = await self._record(id)
        op = self._op("extend", id, key, if_version)
        op.deadline_ms = 1000 * request.ttl_seconds
        op.limit_ms = keys.created_ms(id)
        try:
            spec = await self._channel(wording.parse_record(record).channel)
            op.limit_ms += 1000 * spec.max_hold_seconds
        except UnknownChannel:
            pass  # then it has ended, and the script says how
        return self._receipt(id, *await self._settled(op))

    @counted
    async def release(
        self, id: str, request: Release, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Reserved → released: the units are free again."""
        return self._receipt(id, *await self._ask("release", id, key, if_version))

    @counted
    async def cancel(
        self, id: str, request: Cancel, key: Key | None = None, if_version: int | None = None
    ) -> Receipt:
        """Committed units back, all that is left or by lines. Raises InvalidQuantity."""
        argument = wording.encode_text(request.reason) if request.reason else b""
        return await self._parts("cancel", id, request.lines, key, if_version, argument)

    @counted
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

    @property
    def _verbs(self) -> dict[str, Callable[..., Any]]:
        return {
            "amend": self.amend, "extend": self.extend, "commit": self.commit,
            "release": self.release, "cancel": self.cancel, "fulfil": self.fulfil,
            "return": self.return_,
        }  # fmt: skip

    # --- how -------------------------------------------------------------------------------------

    async def _reserved(self, request: Reserve, key: Key | None) -> Any:
        """What the lane says to a demand."""
        spec = self._specs.get(request.channel) if _is_plain(request) else None
        if spec is None:
            spec = await self._spec(request)
        future = self._loop.create_future()
        self._lane.reserve(self._demand(ReserveOp, request, spec, key, future))
        return await future

    async def _spec(self, request: Reserve) -> ChannelSpec:
        """The channel of a demand. Raises first what is wrong whatever the channel is."""
        if request.durability is not None:
            self._check_durability(request.durability)
        if request.state != "reserved" or request.shortage == "record":
            _check_sale(request)
        spec = self._specs.get(request.channel)
        if spec is None:
            check_names(request.lines)
            spec = await self._channel(request.channel)
        return spec

    async def _answered(self, result: Any, request: Reserve, key: Key | None) -> Receipt:
        """A demand's receipt, where the lane's first answer was none. A recorded sale has the pools
        opened that it needs, and is asked again."""
        for _ in range(POOLS_TRIES_MAX):
            if type(result) is Receipt:
                return result
            if key is not None and isinstance(result, (InvalidRequest, NoPool, UnknownChannel)):
                result = await self._recalled(result, key)
            if not isinstance(result, NoPool):
                return await self._resolved(result)
            for sku, location in result.places:
                await self._open_pool(sku, location)
            result = await self._reserved(request, key)
        raise Overloaded("The pools that it needs could not be opened; try again")

    def _demand(
        self,
        kind: Callable[..., Any],
        request: Reserve,
        spec: ChannelSpec,
        key: Key | None,
        waiter: Any,
        index: int = 0,
    ) -> Any:
        """A demand as the lane takes it, ``kind``: ReserveOp or TrialOp."""
        ttl = request.ttl_seconds
        if ttl is not None and ttl > spec.max_hold_seconds:
            detail = f"Expected at most {spec.max_hold_seconds}, the channel's max_hold_seconds"
            raise InvalidRequest(detail, [("/ttl_seconds", detail)])
        if request.customer is None and request.reference is None:
            tail = request.channel.encode() + b" - -"
        else:
            tail = b"%s %s %s" % (
                request.channel.encode(),
                wording.encode_text(request.customer),
                wording.encode_text(request.reference),
            )
        op = kind(
            request.channel, request.lines, tail, ttl, request.partial, request.split, key, waiter,
            index,
        )  # fmt: skip
        if request.state != "reserved":
            op.state = STATES.index(request.state)
            op.fact = request.shortage == "record"
        return op

    def _trial(
        self, request: Reserve, spec: ChannelSpec, op: TrialOp | None, lines: list[DryRunLine]
    ) -> DryRun:
        """What a trial found, as it is answered; ``lines``: what would be short in full."""
        expires_at: str | None = None
        if request.state == "reserved":
            ttl = spec.ttl_seconds if request.ttl_seconds is None else request.ttl_seconds
            seconds = min(ttl, spec.max_hold_seconds)
            expires_at = timestamp(self._lane.now_ms + 1000 * seconds)
        taken = []
        for pool, own, borrowed, _, short in (op.takes or []) if op is not None else []:
            sku, _, location = pool.decode().partition("@")
            line = DryRunLine(sku, location, own + borrowed, own, borrowed)
            taken.append(replace(line, short=short) if short else line)
        answer = DryRun(
            True, request.state, request.channel, request.reference, request.customer, expires_at,
            [*taken, *lines],
        )  # fmt: skip
        if op is None or not (op.shortfalls or op.cut):
            return answer
        missing = op.shortfalls or []
        if op.cut is not None:
            missing = list(op.cut.shortfalls(missing))
        refused = [
            RefusedLine(sku, requested, granted, limited_by)
            for _, sku, _, requested, _, granted, limited_by in missing
        ]
        return replace(answer, refused=refused)

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
        check_names(lines)
        summed: dict[tuple[str, str | None], int] = {}
        for line in lines:
            place = (line.sku, line.location)
            summed[place] = summed.get(place, 0) + line.quantity
        # Those with a location first: they have no choice.
        wanted = sorted(summed.items(), key=lambda item: item[0][1] is None)
        targets = [f"{sku}@{location}" if location else sku for (sku, location), _ in wanted]
        parts = " ".join(f"{t} {units}" for t, (_, units) in zip(targets, wanted, strict=True))
        code, detail = await self._ask(verb, id, key, if_version, parts.encode(), argument)
        if code == "quantity":
            left = dict(zip(*[iter(detail.decode().split(" "))] * 2, strict=True))
            raise InvalidQuantity(
                lines=[
                    too_many(*place, units, int(left[target]))
                    for target, (place, units) in zip(targets, wanted, strict=True)
                    if target in left
                ]
            )
        try:
            return self._receipt(id, code, detail)
        except InvalidState as error:  # nothing is left of any line, and the caller should see it
            error.lines = [too_many(*place, units, 0) for place, units in wanted]
            raise


def _is_plain(request: Reserve) -> bool:
    """True for a demand that nothing has to be checked about but its channel."""
    return (
        request.state == "reserved" and request.durability is None and request.shortage != "record"
    )


def _check_sale(request: Reserve) -> None:
    """Raises InvalidRequest for what cannot have been sold already."""
    if request.state == "reserved":
        detail = "Expected refuse: only what was sold, committed or fulfilled, is recorded short"
        raise InvalidRequest(detail, [("/shortage", detail)])
    if request.ttl_seconds is not None:
        detail = f"Expected none: what is {request.state} has no deadline"
        raise InvalidRequest(detail, [("/ttl_seconds", detail)])
    if request.partial and request.shortage == "record":
        detail = "Expected false: what was sold already is recorded whole"
        raise InvalidRequest(detail, [("/partial", detail)])
