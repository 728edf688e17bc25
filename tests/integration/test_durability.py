"""What the ledger does for a worker: acknowledged when it has it, kept when the store forgets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.errors import (
    DurabilityUnavailable,
    LedgerUnavailable,
    StockUnavailable,
    UnknownReservation,
)
from core.model import Cancel, Commit, Fulfil, Release, Reserve, Return, ReturnLine
from core.policy_model import ChannelSpec
from core.reaper import Reaper
from core.service import Service
from core.store import keys
from tests.ledgered import Ledger, audit_ledger
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    leave_store,
    make_due,
    moved,
    until,
)


@pytest.fixture
async def backed(store_url: str, workers: Workers, ledger: Ledger) -> Service:
    """A worker with a ledger behind it, and no scribe: nothing gets there by itself."""
    service = await workers(
        store_url, reaper=False, staleness_ms=0, postgres_dsn=ledger.dsn, ledger_wait_seconds=20
    )
    await furnish(service, {"tee": 10})
    return service


async def waits(task: asyncio.Task[Any], service: Service) -> None:
    """Returns when a request waits for the ledger."""
    await until(lambda: task.done() or service.backlog._waiting, "it waits for the ledger")
    assert not task.done()


async def test_an_answer_waits_until_the_ledger_has_it(
    backed: Service, store_url: str, ledger: Ledger
) -> None:
    """For a reserve, a commit, and a replay of each."""
    wanted = demand(durability="ledger")
    for replayed in (False, True):
        asking = asyncio.create_task(backed.engine.reserve(wanted, key("r")))
        if not replayed:
            await waits(asking, backed)
            await ledger.catch_up(store_url)
        held = await asking
        assert (held.durability, held.replayed) == ("ledger", replayed)
        assert held.reservation().durability == "ledger"
        assert await ledger.journal.record(held.id) == held.record
    for replayed in (False, True):
        asking = asyncio.create_task(
            backed.engine.commit(held.id, Commit(durability="ledger"), key("c"))
        )
        if not replayed:
            await waits(asking, backed)
            await ledger.catch_up(store_url)
        sold = await asking
        assert (sold.durability, sold.replayed) == ("ledger", replayed)
        assert await ledger.journal.record(held.id) == sold.record
    # The others have the level of the store.
    assert (await backed.engine.reserve(demand())).durability == "fsync"


async def test_a_replay_waits_as_well(backed: Service, store_url: str, ledger: Ledger) -> None:
    """What was acknowledged at less is asked for again at more."""
    held = await backed.engine.reserve(demand(), key("r"))
    await backed.engine.commit(held.id, Commit(), key("c"))
    again = asyncio.create_task(backed.engine.commit(held.id, Commit(durability="ledger"), key(2)))
    await waits(again, backed)
    await ledger.catch_up(store_url)
    assert (await again).durability == "ledger"


async def test_who_waits_too_long_is_told_that_nobody_knows(
    store_url: str, workers: Workers, ledger: Ledger
) -> None:
    """503, outcome unknown, with the id; repeating with the key gives the final answer."""
    service = await workers(
        store_url, reaper=False, postgres_dsn=ledger.dsn, ledger_wait_seconds=0.05
    )
    await furnish(service, {"tee": 10})
    wanted = demand(durability="ledger")
    with pytest.raises(LedgerUnavailable) as caught:
        await service.engine.reserve(wanted, key("r"))
    assert caught.value.outcome == "unknown"
    assert caught.value.reservation is not None
    await ledger.catch_up(store_url)
    service.backlog._wait_seconds = 20.0  # what it waits for now has happened
    held = await service.engine.reserve(wanted, key("r"))
    assert (held.id, held.durability, held.replayed) == (caught.value.reservation, "ledger", True)
    assert (await accounts(service))[1] == 1


async def test_a_batch_waits_once_for_those_who_asked(
    backed: Service, store_url: str, ledger: Ledger
) -> None:
    asking = asyncio.create_task(
        backed.engine.reserve_batch([demand(durability="ledger"), demand()], [None, None])
    )
    await waits(asking, backed)
    await ledger.catch_up(store_url)
    found = [each.durability for each in await asking if not isinstance(each, Exception)]
    assert found == ["ledger", "fsync"]


async def test_all_commits_wait_if_the_setting_says_so(
    store_url: str, workers: Workers, ledger: Ledger
) -> None:
    service = await workers(
        store_url, reaper=False, postgres_dsn=ledger.dsn, commit_durability="ledger"
    )
    await furnish(service, {"tee": 10})
    held = await service.engine.reserve(demand())
    assert held.durability == "fsync"
    asking = asyncio.create_task(service.engine.commit(held.id, Commit()))
    await waits(asking, service)
    await ledger.catch_up(store_url)
    assert (await asking).durability == "ledger"


async def test_a_batch_waits_as_long_as_one(
    store_url: str, workers: Workers, ledger: Ledger
) -> None:
    service = await workers(
        store_url, reaper=False, postgres_dsn=ledger.dsn, ledger_wait_seconds=0.5
    )
    await furnish(service, {"tee": 50})
    loop = asyncio.get_running_loop()
    started = loop.time()
    found = await service.engine.reserve_batch([demand(durability="ledger")] * 40, [None] * 40)
    assert loop.time() - started < 10  # one after the other it would be 20
    assert {type(each) for each in found} == {LedgerUnavailable}
    assert len({getattr(each, "reservation", None) for each in found}) == 40


async def test_what_was_lost_while_it_waited_is_not_acknowledged(
    backed: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Neither alone nor in a batch: the marks of another epoch say nothing of it."""
    await ledger.catch_up(store_url)
    wanted, old = demand(durability="ledger"), backed.lane.epoch
    alone = asyncio.create_task(backed.engine.reserve(wanted))
    batch = asyncio.create_task(backed.engine.reserve_batch([wanted] * 3, [None] * 3))
    await until(lambda: len(backed.backlog._waiting) > 1, "both wait")
    store.flushall()
    await ledger.rebuilding(store_url).run()
    with suppress(StockUnavailable):  # whoever asks first hears of it
        await backed.engine.reserve(demand())
    await until(lambda: backed.lane.epoch != old and backed.lane.closed is None, "it is taken")
    for n in range(8):
        await backed.engine.reserve(demand("tee", 1), key(n))
    await ledger.catch_up(store_url)
    with pytest.raises(LedgerUnavailable) as caught:
        await alone
    for each in (caught.value, *await batch):
        assert isinstance(each, LedgerUnavailable)
        assert each.outcome == "unknown"
        assert each.reservation is not None
        with pytest.raises(UnknownReservation):
            await backed.engine.reservation(each.reservation)


