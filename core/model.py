"""The values that cross walls. Requests are decoded straight into these structs, answers encoded
from them; the OpenAPI document is generated from the same definitions.

Quantities are whole units, times milliseconds since 1970 UTC unless a name says otherwise. Only
what a type can say cheaply stands in the types. The grammar of names is checked where a look-up
by that name failed: a name that is known is valid, so the hot path never runs a pattern.
"""

from __future__ import annotations

import itertools
import re
import secrets
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

QUANTITY_MAX = 2**31 - 1
ACCOUNT_MAX = 2**53 - 1  # Lua's numbers are doubles: above this they stop counting by one
SHARE_ONE = 1_000_000  # shares are whole millionths
LINES_MAX = 100
STOCK_LINES_MAX = 1_000
BATCH_MAX = 1_000
CHANNELS_MAX = 64
LOCATIONS_PER_LINE_MAX = 20
LOCATIONS_PER_CHANNEL_MAX = 1_000
HOLD_SECONDS_MAX = 2_592_000
CUSTOMER_LIMIT_DAYS_MAX = 30

SKU_PATTERN = r"^[!#-?A-Z\[\]^_a-z|~]{1,64}$"  # visible ASCII except space @ { } " \ `
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,31}$"
_PROCESS = secrets.token_urlsafe(3).encode()  # another one in each process, as good as always

ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
SKU_RULE = 'Expected 1 to 64 visible ASCII characters without space @ { } " \\ `'
NAME_RULE = "Expected [a-z0-9][a-z0-9._-]{0,31}, and not the name of an account"
ACCOUNT_NAMES = frozenset(
    {"shared", "safety", "damaged", "quarantine", "deficit", "outside", "all"}
)

_SKU = re.compile(SKU_PATTERN[1:-1])
_NAME = re.compile(NAME_PATTERN[1:-1])
_ID = re.compile(ID_PATTERN[1:-1])

Sku = Annotated[str, Meta(min_length=1, max_length=64, extra_json_schema={"pattern": SKU_PATTERN})]
Name = Annotated[
    str, Meta(min_length=1, max_length=32, extra_json_schema={"pattern": NAME_PATTERN})
]
Text = Annotated[str, Meta(min_length=1, max_length=128)]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
Units = Annotated[int, Meta(ge=0, le=QUANTITY_MAX)]
Whole = Annotated[int, Meta(ge=0, le=ACCOUNT_MAX)]
Share = Annotated[float, Meta(ge=0, le=1)]
LimitDays = Annotated[int, Meta(ge=1, le=CUSTOMER_LIMIT_DAYS_MAX)]
TtlSeconds = Annotated[int, Meta(ge=1, le=HOLD_SECONDS_MAX)]
Durability = Literal["memory", "fsync", "ledger"]
Places = Annotated[list[Name], Meta(min_length=1, max_length=LOCATIONS_PER_LINE_MAX)]
State = Literal[
    "reserved", "committed", "fulfilled", "returned", "released", "expired", "cancelled"
]
Timestamp = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]


def is_sku(text: str) -> bool:
    """True if ``text`` follows the grammar of a SKU."""
    return _SKU.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """True if ``text`` may name a channel or a location: the grammar, and not an account."""
    return _NAME.fullmatch(text) is not None and text not in ACCOUNT_NAMES


def is_reservation_id(text: str) -> bool:
    """True if ``text`` has the shape of an id: a lower-case UUIDv7."""
    return _ID.fullmatch(text) is not None


def is_printable(text: str) -> bool:
    """True for free text: 1 to 128 printable characters (no control characters, no line ends)."""
    return 1 <= len(text) <= 128 and text.isprintable()


