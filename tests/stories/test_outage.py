"""What happens when something dies in the middle of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from core.embedded.valkey import find_running
from core.store import scripts
from tests.audit import audit
from tests.faults.proxy import Proxy
from tests.processes import Service
from tests.stories.storefront import Answer, Refused, Storefront, refused, together

PATIENCE_SECONDS = 30.0
TURN_SECONDS = 0.01


async def insist(shop: Storefront, path: str, body: object, key: str) -> Answer:
    """What a checkout does: the same request with the same key, until it is answered."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await shop.ask("POST", path, body, key)
            except httpx2.TransportError:
                pass  # cut off before an answer: it may have happened, the key will tell
            except Refused as no:
                if not no.answer.body["retryable"]:
                    raise
            await asyncio.sleep(TURN_SECONDS)


async def until_ready(shop: Storefront, ready: bool = True) -> None:
    """Returns once the service says that it can, or that it cannot, take reservations."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            if ((await shop.client.get("/readyz")).status_code == 200) == ready:
                return
            await asyncio.sleep(TURN_SECONDS)


# --- a worker is killed ------------------------------------------------------------------------


async def test_workers_die_during_the_sale(tmp_path: Path) -> None:
    """Sixty customers buy while first one half of the service is killed and then the other. Each
    checkout repeats what was not answered with the key that it had: every step happens once."""
    data = tmp_path / "data"
    flags = ("--data", str(data), "--workers", "2")
    with Service(*flags) as service:
        url, store = service.url(), find_running(data)
        assert store is not None
        told = [service.hears("a worker runs") for _ in range(2)]
        pids = [re.findall(r"process (\d+)", line)[0] for line in told]
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            shop = Storefront(client, store)
            await shop.channel("web")
            await shop.stocks("tee", 200)
            steps = 0

            async def insist_on(path: str, body: object, key: str) -> Answer:
                nonlocal steps
                answer = await insist(shop, path, body, key)
                steps += 1
                if steps in (40, 120):
                    os.kill(int(pids.pop()), signal.SIGKILL)
                return answer

            async def buy(cart: int) -> Answer:
                """One in the basket, then two, paid, and one of them shipped."""
                one = [{"sku": "tee", "quantity": 1}]
                two = [{"sku": "tee", "quantity": 2}]
                body = {"channel": "web", "lines": one}
                basket = await insist_on("/v1/reservations", body, f"cart-{cart}-v1")
                here = f"/v1/reservations/{basket.id}"
                await insist_on(f"{here}/amend", {"lines": two}, f"cart-{cart}-v2")
                await insist_on(f"{here}/commit", {}, f"order-{cart}-paid")
                return await insist_on(f"{here}/fulfil", {"lines": one}, f"parcel-{cart}")

            orders = await asyncio.gather(*map(buy, range(60)))
            assert not pids, "both were killed"
            for _ in range(2):
                assert "status -9" in service.hears("a worker ended")
            assert len({order.id for order in orders}) == 60
            assert {order.total("fulfilled") for order in orders} == {1}
            assert await shop.stock("tee") == {"on_hand": 140, "committed:web": 60, "shared": 80}
            # Later the customers click again. What happened is what they are shown.
            again = [await shop.reserve({"tee": 1}, key=f"cart-{cart}-v1") for cart in range(60)]
            assert [answer.id for answer in again] == [order.id for order in orders]
            assert {(answer.replayed, answer.state) for answer in again} == {(True, "committed")}
        found = await audit(store)
        assert found.records.keys() == {order.id for order in orders}


# --- the store is away -------------------------------------------------------------------------


@pytest.fixture
async def wire(store_url: str) -> AsyncIterator[Proxy]:
    """The line between the service and its store, which can be cut."""
    opened = Proxy(Path(store_url.removeprefix("unix://")))
    await opened.start()
    yield opened
    await opened.stop()


async def test_the_store_is_away_and_comes_back(
    wire: Proxy, store_url: str, tmp_path: Path
) -> None:
    """The line breaks just after a basket was written and before anybody heard of it. The shop is
    told which basket that may be; once the line is back the same key finds it, one and no more."""
    environ = {"STOCKADE_VALKEY_URL": wire.url, "STOCKADE_DATA": str(tmp_path / "data")}
    with Service(environ=environ) as service:
        url = await asyncio.to_thread(service.url)  # the line is served by this very loop
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            shop = Storefront(client, store_url)
            await shop.channel("web")
            await shop.stocks("tee", 3)
            struck = wire.arm("cut reply", scripts.RESERVE.sha)
            unlucky = asyncio.create_task(
                refused(shop.reserve({"tee": 1}, key="cart-83-v1"), "stock_unavailable")
            )
            async with asyncio.timeout(PATIENCE_SECONDS):
                await struck.wait()
            wire.refusing = True
            no = await unlucky
            assert (no.status, no.body["retryable"], no.body["outcome"]) == (503, True, "unknown")
            assert no.headers["retry-after"] == "1"
            # Who comes now is told that nothing happened, at once.
            await until_ready(shop, False)
            others = await together(*(shop.reserve({"tee": 1}) for _ in range(3)))
            assert {other.body["outcome"] for other in others} == {"none"}

            wire.refusing = False
            await until_ready(shop)
            basket = await shop.reserve({"tee": 1}, key="cart-83-v1")
            assert (basket.status, basket.replayed) == (201, True)
            assert basket.id == no.body["reservation"]
            assert await shop.left("tee") == 2
            order = await shop.commit(basket, key="order-83-paid")
            assert order.state == "committed"
        service.signal(signal.SIGTERM)
        assert (await asyncio.to_thread(service.finish))[0] == 0
    found = await audit(store_url)
    assert found.records.keys() == {basket.id}
