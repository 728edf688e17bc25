"""What went wrong, as ``application/problem+json`` (RFC 9457).

``core.errors`` knows nothing of HTTP: here each code gets its status and the text that is served
under its ``type``. The leaves of the door itself stand here too.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from core import errors
from core.errors import (
    InvalidRequest,
    InvalidState,
    LedgerUnavailable,
    LineError,
    StockadeError,
    StockUnavailable,
    Unavailable,
)

MEDIA_TYPE = b"application/problem+json"
_SERVERS = frozenset({StockUnavailable, LedgerUnavailable})


class UnknownRoute(StockadeError):
    """There is nothing at this path; /docs shows what there is."""

    code = "unknown_route"


class MethodNotAllowed(StockadeError):
    """This path does not take this method; the Allow header names those it takes."""

    code = "method_not_allowed"

    def __init__(self, allow: str) -> None:
        super().__init__()
        self.allow = allow


class Unauthenticated(StockadeError):
    """Send an API key: Authorization: Bearer, and the key as stockade keys create gave it."""

    code = "unauthenticated"


class Forbidden(StockadeError):
    """This API key may not do that: it lacks the scope, or the channel is not one of its own."""

    code = "forbidden"


class RateLimited(StockadeError):
    """More was asked than the rate of this API key, or of this customer, allows; come again."""

    code = "rate_limited"
    retryable = True

    def __init__(self, of: str, wait_seconds: int, headers: list[tuple[bytes, bytes]]) -> None:
        """``of``: what is limited; ``headers`` say how it stands."""
        super().__init__(f"The rate of this {of} is used up; come again in {wait_seconds} s")
        self.wait_seconds = wait_seconds
        self.headers = headers


class BodyTooLarge(StockadeError):
    """The body is larger than this route takes: 1 MiB, or 8 MiB for batches and stock."""

    code = "body_too_large"


class HeadTooLarge(StockadeError):
    """The request line and the headers are larger than 64 KiB together."""

    code = "head_too_large"


class RequestTimeout(StockadeError):
    """The request was not whole in time: 20 s for its head, a minute for its body."""

    code = "request_timeout"


class UnsupportedMediaType(StockadeError):
    """Bodies are JSON: send Content-Type: application/json, in UTF-8."""

    code = "unsupported_media_type"


class MalformedJson(StockadeError):
    """The body is not JSON in UTF-8."""

    code = "malformed_json"


class KeyInvalid(StockadeError):
    """An Idempotency-Key is 1 to 255 visible ASCII characters, quoted or bare, sent once."""

    code = "idempotency_key_invalid"


class IfMatchInvalid(StockadeError):
    """If-Match takes one version as ETag gives it, such as "3", or an asterisk."""

    code = "if_match_invalid"


_STATUS: dict[type[StockadeError], int] = {
    StockadeError: 500,
    UnknownRoute: 404,
    MethodNotAllowed: 405,
    Unauthenticated: 401,
    Forbidden: 403,
    RateLimited: 429,
    RequestTimeout: 408,
    BodyTooLarge: 413,
    HeadTooLarge: 431,
    UnsupportedMediaType: 415,
    MalformedJson: 400,
    KeyInvalid: 400,
    IfMatchInvalid: 400,
    errors.KeyRequired: 400,
    errors.InvalidRequest: 422,
    errors.KeyReused: 422,
    errors.CustomerRequired: 422,
    errors.DurabilityUnavailable: 422,
    errors.UnknownSku: 404,
    errors.UnknownChannel: 404,
    errors.UnknownLocation: 404,
    errors.UnknownReservation: 404,
    errors.UnknownReconciliation: 404,
    errors.StaleVersion: 412,
    errors.InsufficientStock: 409,
    errors.CustomerLimit: 409,
    errors.InvalidState: 409,
    errors.InvalidQuantity: 409,
    errors.Expired: 409,
    errors.HoldLimit: 409,
    errors.ChannelInUse: 409,
    errors.Overloaded: 503,
    errors.StockUnavailable: 503,
    errors.LedgerUnavailable: 503,
    errors.Draining: 503,
}


class Kind(NamedTuple):
    """What all problems of one code have in common."""

    type: str
    status: int
    title: str
    text: str


def _kind(leaf: type[StockadeError], status: int) -> Kind:
    """The kind of ``leaf``, in the words of its docstring."""
    title = leaf.code.replace("_", " ").capitalize()
    text = " ".join((leaf.__doc__ or "").split())
    return Kind(f"/problems/{leaf.code}", status, title, text)


KINDS: dict[str, Kind] = {leaf.code: _kind(leaf, status) for leaf, status in _STATUS.items()}


class ProblemLine(Struct, frozen=True, omit_defaults=True):
    """A line that could not be granted, how much there is for it, and what limits it."""

    sku: str
    requested: int
    available: int
    location: str | None = None
    limited_by: (
        Literal["customer_limit", "channel_ceiling", "channel_quota", "safety_stock", "on_hand"]
        | None
    ) = None


class ProblemError(Struct, frozen=True):
    """One thing that is not valid.

    ``pointer`` is a JSON pointer (RFC 6901) into the body; for a query parameter it is ``?name``,
    for a part of the path ``{name}``.
    """

    pointer: str
    detail: str


class Problem(Struct, frozen=True):
    """Why a request was not done (RFC 9457), with the stable ``code`` to branch on."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    lines: list[ProblemLine] | UnsetType = UNSET
    errors: list[ProblemError] | UnsetType = UNSET
    state: str | UnsetType = UNSET
    outcome: Literal["none", "unknown"] | UnsetType = UNSET
    reservation: str | UnsetType = UNSET


def problem(error: StockadeError, instance: str) -> Problem:
    """``error`` as the document that the caller at ``instance`` gets."""
    kind = KINDS[error.code]
    members: dict[str, Any] = {}
    if isinstance(error, LineError):
        if error.lines:
            members["lines"] = cast("list[ProblemLine]", error.lines)
        if isinstance(error, InvalidState) and error.state:
            members["state"] = error.state
    elif isinstance(error, InvalidRequest):
        if error.errors:
            members["errors"] = [ProblemError(*item) for item in error.errors]
    elif isinstance(error, Unavailable):
        members["outcome"] = error.outcome
        if error.reservation is not None:
            members["reservation"] = error.reservation
    return Problem(
        kind.type,
        kind.title,
        kind.status,
        # What a server says of itself is for the log and for /readyz.
        kind.text.removesuffix(".") if type(error) in _SERVERS else error.detail,
        instance,
        error.code,
        error.retryable,
        **members,
    )


_encoder = msgspec.json.Encoder()


def answer(error: StockadeError, instance: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """``error`` as status, headers and body."""
    document = problem(error, instance)
    headers = [(b"content-type", MEDIA_TYPE)]
    if isinstance(error, Unavailable):
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    elif isinstance(error, RateLimited):
        headers += [(b"retry-after", b"%d" % error.wait_seconds), *error.headers]
    elif isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="stockade"'))
    elif isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode("ascii")))
    return document.status, headers, _encoder.encode(document)
