"""The door for batches: what an element may be, its key, and where it is wrong."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from core.model import Key
from tests.fake_service import BASKET, ID, FakeService
from tests.problems import assert_problem


async def test_keys_of_a_batch(client: httpx2.AsyncClient, service: FakeService) -> None:
    own = {"reservations": [BASKET | {"idempotency_key": "k"}, BASKET]}
    await client.post("/v1/reservations/batch", json=own)
    await client.post("/v1/reservations", json=BASKET, headers={"Idempotency-Key": '"k"'})
    both = {"reservations": [BASKET, BASKET]}
    await client.post("/v1/reservations/batch", json=both, headers={"Idempotency-Key": "k"})
    first, (_, (_, single)), last = service.engine.calls
    batch, numbered = ([key for *_, key in arguments[0]] for _, arguments in (first, last))
    assert batch[1] is None
    assert (batch[0].field, batch[0].fingerprint) == (single.field, single.fingerprint)
    assert len({key.field for key in [*numbered, single]}) == 3
    assert [key.of_batch for key in [*numbered, single]] == [True, True, False]
    assert {key.fingerprint for key in numbered}.isdisjoint({single.fingerprint})
    mixed = await client.post("/v1/reservations/batch", json=own, headers={"Idempotency-Key": "k"})
    document = assert_problem(mixed, 422, "validation_failed")
    assert document["errors"][0]["pointer"] == "/reservations/0/idempotency_key"


VERBS: dict[str, dict[str, Any]] = {
    "amend": {"lines": [{"sku": "tee", "quantity": 1}], "reference": "r"},
    "extend": {"ttl_seconds": 9},
    "commit": {"late": "refuse"},
    "release": {},
    "cancel": {"reason": "r"},
    "fulfil": {"lines": [{"sku": "tee", "quantity": 1}]},
    "return": {"lines": [{"sku": "tee", "quantity": 1, "to": "main"}]},
}


async def test_a_verb_in_a_batch_is_the_verb_alone(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    """The same id, request and key as if it had been sent alone; no order, a status each."""
    elements = [
        {"verb": verb, "id": ID, "idempotency_key": "k", **body} for verb, body in VERBS.items()
    ]
    response = await client.post("/v1/reservations/batch", json={"reservations": elements})
    assert [each["status"] for each in response.json()["results"]] == [200] * len(VERBS)
    ((_, (batch,)),) = service.engine.calls
    service.engine.calls.clear()
    for verb, body in VERBS.items():
        path = f"/v1/reservations/{ID}/{verb}"
        await client.post(path, json=body, headers={"Idempotency-Key": "k"})
    alone = [(name.rstrip("_"), *arguments[:3]) for name, arguments in service.engine.calls]
    assert [without_mark(*each) for each in batch] == [without_mark(*each) for each in alone]


def without_mark(verb: str, id: str, request: object, key: Key) -> tuple[object, ...]:
    """A verb as it is, whenever it was sent."""
    return verb, id, request, key.field, key.fingerprint


async def test_what_a_header_key_stands_for(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    """An element's place in the batch is its key; verb, id and body are what was asked."""
    other = ID[:-1] + ("0" if ID[-1] != "0" else "1")
    elements = [
        {"verb": "commit", "id": ID}, {"verb": "commit", "id": other},
        {"verb": "release", "id": ID}, {"verb": "commit", "id": ID, "reference": "r"}, BASKET,
        {"verb": "cancel", "id": ID}, {"verb": "cancel", "id": ID, "reason": "r"},
    ]  # fmt: skip
    for element in elements:
        sent = {"reservations": [element]}
        await client.post("/v1/reservations/batch", json=sent, headers={"Idempotency-Key": "k"})
    keys = [batch[0][3] for _, (batch,) in service.engine.calls]
    assert len({key.field for key in keys}) == 1
    assert len({key.fingerprint for key in keys}) == len(elements)


async def test_reserve_is_a_verb_as_well(client: httpx2.AsyncClient, service: FakeService) -> None:
    sent = {"reservations": [BASKET, BASKET | {"verb": "reserve"}]}
    response = await client.post("/v1/reservations/batch", json=sent)
    assert [each["status"] for each in response.json()["results"]] == [201, 201]
    ((_, ((left, right),)),) = service.engine.calls
    assert left == right
    wrong = await client.post("/v1/reservations/batch", json={"reservations": [{"verb": "pay"}]})
    assert "reserve" in assert_problem(wrong, 422, "validation_failed")["detail"]


