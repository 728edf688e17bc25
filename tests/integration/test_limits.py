"""How many units of a SKU one customer may have: counted by the scripts, exact whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core.errors import CustomerLimit, CustomerRequired, Expired
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Fulfil,
    Line,
    PartLine,
    Release,
    Reserve,
    Return,
    ReturnLine,
)
from core.policy_model import SkuSpec
from core.service import Service
from core.store import keys
from tests.workers import Store, Workers, demand, furnish, key, make_due, receive

LIMIT = 3


async def limited(service: Service, units: int = 100, limit: int = LIMIT, **more: Any) -> None:
    """A SKU ``tee`` of which a customer may have so many, and ``cap``, of which one may not."""
    await furnish(service, {"cap": units})
    await service.catalogue.put_sku("tee", SkuSpec(customer_limit=limit, **more))
    await receive(service, {"tee": units})


def counted(store: Store) -> dict[str, int]:
    """What customers have by the store's books: ``sku@customer`` → units over all days."""
    found: dict[str, int] = {}
    for name in store.scan_iter(match=keys.customers_on(0)[:-1].replace(b"{", b"[{]") + b"*"):
        for field, units in store.hgetall(name).items():
            sku, _, customer = field.decode().split("@")
            found[f"{sku}@{customer}"] = found.get(f"{sku}@{customer}", 0) + int(units)
    return found


async def take(service: Service, quantity: int = 1, customer: str = "ann", **more: Any) -> str:
    """The id of a new reservation."""
    return (await service.engine.reserve(demand("tee", quantity, customer=customer, **more))).id


async def test_no_more_than_the_limit(worker: Service, store: Store) -> None:
    await limited(worker)
    await take(worker, 2)
    with pytest.raises(CustomerLimit) as refused:
        await take(worker, 2)
    assert refused.value.lines == [
        {"sku": "tee", "requested": 2, "available": 1, "limited_by": "customer_limit"}
    ]
    await take(worker, 1)
    await take(worker, 3, "bob")
    await worker.engine.reserve(demand("cap", 50, customer="ann"))
    assert counted(store) == {"tee@ann": 3, "tee@bob": 3}


async def test_who_asks_must_be_said(worker: Service) -> None:
    await limited(worker)
    with pytest.raises(CustomerRequired) as refused:
        await worker.engine.reserve(demand("tee"))
    assert refused.value.lines == [{"sku": "tee"}]
    with pytest.raises(CustomerRequired):
        await worker.engine.reserve(Reserve("web", [Line("cap", 1), Line("tee", 1)]))
    await worker.engine.reserve(demand("cap"))
    await worker.catalogue.put_sku("tee", SkuSpec())
    await worker.engine.reserve(demand("tee"))


async def test_every_verb_counts(worker: Service, store: Store) -> None:
    await limited(worker, limit=10)
    engine = worker.engine
    first = await take(worker, 4)
    await engine.commit(first, Commit())
    assert counted(store) == {"tee@ann": 4}
    await engine.cancel(first, Cancel([PartLine("tee", 1)]), key("a"))
    assert counted(store) == {"tee@ann": 3}
    await engine.fulfil(first, Fulfil())
    assert counted(store) == {"tee@ann": 3}
    await engine.return_(first, Return([ReturnLine("tee", 1)]), key("b"))
    assert counted(store) == {"tee@ann": 2}
    back = Return([ReturnLine("tee", 1, disposition="damaged")])
    await engine.return_(first, back, key("c"))
    assert counted(store) == {"tee@ann": 1}
    second = await take(worker, 5)
    assert counted(store) == {"tee@ann": 6}
    await engine.amend(second, Amend([AmendLine("tee", 9)]))
    assert counted(store) == {"tee@ann": 10}
    await engine.amend(second, Amend([AmendLine("tee", 2), AmendLine("cap", 7)]))
    assert counted(store) == {"tee@ann": 3}
    await engine.amend(second, Amend([AmendLine("cap", 7)]))
    assert counted(store) == {"tee@ann": 1}
    third = await take(worker, 2)
    await engine.release(third, Release())
    assert counted(store) == {"tee@ann": 1}
    await engine.commit(third, Commit(late="reacquire"))
    assert counted(store) == {"tee@ann": 3}
    fourth = await take(worker, 2)
    make_due(store, fourth)
    await worker.lane.tidy()
    assert counted(store) == {"tee@ann": 3}
    assert (await engine.commit(fourth, Commit())).reacquired
    assert counted(store) == {"tee@ann": 5}
    sold = Reserve(
        "web", [Line("tee", 20)], customer="ann", state="fulfilled", shortage="record"
    )
    await engine.reserve(sold)
    assert counted(store) == {"tee@ann": 25}, "what was sold elsewhere is counted, not refused"


