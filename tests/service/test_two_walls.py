"""400 buyers over two workers on 100 units behind two hard walls: 70 and 30 get one, exactly."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2

from core.embedded.valkey import find_running
from tests.audit import audit
from tests.processes import Service

SHARES = {"web": 0.7, "store": 0.3}
UNITS = 100
BUYERS = 200  # of each channel
CONNECTIONS = 100
PATIENCE_SECONDS = 60.0


async def furnish(client: httpx2.AsyncClient) -> None:
    """Two channels that may not borrow, then one SKU, then the units."""
    for name, share in SHARES.items():
        spec = {"floor_share": share, "borrow": False}
        assert (await client.put(f"/v1/channels/{name}", json=spec)).status_code == 201
    assert (await client.put("/v1/skus/tee", json={})).status_code == 201
    lines = [{"sku": "tee", "location": "main", "quantity": UNITS}]
    received = await client.post("/v1/stock/receive", json={"lines": lines})
    assert received.json()["results"][0]["status"] == 200


async def buy(client: httpx2.AsyncClient, channel: str) -> tuple[str, int, str]:
    """One unit: (channel, status, what the refusal names, or the id)."""
    body = {"channel": channel, "lines": [{"sku": "tee", "quantity": 1}]}
    answer = await client.post("/v1/reservations", json=body)
    found: dict[str, Any] = answer.json()
    if answer.status_code == 201:
        return channel, 201, found["id"]
    assert found["code"] == "insufficient_stock", found
    assert found["lines"][0]["available"] == 0
    return channel, answer.status_code, found["lines"][0]["limited_by"]


async def test_each_channel_sells_its_share_and_no_unit_more(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data"), "--workers", "2") as service:
        url = service.url()
        for _ in range(2):
            service.hears("a worker runs")
        limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            httpx2.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_SECONDS) as client,
        ):
            await furnish(client)
            answers = await asyncio.gather(
                *(buy(client, channel) for _ in range(BUYERS) for channel in SHARES)
            )
            stock = (await client.get("/v1/stock/tee")).json()
        told = Counter((channel, status) for channel, status, _ in answers)
        assert told == {
            ("web", 201): 70, ("web", 409): 130, ("store", 201): 30, ("store", 409): 170,
        }  # fmt: skip
        reasons = Counter(what for _, status, what in answers if status == 409)
        # Who comes last finds nothing anywhere; who is turned away before sees the other's quota.
        assert reasons.keys() <= {"channel_quota", "on_hand"}
        ids = {what for _, status, what in answers if status == 201}
        assert len(ids) == UNITS
        channels = stock["pools"][0]["channels"]
        assert {name: each["reserved"] for name, each in channels.items()} == {
            "web": 70, "store": 30,
        }  # fmt: skip

        store = find_running(tmp_path / "data")
        assert store is not None
        found = await audit(store)
        assert ids == found.records.keys()
        buckets = Counter(record.channel for record in found.records.values())
        assert buckets == {"web": 70, "store": 30}, json.dumps(buckets)
