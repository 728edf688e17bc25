"""Limits per customer over HTTP: how one is set, what a checkout is told, what a batch does."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.problems import assert_problem

PATH = "/v1/reservations"


def basket(quantity: int, customer: str | None = "c-9", **members: Any) -> dict[str, Any]:
    who = {} if customer is None else {"customer": customer}
    return {"channel": "web", "lines": [{"sku": "mug", "quantity": quantity}]} | who | members


async def limited(shop: httpx2.AsyncClient) -> None:
    """Plenty of ``mug``, three for each."""
    made = await shop.put("/v1/skus/mug", json={"customer_limit": 3, "customer_limit_days": 7})
    assert made.status_code == 201
    assert made.json()["customer_limit"] == 3
    assert (await shop.get("/v1/skus/mug")).json()["customer_limit_days"] == 7
    lines = [{"sku": "mug", "location": "main", "quantity": 100}]
    await shop.post("/v1/stock/receive", json={"lines": lines})


async def test_a_checkout_is_told(shop: httpx2.AsyncClient) -> None:
    await limited(shop)
    first = await shop.post(PATH, json=basket(2))
    assert first.status_code == 201
    refused = assert_problem(await shop.post(PATH, json=basket(2)), 409, "customer_limit")
    assert refused["lines"] == [
        {"sku": "mug", "requested": 2, "available": 1, "limited_by": "customer_limit"}
    ]
    assert_problem(await shop.post(PATH, json=basket(1, None)), 422, "customer_required")
    trial = await shop.post(f"{PATH}?dry_run=true", json=basket(2))
    assert_problem(trial, 409, "customer_limit")
    some = (await shop.post(PATH, json=basket(4, partial=True))).json()
    assert some["lines"][0]["quantity"] == 1
    assert some["refused"] == [
        {"sku": "mug", "requested": 4, "granted": 1, "limited_by": "customer_limit"}
    ]
    lines = {"lines": [{"sku": "mug", "quantity": 3}]}
    amend = f"{PATH}/{first.json()['id']}/amend"
    assert_problem(await shop.post(amend, json=lines), 409, "customer_limit")
    await shop.post(f"{PATH}/{some['id']}/release", json={})
    assert (await shop.post(amend, json=lines)).status_code == 200


async def test_a_batch_of_one_customer(shop: httpx2.AsyncClient) -> None:
    """Elements are decided on their own; together they get what one may have."""
    await limited(shop)
    batch = {"reservations": [*[basket(1)] * 5, basket(1, "c-8"), basket(1, None)]}
    results = (await shop.post(f"{PATH}/batch", json=batch)).json()["results"]
    assert sorted(each["status"] for each in results[:5]) == [201, 201, 201, 409, 409]
    assert [each["status"] for each in results[5:]] == [201, 422]
    assert results[6]["problem"]["code"] == "customer_required"
