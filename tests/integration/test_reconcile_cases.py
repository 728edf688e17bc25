"""Whatever is wrong is found, named, kept as one case, mended if it may be, and then gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from core.auditing.counts import Counts
from core.chronicle import Accounts
from core.feed import WHOLE, Wanted
from core.model import Release
from core.stock_model import Count, CountLine
from core.store import keys, scripts
from core.store.scripts import Script
from core.store.shard import Shard
from tests.ledgered import Ledger, audit_ledger
from tests.reconciled import TEE, Reconciler, Shop, edit_record, edit_row
from tests.workers import Store, Workers, demand, key, picture, receive, record, row, until

GHOST = "0193f0a0-0000-7000-8000-000000000000"


@pytest.fixture
async def shop(
    workers: Workers, store: Store, store_url: str, ledger: Ledger
) -> AsyncIterator[Shop]:
    worker = await workers(store_url, reaper=False, staleness_ms=0, postgres_dsn=ledger.dsn)
    reconciler = Reconciler(store_url, ledger)
    opened = Shop(worker, store, reconciler)
    await opened.open()
    workers.forget(store_url)  # it is broken by hand; each test audits it when it is mended
    yield opened
    await reconciler.close()


Plant = Callable[[Shop], Any]


def older(shop: Shop, id: str) -> None:
    shop.store.hset(keys.bucket_of(id), id, shop.old_records[id])


def planted(kind: str, cause: str, subject: str, units: int, plant: Plant) -> Any:
    return pytest.param(kind, cause, subject, units, plant, id=f"{cause}-{subject}-{units}")


MENDED = [
    planted("row", "store_edited", TEE, 3, lambda shop: edit_row(shop.store, TEE, shared=3)),
    planted(
        "row", "store_edited", TEE, 2,
        lambda shop: edit_row(shop.store, TEE, shared=-2, **{"free:web": 2}),
    ),
    planted("row", "store_edited", TEE, 1, lambda shop: edit_row(shop.store, TEE, 7, safety=1)),
    planted("row", "store_edited", TEE, 60, lambda shop: shop.store.hset(keys.POOLS, TEE, "?")),
    planted("row", "store_row_lost", TEE, 60, lambda shop: shop.store.hdel(keys.POOLS, TEE)),
    planted(
        "row", "store_behind", TEE, 2, lambda shop: shop.store.hset(keys.POOLS, TEE, shop.old_row)
    ),
    planted(
        "record", "record_lost", "held", 3,
        lambda shop: shop.store.hdel(keys.bucket_of(shop.held), shop.held),
    ),
    planted(
        "record", "record_lost", "sold", 2,
        lambda shop: shop.store.hdel(keys.bucket_of(shop.sold), shop.sold),
    ),
    planted(
        "record", "record_edited", "sold", 0,
        lambda shop: edit_record(shop.store, shop.sold, 8, "%3Cb%3E"),
    ),
    planted(
        "record", "record_edited", "held", 1,
        lambda shop: edit_record(shop.store, shop.held, 9, "tee@main@2,2"),
    ),
    planted("record", "record_behind", "held", 0, lambda shop: older(shop, shop.held)),
    planted("record", "record_ended", "gone", 2, lambda shop: older(shop, shop.gone)),
    planted(
        "record", "record_unknown", GHOST, 1,
        lambda shop: shop.store.hset(
            keys.bucket_of(GHOST), GHOST, f"R 1 - {2**41} - - web - - tee@main@1,0"
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "cause", "subject", "units", "plant"), MENDED)
async def test_what_is_derived_is_mended(
    shop: Shop, kind: str, cause: str, subject: str, units: int, plant: Plant
) -> None:
    """Found as one case however often it looks; a dry run changes nothing; then all is well."""
    reconciler = shop.reconciler
    assert (await reconciler.run())[1] == []
    plant(shop)
    done, (case,) = await reconciler.run()
    subject = getattr(shop, subject, subject)
    assert (case.kind, case.cause, case.subject, case.units) == (kind, cause, subject, units)
    assert (case.state, done.differences) == ("open", 1)
    assert len(case.movements) <= 5
    assert case.movements or subject == GHOST
    _, (again,) = await reconciler.run(whole=True)
    assert (again.id, again.opened_at) == (case.id, case.opened_at)

    before = picture(shop.store)
    (planned,) = await reconciler.repair(shop.worker, [again], apply=False)
    assert planned.state == "planned", planned.text
    assert picture(shop.store) == before
    (repaired,) = await reconciler.repair(shop.worker, [again])
    assert (repaired.state, repaired.text) == ("done", planned.text)
    await shop.audit()
    done, cases = await reconciler.run()
    assert (cases, done.units_off, done.status) == ([], 0, "normal")
    (kept,) = await reconciler.ledger.fetch("SELECT * FROM stockade.reconciliation_case")
    assert (kept["state"], kept["person"], kept["note"]) == ("repaired", "ann", planned.text)
    # It goes on as if nothing had been.
    await shop.worker.engine.release(shop.held, Release())
    await shop.audit()


async def test_a_repair_is_told_by_movements(shop: Shop) -> None:
    """There and back again, with the case as their reason; never an account that is not what moved
    until then."""
    before = await shop.reconciler.files.mark()
    assert before is not None
    edit_row(shop.store, TEE, shared=-2, safety=1)
    _, (case,) = await shop.reconciler.run()
    await shop.reconciler.repair(shop.worker, [case])
    await shop.audit()
    moves = await shop.reconciler.ledger.fetch(
        "SELECT verb, source, target, quantity, reason FROM stockade.movement "
        "WHERE verb IN ('drift', 'repair') ORDER BY position"
    )
    reason = f"reconciliation case {case.id}"
    assert [tuple(move) for move in moves] == [
        ("drift", "shared", "safety", 1, reason), ("drift", "shared", "outside", 1, reason),
        ("repair", "safety", "shared", 1, reason), ("repair", "outside", "shared", 1, reason),
    ]  # fmt: skip
    (balance,) = await shop.reconciler.ledger.fetch(
        "SELECT row FROM stockade.pool WHERE sku = 'tee'"
    )
    assert balance["row"] == row(shop.store, TEE)
    # Listeners hear of the movements; nobody could buy less or more of it, by the ledger.
    async with shop.worker.feed.subscribe(Wanted(), (before.position, WHOLE)) as subscriber:
        told = await subscriber.next(20)
    assert [each.type for each in told] == ["stock.adjusted"] * len(moves)


async def test_a_repair_that_passes_versions_sells_nothing_out(shop: Shop) -> None:
    """The store's row was ahead: the one before the repair's is the ledger's, not the next lower.
    """
    before = await shop.reconciler.files.mark()
    assert before is not None
    edit_row(shop.store, TEE, 7, shared=-1)
    _, (case,) = await shop.reconciler.run()
    await shop.reconciler.repair(shop.worker, [case])
    await shop.audit()
    async with shop.worker.feed.subscribe(Wanted(), (before.position, WHOLE)) as subscriber:
        told = await subscriber.next(20)
    assert [each.type for each in told] == ["stock.adjusted"] * 2


async def test_a_repair_meets_what_changed_since(shop: Shop) -> None:
    """What is as it should be by now is left alone, and so is what changes meanwhile."""
    edit_row(shop.store, TEE, shared=3)
    _, (case,) = await shop.reconciler.run()
    edit_row(shop.store, TEE, shared=-3)
    (left,) = await shop.reconciler.repair(shop.worker, [case])
    assert (left.state, left.text) == ("left", "it is as it should be by now")
    assert (await shop.reconciler.run())[1] == []
    (kept,) = await shop.reconciler.ledger.fetch("SELECT * FROM stockade.reconciliation_case")
    assert kept["state"] == "vanished"


async def test_what_nobody_wrote_is_for_a_person(shop: Shop) -> None:
    shop.store.hset(keys.POOLS, "ghost@main", "1 0 0 5,0,0,0,0,0")
    shop.store.hset(keys.POOLS, "no pool", "x")
    _, cases = await shop.reconciler.run()
    assert {(case.cause, case.subject, case.units) for case in cases} == {
        ("store_row_unknown", "ghost@main", 5), ("store_row_unknown", "no pool", 0),
    }  # fmt: skip
    for repair in await shop.reconciler.repair(shop.worker, cases):
        assert (repair.state, repair.text.partition(":")[0]) == (
            "left", "no event tells of this pool",
        )  # fmt: skip


async def test_a_ledger_that_is_behind_is_a_case_until_it_is_not(shop: Shop) -> None:
    late = (await shop.worker.engine.reserve(demand("tee", 1), key("late"))).id
    _, cases = await shop.reconciler.run(patience_seconds=0.1)
    assert {(case.kind, case.cause, case.subject, case.units) for case in cases} == {
        ("lag", "ledger_lags", TEE, 0), ("lag", "ledger_lags", late, 0),
    }  # fmt: skip
    assert [x.state for x in await shop.reconciler.repair(shop.worker, cases)] == ["left", "left"]
    await shop.catch_up()
    assert (await shop.reconciler.run())[1] == []


DRIFTS = [
    ({"shared": 3}, 0, -3),
    ({"shared": -2}, 0, 2),
    ({"shared": -2, "free:web": 2}, 0, 0),
    ({}, 7, 0),
    ({"shared": -1, "damaged": 3}, 1, -2),
]


@pytest.mark.parametrize(("units", "version", "delta"), DRIFTS)
async def test_a_scribe_that_stands_at_a_change_goes_on(
    shop: Shop, units: dict[str, int], version: int, delta: int
) -> None:
    """A row that was edited and then sold from is an event that the scribe does not believe. It
    says so; somebody accepts it; the ledger tells of it, and what lies there is as it was."""
    reconciler, store = shop.reconciler, shop.store
    scribe = asyncio.create_task(reconciler.ledger.scribe(reconciler.url).run())
    edit_row(store, TEE, version, **units)
    behind = (await shop.worker.engine.reserve(demand("tee", 1), key("behind"))).id
    await receive(shop.worker, {"cap": 1})
    await until(lambda: store.hget(keys.META, "ledger"), "the scribe stands")
    _, cases = await reconciler.run(patience_seconds=0.1)
    assert {(case.kind, case.subject) for case in cases} == {
        ("lag", TEE), ("lag", "cap@main"), ("lag", behind),
    }  # fmt: skip
    (case,) = (each for each in cases if each.subject == TEE)
    assert f"; the scribe waits: event {case_event(store)}: {TEE} " in case.found

    for each in cases:
        (planned,) = await reconciler.repair(shop.worker, [each], apply=False)
        assert planned.state == ("planned" if each is case else "left"), planned.text
        if each.subject == "cap@main":
            assert planned.text == f"the scribe stands at a change of {TEE}: repair that first"
    before = Accounts(row(store, TEE)).on_hand
    (repaired,) = await reconciler.repair(shop.worker, [case])
    assert repaired.state == "done", repaired.text
    await audit_ledger(reconciler.ledger.dsn, reconciler.url)
    await until(lambda: not store.hget(keys.META, "ledger"), "the scribe goes on")
    assert (await reconciler.run(whole=True))[1] == []
    assert Accounts(row(store, TEE)).on_hand == before + delta == 60
    drifts = await reconciler.ledger.fetch(
        "SELECT source, target, quantity, reason FROM stockade.movement WHERE verb = 'drift'"
    )
    made: Counter[str] = Counter()
    for source, target, quantity, reason in drifts:
        made[source] -= quantity
        made[target] += quantity
        assert reason == f"reconciliation case {case.id}"
    assert {name: number for name, number in made.items() if name != "outside" and number} == units
    scribe.cancel()


def case_event(store: Store) -> str:
    """The event that follows the mark, which the scribe cannot write."""
    epoch, mark = store.hmget(keys.META, "epoch", "mark")
    return f"{epoch.decode()}-{int(mark) + 1}"


async def test_a_change_that_breaks_a_law_is_not_accepted(shop: Shop) -> None:
    """A version that the ledger had already: nothing but a rebuild helps."""
    shop.store.hset(keys.POOLS, TEE, shop.old_row)
    await receive(shop.worker, {"tee": 1})
    _, cases = await shop.reconciler.run(patience_seconds=0.1)
    repairs = await shop.reconciler.repair(shop.worker, cases)
    assert {repair.state for repair in repairs} == {"left"}


async def test_a_movement_that_is_missing(shop: Shop) -> None:
    """Found by every look, as long as the pool was not verified behind it; by a whole one ever."""
    ledger, reconciler = shop.reconciler.ledger, shop.reconciler
    assert (await reconciler.run())[1] == []
    await ledger.fetch("DELETE FROM stockade.movement WHERE sku = 'mug' AND quantity = 3")
    assert (await reconciler.run())[1] == []
    _, (case,) = await reconciler.run(whole=True)
    assert (case.kind, case.cause, case.subject) == ("fold", "ledger_gap", "mug@main")
    assert (case.units, case.found) == (3, "free:store 3")
    (left,) = await reconciler.repair(shop.worker, [case])
    assert left.state == "left"
    await receive(shop.worker, {"cap": 4})
    await shop.catch_up()
    await ledger.fetch(
        "DELETE FROM stockade.movement WHERE position = "
        "(SELECT max(position) FROM stockade.movement WHERE sku = 'cap')"
    )
    _, cases = await reconciler.run()
    assert {each.subject for each in cases} == {"cap@main"}


HOLDS = [("hold_stranded", 3, "X", "shared"), ("hold_uncovered", 1, "R", "free:web")]


@pytest.mark.parametrize(("cause", "units", "state", "account"), HOLDS)
async def test_a_promise_that_nobody_holds(
    shop: Shop, cause: str, units: int, state: str, account: str
) -> None:
    """Store and ledger agree, and both are wrong: a script forgot the pool, say."""
    words = record(shop.store, shop.held).split(" ")
    words[0] = state
    if state == "R":
        words[9] = "tee@main@3,1"
    text = " ".join(words)
    shop.store.hset(keys.bucket_of(shop.held), shop.held, text)
    ledger = shop.reconciler.ledger
    for query in (
        'UPDATE stockade.reservation SET record = $1, state = $2::text::"char" WHERE id = $3',
        "UPDATE stockade.reservation_version SET record = $1 WHERE $2::text <> '' "
        "AND reservation = $3 AND version = 2",
    ):
        await ledger.fetch(query, text, state, shop.held)
    _, (case,) = await shop.reconciler.run()
    assert (case.kind, case.cause, case.units) == ("held", cause, units)
    before = await accounts(shop)
    (repaired,) = await shop.reconciler.repair(shop.worker, [case])
    assert repaired.state == "done", repaired.text
    await shop.catch_up()
    assert (await shop.reconciler.run(whole=True))[1] == []
    after = await accounts(shop)
    sign = 1 if state == "X" else -1
    assert after[account] - before[account] == sign * units
    assert before["reserved:web"] - after["reserved:web"] == sign * units


async def accounts(shop: Shop) -> dict[str, int]:
    return Accounts(row(shop.store, TEE)).units


async def test_counts(shop: Shop, tmp_path: Path) -> None:
    """What is counted is compared with what is booked; only if asked for it is booked."""
    file = tmp_path / "counts.csv"
    file.write_text("location,sku,counted\nmain,tee,57\nmain,cap,31\nmain,mug,5\nback,mug,2\n")
    done, cases = await shop.reconciler.run(counts=Counts(file))
    found = {case.subject: (case.cause, case.expected, case.found, case.units) for case in cases}
    assert found == {
        TEE: ("shrinkage", "60", "57", 3), "cap@main": ("surplus", "30", "31", 1),
        "mug@back": ("surplus", "0", "2", 2),
    }  # fmt: skip
    assert (done.counts, done.counted_on_hand, done.counted_off) == (4, 95, 6)
    assert (done.status, round(done.variance_rate, 4)) == ("watch", 0.0632)
    assert {x.state for x in await shop.reconciler.repair(shop.worker, cases)} == {"left"}
    # A look without counts knows nothing of them: the cases stay as they are.
    assert (await shop.reconciler.run())[1] == []
    assert len(await shop.reconciler.files.unclosed(0, 100)) == 3
    results = await shop.reconciler.repair(shop.worker, cases, apply_counts=True)
    assert [result.state for result in results] == ["done", "done", "left"]  # mug is not at back
    await shop.audit()
    done, cases = await shop.reconciler.run(counts=Counts(file))
    assert [case.subject for case in cases] == ["mug@back"]
    file.write_text('sku,location,counted\n"mug",back,0\n')
    assert (await shop.reconciler.run(counts=Counts(file)))[1] == []
    assert await shop.reconciler.files.unclosed(0, 100) == []


async def test_a_case_is_explained_and_stays(shop: Shop) -> None:
    """Until the difference is gone it is the same case, however much it grows."""
    files = shop.reconciler.files
    edit_row(shop.store, TEE, shared=3)
    _, (case,) = await shop.reconciler.run(sku="tee")
    assert await files.explain(case.id, "we know", "ann")
    edit_row(shop.store, TEE, shared=2)
    _, cases = await shop.reconciler.run(sku="cap")
    assert cases == []
    _, (again,) = await shop.reconciler.run()
    assert (again.id, again.state, again.note, again.units) == (case.id, "explained", "we know", 5)
    edit_row(shop.store, TEE, shared=-5)
    assert (await shop.reconciler.run())[1] == []
    assert not await files.explain(case.id, "too late", "ann")


async def test_oversold(shop: Shop) -> None:
    """Orders that wait for units that are not there."""
    await shop.worker.stock.count(*lost("tee", 4))
    await shop.catch_up()
    done, cases = await shop.reconciler.run()
    assert (cases, done.oversold_units, done.oversold_orders) == ([], 1, 1)
    assert done.status == "watch"
    assert "1 units are promised" in done.reasons[0]


def lost(sku: str, counted: int) -> tuple[Any, Any]:
    return Count([CountLine(sku, "main", counted)]), [None]


async def test_scripts_that_mend_stop_at_their_guards(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another epoch, other key windows, a wrong type, another text than was found: nothing is
    written, and what is left alone says why."""
    sent: list[tuple[Script, list[Any], list[Any]]] = []
    run = Shard.run

    async def noted(shard: Shard, script: Script, names: Any, args: Any) -> Any:
        if script in (scripts.REPAIR, scripts.RESTATE):
            sent.append((script, list(names), list(args)))
            return [b"conflict"]
        return await run(shard, script, names, args)

    edit_row(shop.store, TEE, shared=3)
    edit_record(shop.store, shop.held, 8, "x")
    edit_record(shop.store, shop.sold, 8, "y")
    _, cases = await shop.reconciler.run()
    with monkeypatch.context() as patch:
        patch.setattr(Shard, "run", noted)
        for repair in await shop.reconciler.repair(shop.worker, cases):
            assert (repair.state, repair.text) == ("left", "it is changing right now; try again")
    assert len(sent) == 3
    for script, names, args in sent:
        shop.store.script_load(script.text)

        def reply(places: dict[int, Any], script: Any = script, names: Any = names,
                  args: Any = args) -> Any:  # fmt: skip
            changed = [places.get(place, each) for place, each in enumerate(args)]
            before = picture(shop.store)
            answer = shop.store.evalsha(script.sha.decode(), len(names), *names, *changed)
            assert picture(shop.store) == before
            return answer[0]

        assert reply({0: "1"}) == b"epoch"
        assert reply({3: "3600000"}) == b"clock"
        assert reply({11: "something else"}) == b"conflict"
        for name in dict.fromkeys(names):
            there = shop.store.exists(name) and shop.store.rename(name, "aside")
            shop.store.set(name, "planted")
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                reply({})
            shop.store.delete(name)
            if there:
                shop.store.rename("aside", name)
    scribe = asyncio.create_task(shop.reconciler.ledger.scribe(shop.reconciler.url).run())
    repairs = await shop.reconciler.repair(shop.worker, cases)
    scribe.cancel()
    assert [(each.state, each.text) for each in repairs if each.state != "done"] == []
    await shop.audit()
