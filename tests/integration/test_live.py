"""How many reservations one customer may have that are not paid: counted by the scripts, exact
whoever asks."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from core.errors import CustomerLimit, StockUnavailable
from core.model import Amend, AmendLine, Cancel, Commit, Extend, Line, Release, Reserve
from core.ops import Receipt
from core.policy_model import SkuSpec
from core.service import Service
from core.store import keys
from tests.workers import (
    Store,
    Workers,
    demand,
    furnish,
    key,
    make_due,
    picture,
    receive,
)

MOST = 3


@pytest.fixture
async def worker(store_url: str, workers: Workers) -> Service:
    """A worker that bounds them, on a store with plenty of ``tee``. It has no reaper."""
    opened = await bounded(workers, store_url)
    await furnish(opened, {"tee": 10_000, "cap": 1})
    return opened


async def bounded(workers: Workers, url: str, most: int = MOST, **settings: Any) -> Service:
    chosen: dict[str, Any] = {"staleness_ms": 0, "customer_live_reservations": most} | settings
    return await workers(url, reaper=False, **chosen)


def live(store: Store) -> Counter[str]:
    """How many live reservations are counted, by customer."""
    members = store.zrange(keys.LIVE, 0, -1)
    return Counter(member.decode().partition("@")[0] for member in members)


async def take(service: Service, customer: str | None = "ann", **more: Any) -> str:
    """The id of a new reservation."""
    return (await service.engine.reserve(demand(customer=customer, **more))).id


async def refused(service: Service, customer: str = "ann", **more: Any) -> str:
    """The detail of a refusal."""
    with pytest.raises(CustomerLimit) as found:
        await take(service, customer, **more)
    assert found.value.lines == []
    return found.value.detail


async def test_no_more_than_so_many(worker: Service, store: Store) -> None:
    for _ in range(MOST):
        await take(worker)
    assert await refused(worker) == (
        "This customer holds 3 reservations not paid yet, and one may hold 3: "
        "commit or release one first"
    )
    await refused(worker, partial=True)
    await take(worker, "bob")
    for _ in range(MOST + 1):
        await take(worker, None)
    assert live(store) == {"ann": MOST, "bob": 1}


async def test_what_is_sold_is_not_held(worker: Service, store: Store) -> None:
    """What is committed or shipped from the beginning neither counts nor is refused."""
    for _ in range(MOST + 1):
        await take(worker, state="committed")
        await take(worker, state="fulfilled", shortage="record")
    assert not live(store)
    for _ in range(MOST):
        await take(worker)
    await take(worker, state="committed")
    await take(worker, state="committed", shortage="record")
    assert live(store) == {"ann": MOST}


async def test_what_ends_makes_room_at_once(worker: Service, store: Store) -> None:
    """Paid, released, or due: also where no reaper is."""
    engine = worker.engine
    first, second, third = [await take(worker) for _ in range(MOST)]
    await engine.commit(first, Commit())
    assert live(store) == {"ann": 2}
    await take(worker)
    await refused(worker)
    await engine.cancel(first, Cancel())
    await refused(worker)
    await engine.release(second, Release())
    await engine.release(second, Release())
    await take(worker)
    await refused(worker)
    make_due(store, third)
    last = await take(worker)
    await refused(worker)
    assert live(store) == {"ann": MOST}
    # The payment that comes too late is one of nobody's live reservations.
    assert (await engine.commit(third, Commit())).reacquired
    make_due(store, last)
    assert (await engine.commit(last, Commit())).reacquired
    assert live(store) == {"ann": 2}


async def test_what_is_held_may_change(worker: Service, store: Store) -> None:
    """Nothing that is done to a reservation is refused for its customer's others."""
    held = [await take(worker) for _ in range(MOST)]
    for id in held:
        await worker.engine.extend(id, Extend(1200))
        await worker.engine.amend(id, Amend([AmendLine("tee", 5)], 1500))
    assert live(store) == {"ann": MOST}
    for id in held:
        await worker.engine.commit(id, Commit())
        await worker.engine.amend(id, Amend([AmendLine("tee", 6)]))
    assert not store.exists(keys.LIVE)


