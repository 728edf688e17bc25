"""Opening, fencing and closing: what a worker does when the store is not the one that it knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.embedded.valkey import EmbeddedValkey
from core.errors import (
    Draining,
    InsufficientStock,
    StartRefused,
    StockUnavailable,
)
from core.model import Commit, Release
from core.ops import Receipt
from core.policy_model import ChannelSpec, SkuSpec
from core.service import Service, open_service
from core.settings import Settings
from core.stock_model import Receive, ReceiveLine
from core.store import keys, scripts
from tests.ledgered import Ledger
from tests.workers import (
    Store,
    Workers,
    accounts,
    client,
    demand,
    frozen,
    furnish,
    key,
    picture,
    receive,
    stop_reaper,
    until,
)

Fresh = Callable[..., Awaitable[EmbeddedValkey]]


def refusal(error: pytest.ExceptionInfo[StartRefused]) -> str:
    """What a refused start says: one line."""
    said = str(error.value)
    assert "\n" not in said
    return said


# --- the store that was known ------------------------------------------------------------------


async def test_a_worker_finds_its_store_again(
    store_url: str, store: Store, workers: Workers
) -> None:
    """The shard is made once; a restart changes nothing in it."""
    first = await workers(store_url)
    await furnish(first, {"tee": 3})
    held = await first.engine.reserve(demand())
    epoch = first.lane.epoch
    await workers.close(first)
    before = picture(store)
    second = await workers(store_url, reaper=False)
    assert {k: v for k, v in picture(store).items() if k != keys.META} == {
        k: v for k, v in before.items() if k != keys.META
    }
    assert second.lane.epoch == epoch
    assert second.readiness()["ready"] is True
    assert (await second.engine.commit(held.id, Commit())).version == 2


async def closed(service: Service, store: Store, why: str) -> None:
    """It opened, says why it does not serve, and touches nothing."""
    before = picture(store)
    assert why in service.readiness()["store"]["state"]
    assert service.readiness()["ready"] is False
    with pytest.raises(StockUnavailable) as refused:
        await service.engine.reserve(demand())
    assert refused.value.outcome == "none"
    assert picture(store) == before


async def test_a_store_that_lost_its_data_is_not_served(
    store_url: str, store: Store, workers: Workers, ledger: Ledger
) -> None:
    """An empty store is never an empty warehouse: the ledger knows that there was one."""
    first = await workers(store_url, audited=False, postgres_dsn=ledger.dsn)
    await furnish(first, {"tee": 3})
    mark = await ledger.catch_up(store_url)
    await workers.close(first)
    store.flushall()
    service = await workers(store_url, reaper=False, audited=False, postgres_dsn=ledger.dsn)
    event = f"{mark.epoch}-{mark.seq}"
    await closed(service, store, f"the store is empty, and the ledger has event {event}")
    assert picture(store) == {}


async def test_a_store_with_another_epoch_than_the_ledger_is_not_served(
    store_url: str, store: Store, workers: Workers, ledger: Ledger
) -> None:
    """A backup put back by hand, of either of the two; it serves once they belong together."""
    first = await workers(store_url, postgres_dsn=ledger.dsn)
    await furnish(first, {"tee": 3})
    epoch = (await ledger.catch_up(store_url)).epoch
    await workers.close(first)
    store.hset(keys.META, "epoch", epoch - 5)
    service = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    await closed(service, store, f"the store has the old epoch {epoch - 5}, the ledger {epoch}")
    store.hset(keys.META, "epoch", epoch + 5)
    told = f"the store has epoch {epoch + 5}, the ledger the older {epoch}"
    await until(lambda: told in service.readiness()["store"]["state"], told)
    await closed(service, store, "rebuild --force")
    store.hset(keys.META, "epoch", epoch)
    await until(lambda: service.readiness()["ready"], "ready")
    assert await accounts(service) == (0, 0, 0, 3, 3)


async def test_a_store_that_went_back_in_time_is_not_served(
    store_url: str, store: Store, workers: Workers, ledger: Ledger
) -> None:
    """It has less than the ledger, in the same epoch: its log of writes was cut."""
    first = await workers(store_url, audited=False, postgres_dsn=ledger.dsn)
    await furnish(first, {"tee": 3})
    mark = await ledger.catch_up(store_url)
    await workers.close(first)
    store.hset(keys.META, "seq", mark.seq - 1)
    service = await workers(store_url, reaper=False, audited=False, postgres_dsn=ledger.dsn)
    told = f"went back in time: it is at event {mark.seq - 1}, the ledger at {mark.seq}"
    await closed(service, store, told)


async def test_without_the_ledger_a_store_counts_only_if_its_server_ran_on(
    store_url: str, store: Store, workers: Workers, ledger: Ledger
) -> None:
    """A worker that is replaced while the ledger is away serves; not on a server that restarted."""
    first = await workers(store_url, audited=False, postgres_dsn=ledger.dsn)
    await furnish(first, {"tee": 3})
    await ledger.catch_up(store_url)
    await workers.close(first)
    await workers.close(await workers(store_url, audited=False, postgres_dsn=ledger.dsn))
    away = ledger.dsn.replace("host=", "host=/nowhere")
    second = await workers(store_url, reaper=False, audited=False, postgres_dsn=away)
    assert second.readiness()["ready"]
    await second.engine.reserve(demand())
    await workers.close(second)
    store.hset(keys.META, "checked", "another run")
    third = await workers(store_url, reaper=False, audited=False, postgres_dsn=away)
    await closed(third, store, "it is not known whether the store has all that it had")
    store.flushall()
    fourth = await workers(store_url, reaper=False, audited=False, postgres_dsn=away)
    await closed(fourth, store, "it is not known whether the store has all that it had")
    assert picture(store) == {}


async def test_an_unknown_format_is_refused(
    store_url: str, store: Store, workers: Workers
) -> None:
    """A store of another version of Stockade is left alone."""
    await workers.close(await workers(store_url))
    store.hset(keys.META, "format", "77")
    before = picture(store)
    with pytest.raises(StartRefused) as refused:
        await workers(store_url)
    assert "format 77" in refusal(refused)
    assert picture(store) == before
    store.hset(keys.META, "format", scripts.FORMAT)


# --- another store under a running worker ------------------------------------------------------


async def fenced(service: Service, store: Store) -> None:
    """Nothing is served and nothing written, and readiness says so."""
    await until(lambda: not service.readiness()["ready"], "fenced")
    before = picture(store)
    line = Receive([ReceiveLine("tee", "main", 1)])
    for attempt in (
        service.engine.reserve(demand()),
        service.engine.commit("01930000-0000-7000-8000-000000000000", Commit()),
        service.catalogue.put_sku("cap", SkuSpec()),
        service.catalogue.put_channel("fax", ChannelSpec()),
        service.catalogue.delete_channel("web"),
        service.catalogue.channels(),
        service.catalogue.channel("web"),
        service.catalogue.locations(),
        service.catalogue.sku("tee"),
        service.stock.read(["tee"]),
        service.stock.page("", 10),
        service.stock.availability("web", ["tee"]),
        service.engine.reservation("01930000-0000-7000-8000-000000000000"),
    ):
        with pytest.raises(StockUnavailable) as refused:
            await attempt
        assert refused.value.outcome == "none"
    results = await service.stock.receive(line, [None])
    assert isinstance(results[0].error, StockUnavailable)
    assert picture(store) == before
    assert service.readiness()["scripts"] == "unknown"


@pytest.mark.parametrize("change", ["format", "epoch"])
async def test_another_format_or_epoch_fences_until_it_is_back(
    worker: Service, store: Store, change: str
) -> None:
    """A worker that does not know it stops writing and says so, and goes on when it does."""
    await furnish(worker, {"tee": 5})
    known = store.hget(keys.META, change)
    assert known is not None
    store.hset(keys.META, change, "99")
    with pytest.raises(StockUnavailable) as refused:
        await worker.engine.reserve(demand())
    assert refused.value.outcome == "none"
    await fenced(worker, store)
    await until(lambda: f"{change} 99" in worker.readiness()["store"]["state"], "the reason shown")
    store.hset(keys.META, change, known)
    await until(lambda: worker.readiness()["ready"], "ready again")
    await worker.engine.reserve(demand())


@pytest.mark.parametrize("first", ["write", "read", "reaper"])
async def test_a_flushed_store_is_never_an_empty_warehouse(
    store_url: str, store: Store, workers: Workers, first: str
) -> None:
    """Whoever notices first: nothing is answered as if there were no stock, nothing is made."""
    worker = await workers(store_url, reaper=first == "reaper", audited=False)
    await furnish(worker, {"tee": 5})
    held = await worker.engine.reserve(demand())
    store.flushall()
    if first == "write":
        with pytest.raises(StockUnavailable):
            await worker.engine.commit(held.id, Commit())
    elif first == "read":
        for read in (
            worker.engine.reservation(held.id), worker.stock.read(["tee"]),
            worker.stock.page("", 10),
            worker.catalogue.channel("web"), worker.catalogue.channels(),
            worker.catalogue.sku("tee"), worker.catalogue.put_sku("tee", SkuSpec()),
            worker.catalogue.put_channel("web", ChannelSpec()),
            worker.catalogue.delete_channel("web"),
            worker.stock.availability("web", ["cap"]),  # of what was not seen a moment ago
        ):  # fmt: skip
            with pytest.raises(StockUnavailable):
                await read
        with pytest.raises(StockUnavailable):
            await worker.engine.reserve(demand())
    await fenced(worker, store)
    assert picture(store) == {}


async def test_a_shorter_history_is_noticed_after_a_restart(
    fresh_valkey: Fresh, workers: Workers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server came back with less than was acknowledged: fenced, and the log says so."""
    server = await fresh_valkey(tmp_path / "v")
    worker = await workers(server.url, reaper=False, audited=False)
    await furnish(worker, {"tee": 5})
    for _ in range(3):
        await worker.engine.reserve(demand())
    seq = worker.lane.seq
    await server.stop()
    await server.start()
    plain = client(server.url)
    plain.hset(keys.META, "seq", seq - 1)
    with pytest.raises(StockUnavailable):
        await worker.engine.reserve(demand())
    await fenced(worker, plain)
    assert f"from seq {seq} to {seq - 1}" in caplog.text
    plain.hset(keys.META, "seq", seq)
    await until(lambda: worker.readiness()["ready"], "ready again")
    await worker.engine.reserve(demand())
    plain.close()