async def test_without_a_ledger_its_level_cannot_be_had(worker: Service) -> None:
    await furnish(worker, {"tee": 10})
    for wanted in (
        worker.engine.reserve(Reserve("web", demand().lines, durability="ledger")),
        worker.engine.commit(
            (await worker.engine.reserve(demand())).id, Commit(durability="ledger")
        ),
    ):
        with pytest.raises(DurabilityUnavailable):
            await wanted
    assert (await accounts(worker))[1:3] == (1, 0)


async def test_records_that_left_the_store_work_on(
    backed: Service, store: Store, store_url: str, ledger: Ledger, workers: Workers
) -> None:
    """GET, return, late commit, repeated verbs and replays, from the ledger's copy."""
    engine = backed.engine
    await backed.catalogue.put_channel("web", ChannelSpec(late_window_seconds=86_400))
    held = [await engine.reserve(demand(), key(n)) for n in range(4)]
    shipped, late, released, cancelled = (each.id for each in held)
    await engine.commit(shipped, Commit())
    await engine.fulfil(shipped, Fulfil(), key("f"))
    make_due(store, late)
    await backed.lane.tidy()
    await engine.release(released, Release(), key("x"))
    await engine.commit(cancelled, Commit())
    await engine.cancel(cancelled, Cancel(reason="dear"), key("k"))
    before = {each.id: (await engine.reservation(each.id)).reservation() for each in held}
    await ledger.catch_up(store_url)
    await leave_store(backed, store, [shipped, late, released, cancelled])

    for id, was in before.items():
        now = (await engine.reservation(id)).reservation()
        assert now.lines == was.lines
        assert (now.state, now.version) == (was.state, was.version)
        assert not store.hexists(keys.bucket_of(id), id), "reading brings nothing back"
    replayed = await engine.fulfil(shipped, Fulfil(), key("f"))
    assert replayed.replayed
    assert replayed.reservation().state == "fulfilled"
    back = await engine.return_(shipped, Return([ReturnLine("tee", 1)]), key("b"))
    assert back.reservation().state == "returned"
    assert (await engine.commit(late, Commit())).reacquired
    assert (await engine.release(released, Release())).reservation().state == "released"
    assert (await engine.commit(released, Commit(late="reacquire"))).reacquired
    await ledger.catch_up(store_url)
    with pytest.raises(UnknownReservation):
        await engine.release("0193c3f4-0000-7000-8000-000000000000", Release())
    moved.update((shipped, late, released, cancelled))


