"""The store made again from the ledger: all of it, whatever was lost, whoever is in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import partial
from typing import Any

import pytest

from core.errors import InvalidState, KeyReused, StockUnavailable
from core.model import Commit, Fulfil, Release, Return, ReturnLine
from core.ops import Receipt
from core.service import Service
from core.store import keys
from tests.audit import audit
from tests.history import history
from tests.ledgered import Ledger, audit_ledger
from tests.rebuilt import Open, alive, opened, same
from tests.stored import read
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    move_deadline,
    moved,
    receive,
    record,
    server_ms,
    until,
)

__all__ = ["opened"]


async def test_a_store_is_rebuilt_as_it_was(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """A random history, nothing left of it: pool by pool, record by record, key by key."""
    await history(await opened(), store, seed)
    mark = await ledger.catch_up(store_url)
    before = await read(store_url)
    store.flushall()
    report = await ledger.rebuilding(store_url).run()
    after = await read(store_url)
    same(before, after)
    assert after.hash("meta")["seq"] == "0"
    assert report.counts["pools"] == len(before.hash("pools"))
    assert report.counts["reservations"] == len(alive(before))
    # An empty store does not say whether there was more, so it is said from where on.
    lost = report.loss
    assert (lost.whole, lost.epoch, lost.seq) == (False, mark.epoch, mark.seq)
    assert (lost.position, lost.named, lost.carried) == (mark.position, [], 0)
    await audit(store_url, moved)
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_what_was_answered_under_a_key_is_answered_again(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """The same id, the same units, for demands and for what moves goods; also of what has ended."""
    worker = await opened()
    await furnish(worker, {"tee": 20})
    held = [await worker.engine.reserve(demand(), key(n)) for n in range(3)]
    await worker.engine.commit(held[1].id, Commit(), key("c"))
    await worker.engine.fulfil(held[1].id, Fulfil(), key("f"))
    await worker.engine.release(held[2].id, Release(), key("r"))
    await ledger.catch_up(store_url)
    store.flushall()
    await ledger.rebuilding(store_url).run()
    worker = await opened()
    before = await accounts(worker)
    for n, each in enumerate(held):
        again = await worker.engine.reserve(demand(), key(n))
        assert (again.id, again.replayed) == (each.id, True)
    assert (await worker.engine.fulfil(held[1].id, Fulfil(), key("f"))).replayed
    assert (await worker.engine.release(held[2].id, Release(), key("r"))).replayed
    with pytest.raises(KeyReused):
        await worker.engine.reserve(demand(quantity=2), key(0, "another"))
    assert await accounts(worker) == before


async def test_what_ended_before_a_rebuild_can_still_change(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """A return of what was shipped, a commit after the deadline, a read."""
    worker = await opened()
    await furnish(worker, {"tee": 20})
    shipped, late, released = [await worker.engine.reserve(demand()) for _ in range(3)]
    await worker.engine.commit(shipped.id, Commit())
    await worker.engine.fulfil(shipped.id, Fulfil())
    await worker.engine.release(released.id, Release())
    await ledger.catch_up(store_url)
    store.flushall()
    await ledger.rebuilding(store_url, move_deadlines=False).run()
    worker = await opened()
    came_back = Return([ReturnLine("tee", 1)])
    assert (await worker.engine.return_(shipped.id, came_back, key("b"))).reservation().lines
    move_deadline(store, late.id, server_ms(store) - 1)
    await worker.lane.tidy()
    assert (await worker.engine.commit(late.id, Commit())).reacquired
    assert (await worker.engine.reservation(released.id)).reservation().state == "released"
    with pytest.raises(InvalidState):
        await worker.engine.fulfil(released.id, Fulfil(), key("x"))
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)


# --- what the store still had -----------------------------------------------------------------


async def test_what_the_stream_still_has_is_carried_first(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """Only some keys are gone: the ledger gets the rest of the stream, and nothing is lost."""
    worker = await opened()
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    await history(worker, store, seed)
    before = await read(store_url)
    store.delete(keys.POOLS, *store.keys("{s0}:rsv:*"))
    report = await ledger.rebuilding(store_url).run()
    same(before, await read(store_url))
    assert report.loss.whole
    assert report.loss.carried == int(before.hash("meta")["seq"]) - mark.seq
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_what_cannot_be_carried_is_named(
    opened: Open, workers: Workers, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Up to a gap the stream is believed; of what stands behind it reservations are known."""
    worker = await opened()
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    held = [
        await worker.engine.reserve(demand(reference=f"order {n}"), key(n)) for n in range(4)
    ]
    entries = store.xrange(keys.EVENTS, f"{mark.epoch}-{mark.seq + 1}")
    store.xdel(keys.EVENTS, entries[2][0])
    report = await ledger.rebuilding(store_url).run()
    loss = report.loss
    assert (loss.whole, loss.carried, loss.seq) == (False, 2, mark.seq + 2)
    assert f"event {mark.epoch}-{mark.seq + 3} is missing" in loss.reason
    assert loss.named == [f"{held[3].id} order 3"]
    found = await ledger.fetch("SELECT * FROM stockade.rebuild")
    assert [(row["lost_seq"], row["carried"], row["named"]) for row in found] == [
        (mark.seq + 2, 2, loss.named)
    ]
    worker = await opened()
    assert (await accounts(worker))[1] == 2  # two of the four are there, with their units
    for n in range(4):
        again = await worker.engine.reserve(demand(reference=f"order {n}"), key(n))
        assert again.replayed is (n < 2)
        assert (again.id == held[n].id) is (n < 2)


