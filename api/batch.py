"""A batch of reserves and other verbs: how its elements are read, and what becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, cast, get_args

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from api import wire
from api.call import JSON, Call, Reply
from api.problems import Problem, problem
from api.reservations import (
    PATH,
    REPLAYED,
    RESERVE_TEXT,
    check_demand,
    check_places,
    shown,
)
from api.wire import Body
from core.errors import StockadeError
from core.model import (
    BATCH_MAX,
    Amend,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Key,
    Release,
    Request,
    Reservation,
    Reserve,
    Return,
)

if TYPE_CHECKING:
    from core.ops import Receipt

Element: TypeAlias = tuple[str, str, Any, Key | None]  # (verb, id, its request, key)

LINES_MAX = 10_000  # of all its elements together: what one turn of the lane can carry

ElementKey = Annotated[str, Meta(min_length=1, max_length=255)]


class ReserveElement(Reserve, frozen=True, kw_only=True):
    """One element of a batch: a reserve body, with a key of its own if you like."""

    verb: Literal["reserve"] = "reserve"
    idempotency_key: ElementKey | None = None


class AmendElement(Amend, frozen=True, kw_only=True, tag_field="verb", tag="amend"):
    """One element of a batch: an amend."""

    id: str
    idempotency_key: ElementKey | None = None


class ExtendElement(Extend, frozen=True, kw_only=True, tag_field="verb", tag="extend"):
    """One element of a batch: an extend."""

    id: str
    idempotency_key: ElementKey | None = None


class CommitElement(Commit, frozen=True, kw_only=True, tag_field="verb", tag="commit"):
    """One element of a batch: a commit."""

    id: str
    idempotency_key: ElementKey | None = None


class ReleaseElement(Release, frozen=True, kw_only=True, tag_field="verb", tag="release"):
    """One element of a batch: a release."""

    id: str
    idempotency_key: ElementKey | None = None


class CancelElement(Cancel, frozen=True, kw_only=True, tag_field="verb", tag="cancel"):
    """One element of a batch: a cancel."""

    id: str
    idempotency_key: ElementKey | None = None


class FulfilElement(Fulfil, frozen=True, kw_only=True, tag_field="verb", tag="fulfil"):
    """One element of a batch: a fulfil."""

    id: str
    idempotency_key: ElementKey | None = None


class ReturnElement(Return, frozen=True, kw_only=True, tag_field="verb", tag="return"):
    """One element of a batch: a return."""

    id: str
    idempotency_key: ElementKey | None = None


VerbElement = (
    AmendElement | ExtendElement | CommitElement | ReleaseElement | CancelElement | FulfilElement
    | ReturnElement
)  # fmt: skip
ELEMENTS: tuple[type[Struct], ...] = (ReserveElement, *get_args(VerbElement))


class Batch(Request, frozen=True):
    """``POST /v1/reservations/batch``. An element is decoded by its ``verb``; without one it is a
    reserve body."""

    reservations: Annotated[
        list[
            Annotated[
                Raw,
                Meta(
                    extra_json_schema={
                        "anyOf": [
                            {"$ref": f"#/components/schemas/{each.__name__}"} for each in ELEMENTS
                        ]
                    }
                ),
            ]
        ],
        Meta(min_length=1, max_length=BATCH_MAX),
    ]


class Demands(Struct):
    """A batch of nothing but demands."""

    reservations: list[ReserveElement]


class ElementVerb(Struct):
    """What kind of element of a batch it is; all else of it is passed over."""

    verb: str = "reserve"


class ElementKind(NamedTuple):
    """How one kind of element is read: its body, the request that it is alone, its free text."""

    element: Body[Any]
    alone: type[Struct]
    text: tuple[str, ...] = ()


ELEMENT_VERB = Body(ElementVerb)
BATCH = Body(Batch)
DEMANDS = msgspec.json.Decoder(Demands)
VERBS = {
    "amend": ElementKind(Body(AmendElement), Amend, ("reference",)),
    "extend": ElementKind(Body(ExtendElement), Extend),
    "commit": ElementKind(Body(CommitElement), Commit, ("reference",)),
    "release": ElementKind(Body(ReleaseElement), Release),
    "cancel": ElementKind(Body(CancelElement), Cancel, ("reason",)),
    "fulfil": ElementKind(Body(FulfilElement), Fulfil, ("reference",)),
    "return": ElementKind(Body(ReturnElement), Return, ("reference",)),
}
SCOPES = dict.fromkeys(VERBS, frozenset({"reserve"})) | {
    "reserve": frozenset({"reserve"}),
    "fulfil": frozenset({"fulfil"}),
    "return": frozenset({"fulfil"}),
}
ALL = frozenset({"reserve", "fulfil", "stock:write"})
KINDS = VERBS | {"reserve": ElementKind(Body(ReserveElement), Reserve, RESERVE_TEXT)}


class BatchResult(Struct, frozen=True):
    """What became of one element: a reservation, or a problem."""

    status: int
    reservation: Reservation | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class BatchResults(Struct, frozen=True):
    """What became of the elements of a batch, in their order."""

    results: list[BatchResult]


async def batch(call: Call) -> Reply:
    """``POST /v1/reservations/batch``: each element on its own."""
    sent, request = BATCH.read_new(call)
    owner = call.owner
    elements = _elements(owner, sent, call.body, request.reservations)
    lines = sum(len(getattr(each[2], "lines", None) or ()) for each in elements)
    if lines > LINES_MAX:
        raise wire.invalid("/reservations", f"Expected at most {LINES_MAX} lines in all")
    # Who is let in with one request has not asked for one thing only: the rest is owed.
    if call.caller.rate is not None and len(elements) > 1:
        call.limits = call.app.limits.owed(call.caller, len(elements) - 1)
    outcomes = await _outcomes(call, elements)
    statuses = [201 if each[0] == "reserve" else 200 for each in elements]
    return _batch_reply(call, outcomes, statuses)


async def _outcomes(call: Call, elements: list[Element]) -> list[Receipt | StockadeError]:
    """What became of each; the caller may not do each of them."""
    unlimited = call.app.limits.customer_rate is None
    if unlimited and call.caller.channels is None and call.caller.scopes >= ALL:
        return await call.engine.batch(elements)
    refused = await asyncio.gather(*(_refusal(call, *each[:3]) for each in elements))
    rest = [each for each, why in zip(elements, refused, strict=True) if why is None]
    done = iter(await call.engine.batch(rest))
    outcomes = [next(done) if why is None else why for why in refused]
    if call.caller.channels is not None:
        for (verb, _, request, _), outcome in zip(elements, outcomes, strict=True):
            if verb == "reserve" and not isinstance(outcome, StockadeError):
                call.engine.known.set(outcome.id, request.channel)
    return outcomes


async def _refusal(call: Call, verb: str, id: str, request: Any) -> StockadeError | None:
    """Why the caller may not do this; None if it may."""
    try:
        call.check_scopes(SCOPES[verb])
        if verb == "reserve":
            check_demand(call, request)
            call.check_customer(request.customer)
        else:
            await call.check_reservation(id)
    except StockadeError as error:
        return error
    return None


def _elements(owner: bytes, sent: bytes | None, body: bytes, found: list[Raw]) -> list[Element]:
    """The elements of a batch. Most batches are demands alone, with no verb and no key: those are
    read in one go. (A name may be escaped.) What is wrong with one is looked for one by one."""
    if sent is None and not any(word in body for word in (b'"verb"', b"_key", b"\\u")):
        with suppress(*wire.UNREADABLE):
            return [_demand(n, each) for n, each in enumerate(DEMANDS.decode(body).reservations)]
    return [_element(owner, sent, index, raw) for index, raw in enumerate(found)]


def _demand(index: int, demand: ReserveElement) -> Element:
    """A demand without a key. Raises InvalidRequest with a pointer into the batch."""
    if demand.customer is not None or demand.reference is not None:
        wire.check_text(demand, RESERVE_TEXT, f"/reservations/{index}")
    check_places(demand, f"/reservations/{index}")
    return "reserve", "", demand, None


def _element(owner: bytes, sent: bytes | None, index: int, raw: Raw) -> Element:
    """Element ``index`` of a batch as (verb, id, the request, its key).

    Where a key asks for a fingerprint the request is as it would be if sent alone.

    Raises InvalidRequest with a pointer into the batch.
    """
    pointer = f"/reservations/{index}"
    body = bytes(raw)
    # Most elements are demands and name no verb: they are read once. (A name may be escaped.)
    named = b'"verb"' in body or b"\\u" in body
    verb = ELEMENT_VERB.decode(body, pointer).verb if named else "reserve"
    kind = KINDS.get(verb)
    if kind is None:
        raise wire.invalid(f"{pointer}/verb", f"Expected one of {', '.join(sorted(KINDS))}")
    element: Any = kind.element.decode(body, pointer)
    wire.check_text(element, kind.text, pointer)
    if isinstance(element, Reserve):
        check_places(element, pointer)
    id: str = getattr(element, "id", "")
    own: str | None = element.idempotency_key
    if own is None and sent is None:
        return verb, id, element, None
    request = kind.alone(*(getattr(element, name) for name in kind.alone.__struct_fields__))
    if own is None:
        assert sent is not None
        key = b"%b#%d" % (sent, index)
        return verb, id, request, wire.of_batch(owner, PATH + b"/batch", key, (verb, id, request))
    if sent is not None:
        raise wire.invalid(
            f"{pointer}/idempotency_key", "Expected no key beside the Idempotency-Key header"
        )
    key = wire.element_key(own, f"{pointer}/idempotency_key")
    path = PATH if verb == "reserve" else f"/v1/reservations/{id}/{verb}".encode()
    return verb, id, request, wire.scoped(owner, b"POST", path, key, request)


def _batch_reply(
    call: Call, outcomes: Sequence[Receipt | StockadeError], statuses: Sequence[int]
) -> Reply:
    """What became of each element; replayed if there is nothing in it that happened just now."""
    results: list[Any] = []
    replayed = True
    for outcome, status in zip(outcomes, statuses, strict=True):
        if isinstance(outcome, StockadeError):
            document = problem(outcome, call.instance)
            results.append(BatchResult(document.status, problem=document))
            replayed = False
        else:
            # Raw: the bytes are what a Reservation would be encoded to.
            encoded = Raw(shown(call.caller, outcome).encode())
            results.append(BatchResult(status, cast(Reservation, encoded)))
            replayed = replayed and outcome.replayed
    headers = [JSON, REPLAYED] if replayed else [JSON]
    return 200, headers, wire.encode(BatchResults(results))
