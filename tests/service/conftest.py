"""The whole service in this process: the application, its lifespan, a real store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.app import App, create_app
from core.settings import Settings

PATIENCE_SECONDS = 30.0


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[App]:
    """The application, opened."""
    made = create_app(settings)
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(made({"type": "lifespan"}, incoming.get, outgoing.put))
    incoming.put_nowait({"type": "lifespan.startup"})
    async with asyncio.timeout(PATIENCE_SECONDS):
        message = await outgoing.get()
    assert message == {"type": "lifespan.startup.complete"}
    yield made
    incoming.put_nowait({"type": "lifespan.shutdown"})
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await outgoing.get() == {"type": "lifespan.shutdown.complete"}
        await life


@pytest.fixture
async def app(store_url: str, tmp_path: Path) -> AsyncIterator[App]:
    """The application over an empty store, opened."""
    async with opened(Settings(valkey_url=store_url, data=tmp_path)) as made:
        yield made


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx2.AsyncClient]:
    """Speaks to the application without a socket between."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made


@pytest.fixture
async def shop(client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Ten ``tee`` in ``main``: 7 behind the hard wall of ``web``, 3 of ``store``; no ``cap``."""
    for name, share in (("web", 0.7), ("store", 0.3)):
        spec = {"floor_share": share, "borrow": False}
        assert (await client.put(f"/v1/channels/{name}", json=spec)).status_code == 201
    for sku in ("tee", "cap"):
        assert (await client.put(f"/v1/skus/{sku}", json={})).status_code == 201
    lines = [{"sku": "tee", "location": "main", "quantity": 10}]
    received = await client.post("/v1/stock/receive", json={"lines": lines})
    assert received.status_code == 200
    assert received.json()["results"][0]["status"] == 200
    return client
