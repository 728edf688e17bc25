"""Movements and reservations of the ledger, page by page: every combination of filters gives what
going through all of them gives, whatever the pages are cut by.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from core.errors import LedgerTooSlow, LedgerUnavailable, Overloaded
from core.ledger import reading
from core.ledger.journal import Journal
from core.model import Commit, Fulfil, PartLine, Reservation
from core.policy_model import ChannelSpec
from core.record_model import STATES, VERBS, MovementFilter, ReservationFilter
from core.service import Service
from core.stock_model import Count, CountLine
from tests.histories import CHANNELS, LOCATIONS, REFERENCES, SKUS, History, history
from tests.ledgered import Ledger
from tests.stored import parse_record
from tests.workers import Store, Workers, demand, furnish, key, make_due, receive, server_ms

VERBS_DONE = 240
RARELY = {"import", "policy", "drop", "expire", "drift", "repair"}
QUESTIONS = 150


@pytest.fixture
async def reader(workers: Workers, store_url: str, ledger: Ledger) -> Service:
    """A worker that reads the ledger."""
    return await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)


@pytest.fixture
async def past(
    reader: Service, store: Store, store_url: str, ledger: Ledger, seed: int
) -> History:
    """A random history, and all of it in the ledger."""
    made = await history(reader, store, seed, VERBS_DONE)
    await ledger.catch_up(store_url)
    return made


@pytest.fixture(params=[50_000, 5], ids=["wide", "narrow"])
def looked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many rows a page is chosen from: more than there are, and very few."""
    count: int = request.param
    monkeypatch.setattr(reading, "LOOKED_MAX", count)
    return count


async def pages(
    ask: Callable[[Any, int], Awaitable[Any]], dice: random.Random
) -> tuple[list[Any], int]:
    """All items, by pages of random length, and how many pages that took."""
    items: list[Any] = []
    after: Any = None
    count = 0
    while True:
        limit = dice.choice((1, 2, 7, 100))
        page = await ask(after, limit)
        assert len(page.items) <= limit
        items += page.items
        count += 1
        after = page.following
        if after is None:
            return items, count


def some(dice: random.Random, **choices: Any) -> dict[str, Any]:
    """A value for some of these."""
    names = dice.sample(sorted(choices), dice.choice((0, 1, 1, 1, 2, 2, 3, len(choices))))
    return {name: dice.choice(choices[name]) for name in names}


async def test_movements_by_any_filter_are_those_that_fit(
    past: History, reader: Service, ledger: Ledger, seed: int, looked: int
) -> None:
    rows = await ledger.fetch("SELECT * FROM stockade.movement ORDER BY position")
    assert {row["verb"] for row in rows} >= set(VERBS) - RARELY
    dice = random.Random(seed)
    times = [row["time"] for row in dice.choices(rows, k=20)]
    times += [each + timedelta(milliseconds=1) for each in times]
    short = 0
    for _ in range(QUESTIONS):
        wanted = some(
            dice, sku=(*SKUS, "none"), location=LOCATIONS, channel=(*CHANNELS, "none"),
            reservation=past.held, reference=(*REFERENCES, "paid", "rma-1", "delivery-1"),
            verb=VERBS, since=times, until=times,
        )  # fmt: skip
        chosen = MovementFilter(**wanted)
        found, count = await pages(
            lambda after, limit, chosen=chosen: reader.records.movements(  # type: ignore[misc]
                chosen, after or 0, limit
            ),
            dice,
        )
        fitting = [row for row in rows if fits(row, wanted)]
        assert [each.position for each in found] == [row["position"] for row in fitting], wanted
        short += count > len(found) + 1
    assert (short > 0) == (looked < 50), "narrow pages are short ones"


def fits(row: Any, wanted: dict[str, Any]) -> bool:
    """True if a movement is what was asked for."""
    for name, value in wanted.items():
        if name == "since":
            good = row["time"] >= value
        elif name == "until":
            good = row["time"] < value
        else:
            good = (str(row[name]) if name == "reservation" else row[name]) == value
        if not good:
            return False
    return True


