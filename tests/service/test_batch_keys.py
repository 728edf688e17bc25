"""One header key of a batch over HTTP: it stands for one verb on one reservation."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import httpx2
import pytest

PATH = "/v1/reservations"
LINE = {"sku": "tee", "quantity": 1}
BODIES: dict[str, dict[str, Any]] = {
    "reserve": {"channel": "web", "lines": [LINE]},
    "extend": {"ttl_seconds": 3_000},
    "amend": {"lines": [LINE | {"quantity": 2}]},
    "commit": {},
    "release": {},
    "cancel": {"lines": [LINE]},
    "fulfil": {"lines": [LINE]},
    "return": {"lines": [LINE]},
}
NEEDS = {"cancel": ["commit"], "fulfil": ["commit"], "return": ["commit", "fulfil"]}


async def ready(shop: httpx2.AsyncClient, verb: str) -> dict[str, Any]:
    """An element of this verb that will do something."""
    body = BODIES[verb]
    if verb == "reserve":
        return body
    id = (await shop.post(PATH, json=BODIES["reserve"])).json()["id"]
    for before in NEEDS.get(verb, ()):
        assert (await shop.post(f"{PATH}/{id}/{before}")).status_code == 200
    return {"verb": verb, "id": id, **body}


async def sent(shop: httpx2.AsyncClient, name: str, *elements: Any) -> tuple[list[Any], bool]:
    """The results of a batch under a header key, and whether it says that it is a replay."""
    response = await shop.post(
        f"{PATH}/batch", json={"reservations": elements}, headers={"Idempotency-Key": name}
    )
    assert response.status_code == 200, response.text
    return response.json()["results"], "idempotent-replayed" in response.headers


@pytest.mark.parametrize("first", BODIES)
async def test_one_key_is_one_thing(shop: httpx2.AsyncClient, first: str) -> None:
    """Every verb finds the key that any other one used: 422, and nothing happens."""
    receipt = {"lines": [{"sku": "tee", "location": "main", "quantity": 500}]}
    await shop.post("/v1/stock/receive", json=receipt)
    for second in BODIES:
        name = f"{first}-{second}"
        done = await ready(shop, first)
        (result,), replayed = await sent(shop, name, done)
        assert (result["status"] < 300, replayed) == (True, False)
        other = await ready(shop, second)
        pool = (await shop.get("/v1/stock/tee")).json()
        if second != "reserve" or first != "reserve":
            (refused,), _ = await sent(shop, name, other)
            assert refused["problem"]["code"] == "idempotency_key_reused", name
        assert (await shop.get("/v1/stock/tee")).json() == pool
        (again,), replayed = await sent(shop, name, done)
        assert (again, replayed) == (result, True), name


async def test_of_one_record_as_well(shop: httpx2.AsyncClient) -> None:
    for one, two in permutations(["commit", "cancel", "fulfil"], 2):
        held = await ready(shop, one)
        await sent(shop, f"{one}{two}", held)
        other = {"verb": two, "id": held["id"], **BODIES[two]}
        (refused,), _ = await sent(shop, f"{one}{two}", other)
        assert refused["problem"]["code"] == "idempotency_key_reused"
    assert (await shop.get(f"{PATH}/{held['id']}")).json()["state"] == "fulfilled"
