"""The scribe: every event once, in order, whatever breaks; and it stops for what it cannot believe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest
from msgspec import structs

from core.chronicle import Chronicle
from core.errors import LedgerBroken, LedgerUnavailable
from core.ledger.books import Books, Page
from core.ledger.journal import Mark
from core.scribe import GATHER_AT
from core.service import Service
from core.store import keys
from core.store.events import Entry
from tests.history import CALLERS, VERBS, history
from tests.ledgered import Ledger, audit_ledger
from tests.workers import PATIENCE_SECONDS, Store, Workers, demand, furnish, key, moved, until


async def test_the_ledger_is_what_the_store_is(
    worker: Service, workers: Workers, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """All verbs, several callers: pool by pool, reservation by reservation, field by field."""
    await history(worker, store, seed)
    mark = await ledger.catch_up(store_url)
    looked = await audit_ledger(ledger.dsn, store_url, moved)
    assert looked["movement"] > CALLERS * VERBS / 4
    assert store.hget(keys.META, "mark") == str(mark.seq).encode()
    # The stream is trimmed up to the mark, node by node, and never beyond.
    assert store.xrange(keys.EVENTS, f"{mark.epoch}-{mark.seq + 1}") == []


async def test_small_batches_and_one_large_one_make_the_same_ledger(
    worker: Service, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    """Turn by turn while callers go on; what a page holds does not depend on where it was cut."""
    scribe = ledger.scribe(store_url)
    scribe._count = 1
    writing = asyncio.create_task(scribe.run())
    await history(worker, store, seed)
    await audit_ledger(ledger.dsn, store_url, moved)
    writing.cancel()


async def test_where_many_come_the_next_transaction_waits_for_more(
    worker: Service, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a few nobody waits, nor while more is left than one transaction takes."""
    await furnish(worker, {"tee": 100})
    scribe, clock = ledger.scribe(store_url), asyncio.get_running_loop().time
    while await scribe.turn(wait=False):
        pass

    async def reserve(times: int) -> None:
        for _ in range(times):
            await worker.engine.reserve(demand())

    async def turn() -> tuple[int, float]:
        before = clock()
        return await scribe.turn(), clock() - before

    monkeypatch.setattr("core.scribe.GATHER_SECONDS", 60.0)  # who waited would not be done
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reserve(GATHER_AT - 1)
        scribe._count = 10 * GATHER_AT  # on a slow machine it has learned to take less at a time
        assert (await turn())[0] == GATHER_AT - 1
        await reserve(2 * GATHER_AT)
        scribe._count = GATHER_AT
        assert (await turn())[0] == GATHER_AT
        scribe._count = 10 * GATHER_AT
        assert (await turn())[0] == GATHER_AT
    monkeypatch.setattr("core.scribe.GATHER_SECONDS", 0.3)
    began = scribe._began_at
    await reserve(1)
    assert (await turn())[0] == 1
    assert scribe._began_at - began >= 0.3


