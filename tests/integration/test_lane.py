"""Group commit: every outcome through several workers, cancelled callers, bounds, staleness."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from core.errors import InsufficientStock, Overloaded, StockUnavailable
from core.model import Commit, Release
from core.ops import Receipt, SettleOp
from core.policy_model import ChannelSpec
from core.service import Service
from core.store import keys, scripts
from core.store.link import Link
from tests.counted import counted
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    make_due,
    receive,
    record,
    row,
    server_ms,
    text,
    until,
)

OPEN = ChannelSpec()  # no floor, no ceiling, may borrow
HALF = ChannelSpec(floor_share=0.5)


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    return one, await workers(store_url, reaper=False, staleness_ms=0)


# --- outcomes ----------------------------------------------------------------------------------


async def test_a_row_that_is_as_planned_is_swapped(worker: Service) -> None:
    """One worker alone never meets a changed row: applied, and nothing else."""
    await furnish(worker, {"tee": 100})
    await asyncio.gather(*(worker.engine.reserve(demand()) for _ in range(100)))
    counts = counted(worker)
    assert counts["reserve:applied"] >= 1
    assert counts["reserve:rebased"] == counts["reserve:conflict"] == 0


async def test_a_row_that_another_worker_changed_is_rebased(pair: tuple[Service, Service]) -> None:
    """The deltas fit the fresh row: done in one round trip, and the row is known afterwards."""
    one, other = pair
    await furnish(one, {"tee": 100})
    await other.engine.reserve(demand(quantity=5))
    await one.engine.reserve(demand(quantity=3))
    assert one.lane.meters.scripts["reserve", "rebased"] == 1
    await one.engine.reserve(demand(quantity=2))
    assert one.lane.meters.scripts["reserve", "rebased"] == 1
    assert (await accounts(other))[1] == 10


async def test_a_plan_that_no_longer_fits_is_made_anew(pair: tuple[Service, Service]) -> None:
    """Own units are gone since: a conflict brings the fresh row, the second plan borrows."""
    one, other = pair
    await furnish(one, {"tee": 20}, web=HALF)
    await one.engine.reserve(demand())
    await other.engine.reserve(demand(quantity=9))  # the last of web's own
    granted = await one.engine.reserve(demand(quantity=4))
    assert one.lane.meters.scripts["reserve", "conflict"] == 1
    line = granted.reservation().lines[0]
    assert (line.own, line.borrowed) == (0, 4)


async def test_the_last_units_have_one_winner(pair: tuple[Service, Service]) -> None:
    """Two workers, one unit, many callers: exactly one gets it."""
    one, other = pair
    await furnish(one, {"tee": 1})
    await other.stock.read(["tee"])
    results = await asyncio.gather(
        *(w.engine.reserve(demand()) for _ in range(20) for w in pair), return_exceptions=True
    )
    assert sum(isinstance(result, Receipt) for result in results) == 1
    assert sum(isinstance(result, InsufficientStock) for result in results) == 39


async def test_a_key_that_another_worker_used_is_met_in_the_script(
    pair: tuple[Service, Service],
) -> None:
    """``known``: that demand is answered with the first one's reservation, the others go on."""
    one, other = pair
    await furnish(one, {"tee": 10})
    first = await other.engine.reserve(demand(), key(1))
    again, new = await asyncio.gather(
        one.engine.reserve(demand(), key(1)), one.engine.reserve(demand(), key(2))
    )
    assert one.lane.meters.scripts["reserve", "known"] == 1
    assert (again.id, again.replayed, new.replayed) == (first.id, True, False)


@pytest.mark.usefixtures("unasked")
@pytest.mark.parametrize("verb", ["reserve", "receive", "late commit"])
async def test_nothing_is_planned_on_an_old_policy(
    pair: tuple[Service, Service], store: Store, verb: str
) -> None:
    """A change that was acknowledged binds every worker from then on, not "within a second"."""
    one, other = pair
    await furnish(one, {"tee": 10, "cap": 10}, web=ChannelSpec(borrow=True))
    id = (await one.engine.reserve(demand("cap"))).id
    await one.engine.reserve(demand())
    if verb == "late commit":
        make_due(store, id)
        await one.lane.tidy()
    await other.catalogue.put_channel("web", ChannelSpec(floor_share=1.0, borrow=False))
    before = counted(one)
    if verb == "reserve":
        with pytest.raises(InsufficientStock):
            await one.engine.reserve(demand())
    elif verb == "receive":
        await receive(one, {"tee": 4})
        assert (await accounts(one))[0] == 4  # all of it web's own, by the new floor
        assert one.lane.meters.scripts["stock", "policy"] == before["stock:policy"] + 1
    else:
        with pytest.raises(Exception, match="could not be taken anew"):
            await one.engine.commit(id, Commit())
    assert sum(n for name, n in counted(one).items() if name.endswith(":policy")) >= 1


