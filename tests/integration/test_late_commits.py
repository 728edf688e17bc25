"""Late commits of the same reservations by two workers at once: what is acknowledged stands."""

from __future__ import annotations

import asyncio
import random

from core.model import Commit
from core.policy_model import ChannelSpec
from core.store import keys, scripts
from tests.workers import Store, Workers, demand, furnish, key, make_due, record, row

IDS = 120
UNITS = 1_000


async def test_twins_at_two_workers_are_committed_once_and_for_all(
    store_url: str, store: Store, workers: Workers, seed: int
) -> None:
    """Two workers plan the same id in the same millisecond, others ride in the same scripts."""
    first, second = await workers(store_url), await workers(store_url)
    await furnish(first, {"tee": UNITS}, web=ChannelSpec())
    ids = [(await first.engine.reserve(demand())).id for _ in range(IDS)]
    for id in ids:
        make_due(store, id)
    order = random.Random(seed)
    asked = [(service, id) for id in ids[::2] for service in (first, second)] * 2
    asked += [(second, id) for id in ids[1::2]]
    for at in range(0, len(asked), 10):  # in small crowds, so that many scripts meet
        crowd = asked[at : at + 10]
        order.shuffle(crowd)
        await asyncio.gather(*(service.engine.commit(id, Commit()) for service, id in crowd))
    assert {record(store, id)[0] for id in ids} == {"C"}
    head, web = row(store, "tee@main").split(" ")[3:5]
    assert (head.split(",")[0], web) == (str(UNITS - IDS), f"web@0,0,{IDS},0")


async def test_a_replay_says_that_the_units_were_taken_anew(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Whoever hears of it: twins under one key, at one worker or at two, and who comes later; but
    not a commit that was in time."""
    first, second = await workers(store_url), await workers(store_url)
    await furnish(first, {"tee": UNITS}, web=ChannelSpec())
    for number in range(20):
        id, paid = (await first.engine.reserve(demand())).id, f"late-{number}"
        make_due(store, id)
        payers = [first, second, first, second]
        twins = await asyncio.gather(
            *(each.engine.commit(id, Commit(), key(paid)) for each in payers)
        )
        later = await second.engine.commit(id, Commit(), key(paid))
        assert sorted(each.replayed for each in twins) == [False, True, True, True]
        assert all(each.reacquired for each in (*twins, later))
        assert b'"reacquired":true' in later.encode()
    id = (await first.engine.reserve(demand())).id
    for _ in range(2):
        assert not (await first.engine.commit(id, Commit(), key("in_time"))).reacquired


async def test_a_script_takes_no_record_twice(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Were a record to stand twice in one script, the second is stale and nothing is done."""
    worker = await workers(store_url)
    await furnish(worker, {"tee": 5}, web=ChannelSpec())
    id = (await worker.engine.reserve(demand())).id
    make_due(store, id)
    await worker.lane.tidy()
    old, pool = record(store, id), row(store, "tee@main")
    lane = worker.lane
    names = [
        keys.META, keys.POOLS, keys.EVENTS, *lane.short_window, *lane.long_window, lane.done_list,
        keys.bucket_of(id),
    ]  # fmt: skip
    entry = [9, id, old, old.replace("X 2", "C 3"), "", "", ""]
    reply = store.evalsha(
        scripts.REPLAN.sha.decode(), len(names), *names, *lane.head(None),
        1, 2, 0, "", "commit", "1", "", 0, "tee@main", pool, pool, "0 @1:-2 web@3:2",
        *entry, *entry,
    )  # fmt: skip
    assert reply[0] == b"stale"
    assert reply[5] == [1, old.encode()]
    assert (record(store, id), row(store, "tee@main")) == (old, pool)
