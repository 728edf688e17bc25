"""Deadlines to the millisecond, tidying in bounded turns, and what is removed when it is old."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core.deadlines import SECONDS_MAX
from core.errors import InsufficientStock
from core.model import Cancel, Commit, Extend, Fulfil, Release
from core.ops import Receipt
from core.planning import OPS_MAX
from core.policy_model import ChannelSpec
from core.reaper import PURGE_BATCH, PURGE_BATCHES, Reaper
from core.service import Service
from core.steps import PUT_OFF_SECONDS, SettleStep
from core.store import keys
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    make_due,
    move_deadline,
    moved,
    picture,
    record,
    server_ms,
    text,
    until,
)

HOUR_MS = keys.HOUR_MS


def states(store: Store, ids: list[str]) -> set[str]:
    """The letters of these reservations' states."""
    return {record(store, id)[0] for id in ids}


async def many(service: Service, count: int) -> list[str]:
    """The ids of that many reservations of one unit."""
    results = await service.engine.reserve_batch([demand()] * count, [None] * count)
    return [result.id for result in results if isinstance(result, Receipt)]


# --- deadlines ---------------------------------------------------------------------------------


async def test_what_is_due_expires_within_a_second_under_load(
    store_url: str, store: Store, workers: Workers
) -> None:
    """By the server's own times: deadline in the record, time of the event that ended it."""
    pair = [await workers(store_url) for _ in range(2)]
    await furnish(pair[0], {"tee": 100_000, "cap": 1_000})
    found = [await lateness(store, pair)]
    while max(found[-1]) > 1_000 and len(found) < 20:
        found.append(await lateness(store, pair))  # whatever else is busy here makes it only later
    assert min(map(min, found)) >= 0
    assert max(found[-1]) <= 1_000, found


async def lateness(store: Store, pair: list[Service]) -> list[int]:
    """How many ms after their deadlines 40 reservations expired, under load."""
    due = [(await pair[n % 2].engine.reserve(demand("cap", ttl_seconds=1))).id for n in range(40)]
    deadlines = {id: int(record(store, id).split(" ")[3]) for id in due}
    busy = True

    async def load(service: Service) -> None:
        while busy:
            held = await service.engine.reserve(demand())
            await service.engine.release(held.id, Release())

    callers = [asyncio.ensure_future(load(service)) for service in pair for _ in range(16)]
    await until(lambda: states(store, due) == {"X"}, "all expired")
    busy = False
    await asyncio.gather(*callers)
    ended: dict[str, int] = {}
    for _, fields in store.xrange(keys.EVENTS):
        if fields[b"v"] == b"giveback":
            words = fields[b"r"].decode().split("\n")
            ended |= {id: int(fields[b"t"]) for id in words[::2] if id in deadlines}
    return [ended[id] - deadline for id, deadline in deadlines.items()]


async def test_units_are_free_at_the_deadline_with_no_reaper(worker: Service, store: Store) -> None:
    """Exactly: a demand that arrives before it is refused, one that arrives after it is served."""
    await furnish(worker, {"tee": 1})
    for _ in range(5):
        held = await worker.engine.reserve(demand())
        deadline = server_ms(store) + 40
        move_deadline(store, held.id, deadline)
        while True:
            before = server_ms(store)
            try:
                taken = await worker.engine.reserve(demand())
            except InsufficientStock:
                assert before < deadline
                continue
            assert server_ms(store) >= deadline
            break
        assert states(store, [held.id]) == {"X"}
        await worker.engine.release(taken.id, Release())


async def test_an_extended_one_is_looked_at_in_its_new_second(
    worker: Service, store: Store
) -> None:
    """The old second's list lets go of it; the record decides."""
    await furnish(worker, {"tee": 1})
    id = (await worker.engine.reserve(demand(ttl_seconds=60))).id
    old = int(record(store, id).split(" ")[3]) // 1000
    await worker.engine.extend(id, Extend(120))
    new = int(record(store, id).split(" ")[3]) // 1000
    assert store.lrange(keys.due_at(old), 0, -1) == store.lrange(keys.due_at(new), 0, -1)
    move_deadline(store, id, server_ms(store) - 2_500)
    move_deadline(store, id, server_ms(store) + 60_000)  # as if extended just before it was due
    began = server_ms(store)
    await worker.lane.tidy()
    assert states(store, [id]) == {"R"}
    assert int(text(store, keys.META, "cursor")) >= began // 1000 - 1
    make_due(store, id)
    await worker.lane.tidy()
    assert states(store, [id]) == {"X"}


