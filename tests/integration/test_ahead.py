"""Two pipelines under way: the second is planned on what the first is expected to leave."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import InsufficientStock, Overloaded
from core.lane import FLIGHTS_MAX, SEND_AT
from core.model import Commit
from core.ops import Receipt
from core.policy_model import ChannelSpec
from core.service import Service
from core.steps import SettleStep, Step
from tests.counted import counted
from tests.workers import Store, Workers, accounts, demand, frozen, furnish, key, receive, until

CROWD = 4 * SEND_AT


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store, that confirm every refusal."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    return one, await workers(store_url, reaper=False, staleness_ms=0)


async def test_a_crowd_is_sent_ahead_of_the_answer(worker: Service) -> None:
    """What the first pipeline leaves is what the next was planned on: a swap, each time."""
    await furnish(worker, {"tee": 1_000})
    await asyncio.gather(*(worker.engine.reserve(demand()) for _ in range(CROWD)))
    counts = counted(worker)
    assert counts["ahead"] >= 1
    assert counts["reserve:rebased"] == counts["reserve:conflict"] == 0
    assert (await accounts(worker))[1] == CROWD


async def test_a_crowd_over_many_skus_is_sent_ahead(worker: Service) -> None:
    names = [f"sku-{number}" for number in range(50)]
    await furnish(worker, dict.fromkeys(names, 100))
    buyers = [worker.engine.reserve(demand(names[n % 50])) for n in range(CROWD)]
    await asyncio.gather(*buyers)
    assert worker.lane.counts["ahead"] >= 1
    assert worker.lane.meters.scripts["reserve", "conflict"] == 0


async def test_what_was_only_expected_refuses_nobody(worker: Service) -> None:
    """The first pipeline is planned to take everything and takes nothing: its keys were used. Who
    was planned behind it gets the units."""
    await furnish(worker, {"tee": 2 * SEND_AT})
    first = [worker.engine.reserve(demand(), key(n)) for n in range(SEND_AT)]
    had = {receipt.id for receipt in await asyncio.gather(*first)}
    again = [worker.engine.reserve(demand(), key(n)) for n in range(SEND_AT)]
    new = [worker.engine.reserve(demand()) for _ in range(SEND_AT)]
    answers = await asyncio.gather(*again, *new)
    assert {receipt.id for receipt in answers[:SEND_AT]} == had
    assert not had & {receipt.id for receipt in answers[SEND_AT:]}
    assert (await accounts(worker))[:2] == (0, 2 * SEND_AT)


async def test_the_second_falls_with_the_first_and_is_planned_anew(
    pair: tuple[Service, Service],
) -> None:
    """Another worker empties most of the pool first: conflicts, and exactly the units there are."""
    one, other = pair
    await furnish(one, {"tee": CROWD})
    await one.engine.reserve(demand())
    await other.engine.reserve(demand(quantity=CROWD - 101))
    crowd = [one.engine.reserve(demand()) for _ in range(CROWD)]
    answers = await asyncio.gather(*crowd, return_exceptions=True)
    assert one.lane.meters.scripts["reserve", "conflict"] >= 1
    assert sum(isinstance(answer, Receipt) for answer in answers) == 100
    assert sum(isinstance(answer, InsufficientStock) for answer in answers) == CROWD - 100
    assert (await accounts(one))[:2] == (0, CROWD)


async def test_two_workers_with_crowds_share_exactly_what_is_there(
    pair: tuple[Service, Service],
) -> None:
    """Two walls, units that arrive meanwhile, and pipelines of two workers under way."""
    one, other = pair
    wall = ChannelSpec(floor_share=0.5, borrow=False)
    await furnish(one, {"tee": 600}, web=wall, store=wall)

    async def buyer(number: int) -> object:
        worker, channel = pair[number % 2], ("web", "store")[number % 3 == 0]
        try:
            return (await worker.engine.reserve(demand(channel=channel))).id
        except InsufficientStock:
            return None

    crowd = asyncio.gather(*(buyer(number) for number in range(3_000)))
    await until(lambda: one.lane.counts["ahead"], "a pipeline is sent ahead")
    await receive(other, {"tee": 200})
    granted = [each for each in await crowd if each is not None]
    late = [await buyer(number) for number in range(6)]
    ids = [each for each in [*granted, *late] if each is not None]
    assert len(set(ids)) == len(ids) == 800
    assert (await accounts(one))[:2] == (0, 400)
    assert (await accounts(one, channel="store"))[:2] == (0, 400)


async def test_nobody_waits_for_a_crowd(
    store: Store, worker: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit goes out as soon as what is under way has landed; nothing is sent ahead of it."""
    await furnish(worker, {"tee": 10_000})
    receipt = await worker.engine.reserve(demand())
    lane = worker.lane
    with frozen(store):
        crowd = asyncio.gather(*(worker.engine.reserve(demand()) for _ in range(5_000)))
        await until(lambda: len(lane._flights) == FLIGHTS_MAX, "two pipelines under way")
        committed = asyncio.ensure_future(worker.engine.commit(receipt.id, Commit()))
        await until(lambda: any(lane.queues.settles.values()), "the commit waits")
        sent: list[list[Step]] = []
        take_off = lane._take_off

        def seen(steps: list[Step], monotonic: float) -> None:
            sent.append(steps)
            take_off(steps, monotonic)

        monkeypatch.setattr(lane, "_take_off", seen)
    assert (await committed).version == 2
    assert any(isinstance(step, SettleStep) for step in sent[0])
    await crowd


async def test_what_is_under_way_is_answered_before_the_end(
    store: Store, store_url: str, workers: Workers
) -> None:
    """A worker that stops lets both pipelines land."""
    worker = await workers(store_url, reaper=False)
    await furnish(worker, {"tee": 1_000})
    with frozen(store):
        crowd = asyncio.gather(*(worker.engine.reserve(demand()) for _ in range(2 * SEND_AT)))
        await asyncio.sleep(0)  # every buyer has asked
        assert len(worker.lane._flights) == FLIGHTS_MAX
    await worker.lane.drain(5.0)
    assert len(await crowd) == 2 * SEND_AT
    assert not worker.lane._flights


async def test_who_waits_behind_two_pipelines_is_refused_in_time(
    store_url: str, workers: Workers, store: Store
) -> None:
    """Not only once the store answers, which may be long after."""
    worker = await workers(store_url, reaper=False)
    await furnish(worker, {"tee": 10_000})
    await worker.engine.reserve(demand())
    worker.lane._wait_ms = 100
    asked: list[asyncio.Task[Receipt]] = []

    def come(number: int) -> None:
        asked.extend(asyncio.create_task(worker.engine.reserve(demand())) for _ in range(number))

    def refused() -> bool:
        come(1)
        return any(task.done() and isinstance(task.exception(), Overloaded) for task in asked)

    with frozen(store):
        come(CROWD)
        await until(lambda: len(worker.lane._flights) == FLIGHTS_MAX, "two are under way")
        await until(refused, "the first that waited was told")
        assert len(worker.lane._flights) == FLIGHTS_MAX, "and no answer was needed for that"
    await asyncio.gather(*asked, return_exceptions=True)