# --- keys of the wrong type under a running worker ---------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "pools", "skus", "catalog", "channels", "locations", "events", "idem", "rsv", "due", "done",
    ],
)
async def test_a_key_of_the_wrong_type_stops_what_needs_it(
    store_url: str, store: Store, workers: Workers, name: str
) -> None:
    """503 with the key's name, nothing half written; mended, the service goes on by itself."""
    worker = await workers(store_url, reaper=False, staleness_ms=0)
    await furnish(worker, {"tee": 20})
    held = await worker.engine.reserve(demand(quantity=2), key(1))
    spare = await worker.engine.reserve(demand())
    other = await workers(store_url, reaper=False, staleness_ms=0)  # it has seen nothing yet
    planted = {
        "rsv": keys.bucket_of(held.id).decode(), "idem": worker.lane.short_window[0].decode(),
        "due": keys.due_at(worker.lane.now_ms // 1000).decode(),
        "done": worker.lane.done_list.decode(),
    }.get(name, f"{{s0}}:{name}")  # fmt: skip
    was_there = store.exists(planted)
    if was_there:
        store.rename(planted, "aside")
    store.set(planted, "planted")

    async def everything(service: Service) -> list[StockUnavailable]:
        attempts = (
            service.engine.reserve(demand()), service.engine.reserve(demand(quantity=99)),
            service.engine.commit(held.id, Commit(), key(2)), service.lane.tidy(),
            service.catalogue.put_sku("cap", SkuSpec()), service.catalogue.sku("tee"),
            service.catalogue.channels(), service.catalogue.put_channel("fax", ChannelSpec()),
            service.stock.read(["tee"]), service.stock.page("", 5),
            service.engine.reservation(held.id), service.engine.release(spare.id, Release()),
        )  # fmt: skip
        found = []
        for attempt in attempts:
            try:
                await attempt
            except StockUnavailable as error:
                found.append(error)
            except InsufficientStock:
                continue
        return found

    refused = await everything(worker) + await everything(other)
    assert refused
    assert {error.outcome for error in refused} == {"none"}
    unnamed = [error.detail for error in refused if planted not in str(error.detail)]
    assert not unnamed
    assert store.get(planted) == b"planted"
    store.delete(planted)  # the audit at the end would find anything that was half written
    if was_there:
        store.rename("aside", planted)
    for service in (worker, other):
        await until(lambda s=service: not s.lane._paused, "mended")  # type: ignore[misc]
        await service.engine.reserve(demand())
        assert service.readiness()["ready"] is True
    assert (await worker.engine.reservation(held.id)).version >= 1


# --- closing -----------------------------------------------------------------------------------


async def test_closing_answers_everybody(store_url: str, workers: Workers) -> None:
    """With full queues: a result or an error for each, and nothing is left pending."""
    service = await workers(store_url)
    await furnish(service, {"tee": 5_000})
    engine = service.engine
    held = await engine.reserve_batch([demand()] * 500, [None] * 500)
    calls = [asyncio.ensure_future(engine.reserve(demand(), key(n))) for n in range(1_000)]
    calls += [asyncio.ensure_future(engine.reserve(demand(quantity=2))) for _ in range(1_000)]
    for each in held:
        assert isinstance(each, Receipt)
        calls.append(asyncio.ensure_future(engine.commit(each.id, Commit())))
    await asyncio.sleep(0)  # every caller has come as far as the lane
    lane = service.lane
    assert lane.queues.waiting() > 1_000
    await workers.close(service)
    assert lane.queues.waiting() == 0
    done, pending = await asyncio.wait(calls, timeout=1)
    assert not pending
    kinds = {type(call.exception() or call.result()) for call in done}
    assert kinds == {Receipt}, kinds  # there was time to answer them all
    with pytest.raises(Draining) as draining:
        await engine.reserve(demand())
    assert draining.value.outcome == "none"


async def test_closing_before_the_answers_come_says_unknown(
    fresh_valkey: Fresh, workers: Workers
) -> None:
    """A frozen store and no patience: what was sent is unknown and named, what waited is none."""
    server = await fresh_valkey()
    service = await workers(server.url, drain_seconds=0, store_timeout_seconds=30)
    await furnish(service, {"tee": 50})
    plain = client(server.url)
    await stop_reaper(service)
    with frozen(plain):
        pipelines = service.lane.counts["pipelines"]
        sent = [asyncio.ensure_future(service.engine.reserve(demand())) for _ in range(3)]
        await until(lambda: service.lane.counts["pipelines"] > pipelines, "sent")
        waits = [asyncio.ensure_future(service.engine.reserve(demand())) for _ in range(3)]
        await until(lambda: service.lane.queues.waiting() == 3, "queued")
        await service.close()
    for call in sent:
        error = await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 1)
        assert isinstance(error[0], Draining)
        assert error[0].outcome == "unknown"
        assert error[0].reservation is not None
    for call in waits:
        error = await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 1)
        assert isinstance(error[0], Draining)
        assert error[0].outcome == "none"
    plain.close()


async def test_a_start_that_fails_leaves_nothing_behind(
    store_url: str, store: Store, tmp_path: Path
) -> None:
    """No task, no connection: the warning of either would fail this test."""
    store.set(keys.POOLS, "planted")
    settings = Settings(data=tmp_path / "d", valkey_url=store_url)
    with pytest.raises(StartRefused) as refused:
        async with open_service(settings):
            raise AssertionError("it opened")
    assert keys.POOLS.decode() in refusal(refused)
    assert len(asyncio.all_tasks()) == 1


async def test_receipts_and_accounts_agree_after_everything(worker: Service) -> None:
    """A round of all of it leaves what was bought and nothing else."""
    logging.getLogger("stockade").info("one round")
    await furnish(worker, {"tee": 10}, web=ChannelSpec(floor_share=0.5))
    held = [await worker.engine.reserve(demand()) for _ in range(6)]
    for each in held[:4]:
        await worker.engine.commit(each.id, Commit())
    for each in held[4:]:
        await worker.engine.release(each.id, Release())
    await receive(worker, {"tee": 2})
    assert (await accounts(worker))[1:] == (0, 4, 6, 12)
