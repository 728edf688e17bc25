"""What tests of a rebuild share: workers with a ledger, and what must be there again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeAlias

import pytest

from core.service import Service
from tests.ledgered import Ledger
from tests.stored import TAG, Store, spelled_out
from tests.workers import Workers, moved

Open: TypeAlias = Callable[..., Awaitable[Service]]
HASHES = ("channels", "locations", "modes", "skus", "imports", "pools", "limits")


@pytest.fixture
def opened(store_url: str, workers: Workers, ledger: Ledger) -> Open:
    """Opens workers without reapers on the store and the ledger."""

    async def open_one(**settings: Any) -> Service:
        chosen: dict[str, Any] = {"staleness_ms": 0, "postgres_dsn": ledger.dsn} | settings
        return await workers(store_url, reaper=False, **chosen)

    return open_one


def customers(store: Store) -> dict[str, dict[str, str]]:
    """What customers have of limited SKUs, day by day."""
    return {
        name: fields for name, fields in store.hashes.items() if name.startswith(TAG + "customers:")
    }


def alive(store: Store) -> dict[str, list[str]]:
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


def kept(store: Store, kind: str) -> dict[str, str]:
    """Idempotency keys of a kind of window, the newest of each."""
    found: dict[str, str] = {}
    for name in sorted(store.hashes):
        if name.startswith(f"{TAG}idem:{kind}"):
            found |= spelled_out(store.hashes[name])
    return found


def same(before: Store, after: Store, but: Collection[str] = ()) -> None:
    """All that a rebuild must bring back, field by field; ``but`` for these reservations, whose
    deadline it moved."""
    for name in HASHES:
        assert after.hash(name) == before.hash(name), name
    assert after.catalog == before.catalog
    assert customers(after) == customers(before)
    assert after.lists.get(f"{TAG}live") == before.lists.get(f"{TAG}live")
    one, other = alive(before), alive(after)
    assert one.keys() == other.keys()
    assert {id: one[id] for id in one if id not in but} == {
        id: other[id] for id in other if id not in but
    }
    for kind in ("h", "w"):
        assert kept(after, kind) == kept(before, kind)
    was, is_now = before.hash("meta"), after.hash("meta")
    assert (is_now["format"], is_now["policy"]) == (was["format"], was["policy"])
    assert int(is_now["epoch"]) > int(was["epoch"])
    assert "rebuilding" not in is_now
