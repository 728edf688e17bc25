"""A running service for the stories of a file, and an audit after each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx2
import pytest

from core.embedded import postgres, valkey
from tests.audit import audit
from tests.ledgered import audit_ledger
from tests.processes import Service
from tests.stories.storefront import Storefront

CONNECTIONS = 50
PATIENCE_SECONDS = 30.0


@dataclass
class Running:
    """A service, where it is, and its store."""

    url: str
    store: str
    ledger: str
    moved: set[str] = field(default_factory=set)  # see Storefront.moved


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers that share a port and a private store; no refusal is older than its request."""
    data = tmp_path_factory.mktemp("shop")
    flags = ("--data", str(data), "--workers", "2", "--staleness-ms", "0")
    with Service(*flags) as service:
        url = service.url()
        store, ledger = valkey.find_running(data), postgres.find_running(data)
        assert store is not None
        assert ledger is not None
        yield Running(url, store, ledger.dsn)


@pytest.fixture
async def storefront(running: Running) -> AsyncIterator[Storefront]:
    """The shop's counter. After each story every unit is recounted, twice.

    Once from the reservations that there are, once from all that the ledger says happened; both
    must make what lies in the pools, and the laws must hold at every step.
    """
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx2.AsyncClient(
        base_url=running.url, limits=limits, timeout=PATIENCE_SECONDS
    ) as client:
        shop = Storefront(client, running.store)
        shop.moved = running.moved
        yield shop
    await audit(running.store, running.moved)
    looked = await audit_ledger(running.ledger, running.store, running.moved)
    assert looked["movement"], "nothing happened"