@pytest.mark.parametrize("named", [b"", b'"verb": "reserve", '], ids=["at once", "one by one"])
@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
async def test_what_is_no_text_is_malformed_however_it_is_read(
    client: httpx2.AsyncClient, service: FakeService, named: bytes, text: bytes
) -> None:
    line = b'[{"sku": "tee", "quantity": 1}]'
    demand = b'{%b"channel": "web", "lines": %b, "customer": "%b"}' % (named, line, text)
    response = await client.post(
        "/v1/reservations/batch", content=b'{"reservations": [%b]}' % demand,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip
    assert_problem(response, 400, "malformed_json")
    assert service.engine.calls == []


PINNED_TWICE = {"sku": "tee", "quantity": 1, "location": "main", "locations": ["main"]}


@pytest.mark.parametrize("named", [{}, {"verb": "reserve"}], ids=["at once", "one by one"])
@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"partial": 1}, "partial"), ({"pay": True}, "pay"), ({"customer": "a@b"}, "customer"),
        ({"reference": "\x7f"}, "reference"), ({"lines": [PINNED_TWICE]}, "lines/0/locations"),
    ],
)  # fmt: skip
async def test_the_first_wrong_demand_is_named_however_they_are_read(
    client: httpx2.AsyncClient, service: FakeService, named: dict[str, str],
    wrong: dict[str, Any], pointer: str,
) -> None:  # fmt: skip
    first = {"reservations": [BASKET | named, BASKET | named | wrong, {**BASKET, "lines": 1}]}
    told = assert_problem(
        await client.post("/v1/reservations/batch", json=first), 422, "validation_failed"
    )
    assert [each["pointer"] for each in told["errors"]] == [f"/reservations/1/{pointer}"]
    assert service.engine.calls == []


@pytest.mark.parametrize("path", ["reservations", "reservations/batch", "stock/receive"])
async def test_what_has_no_version_matches_nothing(
    client: httpx2.AsyncClient, service: FakeService, path: str
) -> None:
    line = {"sku": "tee", "location": "main", "quantity": 1}
    body = {
        "reservations": BASKET, "reservations/batch": {"reservations": [BASKET]},
        "stock/receive": {"lines": [line]},
    }[path]  # fmt: skip
    for tag in ("*", '"1"', '"other"'):
        response = await client.post(f"/v1/{path}", json=body, headers={"If-Match": tag})
        assert_problem(response, 412, "stale_version")
    wrong = await client.post(f"/v1/{path}", json={}, headers={"If-Match": "*"})
    assert_problem(wrong, 422, "validation_failed")
    odd = await client.post(f"/v1/{path}", json=body, headers={"If-Match": "a b"})
    assert_problem(odd, 400, "if_match_invalid")
    assert service.engine.calls == []


@pytest.mark.parametrize(
    ("element", "pointer"),
    [
        ({"verb": "pay", "id": ID}, "/verb"),
        ({"verb": 7, "id": ID}, "/verb"),
        ({"verb": "commit"}, "/id"),
        ({"verb": "commit", "id": ID, "channel": "web"}, "/channel"),
        ({"verb": "commit", "id": ID, "reference": "a\x00"}, "/reference"),
        ({"verb": "amend", "id": ID, "lines": []}, "/lines"),
        ({"verb": "amend", "id": ID, "lines": [{"sku": "tee", "quantity": 1}] * 101}, "/lines"),
        ({"verb": "fulfil", "id": ID, "lines": [{"sku": "tee", "quantity": 0}]},
         "/lines/0/quantity"),
        ({"verb": "return", "id": ID, "lines": [{"sku": "t", "quantity": 1, "disposition": "x"}]},
         "/lines/0/disposition"),
        ({"channel": "web"}, "/lines"),
        ("commit", ""),
    ],
)  # fmt: skip
async def test_what_is_wrong_in_a_batch_is_pointed_at(
    client: httpx2.AsyncClient, service: FakeService, element: Any, pointer: str
) -> None:
    sent = {"reservations": [BASKET, element]}
    document = assert_problem(
        await client.post("/v1/reservations/batch", json=sent), 422, "validation_failed"
    )
    assert document["errors"][0]["pointer"] == f"/reservations/1{pointer}"
    assert service.engine.calls == []


async def test_elements_of_a_batch_are_checked_where_they_stand(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    for member, value in [("reference", "a\x00"), ("customer", "a@b"), ("idempotency_key", "é")]:
        elements = {"reservations": [BASKET, BASKET | {member: value}]}
        response = await client.post("/v1/reservations/batch", json=elements)
        document = assert_problem(response, 422, "validation_failed")
        assert document["errors"][0]["pointer"] == f"/reservations/1/{member}"
    many = BASKET | {"lines": [{"sku": "tee", "quantity": 1}] * 100}
    response = await client.post("/v1/reservations/batch", json={"reservations": [many] * 101})
    document = assert_problem(response, 422, "validation_failed")
    assert document["errors"][0]["pointer"] == "/reservations"
    assert service.engine.calls == []