async def test_what_was_granted_is_granted_again(worker: Service) -> None:
    """A retry of one that was granted is no further one."""
    first = await worker.engine.reserve(demand(customer="ann"), key("first"))
    for _ in range(MOST - 1):
        await take(worker)
    again = await worker.engine.reserve(demand(customer="ann"), key("first"))
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(CustomerLimit):
        await worker.engine.reserve(demand(customer="ann"), key("other"))
    await worker.engine.release(first.id, Release())
    # A refusal is not remembered.
    await worker.engine.reserve(demand(customer="ann"), key("other"))


async def test_a_batch_is_decided_one_by_one(worker: Service, store: Store) -> None:
    await take(worker)
    wanted = [demand(customer=name) for name in ["ann"] * 5 + ["bob"] * 2]
    results = await worker.engine.reserve_batch([*wanted, demand()], [None] * 8)
    assert [type(each) for each in results] == [
        *[Receipt] * 2, *[CustomerLimit] * 3, *[Receipt] * 3
    ]  # fmt: skip
    assert live(store) == {"ann": MOST, "bob": 2}


async def test_a_trial_says_so(worker: Service, store: Store) -> None:
    engine = worker.engine
    held = [await take(worker) for _ in range(MOST)]
    with pytest.raises(CustomerLimit) as found:
        await engine.dry_run(demand(customer="ann", partial=True))
    assert "holds 3 reservations" in found.value.detail
    for each in (demand(), demand(customer="bob"), demand(customer="ann", state="committed")):
        assert (await engine.dry_run(each)).lines
    make_due(store, held[0])
    assert (await engine.dry_run(demand(customer="ann"))).lines
    assert live(store) == {"ann": MOST - 1}


async def test_both_limits(worker: Service) -> None:
    """Who holds too many is told that first, and is not content with fewer units."""
    await worker.catalogue.put_sku("mug", SkuSpec(customer_limit=MOST))
    await receive(worker, {"mug": 100})
    for _ in range(MOST):
        await worker.engine.reserve(demand("mug", customer="ann"))
    await worker.engine.reserve(demand("mug", 2, customer="bob"))
    for partial in (False, True):
        both = Reserve("web", [Line("mug", 1), Line("tee", 1)], customer="ann", partial=partial)
        with pytest.raises(CustomerLimit, match="holds 3 reservations") as found:
            await worker.engine.reserve(both)
        assert found.value.lines == []
        with pytest.raises(CustomerLimit, match="holds 3 reservations"):
            await worker.engine.dry_run(both)
    with pytest.raises(CustomerLimit) as of_units:
        await worker.engine.reserve(demand("mug", 2, customer="bob"))
    assert of_units.value.lines[0]["available"] == 1


async def test_customers_of_any_name(worker: Service, store: Store) -> None:
    """Nobody is taken for somebody whose name begins alike, or is encoded."""
    names = ["-", "A", "a", "aA", "a@", "a@a", "a%40", "[a", "(a", "Jörg Müller", "ünï ", "+"]
    for name in names:
        for _ in range(MOST):
            await take(worker, name)
        await refused(worker, name)
    assert sorted(live(store).values()) == [MOST] * len(names)


async def test_many_callers_of_one_customer(
    workers: Workers, store_url: str, store: Store
) -> None:
    """Two workers, hundreds of callers: never more than so many, and all of them are given."""
    one, two = [
        await bounded(workers, store_url, 10, wait_ms=20_000, staleness_ms=3) for _ in range(2)
    ]
    await furnish(one, {"tee": 10_000})

    async def ask(number: int) -> str:
        try:
            return await take((one, two)[number % 2], f"c{number % 7}")
        except CustomerLimit:
            return ""

    async def plain(number: int) -> str:
        return await take((one, two)[number % 2], None)

    got = await asyncio.gather(*map(ask, range(300)), *map(plain, range(100)))
    assert sum(map(bool, got[:300])) == 70
    assert all(got[300:])
    everybody = Counter({f"c{n}": 10 for n in range(7)})
    assert live(store) == everybody
    # Half of them are paid while others ask: as many come in as go.
    held = [each for each in got[:300] if each]
    paid = [two.engine.commit(id, Commit()) for id in held[::2]]
    more, _ = await asyncio.gather(
        asyncio.gather(*map(ask, range(300, 600))), asyncio.gather(*paid)
    )
    left = sum(live(store).values())
    assert left == 35 + sum(map(bool, more))
    assert all(units <= 10 for units in live(store).values())
    await asyncio.gather(*map(ask, range(600, 1_000)))
    assert live(store) == everybody


