"""The hot routes: reserve, the verbs of a reservation, one reservation."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from api import wire
from api.call import JSON, Call, Header, Reply
from api.problems import Forbidden
from api.wire import Body
from core.access import LOOPBACK, Caller
from core.errors import KeyRequired, StaleVersion, UnknownReservation
from core.model import (
    Amend,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Key,
    Release,
    Reserve,
    Return,
    is_reservation_id,
)

if TYPE_CHECKING:
    from core.ops import Receipt

T = TypeVar("T", bound=Struct)

PATH = b"/v1/reservations"
PEOPLE = "pii:read"  # the scope of who may see whose a reservation is

RESERVE_TEXT = ("reference", "customer")
RESERVE = Body(Reserve, RESERVE_TEXT, query=("dry_run",))
AMEND = Body(Amend, ("reference",))
EXTEND = Body(Extend, optional=True)
COMMIT = Body(Commit, ("reference",), optional=True)
RELEASE = Body(Release, optional=True)
CANCEL = Body(Cancel, ("reason",), optional=True)
FULFIL = Body(Fulfil, ("reference",), optional=True)
RETURN = Body(Return, ("reference",))

MOVES = (b"cancel", b"fulfil", b"return")  # what needs a key if it moves a quantity

REPLAYED: Header = (b"idempotent-replayed", b"true")


def _reply(
    call: Call, status: int, receipt: Receipt, *headers: Header, masked: bool = True
) -> Reply:
    """A reservation as it is now; ``masked``: as its caller may see it without more ado."""
    replayed = (REPLAYED,) if receipt.replayed else ()
    return (
        status,
        [JSON, wire.etag(receipt.version), *headers, *replayed],
        (shown(call.caller, receipt) if masked else receipt).encode(),
    )


def shown(caller: Caller, receipt: Receipt) -> Receipt:
    """The answer to a verb: who may reserve sees whose it is, having said it."""
    return receipt if caller.may("reserve") else receipt.masked()


def listed(caller: Caller, receipt: Receipt) -> Receipt:
    """One of many: whose it is sees who may."""
    return receipt if caller.may(PEOPLE) else receipt.masked()


def shows(caller: Caller, receipt: Receipt) -> bool:
    """True if a list tells this caller, who came with a key, whose it is: that is noted."""
    return caller.may(PEOPLE) and caller is not LOOPBACK and receipt.has_customer


async def reserve(call: Call) -> Reply:
    """``POST /v1/reservations``."""
    sent, request = RESERVE.read_new(call)
    check_places(request)
    check_demand(call, request)
    if call.query and wire.Parameters(call, ("dry_run",)).flag("dry_run"):
        return 200, [JSON], wire.encode(await call.engine.dry_run(request))
    call.check_customer(request.customer)
    key = None if sent is None else wire.scoped(call.owner, b"POST", PATH, sent, request)
    receipt = await call.engine.reserve(request, key)
    if call.caller.channels is not None:
        call.engine.known.set(receipt.id, request.channel)
    return _reply(call, 201, receipt, (b"location", PATH + b"/" + receipt.id.encode("ascii")))


def check_demand(call: Call, request: Reserve) -> None:
    """Raises Forbidden unless the caller may reserve in this channel, and so."""
    call.check_channel(request.channel)
    if request.shortage == "record" and not call.caller.may("stock:write"):
        raise Forbidden("What is recorded whatever lies there needs a key of scope stock:write")


def check_places(request: Reserve, pointer: str = "") -> None:
    """Raises InvalidRequest for a line that is pinned and has an order of locations as well."""
    for number, line in enumerate(request.lines):
        if line.locations is not None and line.location is not None:
            where = f"{pointer}/lines/{number}/locations"
            raise wire.invalid(where, "Expected either location or locations")


async def _verb(call: Call, verb: bytes, body: Body[T]) -> tuple[str, T, Key | None, int | None]:
    """The id, the request, its key and the version that it names, of a verb's call."""
    sent, request, version = body.read_versioned(call)
    if sent is None and verb in MOVES and getattr(request, "lines", None) is not None:
        raise KeyRequired
    id = _id(call)
    await call.check_reservation(id)
    if sent is None:
        return id, request, None, version
    path = b"%b/%b/%b" % (PATH, id.encode("ascii"), verb)
    return id, request, wire.scoped(call.owner, b"POST", path, sent, request), version


def _id(call: Call) -> str:
    """The id in the path. Raises UnknownReservation for what cannot be one."""
    if not is_reservation_id(call.parameter):
        raise UnknownReservation
    return call.parameter


async def amend(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/amend``."""
    id, request, key, version = await _verb(call, b"amend", AMEND)
    return _reply(call, 200, await call.engine.amend(id, request, key, version))


async def extend(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/extend``."""
    id, request, key, version = await _verb(call, b"extend", EXTEND)
    return _reply(call, 200, await call.engine.extend(id, request, key, version))


async def commit(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/commit``."""
    id, request, key, version = await _verb(call, b"commit", COMMIT)
    return _reply(call, 200, await call.engine.commit(id, request, key, version))


async def release(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/release``."""
    id, request, key, version = await _verb(call, b"release", RELEASE)
    return _reply(call, 200, await call.engine.release(id, request, key, version))


async def cancel(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/cancel``."""
    id, request, key, version = await _verb(call, b"cancel", CANCEL)
    return _reply(call, 200, await call.engine.cancel(id, request, key, version))


async def fulfil(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/fulfil``."""
    id, request, key, version = await _verb(call, b"fulfil", FULFIL)
    return _reply(call, 200, await call.engine.fulfil(id, request, key, version))


async def return_(call: Call) -> Reply:
    """``POST /v1/reservations/{id}/return``."""
    id, request, key, version = await _verb(call, b"return", RETURN)
    return _reply(call, 200, await call.engine.return_(id, request, key, version))


async def read(call: Call) -> Reply:
    """``GET /v1/reservations/{id}``."""
    version = wire.if_match(call)
    wire.Parameters(call)
    receipt = await call.engine.reservation(_id(call))
    await call.check_reservation(receipt.id)
    if version is not None and receipt.version != version:
        raise StaleVersion
    if not call.caller.may("reserve") and shows(call.caller, receipt):
        await call.notes.note("read", f"reservation/{receipt.id}")
        return _reply(call, 200, receipt, masked=False)
    return _reply(call, 200, receipt)
