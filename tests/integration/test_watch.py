"""What is found in the ledger when it is looked at, and shown."""

from __future__ import annotations

import pytest

from core.errors import LedgerUnavailable
from core.ledger.journal import Journal
from core.meters import Found, Meters, merged
from core.model import Commit, Release
from core.policy_model import ChannelSpec
from core.service import Service
from core.sheets import Book
from core.stock_model import Count, CountLine
from core.watch import Watch
from tests.ledgered import Ledger
from tests.workers import Store, demand, furnish, make_due


def shown(book: Book, name: str, *labels: str) -> float:
    found: Found = merged(book.used())
    return found[f"stockade_{name}"][labels][0]


async def test_what_lives_and_what_is_missing_is_shown(
    worker: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    book = Book()
    meters = Meters(book.sheet(0))
    meters.sheet.beat()
    watch = Watch(ledger.journal, meters)
    await ledger.catch_up(store_url)
    await watch.look()
    assert shown(book, "oldest_unpaid_seconds") == 0
    assert shown(book, "reconciled_timestamp_seconds") == 0

    await furnish(worker, {"tee": 10}, web=ChannelSpec(borrow=True), store=ChannelSpec(borrow=True))
    held = [await worker.engine.reserve(demand(quantity=2)) for _ in range(3)]
    sold = await worker.engine.reserve(demand(channel="store"))
    await worker.engine.commit(sold.id, Commit())
    await ledger.catch_up(store_url)
    await watch.look()
    assert shown(book, "live_reservations", "reserved", "web") == 3
    assert shown(book, "live_reservations", "committed", "store") == 1
    assert 0 < shown(book, "oldest_unpaid_seconds") < 60
    assert shown(book, "on_hand_units") == 10
    assert shown(book, "promised_units") == 7

    # Three are counted where seven are promised; then nobody is left who holds any unpaid.
    await worker.stock.count(Count([CountLine("tee", "main", 3)]), [None])
    for each in held:
        await worker.engine.release(each.id, Release())
    await ledger.catch_up(store_url)
    await watch.look()
    assert shown(book, "live_reservations", "reserved", "web") == 0
    assert shown(book, "oldest_unpaid_seconds") == 0
    assert shown(book, "deficit_units") == 0  # paid by what was released
    assert shown(book, "watch_timestamp_seconds") > 0


async def test_units_that_expired_unsold_are_counted(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 10}, web=ChannelSpec(borrow=True))
    receipt = await worker.engine.reserve(demand(quantity=4))
    make_due(store, receipt.id)
    await worker.lane.tidy()
    found = {
        (each.family, *each.labels): each.values[0] for each in worker.lane.meters.sheet.series()
    }
    assert found["stockade_expired_units_total", "web"] == 4
    assert found["stockade_reservations_total", "expire", "done", "", "web"] == 1
    assert found["stockade_reservations_total", "reserve", "done", "", "web"] == 1


async def test_a_ledger_that_is_away_is_no_end(tmp_path: object) -> None:
    journal = Journal(f"postgresql://stockade@/stockade?host={tmp_path}", 1.0)
    with pytest.raises(LedgerUnavailable):
        await Watch(journal, Meters()).look()
