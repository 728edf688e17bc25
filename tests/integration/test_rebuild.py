"""The store made again from the ledger: all of it, whatever was lost, whoever is in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.errors import (
    InsufficientStock,
    KeyReused,
    RebuildRefused,
    StockUnavailable,
)
from core.model import Commit, Fulfil, Release, Return, ReturnLine
from core.rebuild import Rebuild
from core.service import Service
from core.store import keys, scripts
from tests.audit import audit
from tests.history import history
from tests.ledgered import Ledger, audit_ledger
from tests.stored import TAG, Store as Stored, read
from tests.workers import (
    Store,
    Workers,
    accounts,
    client,
    demand,
    furnish,
    key,
    make_due,
    move_deadline,
    moved,
    receive,
    record,
    server_ms,
    until,
)

Open = Callable[..., Awaitable[Service]]
HASHES = ("channels", "locations", "skus", "imports")


@pytest.fixture
def opened(store_url: str, workers: Workers, ledger: Ledger) -> Open:
    """Opens workers without reapers on the store and the ledger."""

    async def open_one(**settings: Any) -> Service:
        chosen = {"reaper": False, "staleness_ms": 0, "postgres_dsn": ledger.dsn} | settings
        return await workers(store_url, **chosen)

    return open_one


def alive(store: Stored) -> dict[str, list[str]]:
    """Words of the records that are reserved or committed, without what a rebuild leaves out: the
    event that wrote them, and a deadline that a test moved behind everybody's back."""
    found = {}
    for name, bucket in store.hashes.items():
        if name.startswith(TAG + "rsv:"):
            for id, text in bucket.items():
                words = text.split(" ")
                words[5] = "-"
                if id in moved:
                    words[3] = "-"
                if words[0] in "RC":
                    found[id] = words
    return found


def kept(store: Stored, kind: str) -> dict[str, str]:
    """Idempotency keys of a kind of window, the newest of each."""
    found: dict[str, str] = {}
    for name in sorted(store.hashes):
        if name.startswith(f"{TAG}idem:{kind}"):
            found |= store.hashes[name]
    return found


def same(before: Stored, after: Stored) -> None:
    """All that a rebuild must bring back, field by field."""
    for name in HASHES:
        assert after.hash(name) == before.hash(name), name
    assert after.hash("pools") == before.hash("pools")
    assert after.catalog == before.catalog
    assert alive(after) == alive(before)
    assert kept(after, "h") == kept(before, "h")
    assert kept(after, "w") == kept(before, "w")
    was, is_now = before.hash("meta"), after.hash("meta")
    for name in ("format", "policy"):
        assert is_now[name] == was[name], name
    assert int(is_now["epoch"]) > int(was["epoch"])
    assert "rebuilding" not in is_now


async def test_a_store_is_rebuilt_as_it_was(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """A random history, nothing left of it: pool by pool, record by record, key by key."""
    worker = await opened()
    await history(worker, store, seed)
    await ledger.catch_up(store_url)
    before = await read(store_url)
    store.flushall()
    report = await ledger.rebuilding(store_url).run()
    after = await read(store_url)
    same(before, after)
    assert after.hash("meta")["seq"] == "0"
    assert report.counts["pools"] == len(before.hash("pools"))
    assert report.counts["reservations"] == len(alive(before))
    assert not report.loss.whole  # an empty store does not say whether there was more
    await audit(store_url, moved)
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)
