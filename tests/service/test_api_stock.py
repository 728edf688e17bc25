"""Stock and policy over HTTP, on the real service."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.app import App
from tests.problems import assert_problem

RECEIVE = "/v1/stock/receive"


def arrival(sku: str = "tee", quantity: int = 1, location: str = "main") -> dict[str, Any]:
    return {"sku": sku, "location": location, "quantity": quantity}


async def test_stock_is_read_as_it_lies(shop: httpx2.AsyncClient) -> None:
    stock = (await shop.get("/v1/stock/tee")).json()
    assert stock["sku"] == "tee"
    assert stock["available"] == {"web": 7, "store": 3}
    (pool,) = stock["pools"]
    assert (pool["location"], pool["on_hand"]) == ("main", 10)
    assert (pool["shared"], pool["safety"], pool["deficit"]) == (0, 0, 0)
    assert pool["channels"]["web"] == {
        "free": 7,
        "reserved": 0,
        "committed": 0,
        "available": 7,
        "ceiling_left": None,
    }
    one = (await shop.get("/v1/stock/tee?channel=store")).json()
    assert one["available"] == {"store": 3}
    assert_problem(await shop.get("/v1/stock/none"), 404, "unknown_sku")
    assert_problem(await shop.get("/v1/stock/tee?channel=none"), 404, "unknown_channel")


async def test_stock_of_many_and_pages_of_all(shop: httpx2.AsyncClient) -> None:
    names = ["a/b", "c?d", "e#f", "g%h", "~"]
    for name in names:
        path = "/v1/skus/" + "".join(f"%{ord(letter):02X}" for letter in name)
        assert (await shop.put(path, json={})).json()["sku"] == name
        assert (await shop.get(path)).json()["sku"] == name
    some = await shop.get("/v1/stock", params={"sku": ["g%h", "tee"]})
    assert [item["sku"] for item in some.json()["items"]] == ["g%h", "tee"]
    assert some.json()["next_cursor"] is None
    assert_problem(await shop.get("/v1/stock?sku=tee&sku=none"), 404, "unknown_sku")
    found: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    for _ in range(10):
        page = (await shop.get("/v1/stock", params=query)).json()
        assert len(page["items"]) <= 2
        found += [item["sku"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == sorted([*names, "tee", "cap"])


async def test_availability_is_for_product_pages(shop: httpx2.AsyncClient) -> None:
    response = await shop.get("/v1/availability?channel=web&sku=tee&sku=cap&by_location=true")
    assert response.headers["cache-control"] == "max-age=1"
    body = response.json()
    assert body["channel"] == "web"
    assert body["as_of"].endswith("Z")
    assert [(item["sku"], item["available"]) for item in body["items"]] == [("tee", 7), ("cap", 0)]
    assert body["items"][0]["by_location"] == {"main": 7}
    assert_problem(await shop.get("/v1/availability?channel=none&sku=tee"), 404, "unknown_channel")
    missing = await shop.get("/v1/availability?channel=web&sku=tee&sku=none&sku=nor")
    assert_problem(missing, 404, "unknown_sku")
    assert [line["sku"] for line in missing.json()["lines"]] == ["none", "nor"]
    wrong = await shop.get("/v1/availability?channel=web&sku=tee&sku=a%20b")
    assert_problem(wrong, 422, "validation_failed")
    many = "&".join(f"sku=s{number}" for number in range(201))
    assert_problem(
        await shop.get(f"/v1/availability?channel=web&{many}"), 422, "validation_failed"
    )


async def test_lines_are_received_each_on_its_own(shop: httpx2.AsyncClient) -> None:
    lines = [arrival(), arrival("none"), arrival(location="nowhere"), arrival("cap", 5)]
    response = await shop.post(RECEIVE, json={"lines": lines, "reference": "truck-1"})
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["status"] for result in results] == [200, 404, 404, 200]
    assert [result["problem"]["code"] for result in results[1:3]] == [
        "unknown_sku",
        "unknown_location",
    ]
    assert results[0]["pool"]["on_hand"] == 11
    assert results[3]["pool"]["on_hand"] == 5


async def test_a_line_that_is_not_valid_says_which_it_is(shop: httpx2.AsyncClient) -> None:
    lines = [arrival(), arrival("a b"), arrival(location="Main")]
    response = await shop.post(RECEIVE, json={"lines": lines})
    first, *wrong = response.json()["results"]
    assert first["status"] == 200
    pointers = [result["problem"]["errors"][0]["pointer"] for result in wrong]
    assert pointers == ["/lines/1/sku", "/lines/2/location"]


async def test_a_channel_sees_its_own(shop: httpx2.AsyncClient) -> None:
    await shop.put("/v1/locations/north", json={})
    await shop.post(RECEIVE, json={"lines": [arrival(quantity=5, location="north")]})
    stock = (await shop.get("/v1/stock/tee?channel=web")).json()
    assert stock["available"] == {"web": 7}
    assert [(pool["location"], list(pool["channels"])) for pool in stock["pools"]] == [
        ("main", ["web"]),
        ("north", []),
    ]
    # Units at a location that the channel does not sell from are not on its pages.
    response = await shop.get("/v1/availability?channel=web&sku=tee&by_location=true")
    assert response.json()["items"] == [
        {"sku": "tee", "available": 7, "by_location": {"main": 7}}
    ]


async def test_a_delivery_arrives_once(shop: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "truck-2"}
    body = {"lines": [arrival(), arrival("cap", 2)]}
    first = await shop.post(RECEIVE, json=body, headers=headers)
    again = await shop.post(RECEIVE, json=body, headers=headers)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    other = await shop.post(
        RECEIVE, json={"lines": [arrival(), arrival("cap", 3)]}, headers=headers
    )
    statuses = [result["status"] for result in other.json()["results"]]
    assert statuses == [200, 422]
    assert "idempotent-replayed" not in other.headers


@pytest.mark.parametrize(
    ("path", "first", "second", "member"),
    [
        ("/v1/channels/app", {}, {"ttl_seconds": 60}, "ttl_seconds"),
        ("/v1/locations/north", {}, {"sells": False}, "sells"),
        ("/v1/skus/a%2Fb", {}, {"safety_stock": 3}, "safety_stock"),
    ],
)
async def test_policies_are_made_changed_and_read(
    shop: httpx2.AsyncClient, path: str, first: Any, second: Any, member: str
) -> None:
    assert (await shop.get(path)).status_code == 404
    absent = await shop.put(path, json=first, headers={"If-Match": "*"})
    assert_problem(absent, 412, "stale_version")
    made = await shop.put(path, json=first, headers={"Idempotency-Key": "make"})
    assert made.status_code == 201
    assert made.headers["location"] == path
    again = await shop.put(path, json=first, headers={"Idempotency-Key": "make"})
    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    version = made.headers["etag"]
    changed = await shop.put(path, json=second, headers={"If-Match": version})
    assert changed.status_code == 200
    assert changed.json()[member] == second[member]
    assert changed.headers["etag"] != version
    stale = await shop.put(path, json=first, headers={"If-Match": version})
    assert_problem(stale, 412, "stale_version")
    read = await shop.get(path)
    assert read.json() == changed.json()
    assert read.headers["etag"] == changed.headers["etag"] == f'"{read.json()["version"]}"'


async def test_channels_and_locations_are_listed_by_name(shop: httpx2.AsyncClient) -> None:
    assert (await shop.put("/v1/locations/north", json={})).status_code == 201
    channels = (await shop.get("/v1/channels")).json()
    assert [channel["name"] for channel in channels["items"]] == ["store", "web"]
    assert channels["items"][1]["floor_share"] == 0.7
    assert channels["next_cursor"] is None
    first = (await shop.get("/v1/locations?limit=1")).json()
    assert [location["name"] for location in first["items"]] == ["main"]
    rest = (await shop.get(f"/v1/locations?cursor={first['next_cursor']}")).json()
    assert [location["name"] for location in rest["items"]] == ["north"]


async def test_a_channel_goes_and_its_quota_is_shared(shop: httpx2.AsyncClient) -> None:
    basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 2}]}
    held = (await shop.post("/v1/reservations", json=basket)).json()["id"]
    version = (await shop.get("/v1/channels/web")).headers["etag"]
    used = await shop.delete("/v1/channels/web", headers={"If-Match": version})
    assert_problem(used, 409, "channel_in_use")
    (line,) = used.json()["lines"]
    assert (line["sku"], line["location"], line["requested"]) == ("tee", "main", 2)
    assert "closed" not in (await shop.get("/v1/channels/web")).json()
    assert (await shop.get("/v1/channels/web")).headers["etag"] == version
    stale = await shop.delete("/v1/channels/web", headers={"If-Match": '"99"'})
    assert_problem(stale, 412, "stale_version")
    assert (await shop.post(f"/v1/reservations/{held}/release")).status_code == 200
    assert (await shop.put("/v1/channels/store", json={"floor_share": 0.3})).status_code == 200
    gone = await shop.delete("/v1/channels/web")
    assert (gone.status_code, gone.content) == (204, b"")
    assert_problem(await shop.delete("/v1/channels/web"), 404, "unknown_channel")
    assert_problem(await shop.get("/v1/channels/web"), 404, "unknown_channel")
    assert_problem(await shop.post("/v1/reservations", json=basket), 404, "unknown_channel")
    assert_problem(await shop.get("/v1/availability?channel=web&sku=tee"), 404, "unknown_channel")
    assert (await shop.get("/v1/stock/tee")).json()["available"] == {"store": 10}
    closed = await shop.put("/v1/channels/web", json={"closed": True})
    assert_problem(closed, 422, "validation_failed")
    assert (await shop.put("/v1/channels/web", json={})).status_code == 201


async def test_the_worker_says_that_it_is_ready(app: App, client: httpx2.AsyncClient) -> None:
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert ready.json()["durability"] == "fsync"
    app.drain()
    assert_problem(await client.get("/readyz"), 503, "draining")


async def test_the_document_is_served(client: httpx2.AsyncClient) -> None:
    OpenAPIV31SpecValidator((await client.get("/openapi.json")).json()).validate()