@pytest.mark.parametrize(
    ("field", "fits", "broken", "told"),
    [
        (b"p", b"\n2 ", b"\n7 ", "goes from version 1 to 7"),
        (b"r", b"\nR 1 ", b"\nR 3 ", "of 1 reservations that changed the ledger has 0"),
    ],
)
async def test_a_stream_that_does_not_fit_the_ledger_is_not_believed(
    opened: Open, store: Store, store_url: str, ledger: Ledger,
    field: bytes, fits: bytes, broken: bytes, told: str,
) -> None:  # fmt: skip
    """The right numbers are not enough: rows must follow from the ledger's rows, and records."""
    worker = await opened()
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    await worker.engine.reserve(demand())
    (name, fields), = store.xrange(keys.EVENTS, f"{mark.epoch}-{mark.seq + 1}")
    store.xdel(keys.EVENTS, name)
    store.delete(keys.EVENTS)
    assert fits in fields[field]
    fields[field] = fields[field].replace(fits, broken)
    store.xadd(keys.EVENTS, fields, id=name)
    report = await ledger.rebuilding(store_url).run()
    assert (report.loss.whole, report.loss.carried, report.loss.seq) == (False, 0, mark.seq)
    assert told in report.loss.reason
    assert (await accounts(await opened()))[1] == 0


def due_ms(store: Store, id: str) -> int:
    """A reservation's deadline."""
    return int(record(store, id).split(" ")[3])


# --- deadlines --------------------------------------------------------------------------------