async def test_workers_of_different_settings(
    worker: Service, workers: Workers, store_url: str, store: Store
) -> None:
    """What one counts is taken out by whoever ends it; what the other reserves is not counted, and
    once nobody counts the key goes with what it has."""
    free = await workers(store_url, reaper=False, staleness_ms=0)
    before = [await take(free) for _ in range(MOST)]
    assert not store.exists(keys.LIVE)
    held = [await take(worker) for _ in range(MOST)]
    assert live(store) == {"ann": MOST}
    await take(free)
    await refused(worker)
    for id in before:
        await worker.engine.release(id, Release())
    await refused(worker)
    await free.engine.commit(held.pop(), Commit())
    await take(worker)
    strict = await bounded(workers, store_url, 1)
    assert "holds 3 reservations not paid yet, and one may hold 1" in await refused(strict)
    ended = [member.decode().partition("@")[2] for member in store.zrange(keys.LIVE, 0, -1)]
    await free.engine.release(ended[0], Release())
    await free.engine.commit(ended[1], Commit())
    make_due(store, ended[2])
    await free.lane.tidy()
    assert not store.exists(keys.LIVE)


async def test_something_else_under_the_key_stops_the_script(
    worker: Service, store: Store
) -> None:
    """Nothing is written, and a mended key is as good as before."""
    held = await take(worker)
    store.rename(keys.LIVE, "aside")
    store.set(keys.LIVE, "planted")
    before = picture(store)
    with pytest.raises(StockUnavailable) as found:
        await take(worker)
    assert found.value.outcome == "none"
    assert "WRONGTYPE {s0}:live is a string, not a zset" in worker.lane.last_refusal
    with pytest.raises(StockUnavailable):
        await worker.engine.release(held, Release())
    with pytest.raises(StockUnavailable):
        await worker.engine.dry_run(demand(customer="ann"))
    assert picture(store) == before
    store.rename("aside", keys.LIVE)
    await worker.engine.release(held, Release())
    assert not store.exists(keys.LIVE)


async def test_who_is_refused_takes_nothing(
    workers: Workers, store_url: str, store: Store
) -> None:
    """Of what is asked for at once, what is refused for its units leaves its place to the others,
    and what is refused for its place leaves its units."""
    worker = await bounded(workers, store_url, 1, staleness_ms=60_000)
    await furnish(worker, {"tee": 100})
    await worker.catalogue.put_sku("mug", SkuSpec(customer_limit=3))
    await receive(worker, {"mug": 100})
    wanted = [
        demand("mug", 4, customer="ann"), demand(customer="ann"),
        demand("mug", 4, customer="ann"), demand(customer="ann"),
        demand(customer="bob"), demand("mug", 3, customer="bob"),
        demand("mug", 3, customer="bob", state="committed"), demand(customer="cy"),
    ]  # fmt: skip
    await worker.lane.tidy()  # nothing is due, so refusals stand at once
    results = await worker.engine.reserve_batch(wanted, [None] * len(wanted))
    told = [
        bool(each.lines) if isinstance(each, CustomerLimit) else type(each) for each in results
    ]
    assert told == [True, Receipt, True, False, Receipt, False, Receipt, Receipt]
    assert live(store) == {"ann": 1, "bob": 1, "cy": 1}


async def test_who_waited_goes_in_the_order_of_asking(worker: Service, store: Store) -> None:
    """What is due makes room for the first of those that waited for it."""
    held = [await take(worker) for _ in range(MOST)]
    make_due(store, held[0])
    wanted = [demand(quantity=units, customer="ann") for units in (1, 2, 3)]
    results = await worker.engine.reserve_batch(wanted, [None] * 3)
    assert [type(each) for each in results] == [Receipt, CustomerLimit, CustomerLimit]
