"""The verbs of stock over HTTP, on the real service."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.problems import assert_problem

TEE: dict[str, Any] = {"sku": "tee", "location": "main"}
WHAT: dict[str, dict[str, Any]] = {
    "adjust": TEE | {"delta": -1},
    "count": TEE | {"counted": 4},
    "transfer": {"sku": "tee", "from_location": "main", "to_location": "annex", "quantity": 2},
    "reallocate": TEE | {"from": "web", "to": "shared", "quantity": "all"},
}


@pytest.fixture
async def stocked(shop: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Ten tees at ``main``, seven web's and three the store's; an ``annex``."""
    assert (await shop.put("/v1/locations/annex", json={})).status_code == 201
    return shop


async def ask(
    client: httpx2.AsyncClient, verb: str, *lines: dict[str, Any], key: str = "", **more: Any
) -> httpx2.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"lines": lines, **more}
    return await client.post(f"/v1/stock/{verb}", json=body, headers=headers)


async def test_each_verb_answers_with_the_pool_as_it_is(stocked: httpx2.AsyncClient) -> None:
    found = {}
    for verb, line in WHAT.items():
        response = await ask(stocked, verb, line, reference="r-1", reason="a reason",
                             occurred_at="2026-11-22T12:00:00Z")  # fmt: skip
        assert response.status_code == 200
        (result,) = response.json()["results"]
        assert result["status"] == 200
        found[verb] = result
    assert [each["pool"]["on_hand"] for each in found.values()] == [9, 4, 2, 2]
    assert found["transfer"]["to_pool"]["location"] == "annex"
    assert found["transfer"]["to_pool"]["on_hand"] == 2
    assert all("to_pool" not in found[verb] for verb in ("adjust", "count", "reallocate"))
    pool = found["reallocate"]["pool"]
    assert pool["channels"]["web"]["free"] == 0
    assert pool["version"] == 5
    stock = (await stocked.get("/v1/stock/tee")).json()
    assert stock["pools"] == [pool, found["transfer"]["to_pool"]]


@pytest.mark.parametrize("verb", WHAT)
async def test_a_verb_is_done_once_under_a_key(stocked: httpx2.AsyncClient, verb: str) -> None:
    """Line by line: ``k#i``; of another verb the same key is another one."""
    first = await ask(stocked, verb, WHAT[verb], WHAT[verb] | {"sku": "none"}, key="k")
    assert [each["status"] for each in first.json()["results"]] == [200, 404]
    assert "idempotent-replayed" not in first.headers
    alone = await ask(stocked, verb, WHAT[verb], key="k")
    assert alone.headers["idempotent-replayed"] == "true"
    assert alone.json()["results"][0] == first.json()["results"][0]
    other = await ask(stocked, verb, WHAT[verb], key="k", reason="another")
    (result,) = other.json()["results"]
    assert (result["status"], result["problem"]["code"]) == (422, "idempotency_key_reused")
    arrived = await ask(stocked, "receive", TEE | {"quantity": 1}, key="k")
    assert arrived.json()["results"][0]["status"] == 200


@pytest.mark.parametrize(
    ("verb", "line", "status", "code"),
    [
        ("adjust", TEE | {"delta": -11}, 409, "insufficient_stock"),
        ("count", TEE | {"counted": 1, "if_on_hand": 9}, 412, "stale_version"),
        ("count", TEE | {"counted": 1, "if_version": 7}, 412, "stale_version"),
        ("transfer", WHAT["transfer"] | {"quantity": 11}, 409, "insufficient_stock"),
        ("transfer", WHAT["transfer"] | {"to_location": "main"}, 422, "validation_failed"),
        ("transfer", WHAT["transfer"] | {"to_location": "north"}, 404, "unknown_location"),
        ("transfer", WHAT["transfer"] | {"sku": "none"}, 404, "unknown_sku"),
        ("reallocate", TEE | {"from": "reserved:web", "to": "shared", "quantity": 1}, 422,
         "validation_failed"),
        ("reallocate", TEE | {"from": "web", "to": "nobody", "quantity": 1}, 404,
         "unknown_channel"),
        ("reallocate", TEE | {"from": "damaged", "to": "shared", "quantity": 1}, 409,
         "insufficient_stock"),
        ("reallocate", TEE | {"from": "web", "to": "web", "quantity": 1}, 422,
         "validation_failed"),
    ],
)  # fmt: skip
async def test_a_line_that_cannot_be_done_stops_no_other(
    stocked: httpx2.AsyncClient, verb: str, line: dict[str, Any], status: int, code: str
) -> None:
    """And it says why: which line, how much there is, what is there instead."""
    right = WHAT[verb] if verb != "count" else TEE | {"counted": 10}
    response = await ask(stocked, verb, line, right)
    wrong, done = response.json()["results"]
    assert done["status"] == 200
    assert wrong["status"] == status
    problem = wrong["problem"]
    assert (problem["code"], problem["retryable"]) == (code, False)
    assert problem["instance"] == f"/v1/stock/{verb}"
    if status == 409:
        (short,) = problem["lines"]
        assert short["location"] == "main"
        assert short["available"] < short["requested"]
        assert short["limited_by"] == "on_hand"
    if status == 422:
        assert problem["errors"][0]["pointer"].startswith("/lines/0/")


@pytest.mark.parametrize(
    ("verb", "line", "pointer"),
    [
        ("adjust", TEE | {"delta": 0}, ""),
        ("adjust", TEE | {"delta": 2**31}, "/delta"),
        ("count", TEE | {"counted": -1}, "/counted"),
        ("count", TEE | {"counted": 2**53}, "/counted"),
        ("transfer", WHAT["transfer"] | {"quantity": "all"}, "/quantity"),
        ("reallocate", TEE | {"by": "policy", "quantity": 1}, ""),
        ("reallocate", TEE | {"from": "web", "to": "shared"}, ""),
    ],
)
async def test_a_body_that_cannot_be_understood_does_nothing(
    stocked: httpx2.AsyncClient, verb: str, line: dict[str, Any], pointer: str
) -> None:
    before = (await stocked.get("/v1/stock/tee")).json()
    response = await ask(stocked, verb, WHAT[verb], line)
    document = assert_problem(response, 422, "validation_failed")
    assert document["errors"][0]["pointer"] == f"/lines/1{pointer}"
    assert (await stocked.get("/v1/stock/tee")).json() == before


async def test_a_count_below_what_is_promised_is_seen(stocked: httpx2.AsyncClient) -> None:
    """A deficit, nothing for sale; the next receipt pays it."""
    basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 6}]}
    assert (await stocked.post("/v1/reservations", json=basket)).status_code == 201
    (result,) = (await ask(stocked, "count", TEE | {"counted": 4})).json()["results"]
    assert (result["pool"]["on_hand"], result["pool"]["deficit"]) == (4, 2)
    assert (await stocked.get("/v1/stock/tee")).json()["available"] == {"web": 0, "store": 0}
    refused = await stocked.post("/v1/reservations", json=basket)
    assert assert_problem(refused, 409, "insufficient_stock")["lines"][0]["available"] == 0
    (result,) = (await ask(stocked, "receive", TEE | {"quantity": 3})).json()["results"]
    assert result["pool"]["deficit"] == 0
