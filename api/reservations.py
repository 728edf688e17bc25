"""The hot routes: reserve, a batch of it, the verbs of a reservation, one reservation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import UNSET, Raw, Struct, UnsetType

from api import wire
from api.call import JSON, Call, Header, Reply
from api.problems import Problem, problem
from api.wire import Body
from core.errors import KeyRequired, StaleVersion, StockadeError, UnknownReservation
from core.model import (
    Batch,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Key,
    Release,
    Reservation,
    Reserve,
    ReserveElement,
    is_reservation_id,
)

if TYPE_CHECKING:
    from core.ops import Receipt

T = TypeVar("T", bound=Struct)

PATH = b"/v1/reservations"
BATCH_LINES_MAX = 10_000  # of all its demands together: what one turn of the lane can carry

RESERVE_TEXT = ("reference", "customer")
RESERVE = Body(Reserve, RESERVE_TEXT)
BATCH = Body(Batch)
EXTEND = Body(Extend, optional=True)
COMMIT = Body(Commit, ("reference",), optional=True)
RELEASE = Body(Release, optional=True)
CANCEL = Body(Cancel, ("reason",), optional=True)
FULFIL = Body(Fulfil, ("reference",), optional=True)

REPLAYED: Header = (b"idempotent-replayed", b"true")


class BatchResult(Struct, frozen=True):
    """What became of one element: a reservation, or a problem."""

    status: int
    reservation: Reservation | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchResults(Struct, frozen=True):
    """What became of the elements of a batch, in their order."""

    results: list[BatchResult]


def _reply(status: int, receipt: Receipt, *headers: Header) -> Reply:
    """A reservation as it is now."""
    replayed = (REPLAYED,) if receipt.replayed else ()
    return (
        status,
        [JSON, wire.etag(receipt.version), *headers, *replayed],
        receipt.encode(),
    )


async def reserve(call: Call) -> Reply:
    """``POST /v1/reservations``."""
    sent, request = RESERVE.read(call)
    _check_places(request)
    key = None if sent is None else wire.scoped(b"POST", PATH, sent, request)
    receipt = await call.engine.reserve(request, key)
    return _reply(201, receipt, (b"location", PATH + b"/" + receipt.id.encode("ascii")))


def _check_places(request: Reserve, pointer: str = "") -> None:
    """Raises InvalidRequest for a line that is pinned and has an order of locations as well."""
    for number, line in enumerate(request.lines):
        if line.locations is not None and line.location is not None:
            where = f"{pointer}/lines/{number}/locations"
            raise wire.invalid(where, "Expected either location or locations")


def _verb(call: Call, verb: bytes, body: Body[T]) -> tuple[str, T, Key | None, int | None]:
    """The id, the request, its key and the version that it names, of a verb's call."""
    sent, request, version = body.read_versioned(call)
    if sent is None and getattr(request, "lines", None) is not None:
        raise KeyRequired
    id = _id(call)
    if sent is None:
        return id, request, None, version
    path = b"%b/%b/%b" % (PATH, id.encode("ascii"), verb)
    return id, request, wire.scoped(b"POST", path, sent, request), version


def _id(call: Call) -> str:
    """The id in the path. Raises UnknownReservation for what cannot be one."""
    if not is_reservation_id(call.parameter):
        raise UnknownReservation
    return call.parameter


async def extend(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/extend``."""
    id, request, key, version = _verb(call, b"extend", EXTEND)
    return _reply(200, await call.engine.extend(id, request, key, version))


async def commit(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/commit``."""
    id, request, key, version = _verb(call, b"commit", COMMIT)
    return _reply(200, await call.engine.commit(id, request, key, version))


async def release(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/release``."""
    id, request, key, version = _verb(call, b"release", RELEASE)
    return _reply(200, await call.engine.release(id, request, key, version))


async def cancel(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/cancel``."""
    id, request, key, version = _verb(call, b"cancel", CANCEL)
    return _reply(200, await call.engine.cancel(id, request, key, version))


async def fulfil(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/fulfil``."""
    id, request, key, version = _verb(call, b"fulfil", FULFIL)
    return _reply(200, await call.engine.fulfil(id, request, key, version))


async def read(call: Call) -> Reply:
    """``GET /v1/reservations/{id}``."""
    version = wire.if_match(call)
    wire.Parameters(call)
    receipt = await call.engine.reservation(_id(call))
    if version is not None and receipt.version != version:
        raise StaleVersion
    return _reply(200, receipt)


async def batch(call: Call) -> Reply:
    """``POST /v1/reservations/batch``: each element on its own."""
    sent, request = BATCH.read(call)
    elements = request.reservations
    if sum(len(element.lines) for element in elements) > BATCH_LINES_MAX:
        raise wire.invalid("/reservations", f"Expected at most {BATCH_LINES_MAX} lines in all")
    requests = [_demand(element) for element in elements]
    keys = [
        _element_key(sent, index, element, requests[index])
        for index, element in enumerate(elements)
    ]
    outcomes = await call.engine.reserve_batch(requests, keys)
    return _batch_reply(outcomes, call.instance)


def _demand(element: ReserveElement) -> Reserve:
    """``element`` as it would be if sent alone."""
    return Reserve(
        element.channel,
        element.lines,
        element.ttl_seconds,
        element.reference,
        element.customer,
        element.partial,
        element.split,
        element.state,
        element.shortage,
        element.durability,
    )


def _element_key(
    sent: bytes | None, index: int, element: ReserveElement, request: Reserve
) -> Key | None:
    """The key of element ``index``: its own, scoped as if sent alone, or one of the header's."""
    pointer = f"/reservations/{index}"
    wire.check_text(request, RESERVE_TEXT, pointer)
    _check_places(request, pointer)
    own = element.idempotency_key
    if own is None:
        if sent is None:
            return None
        key = b"%b#%d" % (sent, index)
        return wire.scoped(b"POST", PATH + b"/batch", key, request)
    pointer += "/idempotency_key"
    if sent is not None:
        raise wire.invalid(pointer, "Expected no key beside the Idempotency-Key header")
    key = wire.element_key(own, pointer)
    return wire.scoped(b"POST", PATH, key, request)


def _batch_reply(outcomes: Sequence[Receipt | StockadeError], instance: str) -> Reply:
    """What became of each element; replayed if there is nothing in it that happened just now."""
    results: list[Any] = []
    replayed = True
    for outcome in outcomes:
        if isinstance(outcome, StockadeError):
            document = problem(outcome, instance)
            results.append(BatchResult(document.status, problem=document))
            replayed = False
        else:
            # Raw: the bytes are what a Reservation would be encoded to.
            results.append(BatchResult(201, cast(Reservation, Raw(outcome.encode()))))
            replayed = replayed and outcome.replayed
    headers = [JSON, REPLAYED] if replayed else [JSON]
    return 200, headers, wire.encode(BatchResults(results))
