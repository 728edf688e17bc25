"""What other programs are told of what happens: all of it, in order, once, from wherever they come
back to; and what they are told is what the ledger's rows say.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

import pytest

from core import feed as feeding
from core.errors import LedgerUnavailable, Overloaded
from core.feed import WHOLE, Feed, Place, Wanted
from core.happenings import BECAME, MOVED, TYPES, Happening
from core.model import Commit
from core.policy_model import SkuSpec
from core.record_model import VERBS
from core.service import Service
from core.stock_model import Count, CountLine
from core.store import keys
from tests.histories import CHANNELS, History, history
from tests.ledgered import Ledger
from tests.stored import Row, parse_row
from tests.workers import (
    PATIENCE_SECONDS,
    TURN_SECONDS,
    Store,
    Workers,
    demand,
    furnish,
    receive,
)

VERBS_DONE = 160
QUIET_SECONDS = 0.02  # nothing came: what there was has been read
ALL = Wanted()


@pytest.fixture
async def reader(workers: Workers, store_url: str, ledger: Ledger) -> Service:
    """A worker that reads the ledger."""
    return await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "POLL_SECONDS", 0.005)


def place(happening: Happening) -> Place:
    return happening.position, happening.number


async def read(feed: Feed, after: Place, wanted: Wanted = ALL) -> list[Happening]:
    """All that happened behind a place until now."""
    mark = await feed._records.reading.mark()
    found: list[Happening] = []
    async with feed.subscribe(wanted, after) as subscriber:
        while subscriber.place < (mark.position, WHOLE):
            found += await subscriber.next(QUIET_SECONDS)
    return found


def events(found: list[Happening]) -> list[dict[str, Any]]:
    return [json.loads(each.encode(people=True)) for each in found]


async def test_every_row_is_told_of(
    reader: Service, store: Store, store_url: str, ledger: Ledger, seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """From the first on, whatever pieces it is read in; the rows are gone through a second time."""
    await history(reader, store, seed, VERBS_DONE)
    await ledger.catch_up(store_url)
    told = events(await read(reader.feed, (0, 0)))
    ids = [tuple(map(int, f"{each['id']}.0".split(".")[:2])) for each in told]
    assert ids == sorted(set(ids))
    assert {each["type"] for each in told} >= TYPES - {
        "reservation.expired", "deficit.opened", "deficit.closed", "stock.sold_out", "stock.back",
    }  # fmt: skip
    monkeypatch.setattr(feeding, "PIECE_POSITIONS", 7)
    assert events(await read(reader.feed, (0, 0))) == told

    by_position: dict[int, list[dict[str, Any]]] = {}
    for each in told:
        by_position.setdefault(int(each["id"].split(".")[0]), []).append(each)
    for row in await ledger.fetch("SELECT * FROM stockade.reservation_version"):
        (each,) = by_position.pop(row["position"])
        assert each["type"].startswith("reservation.")
        assert (each["subject"], each["data"]["version"]) == (
            str(row["reservation"]), row["version"],
        )  # fmt: skip
    moved = "SELECT * FROM stockade.movement WHERE reservation IS NULL"
    for row in await ledger.fetch(moved):
        (each,) = by_position.pop(row["position"])
        assert each["type"].startswith("stock.")
        assert (each["data"]["from"], each["data"]["quantity"], each["subject"]) == (
            row["source"], row["quantity"], f"{row['sku']}@{row['location']}",
        )  # fmt: skip
    for row in await ledger.fetch("SELECT * FROM stockade.policy_version"):
        (each,) = by_position.pop(row["position"])
        assert (each["type"], each["subject"]) == (
            "policy.changed", f"{row['kind']}/{row['name']}",
        )  # fmt: skip
        assert each["data"]["deleted"] == (row["entry"] is None)
    await check_balances(ledger, by_position)
    assert by_position == {}, "nothing else is told of"


async def check_balances(ledger: Ledger, told: dict[int, list[dict[str, Any]]]) -> None:
    """A deficit opens and closes; a channel can take nothing more of a pool, and again."""
    channels = {name: spec for name, spec in CHANNELS.items() if name != "gone"}
    before: dict[str, Row] = {}
    for row in await ledger.fetch("SELECT * FROM stockade.balance ORDER BY position"):
        pool = f"{row['sku']}@{row['location']}"
        was, now = before.get(pool, Row()), parse_row(row["row"])
        before[pool] = now
        expected: list[tuple[str, list[str]]] = []
        if bool(was.deficit) != bool(now.deficit):
            expected.append(("deficit.opened" if now.deficit else "deficit.closed", []))
        took = {name: takes(was, name) for name in channels
                if row["location"] in channels[name].locations}  # fmt: skip
        takes_now = {name: takes(now, name) for name in took}
        for kind, names in (
            ("stock.sold_out", [n for n in sorted(took) if took[n] and not takes_now[n]]),
            ("stock.back", [n for n in sorted(took) if takes_now[n] and not took[n]]),
        ):
            if names:
                expected.append((kind, names))
        found = told.pop(row["position"], [])
        assert [(e["type"], e["data"].get("channels", [])) for e in found] == expected
        for each in found:
            assert each["data"].get("available", takes_now) == takes_now
            assert each["data"]["version"] == row["version"]


def takes(row: Row, channel: str) -> int:
    """What a channel can take of a pool."""
    quota = row.quotas.get(channel)
    units = (quota.free if quota else 0) + (row.shared if CHANNELS[channel].borrow else 0)
    return min(units, quota.left) if quota and quota.ceiling not in ("", "-") else units


async def test_who_comes_back_misses_nothing_and_gets_nothing_twice(
    reader: Service, store: Store, store_url: str, ledger: Ledger, seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """While it happens, and however little is kept for all: connections break at any event."""
    dice = random.Random(seed)
    past = History(reader, store, seed)
    await past.open()
    monkeypatch.setattr(feeding, "KEPT_MAX", 20)
    monkeypatch.setattr(feeding, "PIECE_POSITIONS", 9)
    scribe = ledger.scribe(store_url)
    scribe._count = 1
    writing = asyncio.create_task(scribe.run())
    over = False

    async def listen(chance: float) -> list[Happening]:
        got: list[Happening] = []
        after: Place = (0, 0)
        while True:
            mark = await ledger.journal.mark()
            done = over and mark is not None and after >= (mark.position, 0)
            async with reader.feed.subscribe(ALL, after) as subscriber:
                while dice.random() > chance:
                    for each in await subscriber.next(QUIET_SECONDS):
                        got.append(each)
                        after = place(each)
                        if dice.random() < chance:
                            break  # here the connection broke
                    else:
                        after = subscriber.place
                        continue
                    break
            if done:
                return got

    listening = [asyncio.create_task(listen(chance)) for chance in (0.01, 0.2, 0.6)]
    await past.run(VERBS_DONE)
    await written(ledger, store)
    over = True
    heard = [await each for each in listening]
    writing.cancel()
    with suppress(asyncio.CancelledError):
        await writing
    everything = [each.id for each in await read(reader.feed, (0, 0))]
    assert len(everything) > VERBS_DONE / 2
    for each in heard:
        assert [one.id for one in each] == everything


async def written(ledger: Ledger, store: Store) -> None:
    """Returns when a scribe that runs has written all that the store holds."""
    seq, mark = int(store.hget(keys.META, "seq")), None
    async with asyncio.timeout(PATIENCE_SECONDS):
        while mark is None or mark.seq < seq:
            await asyncio.sleep(TURN_SECONDS)
            mark = await ledger.journal.mark()


async def test_filters_name_types_channels_and_skus(
    reader: Service, store: Store, store_url: str, ledger: Ledger, seed: int
) -> None:
    await history(reader, store, seed, VERBS_DONE)
    await ledger.catch_up(store_url)
    everything = await read(reader.feed, (0, 0))
    for wanted in (
        Wanted(types=frozenset({"reservation.committed", "stock.received"})),
        Wanted(channels=frozenset({"store"})),
        Wanted(skus=frozenset({"tee", "mug#1"})),
        Wanted(frozenset({"stock.sold_out"}), frozenset({"web"}), frozenset({"tee"})),
        Wanted(types=frozenset({"policy.changed"}), channels=frozenset({"gone"})),
    ):
        found = [each.id for each in await read(reader.feed, (0, 0), wanted)]
        fitting = [
            each.id
            for each in everything
            if (not wanted.types or each.type in wanted.types)
            and (not wanted.channels or wanted.channels & each.channels)
            and (not wanted.skus or wanted.skus & each.skus)
        ]
        assert found == fitting
    reserved = [each for each in everything if each.type == "reservation.reserved"]
    for each in events([each for each in reserved if "tee" in each.skus]):
        assert any(line["sku"] == "tee" for line in each["data"]["lines"])


async def test_one_without_a_place_is_told_of_what_comes(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    await furnish(reader, {"tee": 1})
    await ledger.catch_up(store_url)
    async with reader.feed.subscribe(ALL, None) as subscriber:
        assert await subscriber.next(QUIET_SECONDS) == []
        id = (await reader.engine.reserve(demand())).id
        await reader.engine.commit(id, Commit())
        await ledger.catch_up(store_url)
        found: list[dict[str, Any]] = []
        while len(found) < 3:
            found += events(await subscriber.next(20))
    assert {each["type"] for each in found} == {
        "reservation.reserved", "reservation.committed", "stock.sold_out"
    }  # fmt: skip
    sold_out = next(each for each in found if each["type"] == "stock.sold_out")
    assert sold_out["data"] == {
        "sku": "tee", "location": "main", "version": 2, "channels": ["web"],
        "available": {"web": 0},
    }  # fmt: skip


async def test_safety_stock_is_not_for_sale(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    """A channel that can take nothing is sold out, although units lie there."""
    await furnish(reader, {})
    await reader.catalogue.put_sku("tee", SkuSpec(safety_stock=2))
    await receive(reader, {"tee": 3})
    await reader.engine.reserve(demand())
    await reader.stock.count(Count([CountLine("tee", "main", 0)]), [None])
    await receive(reader, {"tee": 9})
    await ledger.catch_up(store_url)
    wanted = Wanted(types=frozenset(
        {"stock.sold_out", "stock.back", "deficit.opened", "deficit.closed"}
    ))  # fmt: skip
    found = events(await read(reader.feed, (0, 0), wanted))
    assert [each["type"] for each in found] == [
        "stock.back", "stock.sold_out", "deficit.opened", "deficit.closed", "stock.back",
    ]  # fmt: skip
    assert found[2]["data"]["deficit"] == 1
    last = [each["id"].split(".") for each in found[3:]]
    assert last == [[last[0][0]], [last[0][0], "1"]], "two of one row"
    # Who heard the first of them goes on with the second.
    after = (int(last[0][0]), 0)
    assert [each.type for each in await read(reader.feed, after, wanted)] == ["stock.back"]


async def test_a_place_ahead_of_the_ledger_is_now(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    await furnish(reader, {"tee": 5})
    mark = await ledger.catch_up(store_url)
    async with reader.feed.subscribe(ALL, (10**15, 0)) as subscriber:
        assert subscriber.place == (mark.position, WHOLE)


async def test_so_many_listen_and_no_more(
    reader: Service, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "LISTENING_MAX", 1)
    async with reader.feed.subscribe(ALL, None):
        with pytest.raises(Overloaded):
            async with reader.feed.subscribe(ALL, None):
                pass
    async with reader.feed.subscribe(ALL, None):
        pass  # there is room again


async def test_nobody_looks_while_nobody_listens(
    reader: Service, store_url: str, ledger: Ledger
) -> None:
    async with reader.feed.subscribe(ALL, None):
        looking = reader.feed._polling
        assert looking is not None
        assert not looking.done()
    async with asyncio.timeout(20):
        await looking


def test_every_verb_that_moves_units_is_told_of() -> None:
    """As a version of a reservation, or as a movement of stock."""
    assert {*BECAME, *MOVED, "reserve"} == {*VERBS, "extend"}


async def test_a_feed_that_fails_ends_its_streams_and_begins_anew(
    reader: Service, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(reader, {"tee": 5})
    await ledger.catch_up(store_url)
    whole = reader.records.reading.happened

    async def broken(after: int, last: int) -> Any:
        raise KeyError("a verb of the future")

    async with reader.feed.subscribe(ALL, None) as subscriber:
        monkeypatch.setattr(reader.records.reading, "happened", broken)
        await reader.engine.reserve(demand())
        await ledger.catch_up(store_url)
        with pytest.raises(KeyError):
            await subscriber.next(20)
    monkeypatch.setattr(reader.records.reading, "happened", whole)
    async with reader.feed.subscribe(ALL, subscriber.place) as subscriber:
        (each,) = await subscriber.next(20)
        assert each.type == "reservation.reserved"


async def test_a_ledger_that_is_away_is_waited_for(
    reader: Service, store_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(reader, {"tee": 5})
    await ledger.catch_up(store_url)
    reading = reader.records.reading
    whole = reading.mark
    away = asyncio.Event()

    async def lost() -> Any:
        away.set()
        raise LedgerUnavailable("the ledger does not answer")

    async with reader.feed.subscribe(ALL, None) as subscriber:
        monkeypatch.setattr(reading, "mark", lost)
        async with asyncio.timeout(20):
            await away.wait()
        await reader.engine.reserve(demand())
        await ledger.catch_up(store_url)
        assert await subscriber.next(QUIET_SECONDS) == []
        monkeypatch.setattr(reading, "mark", whole)
        (each,) = await subscriber.next(20)
        assert each.type == "reservation.reserved"
