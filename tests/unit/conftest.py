"""The door over a service that only remembers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import httpx2
import pytest

from api.app import App
from core.service import Service
from tests.fake_service import FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def app(service: FakeService) -> App:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Service]:
        service.history.append("opened")
        yield cast(Service, service)
        service.history.append("closed")

    made = App(opened)
    made.service = cast(Service, service)
    return made


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
        yield made