async def test_a_movement_is_shown_whole(past: History, reader: Service, ledger: Ledger) -> None:
    rows = await ledger.fetch("SELECT * FROM stockade.movement ORDER BY position")
    page = await reader.records.movements(MovementFilter(), 0, 1_000)
    seq = await ledger.fetch("SELECT seq FROM stockade.mark")
    assert page.as_of_seq == seq[0]["seq"]
    told = [each for each in page.items if each.occurred_at is not None]
    assert told
    assert {each.occurred_at for each in told} == {"2004-01-15T12:03:33.988Z"}
    for row, each in zip(rows, page.items, strict=False):
        assert (each.source, each.target, each.quantity, each.version, each.sku) == (
            row["source"], row["target"], row["quantity"], row["version"], row["sku"],
        )  # fmt: skip
        assert (each.channel, each.reference, each.reason, each.actor) == (
            row["channel"], row["reference"], row["reason"], row["actor"],
        )  # fmt: skip
        at = datetime.fromisoformat(each.time)
        assert at == row["time"]


async def test_reservations_by_any_filter_are_those_that_fit(
    past: History, reader: Service, ledger: Ledger, store: Store, store_url: str, seed: int,
    looked: int,
) -> None:  # fmt: skip
    """Each as a single read gives it, newest first; a passed deadline counts as expired."""
    await deadlines_pass(past, reader, store, ledger, store_url)
    everything = {}
    for id in sorted(past.held, reverse=True):
        everything[id] = (await reader.engine.reservation(id)).reservation()
    assert {each.state for each in everything.values()} >= {"reserved", "expired", "fulfilled"}
    dice = random.Random(seed)
    for _ in range(QUESTIONS):
        wanted = some(
            dice, reference=(*REFERENCES, "paid", "none"), state=STATES, channel=tuple(CHANNELS),
            sku=(*SKUS, "none"), location=LOCATIONS, customer=("c-1", "c 2"),
            created_before_ms=tuple(created_ms(id) + dice.choice((0, 1)) for id in past.held),
        )  # fmt: skip
        chosen = ReservationFilter(**wanted)
        found, _ = await pages(
            lambda after, limit, chosen=chosen: reader.records.reservations(  # type: ignore[misc]
                chosen, after, limit
            ),
            dice,
        )
        fitting = [each for each in everything.values() if holds(each, wanted)]
        assert [each.reservation() for each in found] == fitting, wanted


async def deadlines_pass(
    past: History, reader: Service, store: Store, ledger: Ledger, url: str
) -> None:
    """Some deadlines have passed, and nobody has looked: the ledger has the record as it is."""
    await receive(reader, {"tee": 500})
    extra = [(await reader.engine.reserve(demand())).id for _ in range(2)]
    past.held += extra  # one of each at least, whatever was drawn
    await ledger.catch_up(url)
    for id in {*past.held[:-2:5], extra[0]}:
        if (await reader.engine.reservation(id)).reservation().state == "reserved":
            make_due(store, id)
            record = store.hget(f"{{s0}}:rsv:{created_ms(id) // 1000}", id).decode()
            await ledger.fetch(
                "UPDATE stockade.reservation SET record = $2 WHERE id = $1", id, record
            )


def created_ms(id: str) -> int:
    return int(id[:8] + id[9:13], 16)


def holds(each: Reservation, wanted: dict[str, Any]) -> bool:
    """True if a reservation is what was asked for."""
    places = [(line.sku, line.location) for line in each.lines]
    for name, value in wanted.items():
        if name == "created_before_ms":
            good = created_ms(each.id) < value
        elif name == "sku":
            at = wanted.get("location")
            good = any(sku == value and at in (None, place) for sku, place in places)
        elif name == "location":
            good = any(place == value for _, place in places)
        else:
            good = getattr(each, name) == value
        if not good:
            return False
    return True


