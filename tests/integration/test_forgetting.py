"""Whose reservations were that ended long ago is forgotten; amounts stay, and all else as well."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from core import forgetting
from core.forgetting import Forgetting
from core.happenings import Places, happenings
from core.ledger.reading import Reading
from core.model import Cancel, Commit, Fulfil, PartLine, Release, Return, ReturnLine
from core.record_model import LAST_ID, MovementFilter, ReservationFilter
from core.service import Service
from core.stock_model import Adjust, AdjustLine
from tests.ledgered import Ledger, audit_ledger
from tests.reconciled import Reconciler, crowd, open_shop
from tests.workers import Store, Workers, demand, furnish, key, leave_store, moved, record, until

DAYS = 30
ALIVE = {"held", "paid", "half"}
ENDED = {"shipped", "given-up", "called-off", "sold"}


@pytest.fixture
async def shop(workers: Workers, store_url: str, ledger: Ledger) -> Service:
    """A worker with stock to sell, that reads the ledger."""
    worker = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    await furnish(worker, {"tee": 100})
    return worker


async def sell(worker: Service) -> dict[str, str]:
    """A reservation in each state, named by its customer and its reference; their ids."""
    engine, ids = worker.engine, {}
    for name in sorted(ALIVE | ENDED):
        wanted = demand(
            quantity=2, customer=f"customer {name}", reference=f"order {name}",
            state="fulfilled" if name == "sold" else "reserved",
        )  # fmt: skip
        ids[name] = (await engine.reserve(wanted, key(name))).id
    for name in ("paid", "half", "shipped", "called-off"):
        await engine.commit(ids[name], Commit())
    await engine.release(ids["given-up"], Release())
    await engine.cancel(ids["called-off"], Cancel(reason="customer called"), key("k"))
    for name in ("half", "shipped"):
        lines = [PartLine("tee", 1)]
        await engine.fulfil(ids[name], Fulfil(lines, reference=f"parcel {name}"), key(name + "1"))
    await engine.fulfil(ids["shipped"], Fulfil(), key("shipped2"))
    broken = Adjust([AdjustLine("tee", "main", -1)], reference="customer-area", reason="broken")
    await worker.stock.adjust(broken, [key("adjust")])
    return ids


async def age(ledger: Ledger, days: int = DAYS + 1) -> None:
    """Makes all that happened so much older."""
    for month in {datetime.now(UTC) - timedelta(days=n) for n in range(0, 2 * days + 28, 20)}:
        await ledger.fetch("SELECT stockade.open_month($1)", month.date())
    for table in ("reservation_version", "movement"):
        await ledger.fetch(f"UPDATE stockade.{table} SET time = time - $1 * interval '1 day'", days)


async def leave(worker: Service, store: Store, ids: dict[str, str]) -> None:
    """What ended leaves the store, as it does two hours later."""
    await leave_store(worker, store, [ids[name] for name in sorted(ENDED)])


async def kept(ledger: Ledger, word: str) -> dict[str, int]:
    """Tables that have a word anywhere in a row, and in how many rows."""
    names = await ledger.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'stockade'")
    rows = " UNION ALL ".join(
        f"SELECT '{name}' AS name, t::text AS row FROM stockade.{name} t" for (name,) in names
    )
    found = await ledger.fetch(
        f"SELECT name, count(*) FROM ({rows}) r WHERE strpos(row, $1) > 0 GROUP BY name", word
    )
    return {row["name"]: row["count"] for row in found}


async def amounts(ledger: Ledger) -> list[tuple[Any, ...]]:
    """What moved, whosever it was, and every row of every pool."""
    rows = await ledger.fetch(
        "SELECT position, verb, sku, location, source, target, quantity, version, channel, "
        "reservation FROM stockade.movement ORDER BY position"
    )
    rows += await ledger.fetch("SELECT position, row FROM stockade.balance ORDER BY position")
    rows += await ledger.fetch("SELECT id, state, version FROM stockade.reservation ORDER BY id")
    return [tuple(row) for row in rows]


async def test_what_ended_is_forgotten_and_what_lives_is_not(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    ids = await sell(shop)
    await ledger.catch_up(store_url)
    forgetter = Forgetting(ledger.journal, DAYS)
    assert await forgetter.turn() == (0, 0)  # nothing is old enough
    await age(ledger)
    before = await amounts(ledger)
    assert await forgetter.all() == len(ENDED)
    for name in ENDED:
        for word in (f"customer {name}", f"order {name}", f"parcel {name}"):
            assert await kept(ledger, word) == {}, word
            assert await kept(ledger, word.replace(" ", "%20")) == {}, word
    assert await kept(ledger, "customer called") == {}
    for name in ALIVE:
        assert {"reservation", "movement"} <= (await kept(ledger, f"order {name}")).keys()
        assert (await kept(ledger, f"customer {name}"))["reservation"] == 1
    assert (await kept(ledger, "customer-area"))["movement"] == 1  # of stock, not of a customer
    assert (await kept(ledger, "broken"))["movement"] == 1
    assert await amounts(ledger) == before
    assert await forgetter.all() == 0
    await leave(shop, store, ids)
    await audit_ledger(ledger.dsn, store_url, moved)
    await shop.engine.commit(ids["held"], Commit())
    await shop.engine.fulfil(ids["half"], Fulfil(), key("half2"))
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)
    assert await forgetter.all() == 0
    await age(ledger)
    assert await forgetter.all() == 1
    assert await kept(ledger, "customer half") == {}


async def test_who_looks_at_what_was_forgotten_sees_amounts(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Lists, events from long ago, the record, and reconciling."""
    ids = await sell(shop)
    mark = await ledger.catch_up(store_url)
    await age(ledger)
    await Forgetting(ledger.journal, DAYS).all()
    await leave(shop, store, ids)
    reading = Reading(ledger.journal)
    found = await reading.reservations(ReservationFilter(), LAST_ID, 100, 0, False)
    assert len(found.rows) == len(ids)
    sold = ReservationFilter(reference="order shipped")
    assert not (await reading.reservations(sold, LAST_ID, 100, 0, False)).rows
    mine = await reading.movements(MovementFilter(reservation=ids["shipped"]), 0, 100)
    assert sum(row["quantity"] for row in mine.rows if row["verb"] == "fulfil") == 2
    shown = (await shop.engine.reservation(ids["shipped"])).reservation()
    assert (shown.state, shown.customer, shown.reference) == ("fulfilled", None, None)
    told = happenings(
        await reading.happened(0, mark.position), {}, Places(await reading.policy()), "ledger"
    )
    of_people = [each for each in told if each.type.startswith("reservation.")]
    words = b"\n".join(each.encode(people=True) for each in of_people)
    assert b"order held" in words
    assert b"order shipped" not in words
    reconciler = Reconciler(store_url, ledger)
    done, cases = await reconciler.run(whole=True)
    await reconciler.close()
    assert (done.differences, cases) == (0, [])


