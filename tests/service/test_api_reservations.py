"""Reservations over HTTP, on the real service: lives, repeats, versions, batches."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx2
import pytest

from api.app import App
from tests.problems import assert_problem
from tests.workers import client, make_due, stop_reaper

PATH = "/v1/reservations"


def basket(quantity: int = 1, **members: Any) -> dict[str, Any]:
    return {"channel": "web", "lines": [{"sku": "tee", "quantity": quantity}]} | members


async def reserved(client: httpx2.AsyncClient, quantity: int = 1, **members: Any) -> str:
    response = await client.post(PATH, json=basket(quantity, **members))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


async def pool(client: httpx2.AsyncClient) -> Any:
    return (await client.get("/v1/stock/tee")).json()["pools"][0]


async def test_a_basket_lives_through(shop: httpx2.AsyncClient) -> None:
    response = await shop.post(PATH, json=basket(2, reference="order-17", customer="c-9"))
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"{PATH}/{made['id']}"
    assert response.headers["etag"] == f'"{made["version"]}"'
    assert made["state"] == "reserved"
    assert made["reference"] == "order-17"
    assert made["customer"] == "c-9"
    assert made["durability"] == "fsync"
    assert made["committed_at"] is None
    assert made["created_at"] < made["expires_at"]
    assert made["lines"] == [
        {
            "sku": "tee",
            "location": "main",
            "quantity": 2,
            "own": 2,
            "borrowed": 0,
            "fulfilled": 0,
            "cancelled": 0,
            "returned": 0,
        }
    ]
    assert (await shop.get(response.headers["location"])).json() == made
    committed = (await shop.post(f"{PATH}/{made['id']}/commit")).json()
    assert committed["state"] == "committed"
    assert committed["expires_at"] is None
    assert committed["committed_at"] is not None
    assert (await pool(shop))["channels"]["web"]["committed"] == 2
    done = (await shop.post(f"{PATH}/{made['id']}/fulfil")).json()
    assert done["state"] == "fulfilled"
    assert done["lines"][0]["fulfilled"] == 2
    assert (await pool(shop))["on_hand"] == 8


async def test_a_refusal_says_what_is_left_and_why(shop: httpx2.AsyncClient) -> None:
    response = await shop.post(PATH, json=basket(8))
    document = assert_problem(response, 409, "insufficient_stock")
    assert document["retryable"] is False
    assert document["lines"] == [
        {"sku": "tee", "requested": 8, "available": 7, "limited_by": "channel_quota"}
    ]
    partial = await shop.post(PATH, json=basket(8, partial=True))
    assert partial.status_code == 201
    assert partial.json()["refused"] == [
        {"sku": "tee", "requested": 8, "granted": 7, "limited_by": "channel_quota"}
    ]


async def test_all_unknown_skus_are_named(shop: httpx2.AsyncClient) -> None:
    lines = [{"sku": sku, "quantity": 1} for sku in ("none", "tee", "nil")]
    document = assert_problem(await shop.post(PATH, json=basket(lines=lines)), 404, "unknown_sku")
    assert {line["sku"] for line in document["lines"]} == {"none", "nil"}


async def test_release_and_cancel_give_back(shop: httpx2.AsyncClient) -> None:
    before = await pool(shop)
    first, second = await reserved(shop, 3), await reserved(shop, 2)
    assert (await shop.post(f"{PATH}/{first}/release")).json()["state"] == "released"
    assert (await shop.post(f"{PATH}/{first}/release", json={})).status_code == 200
    await shop.post(f"{PATH}/{second}/commit")
    part = await shop.post(
        f"{PATH}/{second}/cancel",
        json={"lines": [{"sku": "tee", "quantity": 1}], "reason": "changed mind"},
        headers={"Idempotency-Key": "k"},
    )
    assert part.json()["state"] == "committed"
    assert part.json()["lines"][0]["cancelled"] == 1
    whole = await shop.post(f"{PATH}/{second}/cancel")
    assert whole.json()["state"] == "cancelled"
    document = assert_problem(await shop.post(f"{PATH}/{first}/commit"), 409, "invalid_state")
    assert document["state"] == "released"
    after = await pool(shop)
    assert after["version"] > before["version"]
    assert after | {"version": 0} == before | {"version": 0}


async def test_extend_moves_the_deadline_within_bounds(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop, ttl_seconds=60)
    first = (await shop.get(f"{PATH}/{id}")).json()["expires_at"]
    later = await shop.post(f"{PATH}/{id}/extend", json={"ttl_seconds": 900})
    assert later.json()["expires_at"] > first
    same = await shop.post(f"{PATH}/{id}/extend", json={"ttl_seconds": 1})
    assert same.json()["expires_at"] == later.json()["expires_at"]
    too_long = await shop.post(f"{PATH}/{id}/extend", json={"ttl_seconds": 3600})
    assert_problem(too_long, 409, "hold_limit")


async def test_a_repeat_with_a_key_happens_once(shop: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": '"checkout-17"'}
    first = await shop.post(PATH, json=basket(2), headers=headers)
    assert "idempotent-replayed" not in first.headers
    again = await shop.post(PATH, json=basket(2, partial=False), headers=headers)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert again.headers["idempotent-replayed"] == "true"
    other = await shop.post(PATH, json=basket(3), headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")
    bare = await shop.post(PATH, json=basket(2), headers={"Idempotency-Key": "checkout-17"})
    assert bare.json()["id"] == first.json()["id"]
    assert (await pool(shop))["channels"]["web"]["reserved"] == 2
    # A replay shows the reservation as it is now.
    await shop.post(f"{PATH}/{first.json()['id']}/commit")
    now = await shop.post(PATH, json=basket(2), headers=headers)
    assert (now.status_code, now.json()["state"]) == (201, "committed")


async def test_a_part_moves_once_however_often_it_is_sent(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop, 3)
    await shop.post(f"{PATH}/{id}/commit")
    body = {"lines": [{"sku": "tee", "quantity": 1}]}
    for _ in range(3):
        response = await shop.post(
            f"{PATH}/{id}/fulfil", json=body, headers={"Idempotency-Key": "parcel-1"}
        )
        assert response.json()["lines"][0]["fulfilled"] == 1
    assert response.headers["idempotent-replayed"] == "true"
    assert (await pool(shop))["on_hand"] == 9


async def test_a_stale_version_has_no_effect(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop)
    etag = (await shop.get(f"{PATH}/{id}")).headers["etag"]
    assert (await shop.get(f"{PATH}/{id}", headers={"If-Match": etag})).status_code == 200
    for stale in ('"99"', '"other"'):
        refused = await shop.post(f"{PATH}/{id}/commit", headers={"If-Match": stale})
        assert_problem(refused, 412, "stale_version")
        read = await shop.get(f"{PATH}/{id}", headers={"If-Match": stale})
        assert_problem(read, 412, "stale_version")
    done = await shop.post(f"{PATH}/{id}/commit", headers={"If-Match": etag})
    assert done.status_code == 200
    assert done.headers["etag"] != etag
    refused = await shop.post(f"{PATH}/{id}/fulfil", headers={"If-Match": etag})
    assert_problem(refused, 412, "stale_version")


async def test_units_are_free_once_the_deadline_passed(
    app: App, shop: httpx2.AsyncClient, store_url: str
) -> None:
    assert app.service is not None
    await stop_reaper(app.service)
    with contextlib.closing(client(store_url)) as store:
        late, gone = await reserved(shop, 3), await reserved(shop, 4)
        make_due(store, late)
        make_due(store, gone)
    passed = (await shop.get(f"{PATH}/{late}")).json()
    assert (passed["state"], passed["expires_at"]) == ("expired", None)
    # The version that the caller knows is the one before the expiry, which its commit brings about.
    won = await shop.post(f"{PATH}/{late}/commit", headers={"If-Match": '"1"'})
    assert won.status_code == 200
    assert won.json()["reacquired"] is True
    partial = await shop.post(PATH, json=basket(9, partial=True))
    assert partial.json()["lines"][0]["quantity"] == 4
    assert partial.json()["refused"][0]["granted"] == 4
    lost = await shop.post(f"{PATH}/{gone}/commit")
    document = assert_problem(lost, 409, "expired")
    assert document["lines"] == [
        {"sku": "tee", "requested": 4, "available": 0, "limited_by": "channel_quota"}
    ]
    refused = await shop.post(f"{PATH}/{gone}/commit", json={"late": "refuse"})
    assert "lines" not in assert_problem(refused, 409, "expired")
    for verb in ("release", "fulfil", "cancel"):
        document = assert_problem(await shop.post(f"{PATH}/{gone}/{verb}"), 409, "invalid_state")
        assert document["state"] == "expired"


async def test_a_batch_grants_what_it_can(shop: httpx2.AsyncClient) -> None:
    elements = [
        basket(5),
        basket(6),
        basket(lines=[{"sku": "none", "quantity": 1}]),
        basket(channel="store"),
        basket(ttl_seconds=9999),
    ]
    response = await shop.post(f"{PATH}/batch", json={"reservations": elements})
    assert response.status_code == 200
    statuses = [result["status"] for result in response.json()["results"]]
    # Which of the first two gets its units is free: elements have no order among each other.
    assert sorted(statuses[:2]) == [201, 409]
    assert statuses[2:] == [404, 201, 422]
    for result in response.json()["results"]:
        if result["status"] == 201:
            read = await shop.get(f"{PATH}/{result['reservation']['id']}")
            assert read.json() == result["reservation"]
        else:
            assert result["problem"]["status"] == result["status"]


@pytest.mark.parametrize("own", [True, False])
async def test_a_batch_repeats_like_its_elements(shop: httpx2.AsyncClient, own: bool) -> None:
    elements = [basket() | ({"idempotency_key": f"k{n}"} if own else {}) for n in range(3)]
    headers = {} if own else {"Idempotency-Key": "k"}
    body = {"reservations": elements}
    first = await shop.post(f"{PATH}/batch", json=body, headers=headers)
    again = await shop.post(f"{PATH}/batch", json=body, headers=headers)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    ids = [result["reservation"]["id"] for result in first.json()["results"]]
    assert len(set(ids)) == 3
    alone = await shop.post(PATH, json=basket(), headers={"Idempotency-Key": "k1"})
    assert (alone.json()["id"] == ids[1]) == own


async def test_nobody_is_sold_a_unit_twice(shop: httpx2.AsyncClient) -> None:
    async def buy(number: int) -> int:
        channel = "web" if number % 2 else "store"
        response = await shop.post(PATH, json=basket(channel=channel))
        if response.status_code == 201:
            id = response.json()["id"]
            assert (await shop.post(f"{PATH}/{id}/commit")).status_code == 200
        return int(response.status_code)

    statuses = await asyncio.gather(*(buy(number) for number in range(60)))
    assert sorted(set(statuses)) == [201, 409]
    assert statuses.count(201) == 10
    channels = (await pool(shop))["channels"]
    assert (channels["web"]["committed"], channels["store"]["committed"]) == (7, 3)


async def test_a_basket_is_changed(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop, 2)
    path = f"{PATH}/{id}/amend"
    body = {"lines": [{"sku": "tee", "quantity": 5}], "reference": "cart-2"}
    response = await shop.post(path, json=body, headers={"If-Match": '"1"'})
    assert response.status_code == 200, response.text
    assert response.headers["etag"] == '"2"'
    now = response.json()
    assert (now["lines"][0]["quantity"], now["reference"]) == (5, "cart-2")
    assert_problem(await shop.post(path, json=body, headers={"If-Match": '"1"'}), 412,
                   "stale_version")  # fmt: skip
    more = {"lines": [{"sku": "tee", "quantity": 8}]}
    document = assert_problem(await shop.post(path, json=more), 409, "insufficient_stock")
    assert document["lines"] == [
        {"sku": "tee", "requested": 8, "available": 7, "limited_by": "channel_quota"}
    ]
    late = {"lines": [{"sku": "tee", "quantity": 1}], "ttl_seconds": 4000}
    assert_problem(await shop.post(path, json=late), 409, "hold_limit")
    assert (await shop.get(f"{PATH}/{id}")).json() == now


async def test_what_was_shipped_comes_back(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop, 3)
    await shop.post(f"{PATH}/{id}/commit")
    await shop.post(f"{PATH}/{id}/fulfil")
    path, key = f"{PATH}/{id}/return", {"Idempotency-Key": "rma-1"}
    body = {
        "lines": [
            {"sku": "tee", "quantity": 1, "disposition": "damaged"},
            {"sku": "tee", "quantity": 1},
        ],
        "reference": "rma-1",
    }
    assert_problem(await shop.post(path, json=body), 400, "idempotency_key_required")
    done = await shop.post(path, json=body, headers=key)
    assert done.status_code == 200, done.text
    assert done.json()["lines"][0]["returned"] == 2
    again = await shop.post(path, json=body, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == done.json()
    now = await pool(shop)
    assert (now["on_hand"], now["damaged"]) == (9, 1)
    over = await shop.post(path, json=body, headers={"Idempotency-Key": "rma-2"})
    document = assert_problem(over, 409, "invalid_quantity")
    assert document["lines"] == [{"sku": "tee", "requested": 1, "available": 0}]


async def test_what_was_sold_elsewhere_is_recorded(shop: httpx2.AsyncClient) -> None:
    paid = await shop.post(PATH, json=basket(3, state="committed"))
    assert paid.status_code == 201
    assert (paid.json()["state"], paid.json()["expires_at"]) == ("committed", None)
    assert "short" not in paid.json()["lines"][0]
    refused = await shop.post(PATH, json=basket(30, state="committed"))
    assert_problem(refused, 409, "insufficient_stock")
    fact = await shop.post(PATH, json=basket(9, state="fulfilled", shortage="record"))
    assert fact.status_code == 201
    made = fact.json()
    assert (made["state"], made["lines"][0]["short"]) == ("fulfilled", 2)
    assert made["committed_at"] == made["created_at"]
    assert (await shop.get(fact.headers["location"])).json() == made
    now = await pool(shop)
    assert (now["deficit"], now["on_hand"]) == (2, 1)  # of three that are promised


async def test_a_dry_run_changes_nothing(shop: httpx2.AsyncClient) -> None:
    before = await pool(shop)
    response = await shop.post(
        f"{PATH}?dry_run=true", json=basket(2, reference="x"), headers={"Idempotency-Key": "d"}
    )
    assert response.status_code == 200
    assert "etag" not in response.headers
    would = response.json()
    assert would.pop("expires_at").endswith("Z")
    assert would == {
        "dry_run": True, "state": "reserved", "channel": "web", "reference": "x", "customer": None,
        "lines": [{"sku": "tee", "location": "main", "quantity": 2, "own": 2, "borrowed": 0}],
    }  # fmt: skip
    assert await pool(shop) == before
    over = await shop.post(f"{PATH}?dry_run=true", json=basket(8))
    assert_problem(over, 409, "insufficient_stock")
    # The key was not kept: it makes its first reservation now.
    real = await shop.post(
        f"{PATH}?dry_run=false", json=basket(3), headers={"Idempotency-Key": "d"}
    )
    assert real.status_code == 201
    assert "idempotent-replayed" not in real.headers


async def test_a_batch_of_verbs(shop: httpx2.AsyncClient) -> None:
    """Each element as if it had been sent alone, in any order; the answers in theirs."""
    ids = [await reserved(shop) for _ in range(5)]
    for id in ids[3:]:
        await shop.post(f"{PATH}/{id}/commit")
    line = {"sku": "tee", "quantity": 1}
    elements = [
        {"verb": "commit", "id": ids[0], "reference": "paid", "idempotency_key": "k-0"},
        basket(1, idempotency_key="new"),
        {"verb": "release", "id": ids[1]},
        {"verb": "amend", "id": ids[2], "lines": [line | {"quantity": 2}]},
        {"verb": "fulfil", "id": ids[3], "lines": [line]},
        {"verb": "fulfil", "id": ids[3], "lines": [line], "idempotency_key": "k-4"},
        {"verb": "cancel", "id": ids[4]},
        {"verb": "return", "id": ids[4], "lines": [line], "idempotency_key": "k-6"},
        {"verb": "extend", "id": "nobody", "ttl_seconds": 9},
        basket(50),
    ]
    response = await shop.post(f"{PATH}/batch", json={"reservations": elements})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [each["status"] for each in results] == [
        200, 201, 200, 200, 400, 200, 200, 409, 404, 409,
    ]  # fmt: skip
    states = [each.get("reservation", {}).get("state") for each in results]
    assert states[:7] == [
        "committed", "reserved", "released", "reserved", None, "fulfilled", "cancelled",
    ]  # fmt: skip
    codes = [each.get("problem", {}).get("code") for each in results]
    assert codes[4] == "idempotency_key_required"
    assert codes[7] in ("invalid_state", "invalid_quantity")
    assert codes[8:] == ["unknown_reservation", "insufficient_stock"]
    again = await shop.post(
        f"{PATH}/{ids[0]}/commit", json={"reference": "paid"}, headers={"Idempotency-Key": "k-0"}
    )
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_batch_under_one_key_is_repeated_as_a_whole(shop: httpx2.AsyncClient) -> None:
    id = await reserved(shop)
    elements: list[dict[str, Any]] = [{"verb": "commit", "id": id}, basket(2)]
    sent: dict[str, Any] = {
        "json": {"reservations": elements},
        "headers": {"Idempotency-Key": "night"},
    }
    first = await shop.post(f"{PATH}/batch", **sent)
    again = await shop.post(f"{PATH}/batch", **sent)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    own = [elements[0] | {"idempotency_key": "k"}]
    both = await shop.post(
        f"{PATH}/batch", json={"reservations": own}, headers={"Idempotency-Key": "night"}
    )
    document = assert_problem(both, 422, "validation_failed")
    assert document["errors"][0]["pointer"] == "/reservations/0/idempotency_key"