async def test_deadlines_that_passed_meanwhile_are_moved_by_the_outage(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Not those that were due before, nor those that lie ahead; the ledger hears of it."""
    worker = await opened()
    await furnish(worker, {"tee": 20})
    before, during, ahead = [
        (await worker.engine.reserve(demand(ttl_seconds=ttl))).id for ttl in (60, 600, 3_000)
    ]
    await ledger.catch_up(store_url)
    now_ms = server_ms(store)
    away_ms = now_ms - 1_000_000  # as if the ledger had seen the store last then, and
    deadline_ms = {before: away_ms - 1, during: now_ms - 400_000}
    for id, each in deadline_ms.items():
        moved.add(id)
        await ledger.fetch(
            "UPDATE stockade.reservation SET record = regexp_replace(record, "
            r"'^(R \d+ \S+) \d+', '\1 ' || $2::text) WHERE id = $1", id, str(each),
        )  # fmt: skip
    await ledger.fetch("UPDATE stockade.mark SET time_ms = $1, seen_ms = $1", away_ms)
    kept_deadline = record(store, ahead).split(" ")[3]
    store.flushall()
    report = await ledger.rebuilding(store_url).run()
    assert report.moved == 1
    assert 1_000_000 <= report.outage_ms <= server_ms(store) - away_ms
    words = record(store, during).split(" ")
    assert int(words[3]) == deadline_ms[during] + report.outage_ms > server_ms(store)
    assert words[1] == "2"
    assert words[5] == "1"
    assert record(store, ahead).split(" ")[3] == kept_deadline
    assert record(store, before).split(" ")[3] == str(away_ms - 1)
    worker = await opened()
    await worker.lane.tidy()
    assert [record(store, id)[0] for id in (before, during, ahead)] == ["X", "R", "R"]
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url)  # the ledger has the moved deadline, word by word
    found = await ledger.fetch(
        "SELECT verb, version FROM stockade.reservation_version WHERE reservation = $1 "
        "ORDER BY version", during,
    )  # fmt: skip
    assert [(row["verb"], row["version"]) for row in found] == [("reserve", 1), ("extend", 2)]


async def test_deadlines_stay_if_that_is_wanted(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Then what passed meanwhile expires as usual."""
    worker = await opened()
    await furnish(worker, {"tee": 20})
    held = await worker.engine.reserve(demand(ttl_seconds=1))
    await ledger.catch_up(store_url)
    due = due_ms(store, held.id)
    store.flushall()
    await until(lambda: server_ms(store) > due, "it passed")
    report = await ledger.rebuilding(store_url, move_deadlines=False).run()
    assert (report.moved, report.outage_ms) == (0, 0)
    worker = await opened()
    await worker.lane.tidy()
    assert record(store, held.id)[0] == "X"


def says(worker: Service, words: str) -> bool:
    """Whether readiness says so of the store."""
    return words in worker.readiness()["store"]["state"]


# --- workers meanwhile ------------------------------------------------------------------------


async def test_two_workers_take_the_rebuilt_store_by_themselves(
    opened: Open, store: Store, store_url: str, ledger: Ledger
) -> None:
    """FLUSHALL under both: fenced, told why, and serving the same stock again afterwards."""
    first, second = await opened(), await opened()
    await furnish(first, {"tee": 10})
    held = await first.engine.reserve(demand(), key(1))
    with pytest.raises(Exception, match="enough"):
        await second.engine.reserve(demand(quantity=11))  # it has seen the row, too
    await ledger.catch_up(store_url)
    store.flushall()
    for worker in (first, second):
        with pytest.raises(StockUnavailable) as refused:
            await worker.engine.reserve(demand())
        assert refused.value.outcome == "none"
        await until(partial(says, worker, "is empty"), "it says why")
        assert not worker.readiness()["ready"]
    assert not store.exists(keys.META)
    await ledger.rebuilding(store_url).run()
    for worker in (first, second):
        await until(partial(says, worker, "ok"), "ready again")
        again = await worker.engine.reserve(demand(), key(1))
        assert (again.id, again.replayed) == (held.id, True)
        await worker.engine.reserve(demand())
    await first.engine.commit(held.id, Commit())
    assert (await accounts(second))[1:3] == (2, 1)
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url)


