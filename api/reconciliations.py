"""What reconciling found, as one document: over HTTP, and for every form of the report."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from msgspec import Struct, structs

from api import wire
from api.call import JSON, Call, Reply
from api.wire import ITEMS_MAX, Page, Parameters
from core.auditing.differences import CAUSES
from core.errors import UnknownReconciliation
from core.ledger.audit import Case, Kind, Reconciliation
from core.model import Timestamp, timestamp

NEWEST = 2**62  # beyond any number that a reconciliation will have


class Variance(Struct, frozen=True):
    """Units on hand in the pools that were looked at, and how many of those lie elsewhere; the same
    of the pools that were counted."""

    on_hand: int
    units_off: int
    counted_on_hand: int
    counted_off: int


class Oversold(Struct, frozen=True):
    """Units that are promised and not there, and the orders that wait for such."""

    units: int
    orders: int


class Finding(Struct, frozen=True):
    """A difference, and the case that it is. ``movements``: positions to look at."""

    case: int
    kind: Kind
    subject: str
    cause: str
    meaning: str
    expected: str
    found: str
    units: int
    movements: list[int]
    state: Literal["open", "explained", "repaired", "vanished"]
    person: str | None
    note: str | None
    opened_at: Timestamp
    age_seconds: int


class Summary(Struct, frozen=True, kw_only=True):
    """What a reconciliation came to. ``checked``: pools, reservations and counts; ``position``: of
    the ledger; ``night``: of a nightly one; ``whole``: all movements were summed again."""

    id: int
    status: Literal["normal", "watch", "alarm"]
    reasons: list[str]
    checked: int
    pools: int
    reservations: int
    counts: int
    position: int
    differences_total: int
    variance_rate: float
    variance: Variance
    oversold: Oversold
    started_at: Timestamp
    finished_at: Timestamp
    seconds: float
    night: date | None
    sku: str | None
    whole: bool


class Document(Summary, frozen=True, kw_only=True):
    """The same with its differences."""

    differences: list[Finding]


def summary(done: Reconciliation) -> Summary:
    """A reconciliation that came to its end, as it is shown."""
    finished_at = done.finished_at
    assert finished_at is not None
    return Summary(
        id=done.id,
        status=done.status,
        reasons=done.reasons,
        checked=done.pools + done.reservations + done.counts,
        pools=done.pools,
        reservations=done.reservations,
        counts=done.counts,
        position=done.position,
        differences_total=done.differences,
        variance_rate=done.variance_rate,
        variance=Variance(
            done.on_hand, done.units_off, done.counted_on_hand, done.counted_off
        ),
        oversold=Oversold(done.oversold_units, done.oversold_orders),
        started_at=_time(done.started_at),
        finished_at=_time(finished_at),
        seconds=round((finished_at - done.started_at).total_seconds(), 3),
        night=done.night,
        sku=done.sku,
        whole=done.whole,
    )


def finding(case: Case) -> Finding:
    """A case as it is shown."""
    return Finding(
        case.id, case.kind, case.subject, case.cause, CAUSES[case.cause], case.expected,
        case.found, case.units, case.movements, case.state, case.person, case.note,
        _time(case.opened_at), case.age_seconds,
    )  # fmt: skip


def _time(at: datetime) -> str:
    return timestamp(int(at.timestamp() * 1000))


async def read_many(call: Call) -> Reply:
    """``GET /v1/reconciliations``, newest first."""
    after, limit = Parameters(call, once=("cursor", "limit")).page()
    if after and not (after.isdecimal() and int(after) < NEWEST):
        raise wire.invalid("?cursor", "Expected a cursor as next_cursor gave it")
    found = await call.files.reconciliations(int(after) if after else None, limit + 1)
    following = str(found[limit - 1].id) if len(found) > limit else None
    page = Page([summary(each) for each in found[:limit]], wire.cursor(following))
    return 200, [JSON], wire.encode(page)


async def read_latest(call: Call) -> Reply:
    """``GET /v1/reconciliations/latest``."""
    Parameters(call)
    found = await call.files.reconciliations(None, 1)
    if not found:
        raise UnknownReconciliation
    cases = await call.files.cases_of(found[0].id, 0, ITEMS_MAX)
    document = Document(
        **structs.asdict(summary(found[0])), differences=[finding(case) for case in cases]
    )
    return 200, [JSON], wire.encode(document)