async def test_a_worker_whose_windows_or_estimate_are_off_takes_the_servers(
    worker: Service, store: Store
) -> None:
    """``clock``: proposed again with the time and the windows that came back."""
    await furnish(worker, {"tee": 10})
    hour, lane = 3_600_000, worker.lane
    now = int(text(store, keys.META, "h"))
    store.hset(keys.META, mapping={"h": now + hour, "hp": now})  # a worker ahead of midnight
    await worker.engine.reserve(demand(), key(1))
    asked = lane.meters.scripts["reserve", "clock"]
    assert asked >= 1
    lane.clock._trusted_ms = lane.clock._latest_ms = lane.clock._latest_ms - 5_000
    await worker.engine.reserve(demand())
    assert lane.meters.scripts["reserve", "clock"] > asked
    assert abs(lane.now_ms - server_ms(store)) < 1_000


async def test_a_settled_batch_answers_each_on_its_own(worker: Service, store: Store) -> None:
    """Codes that no verb of the engine shows by name: early, gone, replay, and a twin in turn."""
    await furnish(worker, {"tee": 10})
    id = (await worker.engine.reserve(demand())).id
    loop = asyncio.get_running_loop()

    async def settled(*ops: tuple[Any, ...]) -> list[str]:
        waiting = [loop.create_future() for _ in ops]
        for (verb, target, *more), future in zip(ops, waiting, strict=True):
            worker.lane.settle(SettleOp(verb, target, future, *more))
        return [(await future)[0] for future in waiting]

    nobody = "01930000-0000-7000-8000-000000000000"
    pipelines = worker.lane.counts["pipelines"]
    assert await settled(("expire", id), ("commit", nobody)) == ["early", "gone"]
    assert worker.lane.counts["pipelines"] == pipelines + 1
    # Two verbs on one record: one pipeline each, in the order in which they came.
    assert await settled(("commit", id), ("fulfil", id)) == ["done", "done"]
    assert await settled(("commit", id, key(1)), ("commit", id, key(1))) == ["already", "replay"]


async def test_of_two_late_commits_one_takes_the_units(
    pair: tuple[Service, Service], store: Store
) -> None:
    """``stale``: the record is not the one that was planned on, so it is read and asked anew."""
    one, other = pair
    await furnish(one, {"tee": 50})
    await other.engine.reserve(demand())
    late = 0
    while late < 10 or not sum(each.lane.meters.scripts["replan", "stale"] for each in pair):
        assert late < 24, "they never met"
        id = (await one.engine.reserve(demand(quantity=2))).id
        make_due(store, id)
        await one.lane.tidy()
        both = await asyncio.gather(*(each.engine.commit(id, Commit()) for each in pair))
        assert {receipt.version for receipt in both} == {3}
        assert {receipt.reservation().state for receipt in both} == {"committed"}
        late += 1
    assert (await accounts(one))[1:3] == (1, 2 * late)


# --- conflicts are bounded ---------------------------------------------------------------------


