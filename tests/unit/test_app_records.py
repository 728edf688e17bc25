"""Lists of the ledger's records over a ledger that only remembers what it was asked."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx2
import pytest

from api import wire
from core.record_model import LAST_ID, MovementFilter, ReservationFilter
from tests.fake_service import ID, FakeService
from tests.problems import assert_problem


async def test_movements_are_asked_for_by_every_filter(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    query = (
        f"sku=tee%2Fm&location=main&channel=web&reservation={ID}&reference=order%2017&verb=reserve"
        "&since=2026-11-22T12:00:00.000Z&until=2026-11-23T00:00:00%2B01:00&limit=5"
    )
    response = await client.get(f"/v1/movements?{query}")
    assert response.status_code == 200
    assert response.json() == {
        "items": [{
            "position": 7, "time": "2026-11-22T12:00:00.000Z", "verb": "receive", "sku": "tee",
            "location": "main", "from": "outside", "to": "shared", "quantity": 3, "version": 1,
        }],
        "next_cursor": response.json()["next_cursor"],
        "as_of_seq": 5,
    }  # fmt: skip
    wanted = MovementFilter(
        "tee/m", "main", "web", ID, "order 17", "reserve", datetime(2026, 11, 22, 12, tzinfo=UTC),
        datetime(2026, 11, 22, 23, tzinfo=UTC),
    )  # fmt: skip
    assert service.records.calls == [("movements", wanted, 0, 5)]
    cursor = response.json()["next_cursor"]
    response = await client.get(f"/v1/movements?cursor={cursor}")
    assert response.json()["next_cursor"] is None
    assert service.records.calls[1] == ("movements", MovementFilter(), 7, 100)


async def test_reservations_are_asked_for_by_every_filter(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    query = (
        "reference=order-17&state=expired&channel=web&sku=tee&location=main&customer=c-9"
        "&created_before=2026-11-22T12:00:00.123Z"
    )
    response = await client.get(f"/v1/reservations?{query}")
    assert response.status_code == 200
    document = response.json()
    assert [each["id"] for each in document["items"]] == [ID]
    assert document["as_of_seq"] == 5
    noon_ms = 1_795_348_800_123
    wanted = ReservationFilter("order-17", "expired", "web", "tee", "main", "c-9", noon_ms)
    assert service.records.calls == [("reservations", wanted, None, 100)]
    response = await client.get(f"/v1/reservations?cursor={document['next_cursor']}&limit=1")
    assert response.json()["next_cursor"] is None
    assert service.records.calls[1] == ("reservations", ReservationFilter(), ID, 1)


async def test_what_is_at_risk_has_cursors_of_its_own(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    response = await client.get("/v1/reservations?at_risk=true")
    assert response.json() == {
        "items": [], "next_cursor": response.json()["next_cursor"], "as_of_seq": 5
    }  # fmt: skip
    cursor = response.json()["next_cursor"]
    assert (await client.get(f"/v1/reservations?at_risk=true&cursor={cursor}")).status_code == 200
    assert service.records.calls[1] == ("at_risk", ReservationFilter(), f"R{ID}", 100)
    refused = await client.get(f"/v1/reservations?cursor={cursor}")
    assert assert_problem(refused, 422, "validation_failed")["errors"][0]["pointer"] == "?cursor"


async def test_reading_goes_on_behind_everything(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    """The committed ones at risk begin where the reserved ones end."""
    cursor = wire.cursor(f"C{LAST_ID}")
    response = await client.get(f"/v1/reservations?at_risk=true&cursor={cursor}")
    assert response.status_code == 200
    assert service.records.calls[0][2] == f"C{LAST_ID}"


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/movements?sku=a%20b", "?sku"),
        ("/v1/movements?sku=", "?sku"),
        ("/v1/movements?sku=a&sku=b", "?sku"),
        ("/v1/movements?location=Main", "?location"),
        ("/v1/movements?channel=shared", "?channel"),
        ("/v1/movements?reservation=17", "?reservation"),
        ("/v1/movements?reference=", "?reference"),
        ("/v1/movements?reference=a%00b", "?reference"),
        (f"/v1/movements?reference={'x' * 129}", "?reference"),
        ("/v1/movements?verb=extend", "?verb"),
        ("/v1/movements?since=yesterday", "?since"),
        ("/v1/movements?since=2026-11-22", "?since"),
        ("/v1/movements?until=2026-11-22T12:00:00", "?until"),
        ("/v1/movements?since=0001-01-01T00:00:00%2B14:00", "?since"),  # year 0
        ("/v1/movements?until=9999-12-31T23:59:59-12:00", "?until"),  # year 10,000
        ("/v1/movements?since=2026-11-22T12:00:00Z&until=2026-11-22T12:00:00Z", "?until"),
        ("/v1/movements?cursor=!", "?cursor"),
        ("/v1/movements?cursor=LTE", "?cursor"),  # -1
        ("/v1/movements?limit=0", "?limit"),
        ("/v1/movements?limit=1001", "?limit"),
        ("/v1/movements?state=reserved", "?state"),
        ("/v1/reservations?state=open", "?state"),
        ("/v1/reservations?customer=a%0Ab", "?customer"),
        ("/v1/reservations?created_before=now", "?created_before"),
        ("/v1/reservations?at_risk=1", "?at_risk"),
        ("/v1/reservations?cursor=NDI", "?cursor"),  # 42
        ("/v1/reservations?at_risk=true&cursor=NDI", "?cursor"),
        ("/v1/reservations?verb=commit", "?verb"),
        ("/v1/events?type=reservation.made", "?type"),
        ("/v1/events?channel=Web", "?channel"),
        ("/v1/events?sku=a%20b", "?sku"),
        ("/v1/events?since=2026-11-22T12:00:00Z", "?since"),
    ],
)
async def test_what_is_not_valid_is_pointed_at(
    client: httpx2.AsyncClient, service: FakeService, path: str, pointer: str
) -> None:
    document = assert_problem(await client.get(path), 422, "validation_failed")
    assert [each["pointer"] for each in document["errors"]] == [pointer]
    assert service.records.calls == []