async def test_an_amend_counts_its_own_units_once(worker: Service, store: Store) -> None:
    await limited(worker)
    held = await take(worker, 3)
    await worker.engine.amend(held, Amend([AmendLine("tee", 3), AmendLine("cap", 1)]))
    with pytest.raises(CustomerLimit):
        await worker.engine.amend(held, Amend([AmendLine("tee", 4)]))
    await worker.catalogue.put_sku("tee", SkuSpec(customer_limit=1))
    await worker.engine.amend(held, Amend([AmendLine("tee", 2)]))
    with pytest.raises(CustomerLimit) as refused:
        await worker.engine.amend(held, Amend([AmendLine("tee", 3)]))
    assert refused.value.lines[0]["available"] == 0
    assert counted(store) == {"tee@ann": 2}


async def test_a_commit_that_is_late_finds_the_limit_used_up(
    worker: Service, store: Store
) -> None:
    await limited(worker)
    late = await take(worker, 2)
    make_due(store, late)
    await take(worker, 2)
    with pytest.raises(Expired) as refused:
        await worker.engine.commit(late, Commit())
    assert [line["limited_by"] for line in refused.value.lines] == ["customer_limit"]
    assert counted(store) == {"tee@ann": 2}


async def test_what_is_due_makes_room(workers: Workers, store_url: str, store: Store) -> None:
    """Nobody tidies, and still the customer may have again what has expired."""
    worker = await workers(store_url, reaper=False)
    await limited(worker)
    held = await take(worker, 3)
    make_due(store, held)
    await take(worker, 3)
    assert counted(store) == {"tee@ann": 3}


async def test_content_with_less(worker: Service, store: Store) -> None:
    await limited(worker)
    await take(worker, 1)
    lines = [Line("tee", 2), Line("cap", 2), Line("tee", 2)]
    got = await worker.engine.reserve(Reserve("web", lines, customer="ann", partial=True))
    answer = got.reservation()
    assert {line.sku: line.quantity for line in answer.lines} == {"tee": 2, "cap": 2}
    assert isinstance(answer.refused, list)
    (refused,) = answer.refused
    assert (refused.sku, refused.requested, refused.granted) == ("tee", 4, 2)
    assert refused.limited_by == "customer_limit"
    with pytest.raises(CustomerLimit):
        await take(worker, 1, partial=True)
    assert counted(store) == {"tee@ann": 3}


async def test_a_trial_says_so(worker: Service, store: Store) -> None:
    await limited(worker)
    held = await take(worker, 2)
    with pytest.raises(CustomerLimit) as refused:
        await worker.engine.dry_run(demand("tee", 2, customer="ann"))
    assert refused.value.lines[0]["available"] == 1
    with pytest.raises(CustomerRequired):
        await worker.engine.dry_run(demand("tee", 2))
    some = await worker.engine.dry_run(demand("tee", 2, customer="ann", partial=True))
    assert [line.quantity for line in some.lines] == [1]
    assert isinstance(some.refused, list)
    assert [(x.requested, x.granted, x.limited_by) for x in some.refused] == [
        (2, 1, "customer_limit")
    ]
    make_due(store, held)
    assert (await worker.engine.dry_run(demand("tee", 3, customer="ann"))).lines
    assert counted(store) in ({"tee@ann": 2}, {})


async def test_a_window_of_days(worker: Service, store: Store) -> None:
    """What was reserved before the days of the limit counts no more."""
    await limited(worker, customer_limit_days=7)
    await take(worker, 3)
    today = worker.lane.now_ms // keys.DAY_MS
    store.rename(keys.customers_on(today), keys.customers_on(today - 6))
    with pytest.raises(CustomerLimit):
        await take(worker)
    store.rename(keys.customers_on(today - 6), keys.customers_on(today - 7))
    newer = await take(worker, 3)
    await worker.engine.release(newer, Release())
    store.rename(keys.customers_on(today - 7), keys.customers_on(today + 1))
    with pytest.raises(CustomerLimit):
        await take(worker)
    store.rename(keys.customers_on(today + 1), keys.customers_on(today))


async def test_customers_of_any_name(worker: Service, store: Store) -> None:
    await limited(worker)
    for name in ("-", "Jörg Müller", "a%40b", "x y", "ünï\u2028"[:3]):
        await take(worker, 3, name)
        with pytest.raises(CustomerLimit):
            await take(worker, 1, name)


@pytest.mark.parametrize("partial", [False, True])
async def test_many_callers_of_one_customer(
    workers: Workers, store_url: str, store: Store, partial: bool
) -> None:
    """Two workers, hundreds of callers: never more than the limit, and all of it is given."""
    one = await workers(store_url, reaper=False, wait_ms=20_000)
    two = await workers(store_url, reaper=False, wait_ms=20_000)
    await limited(one, 1000, limit=10)

    async def ask(number: int) -> int:
        service = (one, two)[number % 2]
        customer = f"c{number % 7}"
        try:
            receipt = await service.engine.reserve(
                demand("tee", 1 + number % 3, customer=customer, partial=partial)
            )
        except CustomerLimit:
            return 0
        return sum(line.quantity for line in receipt.reservation().lines)

    async def plain(number: int) -> int:
        service = (one, two)[number % 2]
        return len((await service.engine.reserve(demand("cap"))).id)

    got = await asyncio.gather(*map(ask, range(300)), *map(plain, range(100)))
    assert sum(got[:300]) == 70
    assert counted(store) == {f"tee@c{n}": 10 for n in range(7)}
    assert all(got[300:])
