"""Dry runs: what reserving would give now, and nothing written. Every test is audited."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from core.errors import (
    InsufficientStock,
    InvalidRequest,
    Overloaded,
    UnknownChannel,
    UnknownLocation,
    UnknownSku,
)
from core.model import DryRun, Line, Release, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from tests.workers import Store, Workers, demand, furnish, make_due, picture, receive, server_ms


def taken(answer: DryRun | Receipt) -> list[tuple[Any, ...]]:
    """(sku, location, quantity, own, borrowed) of the lines."""
    lines = answer.lines if isinstance(answer, DryRun) else answer.reservation().lines
    return [(x.sku, x.location, x.quantity, x.own, x.borrowed) for x in lines]


async def test_it_says_what_the_next_reserve_gets(worker: Service, store: Store) -> None:
    await worker.catalogue.put_location("annex", LocationSpec())
    spec = ChannelSpec(floor_share=0.4, locations=["main", "annex"], ttl_seconds=600)
    await furnish(worker, {"tee": 10, "cap": 2}, web=spec)
    before, began_ms = picture(store), server_ms(store)
    basket = Reserve("web", [Line("tee", 6), Line("cap", 1)], reference="order-1", customer="c")
    would = await worker.engine.dry_run(basket)
    assert picture(store) == before
    assert (would.dry_run, would.state, would.channel) == (True, "reserved", "web")
    assert (would.reference, would.customer) == ("order-1", "c")
    got = await worker.engine.reserve(basket)
    assert taken(would) == taken(got) == [("tee", "main", 6, 4, 2), ("cap", "main", 1, 1, 0)]

    def of(time: str | None) -> float:
        assert time is not None
        return datetime.fromisoformat(time).timestamp() * 1000

    assert began_ms <= of(would.expires_at) - 600_000
    assert of(would.expires_at) <= of(got.reservation().expires_at) <= server_ms(store) + 600_000


async def test_it_is_refused_as_the_real_one_is(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 3}, web=ChannelSpec(max_hold_seconds=900))
    before = picture(store)
    wrong: list[tuple[type[Exception], Reserve]] = [
        (InsufficientStock, demand(quantity=4)),
        (InsufficientStock, demand(quantity=4, state="fulfilled")),
        (UnknownSku, demand("hat")),
        (UnknownChannel, demand(channel="app")),
        (UnknownLocation, Reserve("web", [Line("tee", 1, "moon")])),
        (UnknownLocation, Reserve("web", [Line("tee", 1, "moon")], None, None, None, False, True,
                                  "committed", "record")),
        (InvalidRequest, demand(ttl_seconds=901)),
        (InvalidRequest, demand(shortage="record")),
    ]  # fmt: skip
    for error, request in wrong:
        with pytest.raises(error) as dry:
            await worker.engine.dry_run(request)
        with pytest.raises(error) as real:
            await worker.engine.reserve(request)
        assert str(dry.value) == str(real.value)
        assert getattr(dry.value, "lines", None) == getattr(real.value, "lines", None)
    assert picture(store) == before


async def test_parts_and_facts(worker: Service) -> None:
    """What a partial one would not get; what a recorded sale would be short of."""
    await furnish(worker, {"tee": 3})
    await worker.catalogue.put_sku("cap", SkuSpec())
    part = await worker.engine.dry_run(demand(quantity=5, partial=True))
    assert taken(part) == [("tee", "main", 3, 0, 3)]
    assert [(x.requested, x.granted, x.limited_by) for x in part.refused or ()] == [
        (5, 3, "on_hand")
    ]
    lines = [Line("tee", 4), Line("cap", 2)]
    fact = Reserve("web", lines, state="committed", shortage="record")
    would = await worker.engine.dry_run(fact)
    assert would.expires_at is None
    assert [line.short for line in would.lines] == [1, 2]
    assert (await worker.stock.read(["cap"]))[0].pools == []
    got = await worker.engine.reserve(fact)
    assert sorted(taken(would)) == sorted(taken(got))
    assert {x.short for x in got.reservation().lines} == {1, 2}


async def test_what_is_due_is_free_for_it(worker: Service, store: Store) -> None:
    """A refusal waits for what is due, as that of a demand does."""
    await furnish(worker, {"tee": 2})
    held = await worker.engine.reserve(demand(quantity=2))
    make_due(store, held.id)
    assert taken(await worker.engine.dry_run(demand(quantity=2))) == [("tee", "main", 2, 0, 2)]


async def test_it_rests_on_what_was_seen_since(
    store_url: str, workers: Workers, store: Store
) -> None:
    """Another worker's units are there, or not, from the moment that it was acknowledged."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    other = await workers(store_url, reaper=False, staleness_ms=0)
    await furnish(one, {"tee": 3})
    assert taken(await other.engine.dry_run(demand(quantity=3)))
    held = await one.engine.reserve(demand(quantity=2))
    with pytest.raises(InsufficientStock):
        await other.engine.dry_run(demand(quantity=3))
    await one.engine.release(held.id, Release())
    await receive(one, {"tee": 1})
    assert taken(await other.engine.dry_run(demand(quantity=4))) == [("tee", "main", 4, 0, 4)]


async def test_many_at_once_do_not_take_from_each_other(worker: Service) -> None:
    await furnish(worker, {"tee": 3})
    works: list[Any] = [worker.engine.dry_run(demand(quantity=3)) for _ in range(450)]
    works.append(worker.engine.reserve(demand()))
    *dry, real = await asyncio.gather(*works, return_exceptions=True)
    assert isinstance(real, Receipt)
    answers = {type(each).__name__ for each in dry}
    assert answers <= {"DryRun", "InsufficientStock"}
    assert worker.lane.queues.waiting() == 0


async def test_they_wait_within_bounds(store_url: str, workers: Workers) -> None:
    worker = await workers(store_url, reaper=False, staleness_ms=0, queue_limit=20)
    await furnish(worker, {"tee": 3})
    works = [worker.engine.dry_run(demand()) for _ in range(60)]
    answers = await asyncio.gather(*works, return_exceptions=True)
    refused = [each for each in answers if isinstance(each, Overloaded)]
    assert 0 < len(refused) < 60
    assert all(isinstance(each, DryRun | Overloaded) for each in answers)
