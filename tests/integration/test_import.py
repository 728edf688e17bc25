"""Stock from a file: what it does, once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from core.errors import ImportRefused, InsufficientStock, StockUnavailable
from core.importing import importer
from core.importing.importer import Report
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys, scripts
from core.store.shard import Shard
from tests.stocking import count
from tests.workers import Store, Workers, demand, furnish, picture, row

HEADER = "sku,location,quantity\n"


def told(phase: str, rows: int, share: float) -> None:
    """Nobody looks at the progress."""


def write(path: Path, content: str | None) -> Path:
    """A file with this content, or as it is."""
    if content is not None:
        path.write_text(content)
    return path


async def bring(
    service: Service, path: Path, content: str | None = None, **options: bool
) -> Report:
    """Imports a file, written first if there is a content."""
    chosen = {"orders": False, "again": False, "skip_bad": False} | options
    return await service.importer.run(write(path, content), tell=told, **chosen)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stock.csv"


def many(count: int, quantity: int = 2) -> str:
    return HEADER + "".join(f"sku-{n:05d},main,{quantity}\n" for n in range(count))


def imports(store: Store) -> dict[str, str]:
    """The positions of all files, by the beginning of their hash; and the names."""
    found = store.hgetall(keys.IMPORTS)
    return {name.decode()[:12]: value.decode() for name, value in found.items()}


async def test_new_skus_and_pools_arrive_as_receipts(worker: Service, file: Path) -> None:
    await worker.catalogue.put_location("annex", LocationSpec())
    web = ChannelSpec(floor_share=0.7, borrow=False, locations=["main"])
    await worker.catalogue.put_channel("web", web)
    report = await bring(
        worker, file,
        "sku,location,quantity,safety_stock\ntee,main,13,3\ntee,annex,4,3\nzero,main,0,\n",
    )  # fmt: skip
    assert (report.applied, report.rows, report.new_skus, report.units) == (3, 3, 2, 17)
    tee, zero = await worker.stock.read(["tee", "zero"])
    main, annex = sorted(tee.pools, key=lambda pool: pool.location != "main")
    assert (main.on_hand, main.safety, main.shared, main.channels["web"].free) == (13, 3, 3, 7)
    assert (annex.on_hand, annex.safety, annex.shared) == (4, 3, 1)
    assert [(pool.location, pool.on_hand) for pool in zero.pools] == [("main", 0)]
    assert (await worker.catalogue.sku("tee")).safety_stock == 3
    assert await worker.engine.reserve(demand(quantity=7))


async def test_the_same_file_never_counts_twice(worker: Service, file: Path, store: Store) -> None:
    await bring(worker, file, many(5))
    before = picture(store)
    report = await bring(worker, file)
    assert report.known_since is not None
    assert (report.applied, report.rows) == (0, 5)
    renamed = write(file.with_name("renamed.csv"), many(5))
    for again, skip_bad in ((False, False), (True, False), (False, True)):
        report = await bring(worker, renamed, again=again, skip_bad=skip_bad)
        assert report.known_since is not None
    assert picture(store) == before


async def test_another_content_of_the_same_name_asks_first(
    worker: Service, file: Path, store: Store
) -> None:
    await bring(worker, file, many(2))
    before = picture(store)
    with pytest.raises(ImportRefused, match=r"another content \(2 of 2 rows, .*--again"):
        await bring(worker, file, many(3))
    assert picture(store) == before
    assert (await bring(worker, file, again=True)).applied == 3
    (first, last) = await worker.stock.read(["sku-00000", "sku-00002"])
    assert (first.pools[0].on_hand, last.pools[0].on_hand) == (4, 2)
    # Now this one is the file of that name, and the first is still known.
    assert (await bring(worker, file)).known_since is not None
    assert (await bring(worker, file, many(2))).known_since is not None


async def test_bad_rows_are_named_and_nothing_is_applied(
    worker: Service, file: Path, store: Store
) -> None:
    await worker.catalogue.put_sku("old", SkuSpec(safety_stock=3))
    content = (
        "sku,location,quantity,safety_stock\n"
        + many(1500).split("\n", 1)[1].replace("\n", ",\n")
        + "tee,main,x,\ntee,moon,1,\ntee,main,1,1\ntee,main,2,1\nold,main,1,4\nold,main,1,3\n"
    )
    before = picture(store)
    with pytest.raises(ImportRefused) as refused:
        await bring(worker, file, content)
    assert picture(store) == before
    assert refused.value.count == 4
    assert [line for line, _ in refused.value.bad] == [1502, 1503, 1505, 1506]
    said = [why for _, why in refused.value.bad]
    assert "expected a whole number" in said[0]
    assert said[1] == "there is no location 'moon'"
    assert said[2] == "line 1504 has this SKU and location already"
    assert said[3].startswith("the SKU exists with safety_stock 3, the row says 4; change it")
    report = await bring(worker, file, skip_bad=True)
    assert (report.applied, report.left_out, report.rows) == (1502, 4, 1506)
    assert [line for line, _ in report.bad] == [1502, 1503, 1505, 1506]
    known = await bring(worker, file)
    assert (known.left_out, known.known_since is not None) == (4, True)
    old, tee = await worker.stock.read(["old", "tee"])
    assert (old.pools[0].on_hand, tee.pools[0].on_hand) == (1, 1)


async def test_of_many_bad_rows_the_first_hundred_are_named(worker: Service, file: Path) -> None:
    rows = "".join(f"sku-{n},main,{'x' if n % 2 else n}\n" for n in range(2_000))
    with pytest.raises(ImportRefused) as refused:
        await bring(worker, file, HEADER + rows)
    assert refused.value.count == 1000
    assert [line for line, _ in refused.value.bad] == list(range(3, 203, 2))


async def test_columns_set_units_aside_as_they_say(worker: Service, file: Path) -> None:
    """Whatever the floors are: what is named is free, then safety, and the rest is shared."""
    await worker.catalogue.put_channel("web", ChannelSpec(floor_share=0.9))
    await worker.catalogue.put_channel("store", ChannelSpec(floor_units=3))
    await bring(
        worker, file,
        "sku,quantity,safety_stock,free.web,free.store\n"
        "a,20,4,1,5\nb,20,4,17,2\nc,9,4,9,\nd,8,4,,\n",
    )  # fmt: skip
    found = {}
    for stock in await worker.stock.read(["a", "b", "c", "d"]):
        pool = stock.pools[0]
        free = [pool.channels[name].free for name in ("web", "store")]
        found[stock.sku] = (*free, pool.safety, pool.shared, pool.on_hand)
    assert found == {
        "a": (1, 5, 4, 10, 20), "b": (17, 2, 1, 0, 20), "c": (9, 0, 0, 0, 9), "d": (0, 0, 4, 4, 8),
    }  # fmt: skip


class Killed(Exception):
    """Stands for the end of the process."""


async def test_a_killed_import_goes_on_where_it_stopped(
    workers: Workers, store_url: str, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut before the third script, and behind it: neither loses a row nor counts one twice."""
    run = Shard.run
    scripts_left = 0

    async def before(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        nonlocal scripts_left
        scripts_left -= script is scripts.IMPORT
        if scripts_left == 0:
            raise Killed
        return await run(shard, script, *words)

    async def behind(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        nonlocal scripts_left
        reply = await run(shard, script, *words)
        scripts_left -= script is scripts.IMPORT
        if scripts_left == 0:
            raise Killed
        return reply

    for cut, position in ((before, "2000"), (behind, "5000")):
        worker = await workers(store_url, reaper=False)
        monkeypatch.setattr(Shard, "run", cut)
        scripts_left = 3
        with pytest.raises(Killed):
            await bring(worker, file, many(10_500))
        monkeypatch.setattr(Shard, "run", run)
        await workers.close(worker)
        (found,) = [value for value in imports(store).values() if " " in value]
        assert found.split(" ")[0] == position
    worker = await workers(store_url, reaper=False)
    report = await bring(worker, file)
    assert (report.begun_at, report.applied, report.rows) == (5_000, 5_500, 10_500)
    assert (await bring(worker, file)).known_since is not None
    assert store.hlen(keys.POOLS) == 10_500
    assert {value.split(b" ")[3] for value in store.hvals(keys.POOLS)} == {b"2,0,0,0,0,0"}


async def test_an_answer_that_was_lost_is_not_asked_for_twice(
    worker: Service, file: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Shard.run
    lost = 0

    async def forgetful(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        nonlocal lost
        reply = await run(shard, script, *words)
        if script is scripts.IMPORT and lost < 2:
            lost += 1
            raise StockUnavailable("the store does not answer", "unknown")
        return reply

    monkeypatch.setattr(Shard, "run", forgetful)
    monkeypatch.setattr(importer, "STORE_PAUSE_SECONDS", 0.0)
    report = await bring(worker, file, many(2_500))
    assert (lost, report.applied, report.units) == (2, 2_500, 5_000)
    assert {value.split(b" ")[3] for value in store.hvals(keys.POOLS)} == {b"2,0,0,0,0,0"}


async def test_a_store_that_stays_away_stops_it(
    worker: Service, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> Any:
        raise StockUnavailable("the store does not answer", "unknown")

    monkeypatch.setattr(importer, "STORE_PAUSE_SECONDS", 0.0)
    run = Shard.run
    monkeypatch.setattr(Shard, "run", away)
    with pytest.raises(StockUnavailable, match="does not answer"):
        await bring(worker, file, many(2))
    monkeypatch.setattr(Shard, "run", run)
    assert (await bring(worker, file)).applied == 2


async def test_two_imports_of_one_file_at_once_count_once(
    workers: Workers, store_url: str, store: Store, file: Path
) -> None:
    one, other = await workers(store_url), await workers(store_url)
    write(file, many(8_000))
    twin = write(file.with_name("twin.csv"), many(8_000))
    reports = await asyncio.gather(
        bring(one, file), bring(other, file), bring(one, twin), bring(other, twin)
    )
    assert sum(report.applied for report in reports) == 8_000
    assert sum(report.units for report in reports) == 16_000
    assert {value.split(b" ")[3] for value in store.hvals(keys.POOLS)} == {b"2,0,0,0,0,0"}


async def test_of_two_files_of_one_name_at_once_only_one_goes_without_again(
    workers: Workers, store_url: str, file: Path
) -> None:
    """Their units may be the same ones, so the second asks, also if it came at the same moment."""
    one, other = await workers(store_url), await workers(store_url)
    elsewhere = file.with_name("elsewhere")
    elsewhere.mkdir()
    results = await asyncio.gather(
        bring(one, file, many(900)),
        bring(other, elsewhere / file.name, many(901)),
        return_exceptions=True,
    )
    refused = [each for each in results if isinstance(each, ImportRefused)]
    done = [each for each in results if isinstance(each, Report)]
    assert (len(refused), len(done)) == (1, 1), results
    assert "--again" in refused[0].detail


@pytest.mark.parametrize("aside", [False, True])
async def test_it_works_beside_workers_that_sell(
    workers: Workers, store_url: str, file: Path, seed: int, aside: bool
) -> None:
    """Every second row goes to a pool that two workers sell from; all units arrive all the same."""
    sellers = [await workers(store_url), await workers(store_url)]
    skus = [f"sku-{n:05d}" for n in range(20)]
    await furnish(
        sellers[0], dict.fromkeys(skus, 400), web=ChannelSpec(floor_share=0.5),
        store=ChannelSpec(floor_share=0.5),
    )  # fmt: skip
    running = True
    sold = 0

    async def sell(service: Service, chosen: random.Random) -> None:
        nonlocal sold
        while running:
            channel = chosen.choice(["web", "store"])
            try:
                await service.engine.reserve(demand(chosen.choice(skus), 1, channel))
                sold += 1
            except InsufficientStock:
                await asyncio.sleep(0)

    selling = [
        asyncio.create_task(sell(service, random.Random(seed + number)))
        for number, service in enumerate(sellers * 8)
    ]
    columns = "sku,location,quantity" + (",free.web" if aside else "") + "\n"
    rows = "".join(f"sku-{n:05d},main,100{',60' if aside else ''}\n" for n in range(40))
    worker = await workers(store_url)
    report = await bring(worker, file, columns + rows)
    running = False
    await asyncio.gather(*selling)
    assert (report.applied, report.new_skus) == (40, 20)
    assert sold > 0
    found = await worker.stock.read(skus)
    assert {stock.pools[0].on_hand for stock in found} == {500}


async def test_a_policy_that_changes_meanwhile_is_met(
    workers: Workers, store_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts behind the change are planned on it; the audit looks at every one."""
    worker, other = await workers(store_url, reaper=False), await workers(store_url)
    await other.catalogue.put_channel("web", ChannelSpec(floor_share=0.5))
    run = Shard.run
    count = 0

    async def changing(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        nonlocal count
        count += script is scripts.IMPORT
        if script is scripts.IMPORT and count == 2:
            await other.catalogue.put_channel("web", ChannelSpec(floor_share=1.0))
        return await run(shard, script, *words)

    monkeypatch.setattr(Shard, "run", changing)
    assert (await bring(worker, file, many(2_000))).applied == 2_000
    first, last = await worker.stock.read(["sku-00000", "sku-01999"])
    assert (first.pools[0].channels["web"].free, last.pools[0].channels["web"].free) == (1, 2)


async def test_a_sku_that_changes_behind_the_check_stops_it_or_is_left_out(
    workers: Workers, store_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = await workers(store_url, reaper=False), await workers(store_url)
    run = Shard.run
    count = 0

    async def changing(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        nonlocal count
        count += script is scripts.IMPORT
        if script is scripts.IMPORT and count == 1:
            await other.catalogue.put_sku("sku-01700", SkuSpec(safety_stock=9))
        return await run(shard, script, *words)

    monkeypatch.setattr(Shard, "run", changing)
    content = "sku,quantity,safety_stock\n" + "".join(f"sku-{n:05d},2,1\n" for n in range(2_500))
    with pytest.raises(
        ImportRefused, match=r"line 1702: the SKU exists with safety_stock 9.*1,000"
    ):
        await bring(worker, file, content)
    report = await bring(worker, file, skip_bad=True)
    assert (report.begun_at, report.applied, report.left_out) == (1_000, 1_499, 1)


async def test_a_deficit_is_paid_before_anything_is_set_aside(
    worker: Service, file: Path, store: Store
) -> None:
    """Promised units come first: what they take is missing from the last columns."""
    await furnish(worker, {"tee": 5}, web=ChannelSpec(), store=ChannelSpec())
    held = await worker.engine.reserve(demand(quantity=5))
    assert held.id
    await count(worker, 2)
    await bring(worker, file, "sku,quantity,free.web,free.store\ntee,10,6,4\n")
    assert row(store, "tee@main").split(" ")[3] == "0,0,0,0,0,0"
    found = (await worker.stock.read(["tee"]))[0].pools[0]
    assert (found.channels["web"].free, found.channels["store"].free, found.deficit) == (6, 1, 0)


async def test_an_empty_file_does_nothing(worker: Service, file: Path, store: Store) -> None:
    before = picture(store)
    assert (await bring(worker, file, HEADER)).rows == 0
    assert picture(store) == before


@pytest.mark.parametrize(
    ("aside", "outcomes"),
    [(False, ["rebased"]), (True, [*["conflict"] * 4, "applied", "conflict"])],
)
async def test_a_row_that_was_sold_from_behind_the_plan(
    workers: Workers, store_url: str, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch,
    aside: bool, outcomes: list[str],
) -> None:  # fmt: skip
    """A receipt is added to the row as it is; what is set aside is planned anew, after four times
    in smaller parts, so that one hot SKU does not keep the others waiting."""
    worker, other = await workers(store_url, reaper=False), await workers(store_url)
    await furnish(other, {"tee": 100})
    run = Shard.run
    replies: list[str] = []

    async def sold(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        if script is scripts.IMPORT and len(replies) < 6:
            await other.engine.reserve(demand())
        reply = await run(shard, script, *words)
        if script is scripts.IMPORT:
            replies.append(reply[0].decode())
        return reply

    monkeypatch.setattr(Shard, "run", sold)
    columns = "sku,quantity,free.web\n" if aside else "sku,quantity\n"
    rows = "".join(f"{sku},10{',5' if aside else ''}\n" for sku in ("cap", "tee", "sock"))
    report = await bring(worker, file, columns + rows)
    assert (report.applied, report.units) == (3, 30)
    assert replies[: len(outcomes)] == outcomes
    assert set(replies[len(outcomes) :]) <= {"applied"}
    found = await worker.stock.read(["cap", "tee", "sock"])
    assert [stock.pools[0].on_hand for stock in found] == [10, 110, 10]


async def test_a_sku_that_gets_a_pool_behind_the_plan_keeps_it(
    workers: Workers, store_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, other = await workers(store_url, reaper=False), await workers(store_url)
    for name in ("annex", "depot"):
        await other.catalogue.put_location(name, LocationSpec())
    await furnish(other, {"tee": 1})
    run = Shard.run
    replies: list[bytes] = []

    async def received(shard: Shard, script: scripts.Script, *words: Any) -> Any:
        if script is scripts.IMPORT and not replies:
            await other.stock.receive(Receive([ReceiveLine("tee", "depot", 3)]), [None])
        reply = await run(shard, script, *words)
        if script is scripts.IMPORT:
            replies.append(reply[0])
        return reply

    monkeypatch.setattr(Shard, "run", received)
    await bring(worker, file, HEADER + "tee,annex,5\n")
    assert replies == [b"conflict", b"applied"]
    (tee,) = await worker.stock.read(["tee"])
    assert {pool.location: pool.on_hand for pool in tee.pools} == {
        "main": 1, "depot": 3, "annex": 5,
    }  # fmt: skip
