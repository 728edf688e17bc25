"""Stock that is counted and moved while it is sold, by several workers; every store is audited."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from core.errors import InsufficientStock, KeyReused, Overloaded, StockadeError
from core.lane import Lane
from core.model import Commit, Release
from core.policy_model import ChannelSpec, LocationSpec
from core.service import Service
from core.stock_model import Adjust, AdjustLine
from core.stock_steps import StockStep
from core.store import keys
from tests.counted import counted
from tests.stocking import adjust, count, held, reallocate, transfer
from tests.workers import Store, Workers, accounts, demand, furnish, key, receive

# A row that another worker keeps changing: its version, its event and the next seq, in one step.
BUMP = """
local version, rest = string.match(redis.call('HGET', KEYS[2], ARGV[1]), '^(%d+)(.*)$')
local row = string.format('%d', tonumber(version) + 1) .. rest
local seq = string.format('%d', tonumber(redis.call('HGET', KEYS[1], 'seq')) + 1)
redis.call('XADD', KEYS[3], redis.call('HGET', KEYS[1], 'epoch') .. '-' .. seq, 'v', 'stock',
  't', string.format('%d', tonumber(redis.call('TIME')[1]) * 1000), 'p', ARGV[1] .. '\\n' .. row)
redis.call('HSET', KEYS[2], ARGV[1], row)
redis.call('HSET', KEYS[1], 'seq', seq)
"""


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers on one store; every refusal asks."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    other = await workers(store_url, reaper=False, staleness_ms=0)
    await one.catalogue.put_location("annex", LocationSpec())
    return one, other


async def sale(service: Service, rng: random.Random, rounds: int, sku: str = "tee") -> int:
    """A caller who reserves, and pays, leaves it or goes away. How often it got its units."""
    got = 0
    for _ in range(rounds):
        try:
            receipt = await service.engine.reserve(demand(sku, rng.randint(1, 4)))
        except InsufficientStock:
            continue
        got += 1
        end = rng.random()
        if end < 0.3:
            await service.engine.commit(receipt.id, Commit())
        elif end < 0.8:
            await service.engine.release(receipt.id, Release())
    return got


@pytest.mark.parametrize("seed", [1, 2])
async def test_counts_below_what_is_promised_during_a_sale(
    pair: tuple[Service, Service], seed: int
) -> None:
    """Each count is what lies there from then on: a sale moves nothing off the shelf."""
    one, other = pair
    rng = random.Random(seed)

    async def counts(sku: str) -> list[int]:
        found = []
        for units in (150, 60, 10, 0, 90, 30, 120, 40):
            found.append((await count(rng.choice(pair), units, sku=sku)).on_hand - units)
            await asyncio.sleep(0)
        return found

    def met() -> int:
        counts = counted(one, other)
        return sum(n for name, n in counts.items() if "conflict" in name or "rebased" in name)

    skus = iter(f"sku-{number}" for number in range(50))
    while not met():  # whether two workers meet in one sale is chance
        sku = next(skus)
        await furnish(one, {sku: 200}, web=ChannelSpec(floor_share=0.6))
        sales = [sale(service, rng, 25, sku) for service in (one, other) for _ in range(20)]
        off, got = await asyncio.gather(counts(sku), asyncio.gather(*sales))
        assert off == [0] * 8, f"seed {seed}"
        assert sum(got) > 20, f"seed {seed}"
        pool = (await one.stock.read([sku]))[0].pools[0]
        assert pool.on_hand == 40
        await receive(one, {sku: pool.deficit + 7})
        assert (await other.stock.read([sku]))[0].pools[0].deficit == 0


@pytest.mark.parametrize("seed", [1, 2])
async def test_units_move_while_they_are_sold(pair: tuple[Service, Service], seed: int) -> None:
    """To and fro, between accounts, found and lost: all that was done adds up."""
    rng = random.Random(seed)
    one, other = pair
    both = ["main", "annex"]
    channels = {
        "web": ChannelSpec(floor_share=0.4, ceiling_share=0.6, locations=both),
        "store": ChannelSpec(floor_share=0.3, borrow=False, locations=both),
    }
    await furnish(one, {"tee": 120}, **channels)
    found = 0

    async def moves(service: Service) -> None:
        nonlocal found
        for _ in range(25):
            places = rng.sample(both, 2)
            verb = rng.choice(["transfer", "reallocate", "by policy", "adjust"])
            try:
                if verb == "transfer":
                    await transfer(service, rng.randint(1, 9), source=places[0], target=places[1])
                elif verb == "reallocate":
                    accounts = ["shared", "safety", "damaged", "quarantine", "web", "store"]
                    source, target = rng.sample(accounts, 2)
                    units = rng.choice([1, 3, "all"])
                    await reallocate(service, source, target, units, location=places[0])
                elif verb == "by policy":
                    await reallocate(service, None, None, None, by="policy", location=places[0])
                else:
                    delta = rng.choice([-3, -1, 2, 4])
                    await adjust(
                        service, delta, rng.choice(["sellable", "damaged"]), location=places[0]
                    )
                    found += delta
            except InsufficientStock:
                pass

    sales = [sale(service, rng, 15) for service in (one, other) for _ in range(10)]
    await asyncio.gather(*(moves(service) for service in (one, other) * 3), *sales)
    pools = (await one.stock.read(["tee"]))[0].pools
    assert sum(pool.on_hand for pool in pools) == 120 + found, f"seed {seed}"


async def test_a_refusal_is_never_older_than_its_line(pair: tuple[Service, Service]) -> None:
    """What another worker has acknowledged is there, whatever this one saw before."""
    one, other = pair
    await furnish(one, {"tee": 0}, web=ChannelSpec(floor_share=0.5))
    assert (await count(one, 0)).on_hand == 0
    await receive(other, {"tee": 4})
    assert (await transfer(one, 4))[1].on_hand == 4
    await receive(other, {"tee": 4})
    assert (await adjust(one, -4)).on_hand == 0
    await receive(other, {"tee": 4})
    assert (await count(one, 3, if_on_hand=4)).on_hand == 3
    await adjust(other, 2, "damaged")
    assert held(await reallocate(one, "damaged", "shared", "all"))["shared"] >= 2
    await adjust(other, 5, "damaged")
    assert held(await reallocate(one, "damaged", "quarantine", 5))["quarantine"] == 5


async def test_names_that_another_worker_has_just_made(pair: tuple[Service, Service]) -> None:
    one, other = pair
    await furnish(one, {"tee": 6}, web=ChannelSpec())
    await other.catalogue.put_channel("app", ChannelSpec())
    assert (await reallocate(one, "shared", "app", 2)).channels["app"].free == 2
    await other.catalogue.put_location("north", LocationSpec())
    assert (await transfer(one, 2, target="north"))[1].on_hand == 2
    await other.catalogue.put_channel("app", ChannelSpec(locations=["north"]))
    with pytest.raises(StockadeError, match="does not sell from main"):
        await reallocate(one, "shared", "app", 1)


async def test_two_workers_make_one_pool(pair: tuple[Service, Service]) -> None:
    """The SKU's entry is swapped with its rows: the second finds the first one's pool."""
    one, _ = pair
    await furnish(one, {"tee": 10, "cap": 0}, web=ChannelSpec())
    await asyncio.gather(*(
        call for service in pair for call in (
            transfer(service, 2), adjust(service, 1, location="annex"),
            adjust(service, 1, sku="cap", location="annex"),
        )
    ))  # fmt: skip
    tee, cap = await one.stock.read(["tee", "cap"])
    assert [(pool.location, pool.on_hand) for pool in tee.pools] == [("main", 6), ("annex", 6)]
    assert [(pool.location, pool.on_hand) for pool in cap.pools] == [("annex", 2)]


async def test_a_refusal_does_not_rest_on_a_count_that_comes_to_nothing(
    store_url: str, workers: Workers
) -> None:
    """Both wait at once; the count is void, its key was used: the units are there. Also for a
    worker whose refusals may be old: what it planned was never seen."""
    one, other = [await workers(store_url, reaper=False, staleness_ms=9_999) for _ in range(2)]
    await furnish(one, {"tee": 5}, web=ChannelSpec())
    await count(other, 5, key=key(1))
    await one.engine.reserve(demand())
    with pytest.raises(InsufficientStock):
        await one.engine.reserve(demand(quantity=9))
    void, receipt = await asyncio.gather(
        count(one, 0, key=key(1, "another")),
        one.engine.reserve(demand(quantity=4)),
        return_exceptions=True,
    )
    assert isinstance(void, KeyReused)
    assert not isinstance(receipt, BaseException), receipt
    assert await accounts(one) == (0, 5, 0, 0, 5)


async def test_a_line_is_replanned_a_bounded_number_of_times(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four times; what it was sent with is not held against its neighbours."""
    one, _ = pair
    await furnish(one, {"tee": 10, "cap": 5})
    ask = StockStep.command

    def in_between(step: StockStep, lane: Lane) -> Any:
        names = (keys.META, keys.POOLS, keys.EVENTS)
        if b"tee@main" in step.stage.pools:
            store.eval(BUMP, 3, *names, "tee@main")
        return ask(step, lane)

    monkeypatch.setattr(StockStep, "command", in_between)
    lines = [AdjustLine("tee", "main", -1), AdjustLine("cap", "main", -1)]
    spent, done = await one.stock.adjust(Adjust(lines), [key(1), None])
    assert isinstance(spent.error, Overloaded)
    assert spent.error.outcome == "none"
    assert one.lane.meters.scripts["stock", "conflict"] == 65
    assert done.error is None
    assert done.pool is not None
    assert done.pool.on_hand == 4
    monkeypatch.undo()
    assert (await adjust(one, -1, key=key(1))).on_hand == 9