def timestamp(time_ms: int) -> str:
    """``time_ms`` as RFC 3339 UTC with milliseconds, e.g. ``2026-11-22T12:00:00.000Z``."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


class Request(Struct, forbid_unknown_fields=True, frozen=True):
    """A decoded request body: unknown members are refused."""


class Line(Request, frozen=True, gc=False):
    """One (``sku``, ``quantity``) of a demand, pinned to a location or with an order of them."""

    sku: Sku
    quantity: Quantity
    location: Name | None = None
    locations: Places | None = None


class Reserve(Request, frozen=True):
    """``POST /v1/reservations``."""

    channel: Name
    lines: Annotated[list[Line], Meta(min_length=1, max_length=LINES_MAX)]
    ttl_seconds: TtlSeconds | None = None
    reference: Text | None = None
    customer: Text | None = None
    partial: bool = False
    split: bool = True
    state: Literal["reserved", "committed", "fulfilled"] = "reserved"
    shortage: Literal["refuse", "record"] = "refuse"
    durability: Durability | None = None


class AmendLine(Request, frozen=True, gc=False):
    """What shall be open of a SKU, or of it at one location."""

    sku: Sku
    quantity: Quantity
    location: Name | None = None


class Amend(Request, frozen=True):
    """``POST /v1/reservations/{id}/amend``: the open units as they shall be."""

    lines: Annotated[list[AmendLine], Meta(min_length=1, max_length=LINES_MAX)]
    ttl_seconds: TtlSeconds | None = None
    reference: Text | None = None


class Extend(Request, frozen=True):
    """``POST /v1/reservations/{id}/extend``."""

    ttl_seconds: TtlSeconds


class Commit(Request, frozen=True):
    """``POST /v1/reservations/{id}/commit``."""

    late: Literal["reacquire", "refuse"] | None = None
    reference: Text | None = None
    durability: Durability | None = None


class Release(Request, frozen=True):
    """``POST /v1/reservations/{id}/release``."""


class PartLine(Request, frozen=True, gc=False):
    """A quantity of one line of a reservation; without ``location`` in the order of its lines."""

    sku: Sku
    quantity: Quantity
    location: Name | None = None


PartLines = Annotated[list[PartLine], Meta(min_length=1, max_length=LINES_MAX)]


class Cancel(Request, frozen=True):
    """``POST /v1/reservations/{id}/cancel``; without ``lines`` all that is left."""

    lines: PartLines | None = None
    reason: Text | None = None


class Fulfil(Request, frozen=True):
    """``POST /v1/reservations/{id}/fulfil``; without ``lines`` all that is left."""

    lines: PartLines | None = None
    reference: Text | None = None


class ReturnLine(Request, frozen=True, gc=False):
    """Shipped units that came back ``to`` a location; without it to where they left. Without
    ``location`` in the order of the reservation's lines."""

    sku: Sku
    quantity: Quantity
    location: Name | None = None
    to: Name | None = None
    disposition: Literal["restock", "damaged", "quarantine"] = "restock"


class Return(Request, frozen=True):
    """``POST /v1/reservations/{id}/return``."""

    lines: Annotated[list[ReturnLine], Meta(min_length=1, max_length=LINES_MAX)]
    reference: Text | None = None


class ReservationLine(Struct, frozen=True, gc=False):
    """What a reservation took of one SKU at one location, and what became of it. ``short``: units
    of a recorded sale that were not there."""

    sku: str
    location: str
    quantity: int
    own: int
    borrowed: int
    fulfilled: int
    cancelled: int
    returned: int
    short: int | UnsetType = UNSET


class RefusedLine(Struct, frozen=True, gc=False):
    """What a partial reservation did not get."""

    sku: str
    requested: int
    granted: int
    limited_by: str


class Reservation(Struct, frozen=True):
    """A reservation as it is. Times are RFC 3339; ``expires_at`` is null unless ``reserved``."""

    id: str
    state: State
    version: int
    channel: str
    reference: str | None
    customer: str | None
    durability: Durability
    created_at: Timestamp
    updated_at: Timestamp
    expires_at: Timestamp | None
    committed_at: Timestamp | None
    lines: list[ReservationLine]
    reacquired: bool | UnsetType = UNSET
    refused: list[RefusedLine] | UnsetType = UNSET


class DryRunLine(Struct, frozen=True, gc=False):
    """What a reservation would take of one SKU at one location."""

    sku: str
    location: str
    quantity: int
    own: int
    borrowed: int
    short: int | UnsetType = UNSET


class DryRun(Struct, frozen=True):
    """What reserving would have given just now; nothing was written."""

    dry_run: bool
    state: State
    channel: str
    reference: str | None
    customer: str | None
    expires_at: Timestamp | None
    lines: list[DryRunLine]
    refused: list[RefusedLine] | UnsetType = UNSET


class PoolChannel(Struct, frozen=True, gc=False):
    """One channel's accounts in a pool."""

    free: int
    reserved: int
    committed: int
    available: int
    ceiling_left: int | None


class Available(Struct, frozen=True, gc=False):
    """What a channel can take of one SKU; per location if that was asked for."""

    sku: str
    available: int
    by_location: dict[str, int] | UnsetType = UNSET


class Pool(Struct, frozen=True):
    """One (SKU, location): every account, and the version of this state."""

    sku: str
    location: str
    version: int
    on_hand: int
    safety: int
    shared: int
    damaged: int
    quarantine: int
    deficit: int
    channels: dict[str, PoolChannel]


class SkuStock(Struct, frozen=True):
    """All pools of a SKU, and what each channel can take of them now."""

    sku: str
    available: dict[str, int]
    pools: list[Pool]


class Key(Struct, frozen=True, gc=False):
    """An idempotency key as the store knows it.

    ``field``: 22 characters, a 128-bit hash of (API key, method, path, key); ``#`` stands before
    them if a batch's header gave it to an element, which may be any verb on any reservation.
    ``fingerprint``: 22 characters, a 128-bit hash of the decoded request, re-encoded.
    ``number``: another one for each time that the key comes to this process.
    """

    field: bytes
    fingerprint: bytes
    number: int = msgspec.field(default_factory=itertools.count(1).__next__)

    @property
    def mark(self) -> bytes:
        """A word that stands beside what was done under the key, so that who sends a script again
        after a broken connection knows its own doing from an earlier request's."""
        return b"%s%d" % (_PROCESS, self.number)

    @property
    def of_batch(self) -> bool:
        """True if it is kept as long as keys of what moves goods, whatever its verb."""
        return self.field.startswith(b"#")