async def test_nothing_is_written_in_an_old_epoch_once_it_has_begun(
    opened: Open, store: Store, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that goes on in the middle of it is stopped by every script, and says how far it is.
    """
    worker = await opened()
    await furnish(worker, {"tee": 10})
    held = await worker.engine.reserve(demand())
    await ledger.catch_up(store_url)
    rebuild = ledger.rebuilding(store_url)
    put, said = rebuild._refill.put, []

    async def slowly(part: Any, progress: str) -> int:
        done = await put(part, progress)
        before = await read(store_url)
        with pytest.raises(StockUnavailable):
            await worker.engine.commit(held.id, Commit())
        with pytest.raises(StockUnavailable):
            await worker.engine.reserve(demand())
        assert await read(store_url) == before
        said.append(progress)
        await until(partial(says, worker, progress), progress)
        return done

    monkeypatch.setattr(rebuild._refill, "put", slowly)
    monkeypatch.setattr("core.service.SETTLE_SECONDS", 0.01)
    await rebuild.run()
    assert any("pools 1 of 1" in each for each in said)
    await until(lambda: worker.readiness()["ready"], "ready again")
    await worker.engine.commit(held.id, Commit())


# --- killed, and two at once ------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had ended here."""


STEPS = (
    ("_refill", "begin"), ("_refill", "put"), ("_refill", "empty"), ("_refill", "end"),
    ("_rebuilds", "fence"), ("_rebuilds", "ended"), ("_books", "write"),
)  # fmt: skip


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize(("part", "step"), STEPS)
async def test_one_that_was_killed_is_run_again(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int, part: str, step: str,
    when: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Anywhere, and twice: what comes of it is what comes of one that is left alone."""
    dice = random.Random(f"{seed} {part} {step} {when}")
    worker = await opened()
    await furnish(worker, {"tee": 10})
    await ledger.catch_up(store_url)
    await history(worker, store, seed)
    await receive(worker, {"cap": 9})
    brief = [demand("cap", ttl_seconds=1)] * 3  # at once: none is due before the others are held
    short = await worker.engine.reserve_batch(brief, [None] * 3)
    passed = {each.id for each in short if isinstance(each, Receipt)}
    assert len(passed) == 3
    await until(lambda: server_ms(store) > max(due_ms(store, id) for id in passed), "they passed")
    before = await read(store_url)
    store.delete(keys.POOLS)
    monkeypatch.setattr("core.rebuild.SILENCE_MS", 0)
    monkeypatch.setattr("core.rebuild.VALUES_MAX", 20)
    monkeypatch.setattr("core.rebuild.ENTRIES_MAX", 16)
    report = None
    for _ in range(2):
        rebuild = ledger.rebuilding(store_url)
        calls = dice.randrange(30) if step == "put" else 0
        whole = getattr(getattr(rebuild, part), step)

        async def deadly(*args: Any, whole: Any = whole) -> Any:
            nonlocal calls
            calls -= 1
            if calls >= 0:
                return await whole(*args)
            if when == "behind":
                await whole(*args)
            raise Killed

        monkeypatch.setattr(getattr(rebuild, part), step, deadly)
        with contextlib.suppress(Killed):
            report = await rebuild.run()
            break
    report = report or await ledger.rebuilding(store_url).run()
    after = await read(store_url)
    same(before, after, but=passed)
    assert report.loss.whole
    # A deadline is moved once by one outage; one that was given back is another one's store.
    if step != "ended" and (step, when) != ("end", "behind"):
        assert [alive(after)[id][1] for id in passed] == ["2"] * len(passed)
        assert (report.moved, report.loss.seq) == (len(passed), int(before.hash("meta")["seq"]))
    await audit(store_url, moved)
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_two_at_once_do_it_once(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """One has the shard, the other waits for it and tells what came of it."""
    worker = await opened()
    await history(worker, store, seed)
    await ledger.catch_up(store_url)
    before = await read(store_url)
    store.flushall()
    one, other = await asyncio.gather(*(ledger.rebuilding(store_url).run() for _ in range(2)))
    assert {one.by_another, other.by_another} == {False, True}
    assert (one.epoch, one.counts, one.loss) == (other.epoch, other.counts, other.loss)
    same(before, await read(store_url))
    assert len(await ledger.fetch("SELECT * FROM stockade.rebuild")) == 1


async def test_one_that_was_given_up_writes_nothing_any_more(
    opened: Open, store: Store, store_url: str, ledger: Ledger, seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It stood still for too long; another one took the shard over, and it is told so."""
    worker = await opened()
    await history(worker, store, seed)
    await ledger.catch_up(store_url)
    before = await read(store_url)
    store.flushall()
    monkeypatch.setattr("core.rebuild.VALUES_MAX", 20)
    stuck = ledger.rebuilding(store_url)
    put, waits, goes_on = stuck._refill.put, asyncio.Event(), asyncio.Event()

    async def stands_still(part: Any, progress: str) -> int:
        if progress.startswith("reservations"):
            waits.set()
            await goes_on.wait()
        return await put(part, progress)

    monkeypatch.setattr(stuck._refill, "put", stands_still)
    running = asyncio.create_task(stuck.run())
    await waits.wait()
    monkeypatch.setattr("core.rebuild.SILENCE_MS", 0)
    report = await ledger.rebuilding(store_url).run()
    after = await read(store_url)
    goes_on.set()
    with pytest.raises(Exception, match="another rebuild has taken the store over"):
        await running
    assert await read(store_url) == after
    same(before, after)
    assert report.loss.seq > 0