async def test_a_demand_that_always_loses_ends(
    worker: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 16 replans: 503 overloaded, nothing done; others in the lane went their way."""
    await furnish(worker, {"tee": 2, "cap": 5}, web=HALF)
    one_own = row(store, "tee@main").split(" ", 1)[1]
    assert one_own.endswith(" 1,0,0,0,0,0 web@1,0,0,0"), one_own
    none_own = one_own.replace(" 1,0,0,0,0,0 web@1,", " 2,0,0,0,0,0 web@0,")
    send, rows = Link.send, [one_own, none_own]

    def after_another_worker(link: Link, payload: bytes, *more: Any) -> None:
        """Before each reserve arrives, somebody moves the unit to the other account."""
        if scripts.RESERVE.sha in payload and b"tee@main" in payload:
            version = int(row(store, "tee@main").split(" ", 1)[0]) + 1
            rows.append(rows.pop(0))
            store.hset(keys.POOLS, "tee@main", f"{version} {rows[0]}")
        send(link, payload, *more)

    await worker.engine.reserve(demand("cap"))
    before = text(store, keys.META, "seq")
    monkeypatch.setattr(Link, "send", after_another_worker)
    contended = asyncio.ensure_future(worker.engine.reserve(demand(quantity=2)))
    await until(lambda: worker.lane.meters.scripts["reserve", "conflict"] > 4, "four conflicts")
    await worker.engine.reserve(demand("cap"))
    with pytest.raises(Overloaded) as overloaded:
        await contended
    assert overloaded.value.outcome == "none"
    assert worker.lane.counts["given_up"] == 1
    assert worker.lane.meters.scripts["reserve", "conflict"] == 17
    assert int(text(store, keys.META, "seq")) == int(before) + 1  # the cap alone
    monkeypatch.undo()
    store.hset(keys.POOLS, "tee@main", f"1 {one_own}")  # as its one event left it


# --- bounds ------------------------------------------------------------------------------------


async def test_a_full_queue_is_said_at_once(store_url: str, workers: Workers) -> None:
    """Above ``queue_limit`` the answer is 503 overloaded, and what waits is served."""
    worker = await workers(store_url, reaper=False, queue_limit=50)
    await furnish(worker, {"tee": 1_000})
    results = await asyncio.gather(
        *(worker.engine.reserve(demand()) for _ in range(400)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert refused
    assert {each.outcome for each in refused} == {"none"}
    assert all(isinstance(each, (Receipt, Overloaded)) for each in results)


async def test_wide_demands_share_a_pipeline_only_as_far_as_it_goes(worker: Service) -> None:
    """More lines than one script takes: several pipelines, all granted, in order."""
    names = [f"sku-{n:03}" for n in range(100)]
    await furnish(worker, dict.fromkeys(names, 60))
    lines = [demand(name).lines[0] for name in names]
    request = type(demand())("web", lines)
    before = worker.lane.meters.scripts["reserve", "applied"]
    receipts = await asyncio.gather(*(worker.engine.reserve(request) for _ in range(50)))
    assert len({each.id for each in receipts}) == 50
    assert worker.lane.meters.scripts["reserve", "applied"] >= before + 3


# --- cancelled callers -------------------------------------------------------------------------


async def test_a_caller_gone_before_its_batch_is_dropped(worker: Service) -> None:
    """And one who goes after it was sent changes nothing: the reservation stands."""
    await furnish(worker, {"tee": 10})
    before = asyncio.ensure_future(worker.engine.reserve(demand(quantity=4)))
    await asyncio.sleep(0)  # it is queued, and the lane sends only in the next turn of the loop
    before.cancel()
    await asyncio.gather(before, return_exceptions=True)
    await worker.engine.reserve(demand())
    assert (await accounts(worker))[1] == 1
    pipelines = worker.lane.counts["pipelines"]
    after = asyncio.ensure_future(worker.engine.reserve(demand(quantity=4)))
    await until(lambda: worker.lane.counts["pipelines"] > pipelines, "a pipeline")
    after.cancel()
    await asyncio.gather(after, return_exceptions=True)
    await worker.engine.reserve(demand())
    assert (await accounts(worker))[1] == 1 + 4 + 1


async def test_callers_may_go_at_any_moment(
    store_url: str, store: Store, workers: Workers, seed: int
) -> None:
    """Under load nothing is mixed up: whoever stays gets an answer of their own."""
    print(f"seed {seed}")
    dice = random.Random(seed)
    pair = [await workers(store_url) for _ in range(2)]
    await furnish(pair[0], {f"sku-{n}": 300 for n in range(10)})

    async def buyer(number: int) -> str:
        engine = dice.choice(pair).engine
        sku, quantity = f"sku-{number % 10}", 1 + number % 3
        receipt = await engine.reserve(demand(sku, quantity, reference=f"order-{number}"))
        found = receipt.reservation()
        assert found.reference == f"order-{number}"
        assert (found.lines[0].sku, found.lines[0].quantity) == (sku, quantity)
        if dice.random() < 0.5:
            done = await engine.commit(receipt.id, Commit())
        else:
            done = await engine.release(receipt.id, Release())
        assert done.id == receipt.id
        return str(done.reservation().state)

    buyers = [asyncio.ensure_future(buyer(number)) for number in range(600)]
    pending = set(buyers)
    leaving = set(buyers[::2])
    buyers[0].cancel()
    while pending:
        there = sorted(leaving & pending, key=id)
        for each in dice.sample(there, k=min(len(there), 10)):
            if dice.random() < 0.5:
                each.cancel()
        _, pending = await asyncio.wait(pending, timeout=dice.uniform(0, 0.004))
    results = await asyncio.gather(*buyers, return_exceptions=True)
    kinds = {type(each) for each in results}
    assert kinds == {str, asyncio.CancelledError}, [r for r in results if isinstance(r, Exception)]
    for service in pair:
        assert service.lane.queues.waiting() == 0


# --- the store loses its scripts ---------------------------------------------------------------


async def test_flushed_scripts_are_loaded_again_under_load(
    worker: Service, store: Store, seed: int
) -> None:
    """Callers notice nothing, and nothing happens twice."""
    print(f"seed {seed}")
    await furnish(worker, {"tee": 2_000})
    flushes = 0

    async def buyer(number: int) -> None:
        nonlocal flushes
        if number % 97 == 0:
            store.script_flush()
            flushes += 1
        receipt = await worker.engine.reserve(demand(), key(number))
        await worker.engine.commit(receipt.id, Commit())

    for start in range(0, 1_000, 200):
        await asyncio.gather(*(buyer(number) for number in range(start, start + 200)))
    assert flushes >= 10
    assert worker.lane.meters.script_errors["NOSCRIPT"] > 0
    assert (await accounts(worker))[:3] == (0, 0, 1_000)


async def test_scripts_that_cannot_be_loaded_keep_nobody_waiting(
    worker: Service, store: Store
) -> None:
    """The answer is 503, outcome none; when they can be loaded again, all goes on."""
    await furnish(worker, {"tee": 10})
    store.execute_command("ACL", "SETUSER", "default", "-script", "+script|flush")
    try:
        store.script_flush()
        with pytest.raises(StockUnavailable) as refused:
            await worker.engine.reserve(demand())
        assert refused.value.outcome == "none"
    finally:
        store.execute_command("ACL", "SETUSER", "default", "+@all")
    await until(lambda: not worker.lane._paused, "scripts loaded again")
    assert record(store, (await worker.engine.reserve(demand())).id).startswith("R 1 ")
