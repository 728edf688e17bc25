"""Every error that can reach a caller has a status, a title and a text."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from api.problems import KINDS, Problem, answer, problem
from core.errors import (
    Draining,
    Expired,
    ImportRefused,
    InsufficientStock,
    InvalidRequest,
    InvalidState,
    LedgerBroken,
    LedgerUnexplained,
    Overloaded,
    RebuildRefused,
    StartRefused,
    StockadeError,
    StockUnavailable,
    UnknownReservation,
)

STATUSES = {
    400: {
        "malformed_json",
        "idempotency_key_invalid",
        "idempotency_key_required",
        "if_match_invalid",
    },
    401: {"unauthenticated"},
    403: {"forbidden"},
    408: {"request_timeout"},
    431: {"head_too_large"},
    404: {
        "unknown_route",
        "unknown_sku",
        "unknown_channel",
        "unknown_location",
        "unknown_reservation",
        "unknown_reconciliation",
    },
    405: {"method_not_allowed"},
    409: {
        "insufficient_stock",
        "customer_limit",
        "invalid_state",
        "invalid_quantity",
        "expired",
        "hold_limit",
        "channel_in_use",
    },
    412: {"stale_version"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {
        "validation_failed",
        "idempotency_key_reused",
        "customer_required",
        "durability_unavailable",
    },
    429: {"rate_limited"},
    500: {"internal_error"},
    503: {"overloaded", "stock_unavailable", "ledger_unavailable", "draining"},
}


# Of commands and of the scribe.
NEVER_ANSWERED = (StartRefused, ImportRefused, LedgerBroken, LedgerUnexplained, RebuildRefused)


def leaves(root: type[StockadeError]) -> Iterator[type[StockadeError]]:
    yield root
    for leaf in root.__subclasses__():
        yield from leaves(leaf)


def test_statuses_are_those_of_the_contract() -> None:
    by_status: dict[int, set[str]] = {}
    for code, kind in KINDS.items():
        by_status.setdefault(kind.status, set()).add(code)
    assert by_status == STATUSES


def test_every_error_has_a_kind() -> None:
    found = {leaf.code for leaf in leaves(StockadeError)}
    assert found - {leaf.code for leaf in NEVER_ANSWERED} == set(KINDS)


def test_only_what_may_work_later_is_retryable() -> None:
    for leaf in leaves(StockadeError):
        if leaf not in NEVER_ANSWERED:
            assert leaf.retryable == (KINDS[leaf.code].status in (429, 503)), leaf


def test_every_kind_says_what_it_means() -> None:
    for code, kind in KINDS.items():
        assert kind.type == f"/problems/{code}"
        assert kind.title
        assert kind.text.endswith(".")


def test_members_that_do_not_apply_are_absent() -> None:
    status, headers, body = answer(UnknownReservation(), "/v1/reservations/x")
    assert status == 404
    assert headers == [(b"content-type", b"application/problem+json")]
    assert msgspec.json.decode(body) == {
        "type": "/problems/unknown_reservation",
        "title": "Unknown reservation",
        "status": 404,
        "detail": "No such reservation; its id is the one that reserving answered with",
        "instance": "/v1/reservations/x",
        "code": "unknown_reservation",
        "retryable": False,
    }


LINES = [{"sku": "tee", "requested": 2, "available": 1, "limited_by": "on_hand"}]


@pytest.mark.parametrize(
    ("error", "members"),
    [
        (InsufficientStock(lines=LINES), {"lines": LINES}),
        (Expired(lines=LINES), {"lines": LINES}),
        (Expired(), {}),
        (
            InvalidRequest(errors=[("/lines", "Expected")]),
            {"errors": [{"pointer": "/lines", "detail": "Expected"}]},
        ),
        (InvalidState(state="released"), {"state": "released"}),
        (Overloaded(), {"outcome": "none"}),
        (Draining(outcome="unknown", reservation="r"), {"outcome": "unknown", "reservation": "r"}),
    ],
)
def test_members_that_apply(error: StockadeError, members: dict[str, object]) -> None:
    _, headers, body = answer(error, "/")
    document = msgspec.json.decode(body)
    assert {name: document[name] for name in members} == members
    optional = {"lines", "errors", "state", "outcome", "reservation"}
    assert document.keys() & optional == members.keys()
    assert msgspec.convert(document, Problem).code == error.code
    retry_after = [value for name, value in headers if name == b"retry-after"]
    assert retry_after == ([b"1"] if error.retryable else [])


def test_a_detail_is_that_of_the_error() -> None:
    assert problem(Overloaded("Too many callers"), "/").detail == "Too many callers"


def test_what_the_store_says_is_not_for_callers() -> None:
    detail = problem(StockUnavailable("Error 2 connecting to /run/secret.sock"), "/").detail
    assert "secret" not in detail
    assert "try again" in detail


def test_no_text_is_marked_up() -> None:
    assert not [code for code, kind in KINDS.items() if "`" in kind.text]
