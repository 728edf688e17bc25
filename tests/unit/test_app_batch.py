"""The door for batches: what an element may be, its key, and where it is wrong."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

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
    assert batch == [single, None]
    assert len({key.field for key in [*numbered, single]}) == 3
    assert {key.fingerprint for key in numbered} == {single.fingerprint}
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
    assert list(batch) == alone


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