async def test_what_is_at_risk_is_open_in_a_pool_with_a_deficit(
    past: History, reader: Service, store_url: str, ledger: Ledger, seed: int, looked: int
) -> None:
    """The unpaid ones first, each kind newest first."""
    await receive(reader, {"tee": 500})
    paid = await reader.engine.reserve(demand())  # one at least, whatever was drawn
    await reader.engine.commit(paid.id, Commit())
    lines = [CountLine("tee", "main", 0), CountLine("cap", "back", 0)]
    await reader.stock.count(Count(lines), [None, None])
    await ledger.catch_up(store_url)
    pools = await ledger.fetch("SELECT sku, location FROM stockade.pool WHERE deficit > 0")
    short = {(row["sku"], row["location"]) for row in pools}
    dice = random.Random(seed)
    risky: dict[str, list[Reservation]] = {"reserved": [], "committed": []}
    for row in await ledger.fetch("SELECT id, record FROM stockade.reservation ORDER BY id DESC"):
        open_ = {
            tuple(line.pool.split("@")) for line in parse_record(row["record"]).lines if line.open
        }
        each = (await reader.engine.reservation(str(row["id"]))).reservation()
        if each.state in risky and open_ & short:
            risky[each.state].append(each)
    assert risky["committed"]
    everything = [*risky["reserved"], *risky["committed"]]
    for wanted in ({}, {"state": "reserved"}, {"state": "committed"}, {"state": "released"},
                   {"sku": "tee"}, {"sku": "cap", "location": "back"}, {"channel": "web"},
                   {"location": "main"}, {"reference": "order-1"},
                   {"reference": "order-1", "sku": "tee"}):  # fmt: skip
        chosen = ReservationFilter(**wanted)  # type: ignore[arg-type]
        found, _ = await pages(
            lambda after, limit, chosen=chosen: reader.records.at_risk(  # type: ignore[misc]
                chosen, after, limit
            ),
            dice,
        )
        place = {name: wanted[name] for name in ("sku", "location") if name in wanted}
        fitting = [
            each
            for each in everything
            if holds(each, wanted) and at_risk_in(each, short, **place)
        ]
        assert [each.reservation() for each in found] == fitting, wanted


def at_risk_in(
    each: Reservation, short: set[Any], sku: str | None = None, location: str | None = None
) -> bool:
    """True if it has open units in such a pool, of this SKU and at this place if they are named."""
    return any(
        (line.sku, line.location) in short
        and sku in (None, line.sku)
        and location in (None, line.location)
        and line.quantity > line.fulfilled + line.cancelled
        for line in each.lines
    )


async def test_nothing_is_at_risk_where_nothing_lacks(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    await furnish(reader, {"tee": 5})
    await reader.engine.reserve(demand())
    await ledger.catch_up(store_url)
    page = await reader.records.at_risk(ReservationFilter(), None, 10)
    assert (page.items, page.following) == ([], None)


async def test_shipped_units_are_not_at_risk(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    await furnish(reader, {"tee": 5}, web=ChannelSpec())
    ids = [(await reader.engine.reserve(demand(quantity=2))).id for _ in range(2)]
    for id in ids:
        await reader.engine.commit(id, Commit())
    await reader.engine.fulfil(ids[0], Fulfil([PartLine("tee", 2)]), key("parcel"))
    await reader.stock.count(Count([CountLine("tee", "main", 0)]), [None])
    await ledger.catch_up(store_url)
    page = await reader.records.at_risk(ReservationFilter(), None, 10)
    assert [each.id for each in page.items] == ids[1:]


async def test_a_question_that_takes_too_long_says_what_would_help(
    reader: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ANSWER_MS", 1)
    with pytest.raises(LedgerTooSlow, match="narrow it"):
        async with reader.records.reading.instant() as (connection, _):
            await connection.execute("SELECT pg_sleep(30)")


async def test_so_many_ask_at_once_and_no_more(
    reader: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "WAITING_MAX", 0)
    with pytest.raises(Overloaded):
        await reader.records.movements(MovementFilter(), 0, 10)


async def test_without_a_ledger_there_is_nothing_to_read(worker: Service) -> None:
    with pytest.raises(LedgerUnavailable):
        await worker.records.movements(MovementFilter(), 0, 10)


async def test_a_ledger_that_is_away_says_so(
    workers: Workers, store_url: str, ledger: Ledger
) -> None:
    reader = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    assert isinstance(reader.journal, Journal)
    await reader.journal.close()
    with pytest.raises(LedgerUnavailable):
        await reader.records.movements(MovementFilter(), 0, 10)


async def test_an_empty_ledger_has_empty_pages(reader: Service) -> None:
    page = await reader.records.movements(MovementFilter(sku="tee"), 0, 10)
    assert (page.items, page.following, page.as_of_seq) == ([], None, 0)
    assert (await reader.records.reservations(ReservationFilter(), None, 10)).items == []
    assert (await reader.records.at_risk(ReservationFilter(), None, 10)).items == []


async def test_the_page_goes_by_the_clock_of_the_store(
    past: History, reader: Service, store: Store
) -> None:
    """From now on nothing has happened yet; until now everything has."""
    now = datetime.fromtimestamp(server_ms(store) / 1000 + 1).astimezone()
    page = await reader.records.movements(MovementFilter(since=now), 0, 10)
    assert (page.items, page.following) == ([], None)
    page = await reader.records.movements(MovementFilter(until=now), 0, 1_000)
    everything = await reader.records.movements(MovementFilter(), 0, 1_000)
    assert page.items == everything.items
