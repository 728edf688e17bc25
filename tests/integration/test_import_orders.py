"""Open orders from a file: facts, each one whole and once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from core.errors import ImportRefused
from core.model import Cancel, Fulfil
from core.policy_model import ChannelSpec, LocationSpec
from core.service import Service
from core.store import keys, scripts, wording
from core.store.shard import Shard
from tests.workers import Store, Workers, furnish, picture, row
from tests.workers import demand as demanded

HEADER = "order,channel,sku,quantity,location,customer,state\n"


async def bring(service: Service, path: Path, content: str | None = None, **options: bool) -> Any:
    """Imports a file of orders, written first if there is a content."""
    chosen = {"orders": True, "again": False, "skip_bad": False} | options
    return await service.importer.run(written(path, content), tell=lambda *_: None, **chosen)


def written(path: Path, content: str | None) -> Path:
    if content is not None:
        path.write_text(content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orders.csv"


def records(store: Store) -> dict[str, tuple[str, str]]:
    """Reference → (id, record) of everything in the store."""
    found = {}
    for name in store.scan_iter(match="{s0}:rsv:*", count=1000):
        for id, record in store.hgetall(name).items():
            reference = wording.decode_text(record.decode().split(" ")[8])
            assert reference is not None
            assert reference not in found
            found[reference] = id.decode(), record.decode()
    return found


async def test_orders_become_committed_reservations(
    worker: Service, file: Path, store: Store
) -> None:
    await furnish(worker, {"tee": 10, "cap": 4}, web=ChannelSpec(floor_share=0.5))
    report = await bring(
        worker, file,
        HEADER + "A 17,web,tee,3,,c-9,\nA 17,web,cap,1,main,c-9,\nA 17,web,tee,1,,c-9,\n"
        "B,web,tee,2,,,fulfilled\n",
    )  # fmt: skip
    assert (report.orders, report.applied, report.rows, report.units) == (2, 4, 4, 7)
    found = records(store)
    first = (await worker.engine.reservation(found["A 17"][0])).reservation()
    assert (first.state, first.customer, first.channel) == ("committed", "c-9", "web")
    assert [(line.sku, line.quantity, line.own) for line in first.lines] == [
        ("tee", 4, 4), ("cap", 1, 1),
    ] or [(line.sku, line.quantity, line.own) for line in first.lines] == [
        ("cap", 1, 1), ("tee", 4, 4),
    ]  # fmt: skip
    second = (await worker.engine.reservation(found["B"][0])).reservation()
    assert second.state == "fulfilled"
    (tee,) = await worker.stock.read(["tee"])
    pool = tee.pools[0]
    assert (pool.on_hand, pool.channels["web"].committed) == (8, 4)
    # From now on they are reservations as others are.
    await worker.engine.fulfil(found["A 17"][0], Fulfil())
    assert (await worker.engine.reservation(found["A 17"][0])).reservation().state == "fulfilled"


async def test_what_is_missing_is_a_deficit_and_a_pool_is_made_where_there_is_none(
    worker: Service, file: Path, store: Store
) -> None:
    """A fact is never refused: it takes over a wall, then a deficit opens."""
    await worker.catalogue.put_location("annex", LocationSpec())
    await furnish(
        worker, {"tee": 5, "cap": 0}, web=ChannelSpec(locations=["main"]),
        store=ChannelSpec(floor_share=1.0, borrow=False, locations=["annex", "main"]),
    )  # fmt: skip
    await bring(
        worker, file,
        HEADER + "A,web,tee,7,,,\nB,store,cap,2,,,\nC,web,cap,1,annex,,\nD,web,cap,1,,,fulfilled\n",
    )  # fmt: skip
    tee, cap = await worker.stock.read(["tee", "cap"])
    main = tee.pools[0]
    assert (main.deficit, main.on_hand, main.channels["web"].committed) == (2, 5, 7)
    pools = {pool.location: pool for pool in cap.pools}
    assert (pools["annex"].deficit, pools["annex"].on_hand) == (3, 0)
    assert (pools["main"].deficit, pools["main"].on_hand) == (0, 0)
    found = records(store)
    await worker.engine.cancel(
        found["A"][0],
        Cancel(),
    )
    assert row(store, "tee@main").split(" ")[3].split(",")[4] == "0"


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ("B,wbe,tee,1,,,\n", 3, "there is no channel 'wbe'"),
        ("B,web,tea,1,,,\n", 3, "there is no SKU tea; import the stock first"),
        ("B,web,tee,1,moon,,\n", 3, "there is no location 'moon'"),
        ("B,web,tee,1,attic,,\n", 3, "nothing is sold from attic"),
        ("B,web,tee,1,,c@d,\n", 3, "without @"),
        ("B,web,tee,1,,,\nA,web,tee,1,,,\n", 2, "the order stands in two places"),
        ("B,web,tee,x,,,\nC,web,tee,1,,,\nB,web,tee,1,,,\n", 3, "expected a whole number"),
    ],
)
async def test_a_wrong_order_is_left_out_whole(
    worker: Service, file: Path, store: Store, rows: str, line: int, said: str
) -> None:
    await worker.catalogue.put_location("attic", LocationSpec(sells=False))
    await furnish(worker, {"tee": 5})
    content = f"{HEADER}A,web,tee,1,,,\n{rows}Z,web,tee,1,,,\n"
    before = picture(store)
    with pytest.raises(ImportRefused) as refused:
        await bring(worker, file, content)
    assert picture(store) == before
    assert refused.value.bad[0][0] == line
    assert said in refused.value.bad[0][1]
    report = await bring(worker, file, skip_bad=True)
    bad = {words.split(",")[0] for words in rows.splitlines()} - {"C"}
    kept = {"A", "Z"} - bad | ({"C"} if "C," in rows else set()) | ({"B"} if line == 2 else set())
    assert set(records(store)) == kept
    assert report.applied == len(kept)
    assert report.applied + report.left_out == report.rows


class Killed(Exception):
    """Stands for the end of the process."""


async def test_a_killed_import_of_orders_goes_on_at_an_order(
    workers: Workers, store_url: str, store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the pools of a part were opened and nothing more."""
    run = Shard.run
    worker = await workers(store_url, reaper=False)
    await furnish(worker, {f"sku-{n:03d}": 0 for n in range(200)})
    content = HEADER + "".join(
        f"order-{n},web,sku-{n % 200:03d},1,,,\norder-{n},web,sku-{(n + 7) % 200:03d},2,,,\n"
        for n in range(1_200)
    )
    for left in (1, 2):
        count = 0

        async def behind(
            shard: Shard, script: scripts.Script, *words: Any, left: int = left
        ) -> Any:
            nonlocal count
            reply = await run(shard, script, *words)
            count += script is scripts.IMPORT
            if count == left:
                raise Killed
            return reply

        monkeypatch.setattr(Shard, "run", behind)
        with pytest.raises(Killed):
            await bring(worker, file, content)
        monkeypatch.setattr(Shard, "run", run)
    await workers.close(worker)
    worker = await workers(store_url, reaper=False)
    report = await bring(worker, file)
    assert report.begun_at % 2 == 0
    assert report.begun_at + report.applied == report.rows == 2_400
    found = records(store)
    assert len(found) == 1_200
    assert all(record.startswith("C 1 ") for _, record in found.values())
    stock = await worker.stock.read([f"sku-{n:03d}" for n in range(200)])
    assert {(each.pools[0].channels["web"].committed, each.pools[0].deficit) for each in stock} == {
        (18, 18)
    }