async def test_one_that_comes_back_is_forgotten_again(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    ids = await sell(shop)
    await ledger.catch_up(store_url)
    await age(ledger)
    forgetter = Forgetting(ledger.journal, DAYS)
    await forgetter.all()
    await leave(shop, store, ids)
    back = Return([ReturnLine("tee", 1, disposition="restock")], reference="sent back by ann")
    receipt = await shop.engine.return_(ids["shipped"], back, key("back"))
    assert receipt.reservation().customer is None
    await ledger.catch_up(store_url)
    assert await forgetter.all() == 0
    assert (await kept(ledger, "sent back by ann"))["movement"] == 1
    await audit_ledger(ledger.dsn, store_url, moved)
    await age(ledger)
    await forgetter.all()
    assert await kept(ledger, "sent back by ann") == {}


async def test_the_service_may_forget_and_nothing_else(ledger: Ledger) -> None:
    """Not sooner than after a day, and not by itself."""
    service = await asyncpg.connect(ledger.dsn)
    try:
        for days, count in ((0, 10), (-5, 10), (None, 10), (30, 0), (30, None)):
            with pytest.raises(asyncpg.RaiseError, match="at least a day"):
                await service.fetch("SELECT stockade.forget($1, $2)", days, count)
        for change in (
            "UPDATE stockade.movement SET reference = NULL",
            "UPDATE stockade.reservation_version SET record = ''",
            "UPDATE stockade.forgotten SET position = 0",
            "DELETE FROM stockade.forgotten",
            "UPDATE stockade.rebuild SET named = '{}'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(change)
        assert await service.fetchval("SELECT looked FROM stockade.forget(1, 1)") == 0
    finally:
        await service.close()


@pytest.fixture
def small_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "TURN_VERSIONS", 3)


@pytest.mark.usefixtures("small_turns")
async def test_cut_off_anywhere_it_goes_on(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    await sell(shop)
    await ledger.catch_up(store_url)
    await age(ledger)
    service = await asyncpg.connect(ledger.dsn)
    forgot = 0
    for _ in range(4):
        with suppress(asyncpg.DivisionByZeroError):  # a turn that dies before its COMMIT
            async with service.transaction():
                await service.fetch("SELECT stockade.forget($1, 3)", DAYS)
                await service.fetch("SELECT 1 / 0")
        forgot += (await Forgetting(ledger.journal, DAYS).turn())[1]
    await service.close()
    assert forgot < len(ENDED)
    assert forgot + await Forgetting(ledger.journal, DAYS).all() == len(ENDED)
    for name in ENDED:
        assert await kept(ledger, f"order {name}") == {}


@pytest.mark.usefixtures("small_turns")
async def test_many_forget_beside_the_scribe(
    workers: Workers, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """Each reservation is forgotten by one of them, and the ledger is whole."""
    worker = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    await open_shop(worker)
    await crowd(worker, seed)
    await ledger.catch_up(store_url)
    await age(ledger)
    ended = "SELECT id FROM stockade.reservation WHERE state NOT IN ('R', 'C')"
    old = len(await ledger.fetch(f"{ended} AND reference IS NOT NULL"))
    assert old
    scribe = asyncio.create_task(ledger.scribe(store_url).run())
    selling = asyncio.create_task(crowd(worker, seed + 1))
    many = [Forgetting(ledger.journal, DAYS) for _ in range(3)]
    counts = await asyncio.gather(*(each.all() for each in many))
    await selling
    scribe.cancel()
    with suppress(asyncio.CancelledError):
        await scribe
    await ledger.catch_up(store_url)
    assert sum(counts) == old
    await leave_store(worker, store, [str(row["id"]) for row in await ledger.fetch(ended)])
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_a_store_made_again_has_the_living(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    ids = await sell(shop)
    await ledger.catch_up(store_url)
    await age(ledger)
    await Forgetting(ledger.journal, DAYS).all()
    store.flushall()
    await ledger.rebuilding(store_url).run()
    for name in ALIVE:
        assert f" customer%20{name} order%20{name} " in record(store, ids[name])
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_look_after_look(
    shop: Service, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """A ledger that is away is told of, and asked again."""
    monkeypatch.setattr(forgetting, "LOOK_SECONDS", 0.01)
    caplog.set_level("INFO")
    await ledger.fetch("ALTER TABLE stockade.forgotten RENAME TO away")
    running = asyncio.create_task(Forgetting(ledger.journal, DAYS).run())
    await until(lambda: "is not forgotten yet" in caplog.text, "it is told")
    await ledger.fetch("ALTER TABLE stockade.away RENAME TO forgotten")
    await sell(shop)
    await ledger.catch_up(store_url)
    await age(ledger)
    await until(lambda: f"forgot whose {len(ENDED)} reservations" in caplog.text, "it goes on")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
