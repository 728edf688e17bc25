"""Who sees whose a reservation is: who said it, and who may read it. All else is told to all."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx2
import pytest

from core import happenings
from core.access import SCOPES, Caller
from core.asking import Asking
from core.errors import StockUnavailable
from core.ledger.books import _told
from core.ops import Receipt
from core.store import wording
from tests.fake_service import BASKET, ID, FakeService
from tests.problems import assert_problem

RECORD = b"C 2 1795348800000 - 1795348800000 7 web %b %b tee@main@1,0 cap@main@2,1"
ONE = f"/v1/reservations/{ID}"
RETURN = {"lines": [{"sku": "tee", "quantity": 1, "disposition": "restock"}]}
AMEND = {"lines": [{"sku": "tee", "quantity": 1}]}
KEY = {"idempotency-key": "k"}


def test_of_a_record_its_customer_is_masked_and_nothing_else() -> None:
    for customer, reference in ((b"c-9", b"order%2017"), (b"-", b"-"), (b"c-9", b"-")):
        record = RECORD % (customer, reference)
        masked = customer if customer == b"-" else b"***"
        assert wording.without_customer(record) == RECORD % (masked, reference)
        both = RECORD % (masked, reference if reference == b"-" else b"***")
        assert wording.without_people(record) == both
    for text in (b"", b"no record", b"R 1 2 3 4 5 web"):
        assert wording.without_people(text) == text


def test_a_receipt_tells_the_same_and_not_whose() -> None:
    receipt = Receipt(ID, RECORD % (b"c-9", b"order%2017"), "fsync", replayed=True)
    whole, masked = receipt.reservation(), receipt.masked().reservation()
    assert (whole.customer, masked.customer) == ("c-9", "***")
    assert masked.reference == "order 17"
    assert masked.lines == whole.lines
    assert receipt.masked().replayed
    nobodys = Receipt(ID, RECORD % (b"-", b"-"), "fsync")
    assert nobodys.masked().reservation() == nobodys.reservation()


def test_an_event_is_told_to_each_as_they_may_see_it() -> None:
    row = {
        "position": 5, "time": datetime.now(UTC), "reservation": ID,
        "verb": "commit", "record": (RECORD % (b"c-9", b"-")).decode(),
    }  # fmt: skip
    event = happenings._version(row, "fsync")
    assert b'"customer":"c-9"' in event.encode(people=True)
    assert b'"customer":"***"' in event.encode(people=False)


FULFILS = {"reservations": [{"verb": "fulfil", "id": ID}]}
# What is asked for, and which scope lets it through.
ASKED: dict[str, tuple[str, str, Any, str]] = {
    "reserve": ("POST", "/v1/reservations", BASKET, "reserve"),
    "amend": ("POST", f"{ONE}/amend", AMEND, "reserve"),
    "extend": ("POST", f"{ONE}/extend", {"ttl_seconds": 60}, "reserve"),
    "commit": ("POST", f"{ONE}/commit", {}, "reserve"),
    "release": ("POST", f"{ONE}/release", {}, "reserve"),
    "cancel": ("POST", f"{ONE}/cancel", {}, "reserve"),
    "fulfil": ("POST", f"{ONE}/fulfil", {}, "fulfil"),
    "return": ("POST", f"{ONE}/return", RETURN, "fulfil"),
    "batch": ("POST", "/v1/reservations/batch", FULFILS, "fulfil"),
    "read": ("GET", ONE, None, ""),
    "list": ("GET", "/v1/reservations", None, ""),
}


@pytest.mark.parametrize("name", ASKED)
async def test_what_a_caller_is_shown(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of one reservation its customer, to who may reserve; of many to who may read it. Who may read
    it gets it from a GET, which is noted."""
    method, path, body, needed = ASKED[name]
    for scopes in (
        {"reserve"}, {"fulfil"}, {"reserve", "fulfil"}, {"fulfil", "pii:read"},
        {"reserve", "pii:read"},
    ):  # fmt: skip
        caller = Caller("k", "till", frozenset(scopes))
        monkeypatch.setattr("api.gate.Gate.caller", lambda *_, caller=caller: caller)
        response = await client.request(method, path, json=body, headers=KEY)
        if needed and needed not in scopes:
            assert response.status_code == 403 or name == "batch"
            continue
        assert response.status_code in (200, 201)
        masked = "reserve" not in scopes
        if name == "list":
            masked = "pii:read" not in scopes
        elif name == "read":
            masked = not scopes & {"reserve", "pii:read"}
        assert ("***" in response.text) == masked, scopes


def test_a_log_does_not_name_whose_it_is(caplog: pytest.LogCaptureFixture) -> None:
    asking = Asking.__new__(Asking)
    with caplog.at_level(logging.ERROR), pytest.raises(StockUnavailable):
        asking._receipt(ID, "corrupt", RECORD % (b"anna", b"order%2017"))
    assert "corrupt" in caplog.text
    assert "anna" not in caplog.text
    assert "order" not in caplog.text


@pytest.mark.parametrize(
    ("table", "shown"),
    [("pool", True), ("balance_2026_11", True), ("reservation", False), ("movement_2026_11", False),
     (None, False)],
)  # fmt: skip
def test_a_broken_law_is_told_without_people(table: str | None, shown: bool) -> None:
    error = asyncpg.CheckViolationError("new row violates a check")
    error.table_name, error.detail = table, "Failing row contains (anna)."
    assert ("anna" in _told(error)) == shown
    assert "violates a check" in _told(error)


async def test_whose_reservations_are_is_not_asked_by_who_may_not_see_it(
    client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of one customer's would say it; who may reserve names customers anyway."""
    for scopes, status in (({"fulfil"}, 403), ({"fulfil", "pii:read"}, 200), ({"reserve"}, 200)):
        caller = Caller("k", "till", frozenset(scopes))
        monkeypatch.setattr("api.gate.Gate.caller", lambda *_, caller=caller: caller)
        assert (await client.get("/v1/reservations?customer=c-9")).status_code == status


@pytest.mark.parametrize("path", [ONE, "/v1/reservations"])
async def test_who_reads_whose_it_is_is_noted_first(
    client: httpx2.AsyncClient, service: FakeService, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """By a key; one that cannot be noted is not answered."""
    target = "reservations" if path != ONE else f"reservation/{ID}"
    assert (await client.get(path)).status_code == 200
    assert service.notes.noted == []
    for scopes, noted in (({"fulfil"}, []), ({"fulfil", "pii:read"}, [("read", target)])):
        caller = Caller("k", "till", frozenset(scopes))
        monkeypatch.setattr("api.gate.Gate.caller", lambda *_, caller=caller: caller)
        assert (await client.get(path)).status_code == 200
        assert service.notes.noted == noted
    service.notes.error = StockUnavailable("the store is away")
    assert_problem(await client.get(path), 503, "stock_unavailable")


async def test_who_listens_with_names_is_noted(
    client: httpx2.AsyncClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller("k", "till", frozenset(SCOPES))
    monkeypatch.setattr("api.gate.Gate.caller", lambda *_: caller)
    service.notes.error = StockUnavailable("the store is away")
    assert_problem(await client.get("/v1/events"), 503, "stock_unavailable")
