"""A limit knows what customers had before there was one, and a rebuilt store knows it again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from core.counting import PAST
from core.errors import CustomerLimit, InvalidRequest, LedgerUnavailable
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Fulfil,
    PartLine,
    Release,
    Return,
    ReturnLine,
)
from core.policy_model import SkuSpec
from core.service import Service
from core.store import keys
from tests.audit import audit
from tests.ledgered import Ledger
from tests.rebuilt import Open, customers, opened
from tests.reconciled import Reconciler
from tests.stored import read
from tests.workers import TURN_SECONDS, Store, demand, furnish, key, moved, receive

__all__ = ["opened"]


async def sell(
    worker: Service, dice: random.Random, rounds: int, nobody: tuple[None, ...] = ()
) -> None:
    """Customers who do what customers do, one after the other."""
    engine = worker.engine
    for number in range(rounds):
        customer = dice.choice(["ann", "bob", "x y", *nobody])
        wanted = demand("tee", dice.randint(1, 4), customer=customer, state="reserved")
        with contextlib.suppress(CustomerLimit):
            one = (await engine.reserve(wanted)).id
            verb = dice.randrange(7)
            if verb == 0:
                await engine.release(one, Release())
            elif verb == 1:
                await engine.amend(one, Amend([AmendLine("tee", 1), AmendLine("cap", 2)]))
            elif verb > 1:
                await engine.commit(one, Commit())
            if verb in (3, 4):
                await engine.fulfil(one, Fulfil())
            if verb == 4:
                back = Return([ReturnLine("tee", 1)])
                await engine.return_(one, back, key(f"r{number}.{dice.random()}"[:22]))
            if verb == 5:
                part = Cancel([PartLine("tee", 1)])
                await engine.cancel(one, part, key(f"c{number}.{dice.random()}"[:22]))


@contextlib.asynccontextmanager
async def scribing(ledger: Ledger, url: str) -> AsyncIterator[None]:
    """A scribe at work."""
    scribe, over = ledger.scribe(url), asyncio.Event()

    async def write() -> None:
        while not over.is_set():
            if not await scribe.turn(wait=False):
                await asyncio.sleep(TURN_SECONDS)

    await ledger.catch_up(url)
    task = asyncio.create_task(write())
    try:
        yield
    finally:
        over.set()
        await task


async def test_the_past_counts(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """Sales go on while the limit is set; the books are what the records say, to the unit."""
    dice = random.Random(seed)
    patient = {"ledger_wait_seconds": 25.0, "drain_seconds": 25.0}
    worker, other = await opened(**patient), await opened(**patient)
    await furnish(worker, {"tee": 10_000, "cap": 10_000})
    await sell(worker, dice, 40, (None,))
    ended = (await worker.engine.reserve(demand("tee", 2, customer="bob"))).id
    await worker.engine.commit(ended, Commit())
    async with scribing(ledger, store_url):
        selling = [asyncio.create_task(sell(each, dice, 40)) for each in (worker, other)]
        await other.catalogue.put_sku("tee", SkuSpec(customer_limit=500))
        await asyncio.gather(*selling)
        await audit(store_url, moved)
        assert store.hget(keys.LIMITS, "tee") == b"2"
        await worker.engine.cancel(ended, Cancel())
        await worker.catalogue.put_sku("tee", SkuSpec(customer_limit=1))
        assert store.hget(keys.LIMITS, "tee") == b"2", "it is counted already"
        with pytest.raises(CustomerLimit):
            await worker.engine.reserve(demand("tee", 1, customer="bob"))
        await worker.catalogue.put_sku("tee", SkuSpec())
        await sell(worker, dice, 10)
        await worker.catalogue.put_sku("tee", SkuSpec(customer_limit=500))
        assert store.hget(keys.LIMITS, "tee") == b"5"
        await audit(store_url, moved)


async def test_the_counts_are_rebuilt(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """Also of what was shipped, whose records the store does not get again."""
    worker = await opened()
    await furnish(worker, {"cap": 10_000})
    await worker.catalogue.put_sku("tee", SkuSpec(customer_limit=30))
    await receive(worker, {"tee": 10_000})
    await sell(worker, random.Random(seed), 60)
    await ledger.catch_up(store_url)
    before = await read(store_url)
    store.flushall()
    report = await ledger.rebuilding(store_url).run()
    after = await read(store_url)
    assert customers(after) == customers(before)
    assert report.counts["customers"] == sum(map(len, customers(before).values()))
    assert after.hash("limits") == before.hash("limits") == {"tee": "1"}
    await audit(store_url, moved)


async def test_books_that_are_off_are_found_and_counted_anew(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """One case for a SKU, whatever was done to its books; its repair leaves none, and sales go on
    meanwhile."""
    worker = await opened(ledger_wait_seconds=25.0, drain_seconds=25.0)
    dice = random.Random(seed)
    await furnish(worker, {"cap": 10_000})
    for sku in ("tee", "mug"):
        await worker.catalogue.put_sku(sku, SkuSpec(customer_limit=200))
        await receive(worker, {sku: 10_000})
    await sell(worker, dice, 30)
    reconciler = Reconciler(store_url, ledger)
    today = keys.customers_on(worker.lane.now_ms // keys.DAY_MS)
    await worker.engine.reserve(demand("mug", 2, customer="ann"))
    async with scribing(ledger, store_url):
        selling = asyncio.create_task(sell(worker, dice, 40))
        done, cases = await reconciler.run()
        assert (done.status, cases) == ("normal", [])
        await selling
        before = store.hgetall(today)
        store.hincrby(today, "tee@1@ann", 7)
        store.hdel(today, "tee@1@bob")
        store.hset(today, "tee@1@nobody", 5)
        store.hset(keys.LIMITS, "mug", "1" + PAST)
        _, cases = await reconciler.run()
        found = sorted((each.kind, each.subject, each.cause, each.units) for each in cases)
        assert found == [
            ("customers", "mug", "customers_half", 0),
            ("customers", "tee", "customers_off", 7 + int(before[b"tee@1@bob"]) + 5),
        ]
        assert all("ann" not in each.expected + each.found for each in cases)
        repairs = await reconciler.repair(worker, cases)
        assert [each.state for each in repairs] == ["done", "done"]
        _, cases = await reconciler.run()
        assert cases == []
    for field, units in before.items():
        sku, _, customer = field.decode().split("@")
        assert store.hget(today, f"{sku}@2@{customer}") == units
    await reconciler.close()


async def test_a_limit_waits_for_the_ledger(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Without a scribe the past is not known: the answer is 503, and the same request again, under
    its key, brings it in."""
    worker = await opened(ledger_wait_seconds=0.1)
    await furnish(worker, {"tee": 100})
    await worker.engine.reserve(demand("tee", 2, customer="ann"))
    await ledger.catch_up(store_url)
    spec = SkuSpec(customer_limit=2)
    with pytest.raises(LedgerUnavailable) as refused:
        await worker.catalogue.put_sku("tee", spec, key("limit"))
    assert refused.value.outcome == "unknown"
    assert store.hget(keys.LIMITS, "tee").endswith(PAST.encode())
    async with scribing(ledger, store_url):
        patient = await opened(ledger_wait_seconds=25.0, drain_seconds=25.0)
        put = await patient.catalogue.put_sku("tee", spec, key("limit"))
    assert put.replayed
    assert put.value.customer_limit == 2
    assert store.hget(keys.LIMITS, "tee") == b"3"
    with pytest.raises(CustomerLimit):
        await worker.engine.reserve(demand("tee", 1, customer="ann"))


async def test_without_a_ledger_only_a_new_sku_is_limited(worker: Service) -> None:
    await furnish(worker, {"tee": 10})
    with pytest.raises(InvalidRequest) as refused:
        await worker.catalogue.put_sku("tee", SkuSpec(customer_limit=2))
    assert refused.value.errors[0][0] == "/customer_limit"
    await worker.catalogue.put_sku("cap", SkuSpec(customer_limit=2))
