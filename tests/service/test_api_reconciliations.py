"""What reconciling found, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from core.settings import Settings
from core.store import keys
from tests.ledgered import Ledger
from tests.problems import assert_problem
from tests.reconciled import Reconciler
from tests.service.conftest import opened
from tests.workers import client as store_client

LATEST = "/v1/reconciliations/latest"


@pytest.fixture
async def ledgered(
    store_url: str, tmp_path: Path, ledger: Ledger
) -> AsyncIterator[httpx2.AsyncClient]:
    """Speaks to an application with a ledger."""
    settings = Settings(valkey_url=store_url, data=tmp_path, postgres_dsn=ledger.dsn)
    async with opened(settings) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as made:
            yield made


async def test_without_a_ledger_there_are_none(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/reconciliations", LATEST):
        assert_problem(await client.get(path), 503, "ledger_unavailable")


async def test_pages_of_all_and_the_latest(
    ledgered: httpx2.AsyncClient, store_url: str, ledger: Ledger
) -> None:
    assert_problem(await ledgered.get(LATEST), 404, "unknown_reconciliation")
    assert (await ledgered.get("/v1/reconciliations")).json() == {
        "items": [], "next_cursor": None,
    }  # fmt: skip
    await ledger.catch_up(store_url)
    reconciler = Reconciler(store_url, ledger)
    for _ in range(4):
        await reconciler.run()
    store = store_client(store_url)
    store.hset(keys.POOLS, "ghost@main", "1 0 0 5,0,0,0,0,0")
    await reconciler.run()
    await reconciler.close()
    store.close()

    seen: list[dict[str, object]] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await ledgered.get("/v1/reconciliations", params=params)).json()
        seen += page["items"]
        cursor = page["next_cursor"]
    assert [each["id"] for each in seen] == [5, 4, 3, 2, 1]
    assert seen[0]["differences_total"] == 1
    assert all("differences" not in each for each in seen)

    latest = (await ledgered.get(LATEST)).json()
    (difference,) = latest.pop("differences")
    assert latest == seen[0]
    assert (difference["subject"], difference["cause"], difference["state"]) == (
        "ghost@main", "store_row_unknown", "open",
    )  # fmt: skip
    assert difference["opened_at"].endswith("Z")
    assert len(latest["finished_at"]) == len("2026-11-26T03:30:00.000Z")


async def test_what_is_not_valid(ledgered: httpx2.AsyncClient) -> None:
    for query in ("cursor=bm8", "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5", "limit=0", "x=1"):
        answer = await ledgered.get(f"/v1/reconciliations?{query}")
        assert_problem(answer, 422, "validation_failed")
    assert_problem(await ledgered.get(f"{LATEST}?limit=1"), 422, "validation_failed")
    assert_problem(await ledgered.post(LATEST), 405, "method_not_allowed")
