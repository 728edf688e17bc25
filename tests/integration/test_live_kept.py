"""What is counted as live outlives a store, and what is wrong with it is found and mended."""

from __future__ import annotations

import pytest

from core.errors import CustomerLimit
from core.model import Commit, Release
from core.service import Service
from core.store import keys, scripts
from tests.audit import audit
from tests.ledgered import Ledger
from tests.rebuilt import Open, opened, same
from tests.reconciled import Reconciler
from tests.stored import read
from tests.workers import Store, demand, furnish, make_due, moved, record

__all__ = ["opened"]

MOST = 3
NEVER = "01900000-0000-7000-8000-000000000000"  # an id that nobody was given


async def take(service: Service, customer: str | None = "ann") -> str:
    """The id of a new reservation."""
    return (await service.engine.reserve(demand(customer=customer))).id


def members(store: Store) -> set[str]:
    return {member.decode() for member in store.zrange(keys.LIVE, 0, -1)}


@pytest.mark.parametrize("count_live", [True, False])
async def test_what_is_live_is_counted_in_a_rebuilt_store(
    opened: Open, store: Store, store_url: str, ledger: Ledger, count_live: bool
) -> None:
    """All of it that is not paid and names its customer, due or not; if it is bounded at all."""
    worker = await opened(customer_live_reservations=MOST)
    await furnish(worker, {"tee": 100})
    held = [await take(worker, name) for name in ["ann"] * MOST + ["Jörg", None]]
    await worker.engine.commit(await take(worker, "bob"), Commit())
    await worker.engine.release(await take(worker, "bob"), Release())
    await ledger.catch_up(store_url)
    before = await read(store_url)
    assert len(members(store)) == MOST + 1
    store.flushall()
    await ledger.rebuilding(store_url, count_live=count_live).run()
    if not count_live:
        assert not store.exists(keys.LIVE)
        return
    same(before, await read(store_url))
    again = await opened(customer_live_reservations=MOST)
    with pytest.raises(CustomerLimit):
        await take(again)
    make_due(store, held[0])
    await take(again)
    await audit(store_url, moved)


async def test_what_is_counted_and_not_live_is_found_and_goes(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """As a worker of an older version leaves it, or somebody who wrote there."""
    worker = await opened(customer_live_reservations=MOST)
    await furnish(worker, {"tee": 100})
    paid, first, second = [await take(worker) for _ in range(MOST)]
    await worker.engine.commit(paid, Commit())
    right = members(store)
    wrong = {f"ann@{paid}", f"bob@{first}", f"ann@{NEVER}", "ann@none", "ann"}
    store.zadd(keys.LIVE, dict.fromkeys(wrong, 0))
    uncounted = await take(await opened())
    with pytest.raises(CustomerLimit):
        await take(worker)
    await ledger.catch_up(store_url)
    reconciler = Reconciler(store_url, ledger)
    done, cases = await reconciler.run()
    assert done.status == "normal"
    assert [(each.kind, each.subject, each.cause, each.found, each.units) for each in cases] == [
        ("live", "live reservations", "live_stale", "5 that are not reserved", 0)
    ]
    (planned,) = await reconciler.repair(worker, cases, apply=False)
    assert planned.state == "planned"
    assert members(store) == right | wrong
    (repaired,) = await reconciler.repair(worker, cases)
    assert repaired.state == "done"
    assert members(store) == right == {f"ann@{first}", f"ann@{second}"}
    (left,) = await reconciler.repair(worker, cases)
    assert left.state == "left"
    _, cases = await reconciler.run()
    assert cases == []
    # What is live, and was not counted from the beginning, is no difference.
    await worker.engine.release(uncounted, Release())
    await take(worker)
    await reconciler.close()


async def test_a_sweep_takes_nothing_that_is_live(
    opened: Open, store: Store, store_url: str
) -> None:
    """Whatever it was told of, the record decides."""
    worker = await opened(customer_live_reservations=MOST)
    await furnish(worker, {"tee": 100})
    held = await take(worker)
    names = [keys.META, keys.LIVE, keys.bucket_of(held)]
    args = [*worker.lane.head(None), 3, held, f"ann@{held}"]
    for epoch, outcome in ((worker.lane.epoch, b"applied"), ("1", b"epoch")):
        args[0] = epoch
        assert (await worker._shard.run(scripts.SWEEP, names, args))[0] == outcome
        assert members(store) == {f"ann@{held}"}


async def test_a_record_that_is_put_right_is_not_counted(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """The store went back to before the payment, and with it what is counted."""
    worker = await opened(customer_live_reservations=MOST)
    await furnish(worker, {"tee": 100})
    held = await take(worker)
    before = record(store, held)
    await worker.engine.commit(held, Commit())
    await ledger.catch_up(store_url)
    store.hset(keys.bucket_of(held), held, before)
    store.zadd(keys.LIVE, {f"ann@{held}": 0})
    reconciler = Reconciler(store_url, ledger)
    _, cases = await reconciler.run()
    assert [each.cause for each in cases] == ["record_behind"]
    (repaired,) = await reconciler.repair(worker, cases)
    assert repaired.state == "done"
    assert not store.exists(keys.LIVE)
    _, cases = await reconciler.run()
    assert cases == []
    await reconciler.close()
