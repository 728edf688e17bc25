"""Limits per customer over HTTP: how one is set, what a checkout is told, what a batch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from core.settings import Settings
from tests.problems import assert_problem
from tests.service.conftest import opened

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


async def test_a_customer_who_holds_too_many_reservations(store_url: str, tmp_path: Path) -> None:
    """The code of the other limit, without lines: there is nothing to ask less of."""
    settings = Settings(valkey_url=store_url, data=tmp_path, customer_live_reservations=2)
    async with (
        opened(settings) as app,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://localhost"
        ) as client,
    ):
        await client.put("/v1/channels/web", json={})
        await client.put("/v1/skus/mug", json={})
        lines = [{"sku": "mug", "location": "main", "quantity": 100}]
        await client.post("/v1/stock/receive", json={"lines": lines})
        batch = {"reservations": [*[basket(1)] * 3, basket(1, "c-8"), basket(1, None)]}
        results = (await client.post(f"{PATH}/batch", json=batch)).json()["results"]
        assert [each["status"] for each in results] == [201, 201, 409, 201, 201], results
        assert results[2]["problem"]["code"] == "customer_limit"
        for path in (PATH, f"{PATH}?dry_run=true"):
            for partial in (False, True):
                told = await client.post(path, json=basket(1, partial=partial))
                document = assert_problem(told, 409, "customer_limit")
                assert "lines" not in document
                assert document["detail"] == (
                    "This customer holds 2 reservations not paid yet, and one may hold 2: "
                    "commit or release one first"
                )
        sold = basket(1, state="committed")
        assert (await client.post(PATH, json=sold)).status_code == 201
        paid = results[0]["reservation"]["id"]
        assert (await client.post(f"{PATH}/{paid}/commit", json={})).status_code == 200
        assert (await client.post(PATH, json=basket(1))).status_code == 201