async def test_an_entry_of_many_keeps_those_that_wait_on(worker: Service, store: Store) -> None:
    """Those of one script stand in one entry; each leaves it when its own turn has come."""
    await furnish(worker, {"tee": 3})
    ids = await many(worker, 3)
    second = min(int(record(store, id).split(" ")[3]) for id in ids) // 1000
    for id in ids:
        move_deadline(store, id, second * 1000 + 500)
    store.delete(keys.due_at(second))
    store.rpush(keys.due_at(second), " ".join(ids), "no id", ids[1])
    await worker.engine.release(ids[0], Release())
    worker.lane.deadlines.drains[second] = [" ".join(ids), "no id"]
    await worker.lane.tidy()
    assert store.lrange(keys.due_at(second), 0, -1) == [
        ids[1].encode(), f"{ids[1]} {ids[2]}".encode()
    ]  # fmt: skip
    assert states(store, ids[1:]) == {"R"}
    assert worker.lane.deadlines.quiet(second) == (-1, 0), "one entry was not looked through"
    worker.lane.deadlines.drains[second] = [ids[1], f"{ids[1]} {ids[2]}"]
    await worker.lane.tidy()
    assert worker.lane.deadlines.quiet(second) == (2, second * 1000 + 500)


async def test_a_deadline_behind_the_cursor_moves_it_back(worker: Service, store: Store) -> None:
    """A demand planned before a jump of the clock may get a deadline that the cursor has passed."""
    await furnish(worker, {"tee": 1})
    store.hset(keys.META, "cursor", server_ms(store) // 1000 + 3_600)
    held = await worker.engine.reserve(demand(ttl_seconds=60))
    cursor = int(text(store, keys.META, "cursor"))
    assert cursor == int(record(store, held.id).split(" ")[3]) // 1000
    make_due(store, held.id)
    await worker.lane.tidy()
    assert states(store, [held.id]) == {"X"}


async def test_several_reapers_share_the_work(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Each reservation expires once; a commit that races either wins or takes the units anew."""
    crew = [await workers(store_url, reaper=False) for _ in range(3)]
    await furnish(crew[0], {"tee": 300})
    ids = await many(crew[0], 300)
    for id in ids:
        make_due(store, id)
    commits = [crew[n % 3].engine.commit(id, Commit()) for n, id in enumerate(ids[:50])]
    results = await asyncio.gather(*commits, *(each.lane.tidy() for each in crew))
    assert {each.reservation().state for each in results[:50] if each} == {"committed"}
    assert states(store, ids[50:]) == {"X"}
    assert (await accounts(crew[0]))[:4] == (0, 0, 50, 250)


async def test_five_thousand_in_one_second_take_bounded_turns(
    worker: Service, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No script settles more than its bound, callers are served in between, and all expire."""
    await furnish(worker, {"tee": 5_000, "cap": 1_000})
    ids = [id for _ in range(5) for id in await many(worker, 1_000)]
    second = server_ms(store) // 1000 - 2
    with store.pipeline(transaction=True) as pipe:
        for number, id in enumerate(ids):
            bucket = keys.bucket_of(id)
            words = record(store, id).split(" ")
            words[3] = str(second * 1000 + number % 1000)
            pipe.hset(bucket, id, " ".join(words))
        pipe.rpush(keys.due_at(second), *ids)
        pipe.hset(keys.META, "cursor", second)
        pipe.execute()
    moved.update(ids)
    sizes: list[int] = []
    landed = SettleStep.landed

    def seen(step: SettleStep, *more: object) -> None:
        sizes.append(len(step.ops))
        landed(step, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(SettleStep, "landed", seen)
    tidy = worker.lane.tidy()
    served = 0
    while not tidy.done():
        await worker.engine.reserve(demand("cap"))
        served += 1
    await tidy
    assert states(store, ids) == {"X"}
    assert max(sizes) <= OPS_MAX + 1_000
    assert served >= 3
    assert not store.exists(keys.due_at(second))


async def test_the_cursor_moves_on_over_empty_seconds(worker: Service, store: Store) -> None:
    """Also with nothing to do; never past the second that has begun."""
    await furnish(worker, {"tee": 1})
    began = server_ms(store) // 1000
    store.hset(keys.META, "cursor", began - 30)
    await worker.lane.tidy()
    assert began - 2 <= int(text(store, keys.META, "cursor")) <= server_ms(store) // 1000


@pytest.mark.parametrize("who", ["reaper", "demand"])
async def test_ten_minutes_without_a_reaper_are_caught_up(
    worker: Service, store: Store, who: str
) -> None:
    """In turns of at most SECONDS_MAX lists; a demand drains them as well: never a wrong 409."""
    await furnish(worker, {"tee": 60})
    ids = await many(worker, 60)
    now = server_ms(store)
    for number, id in enumerate(ids):
        move_deadline(store, id, now - 600_000 + 10_000 * number)
    store.hset(keys.META, "cursor", now // 1000 - 600)
    assert SECONDS_MAX < 600
    if who == "reaper":
        await worker.lane.tidy()
        assert states(store, ids) == {"X"}
    taken = await worker.engine.reserve(demand(quantity=60))
    assert taken.version == 1
    await worker.lane.tidy()
    assert int(text(store, keys.META, "cursor")) >= now // 1000 - 1


async def test_what_cannot_expire_is_set_aside(
    store_url: str, store: Store, workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """A corrupt record is told in the log; others expire and refusals are given as ever."""
    worker = await workers(store_url, reaper=False, audited=False, staleness_ms=0)
    await furnish(worker, {"tee": 1, "cap": 1})
    bad = (await worker.engine.reserve(demand("tee"))).id
    good = (await worker.engine.reserve(demand("cap"))).id
    overdue = server_ms(store) - 1000 * (SECONDS_MAX + 10)  # it would block every look behind it
    for id in (bad, good):
        move_deadline(store, id, overdue)
    store.hset(keys.bucket_of(bad), bad, record(store, bad).replace("tee@main", "hat@main"))
    await worker.engine.reserve(demand("cap"))
    assert states(store, [good]) == {"X"}
    with pytest.raises(InsufficientStock):
        await worker.engine.reserve(demand("tee"))
    began = server_ms(store) // 1000
    await worker.lane.tidy()
    assert [r.levelno for r in caplog.records if bad in r.getMessage()] == [logging.ERROR]
    assert not store.exists(keys.due_at(overdue // 1000))
    later = {name for name in store.keys("{s0}:due:*") if bad.encode() in store.lrange(name, 0, -1)}
    until_then = max(int(name.rsplit(b":", 1)[1]) for name in later) - PUT_OFF_SECONDS
    assert began - 2 <= until_then <= server_ms(store) // 1000
    assert int(text(store, keys.META, "cursor")) >= began - 1


# --- removing what is old ----------------------------------------------------------------------


async def test_old_records_are_removed_and_others_kept(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Released and expired ones older than the late window go; sold ones stay for the ledger."""
    worker = await workers(store_url, reaper=False, audited=False)
    await furnish(worker, {"tee": 2_000}, web=ChannelSpec(late_window_seconds=3 * 3600))
    engine = worker.engine
    released, expired, sold, cancelled, alive, again, young = ids = await many(worker, 7)
    for id in (sold, cancelled):
        await engine.commit(id, Commit())
    await engine.fulfil(sold, Fulfil())
    await engine.cancel(cancelled, Cancel())
    make_due(store, expired)
    await worker.lane.tidy()
    for id in (released, again, young):
        await engine.release(id, Release())
    await engine.commit(again, Commit(late="reacquire"))  # it had ended, and has not any more
    now = server_ms(store)
    old_hour, young_hour = now // HOUR_MS - 5, now // HOUR_MS - 2
    store.delete(*store.keys("{s0}:done:*"))
    store.rpush(keys.done_at(old_hour), released, expired, sold, cancelled, alive, again)
    store.rpush(keys.done_at(young_hour), young)
    for id in ids:
        words = record(store, id).split(" ")
        if id != alive:
            words[2] = str(now - (5 if id != young else 2) * HOUR_MS)
        store.hset(keys.bucket_of(id), id, " ".join(words))
    crowd = await many(worker, 700)
    assert PURGE_BATCH < 700 < PURGE_BATCH * PURGE_BATCHES
    await asyncio.gather(*(engine.release(id, Release()) for id in crowd))
    for id in crowd:
        words = record(store, id).split(" ")
        words[2] = str(now - 6 * HOUR_MS)
        store.hset(keys.bucket_of(id), id, " ".join(words))
    store.rename(keys.done_at(now // HOUR_MS), keys.done_at(old_hour - 1))
    store.hset(keys.META, "purged", old_hour - 2)
    reaper = Reaper(worker.lane, worker._shard, worker.backlog, old_hour - 2)

    def left() -> set[str]:
        return {id for id in [*ids, *crowd] if store.hexists(keys.bucket_of(id), id)}

    # What the ledger does not have stays, be it that it is behind, or that it was long ago.
    for mark, mark_ms in ((0, now), (10**6, now - 24 * HOUR_MS)):
        store.hset(keys.META, mapping={"mark": mark, "mark_ms": mark_ms})
        await reaper.turn()
        assert left() == {*ids, *crowd}
    store.hset(keys.META, mapping={"mark": worker.lane.seq, "mark_ms": now})
    for _ in range(3):
        await reaper.turn()
    assert left() == {alive, again, young}
    assert not store.exists(keys.done_at(old_hour))
    assert store.exists(keys.done_at(young_hour))
    assert int(text(store, keys.META, "purged")) == (now - 2 * HOUR_MS) // HOUR_MS - 1


async def test_windows_of_keys_out_of_use_are_removed(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Neither the current one nor the one before; a worker that slept through it all agrees."""
    asleep = await workers(store_url, reaper=False)
    await furnish(asleep, {"tee": 100})
    week_ms = 604_800_000
    for turn in range(3):
        await asleep.engine.reserve(demand(), key(turn))
        held = await asleep.engine.reserve(demand())
        await asleep.engine.commit(held.id, Commit())
        await asleep.engine.fulfil(held.id, Fulfil(), key(f"w{turn}"))
        # An hour and a week pass: what was current is one window older.
        for kind, length in (("h", HOUR_MS), ("w", week_ms)):
            current, previous = (int(text(store, keys.META, kind + x)) for x in ("", "p"))
            for start in sorted({current, previous}):
                name = f"{{s0}}:idem:{kind}{start}"
                if store.exists(name):
                    store.rename(name, f"{{s0}}:idem:{kind}{start - length}")
            store.hset(keys.META, mapping={
                kind: current - length, f"{kind}p": previous - length,
            })  # fmt: skip
            for field in store.hkeys(keys.META):
                if field.startswith(b"old:" + kind.encode()):
                    store.hdel(keys.META, field)
                    moved = int(field[5:]) - length
                    store.hset(keys.META, f"old:{kind}{moved}", "1")
    await asleep.engine.reserve(demand(), key("last"))
    held = await asleep.engine.reserve(demand())
    await asleep.engine.commit(held.id, Commit())
    await asleep.engine.fulfil(held.id, Fulfil(), key("wlast"))
    assert sum(name.startswith(b"old:") for name in store.hkeys(keys.META)) > 0
    reaper = Reaper(asleep.lane, asleep._shard, asleep.backlog, server_ms(store) // HOUR_MS)
    before = picture(store)
    await reaper.turn()
    await reaper.turn()
    meta = {k.decode(): v.decode() for k, v in store.hgetall(keys.META).items()}
    kept = {f"{{s0}}:idem:{kind[0]}{meta[kind]}" for kind in ("h", "hp", "w", "wp")}
    there = {name.decode() for name in store.keys("{s0}:idem:*")}
    assert there <= kept
    assert {name for name in kept if name.encode() in before} <= there
    assert not any(name.startswith("old:") for name in meta)
    assert (await asleep.engine.reserve(demand(), key("last"))).replayed