async def test_two_who_bring_one_back_do_it_once(
    backed: Service, store: Store, store_url: str, ledger: Ledger, workers: Workers, tmp_path: Path
) -> None:
    """Two workers take units back of one parcel at the same time: one wins, the other is told."""
    other = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    held = await backed.engine.reserve(demand(quantity=3))
    await backed.engine.commit(held.id, Commit())
    await backed.engine.fulfil(held.id, Fulfil(), key("f"))
    await ledger.catch_up(store_url)
    await leave_store(backed, store, [held.id])
    results = await asyncio.gather(
        *(
            service.engine.return_(held.id, Return([ReturnLine("tee", 2)]), key(name))
            for name, service in (("one", backed), ("two", other))
        ),
        return_exceptions=True,
    )
    kinds = sorted(type(result).__name__ for result in results)
    assert kinds == ["InvalidQuantity", "Receipt"]
    now = (await other.engine.reservation(held.id)).reservation()
    assert [line.returned for line in now.lines] == [2]
    moved.add(held.id)


async def test_a_backlog_too_long_refuses_reserves_alone(
    store_url: str, store: Store, workers: Workers, ledger: Ledger
) -> None:
    """Commit, release and fulfil still work; and reserves again once the ledger has caught up."""
    service = await workers(
        store_url, reaper=False, postgres_dsn=ledger.dsn, backlog_bytes=2**20
    )
    await furnish(service, {"tee": 10_000})
    reaper = Reaper(service.lane, service._shard, service.backlog, 10**9)
    held = [await service.engine.reserve(demand()) for _ in range(3)]
    count = 0
    while not service.lane.behind:
        requests = [demand(reference="x" * 128) for _ in range(500)]
        await service.engine.reserve_batch(requests, [None] * 500)
        await reaper.turn()
        count += 500
        assert count < 20_000
    with pytest.raises(LedgerUnavailable) as caught:
        await service.engine.reserve(demand())
    assert caught.value.outcome == "none"
    lag = service.readiness()["ledger"]["lag"]
    assert lag["too_long"]
    assert lag["bytes"] > 2**20
    assert lag["events"] > 0
    await service.engine.release(held[0].id, Release())
    await service.engine.commit(held[1].id, Commit())
    await service.engine.fulfil(held[1].id, Fulfil(), key("f"))
    await ledger.catch_up(store_url)
    await reaper.turn()
    await service.engine.reserve(demand())
    assert service.backlog.trouble == ""
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url)