async def test_two_scribes_write_each_event_once(
    worker: Service, store: Store, store_url: str, ledger: Ledger, seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One of them finds the mark moved, writes nothing and stands by."""
    monkeypatch.setattr("core.scribe.STANDBY_SECONDS", 0.0)
    await history(worker, store, seed)
    scribes = [ledger.scribe(store_url) for _ in range(2)]
    for scribe in scribes:
        scribe._count = 3
    turns = [0, 0]

    async def work(number: int) -> None:
        while await scribes[number].turn(wait=False):
            turns[number] += 1

    await asyncio.gather(work(0), work(1))
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url, moved)
    assert all(turns), turns


async def test_rows_that_another_scribe_moved_on_stop_nobody(
    worker: Service, store: Store, store_url: str, ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They are read after the mark, and may be newer than what comes next behind it."""
    monkeypatch.setattr("core.scribe.STANDBY_SECONDS", 0.0)
    await furnish(worker, {"tee": 10})
    await ledger.catch_up(store_url)
    first, second = ledger.scribe(store_url), ledger.scribe(store_url)
    assert not await first.turn(wait=False)
    await worker.engine.reserve(demand(), key(1))
    await worker.engine.reserve(demand(), key(2))
    rows = ledger.journal.rows

    async def late(pools: Sequence[str]) -> dict[str, str]:
        monkeypatch.setattr(ledger.journal, "rows", rows)
        while await second.turn(wait=False):
            pass
        return await rows(pools)

    monkeypatch.setattr(ledger.journal, "rows", late)
    assert await first.turn(wait=False)
    assert not await first.turn(wait=False)
    await audit_ledger(ledger.dsn, store_url)


async def test_a_stream_that_another_scribe_trimmed_is_not_broken(
    worker: Service, store: Store, store_url: str, ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What is missing behind a mark that is no longer the ledger's is in the ledger."""
    monkeypatch.setattr("core.scribe.STANDBY_SECONDS", 0.0)
    await furnish(worker, {"tee": 10})
    slow = ledger.scribe(store_url)
    while await slow.turn(wait=False):
        pass
    for n in range(3):
        await worker.engine.reserve(demand(), key(n))
    mark = await ledger.catch_up(store_url)
    await worker.engine.reserve(demand(), key(3))
    store.xtrim(keys.EVENTS, minid=f"{mark.epoch}-{mark.seq + 1}", approximate=False)
    assert await slow.turn(wait=False)
    assert await slow.turn(wait=False) == 1
    assert not await slow.turn(wait=False)
    await audit_ledger(ledger.dsn, store_url)


@pytest.mark.parametrize("when", ["before", "behind"])
async def test_a_commit_whose_answer_was_lost_counts_once(
    worker: Service, store: Store, store_url: str, ledger: Ledger, when: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The ledger's mark alone says whether it was done."""
    await furnish(worker, {"tee": 10})
    await worker.engine.reserve(demand(), key(1))
    scribe = ledger.scribe(store_url)
    await scribe.turn(wait=False)
    write, lost = scribe._books.write, 0

    async def broken(page: Any, old: Mark, new: Mark) -> bool:
        nonlocal lost
        lost += 1
        if when == "behind":
            await write(page, old, new)
        raise LedgerUnavailable("the connection was lost")

    monkeypatch.setattr(scribe._books, "write", broken)
    await worker.engine.reserve(demand(), key(2))
    with pytest.raises(LedgerUnavailable):
        await scribe.turn(wait=False)
    monkeypatch.setattr(scribe._books, "write", write)
    assert lost == 1
    while await scribe.turn(wait=False):
        pass
    await audit_ledger(ledger.dsn, store_url)


async def test_a_ledger_that_is_older_than_an_idle_store_is_told_of(
    worker: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    """The stream is trimmed behind what the ledger has: no event would ever say so."""
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    await worker.engine.reserve(demand(), key(1))
    store.xtrim(keys.EVENTS, maxlen=0, approximate=False)
    running = asyncio.create_task(ledger.scribe(store_url).run())
    what = f"event {mark.epoch}-{mark.seq + 1} is missing".encode()
    await until(lambda: what in (store.hget(keys.META, "ledger") or b""), "it is told")
    running.cancel()


async def test_a_gap_stops_it_and_is_told(
    worker: Service, workers: Workers, store: Store, store_url: str, ledger: Ledger
) -> None:
    """It never skips: nothing is written until the stream goes on where it was."""
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    for n in range(3):
        await worker.engine.reserve(demand(), key(n))
    entries = store.xrange(keys.EVENTS, f"{mark.epoch}-{mark.seq + 1}")
    store.xdel(keys.EVENTS, entries[1][0])
    scribe = ledger.scribe(store_url)
    with pytest.raises(LedgerBroken, match=f"event {mark.epoch}-{mark.seq + 2} is missing"):
        await scribe.turn(wait=False)
    found = await ledger.journal.mark()
    assert found is not None
    assert (found.seq, found.position) == (mark.seq, mark.position)
    running = asyncio.create_task(scribe.run())
    await until(lambda: b"is missing" in (store.hget(keys.META, "ledger") or b""), "it is told")
    await until(lambda: scribe.retries > 2, "it tries again")
    assert b"is missing" in (store.hget(keys.META, "ledger") or b"")  # for as long as it stands
    running.cancel()
    workers.forget(store_url)  # the stream was broken by hand


async def test_trouble_is_told_until_it_is_over(
    worker: Service, store: Store, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a scribe that starts while the ledger is away; the mark stays where it is."""
    monkeypatch.setattr("core.scribe.PAUSE_SECONDS", 0.01)
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    whole = ledger.journal.mark

    async def away() -> None:
        raise LedgerUnavailable("the ledger does not answer: gone")

    monkeypatch.setattr(ledger.journal, "mark", away)
    scribe = ledger.scribe(store_url)
    running = asyncio.create_task(scribe.run())
    await until(lambda: scribe.retries > 2, "it tries again")
    assert b"gone" in (store.hget(keys.META, "ledger") or b"")
    assert store.hget(keys.META, "mark") == str(mark.seq).encode()
    monkeypatch.setattr(ledger.journal, "mark", whole)
    await until(lambda: store.hget(keys.META, "ledger") == b"", "it is over")
    running.cancel()


@pytest.mark.parametrize(
    ("field", "broken", "told"),
    [
        ("p", lambda text: text.replace(" 9,", " 8,", 1), "is not what moved"),
        ("p", lambda text: text.replace("@main\n2 ", "@main\n7 ", 1), "goes from version"),
        ("m", lambda text: text + "\ntee@main shared outside 1 x", "cannot be read"),
        ("r", lambda text: text.replace(" ", "  ", 1), "cannot be read"),
    ],
)  # fmt: skip
async def test_an_event_that_is_not_to_be_believed_stops_it(
    field: str, broken: Callable[[str], str], told: str
) -> None:
    """Its rows changed by anything but what moved, or it cannot be read at all."""
    first = Entry(5, 1, {
        "v": "stock", "t": "1700000000000", "s": "",
        "m": "receive tee@main outside shared 10 - - -",
        "p": "tee@main\n1 1 1 10,0,0,0,0,0",
    })  # fmt: skip
    fields = {
        "v": "reserve", "t": "1700000000001", "m": "",
        "p": "tee@main\n2 1 1 9,0,0,0,0,0 web@0,1,0,0",
        "r": "0193c3f4-0000-7000-8000-000000000000\nR 1 - 1700000900000 - - web - - tee@main@0,1",
    }  # fmt: skip

    def told_of(event: Entry) -> None:
        chronicle = Chronicle(0, 1)
        chronicle.know(["tee@main"], {})
        chronicle.page([first, event])

    told_of(Entry(5, 2, fields))
    with pytest.raises(LedgerBroken, match=told):
        told_of(Entry(5, 2, fields | {field: broken(fields[field])}))


async def test_what_postgresql_cannot_take_is_told_like_all_else(
    worker: Service, store_url: str, ledger: Ledger
) -> None:
    """Nothing is written, and the scribe is not killed by it."""
    await furnish(worker, {"tee": 10})
    mark = await ledger.catch_up(store_url)
    page = Page()
    page.copied["idempotency_keys"].append(f"{mark.position + 1}\t{2**63}\tf\tkeys\n")
    new = structs.replace(mark, seq=mark.seq + 1, position=mark.position + 1)
    with pytest.raises(LedgerBroken, match=r"are no rows: .* out of range"):
        await Books(ledger.journal).write(page, mark, new)
    found = await ledger.journal.mark()
    assert found is not None
    assert (found.seq, found.position) == (mark.seq, mark.position)


@pytest.mark.parametrize(
    ("gone", "back"),
    [
        ("REVOKE INSERT ON stockade.movement FROM stockade",
         "GRANT INSERT ON stockade.movement TO stockade"),
        ("ALTER SCHEMA stockade RENAME TO elsewhere", "ALTER SCHEMA elsewhere RENAME TO stockade"),
    ],
)  # fmt: skip
async def test_a_ledger_that_its_owner_took_away_is_waited_for(
    worker: Service, store_url: str, ledger: Ledger, gone: str, back: str
) -> None:
    """By the scribe, and by workers, who ask for the mark."""
    await furnish(worker, {"tee": 10})
    await ledger.fetch(gone)
    with pytest.raises(LedgerUnavailable):
        await ledger.catch_up(store_url)
    await ledger.fetch(back)
    await ledger.catch_up(store_url)
    await audit_ledger(ledger.dsn, store_url)


async def test_the_service_can_add_to_what_happened_and_never_change_it(
    worker: Service, store_url: str, ledger: Ledger
) -> None:
    """Its role has no UPDATE, DELETE or TRUNCATE there, and is not the one that migrates."""
    await furnish(worker, {"tee": 10})
    await ledger.catch_up(store_url)
    connection = await asyncpg.connect(ledger.dsn)
    for table in ("movement", "balance", "reservation_version", "policy_version"):
        for statement in (f"UPDATE stockade.{table} SET position = 1",
                          f"DELETE FROM stockade.{table}", f"TRUNCATE stockade.{table}"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    for statement in ("CREATE TABLE stockade.other (x int)", "DROP TABLE stockade.mark"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