async def test_orders_come_beside_workers_that_sell(
    workers: Workers, store_url: str, store: Store, file: Path
) -> None:
    seller, worker = await workers(store_url), await workers(store_url)
    await furnish(seller, {"tee": 10**6, "cap": 5_000})
    running = True

    async def sell() -> None:
        while running:
            await seller.engine.reserve(demanded("tee"))

    selling = [asyncio.create_task(sell()) for _ in range(4)]
    content = HEADER + "".join(
        f"order-{n},web,tee,1,,,\norder-{n},web,cap,1,,,\n" for n in range(600)
    )
    report = await bring(worker, file, content)
    running = False
    await asyncio.gather(*selling)
    assert (report.orders, report.applied) == (600, 1_200)
    (cap,) = await worker.stock.read(["cap"])
    assert (cap.pools[0].channels["web"].committed, cap.pools[0].on_hand) == (600, 5_000)


async def test_fulfilled_ones_are_noted_where_ended_ones_are(
    worker: Service, file: Path, store: Store
) -> None:
    await furnish(worker, {"tee": 5})
    await bring(worker, file, f"{HEADER}A,web,tee,1,,,fulfilled\nB,web,tee,1,,,committed\n")
    hour = worker.lane.now_ms // keys.HOUR_MS
    ended = [id for each in (hour - 1, hour) for id in store.lrange(keys.done_at(each), 0, -1)]
    assert ended == [records(store)["A"][0].encode()]
