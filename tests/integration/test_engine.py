"""The use cases as API.md tells them: keys, quantities, deadlines, what is unknown or corrupt."""

from __future__ import annotations

import asyncio
import functools
import itertools
import operator

import pytest

from core.errors import (
    DurabilityUnavailable,
    Expired,
    HoldLimit,
    InsufficientStock,
    InvalidQuantity,
    InvalidRequest,
    KeyRequired,
    KeyReused,
    StockUnavailable,
    UnknownChannel,
    UnknownLocation,
    UnknownReservation,
    UnknownSku,
)
from core.model import Available, Cancel, Commit, Extend, Fulfil, Line, PartLine, Reserve
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.stock_model import Receive, ReceiveLine
from core.store import keys
from tests.integration.test_states import VERBS
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    make_due,
    picture,
    receive,
    record,
    row,
    text,
)

# --- quantities --------------------------------------------------------------------------------


async def test_parts_are_moved_line_by_line(worker: Service, store: Store) -> None:
    """Without a location in the order of the lines; more than is left says what is left."""
    service, engine = worker, worker.engine
    await service.catalogue.put_location("annex", LocationSpec())
    await service.catalogue.put_channel("web", ChannelSpec(locations=["main", "annex"]))
    await service.catalogue.put_sku("tee", SkuSpec())
    lines = [ReceiveLine("tee", "main", 2), ReceiveLine("tee", "annex", 3)]
    await service.stock.receive(Receive(lines), [None, None])
    id = (await engine.reserve(demand(quantity=5))).id
    await engine.commit(id, Commit())
    with pytest.raises(KeyRequired):
        await engine.fulfil(id, Fulfil([PartLine("tee", 1)]))
    with pytest.raises(InvalidQuantity) as too_many:
        await engine.fulfil(id, Fulfil([PartLine("tee", 6)]), key(1))
    assert too_many.value.lines == [{"sku": "tee", "requested": 6, "available": 5}]
    shipped = await engine.fulfil(id, Fulfil([PartLine("tee", 3)]), key(2))
    assert [(x.location, x.fulfilled) for x in shipped.reservation().lines] == [
        ("main", 2), ("annex", 1),
    ]  # fmt: skip
    with pytest.raises(InvalidQuantity) as gone:
        await engine.cancel(id, Cancel([PartLine("tee", 1, "main")]), key(3))
    assert gone.value.lines == [
        {"sku": "tee", "location": "main", "requested": 1, "available": 0}
    ]
    await engine.cancel(id, Cancel([PartLine("tee", 1, "annex")]), key(4))
    done = (await engine.fulfil(id, Fulfil())).reservation()
    assert done.state == "fulfilled"
    assert sum(line.fulfilled for line in done.lines) == 4
    with pytest.raises(InvalidRequest):
        await engine.fulfil(id, Fulfil([PartLine("a b", 1)]), key(5))


async def test_many_wide_reservations_settle_in_bounded_scripts(
    worker: Service, store: Store
) -> None:
    """5,000 lines at once: 4,000 fit one script, the records behind them wait for the next."""
    names = [f"sku-{n:04}" for n in range(5_000)]
    await worker.catalogue.put_channel("web", ChannelSpec())
    await asyncio.gather(*(worker.catalogue.put_sku(name, SkuSpec()) for name in names[:100]))
    entry = text(store, keys.SKUS, names[0])
    store.hset(keys.SKUS, mapping=dict.fromkeys(names[100:], entry))
    store.zadd(keys.CATALOG, dict.fromkeys(names[100:], 0))
    for at in range(0, len(names), 1_000):
        await receive(worker, dict.fromkeys(names[at:at + 1000], 1))
    engine = worker.engine
    ids = [
        (await engine.reserve(Reserve("web", [Line(n, 1) for n in names[at : at + 100]]))).id
        for at in range(0, len(names), 100)
    ]
    before = worker.lane.meters.scripts["commit", "applied"]
    committed = await asyncio.gather(*(engine.commit(id, Commit()) for id in ids))
    assert worker.lane.meters.scripts["commit", "applied"] == before + 2
    assert {each.reservation().state for each in committed} == {"committed"}
    cancelled = await asyncio.gather(*(engine.cancel(id, Cancel()) for id in ids))
    assert {each.reservation().state for each in cancelled} == {"cancelled"}


# --- time to live ------------------------------------------------------------------------------


async def test_an_extension_never_shortens_and_has_a_limit(
    store_url: str, store: Store, workers: Workers
) -> None:
    """The later of what it is and now + ttl, at most max_hold_seconds after creation."""
    worker = await workers(store_url, reaper=False, audited=False)
    spec = ChannelSpec(ttl_seconds=100, max_hold_seconds=1000)
    await furnish(worker, {"tee": 5}, web=spec)
    id = (await worker.engine.reserve(demand())).id
    assert (await worker.engine.extend(id, Extend(10))).version == 1
    assert (await worker.engine.extend(id, Extend(500))).version == 2
    with pytest.raises(HoldLimit):
        await worker.engine.extend(id, Extend(1001))
    old = f"{int(id[:8] + id[9:13], 16) - 700_000:012x}"
    older = f"{old[:8]}-{old[8:]}{id[13:]}"  # the same one, created 700 s earlier
    store.hset(keys.bucket_of(older), older, record(store, id))
    store.hdel(keys.bucket_of(id), id)
    with pytest.raises(HoldLimit):
        await worker.engine.extend(older, Extend(501))
    with pytest.raises(InvalidRequest):
        await worker.engine.reserve(demand(ttl_seconds=1001))


async def test_a_late_commit_loses_when_the_units_are_gone(worker: Service, store: Store) -> None:
    """Then the answer is ``expired`` with the lines: give the money back."""
    await furnish(worker, {"tee": 2})
    engine = worker.engine
    id = (await engine.reserve(demand(quantity=2), key(1))).id
    make_due(store, id)
    await engine.reserve(demand(quantity=1))
    with pytest.raises(Expired) as gone:
        await engine.commit(id, Commit())
    assert [(x["sku"], x["requested"], x["available"]) for x in gone.value.lines] == [("tee", 2, 1)]
    assert (await engine.reservation(id)).reservation().state == "expired"


async def test_a_late_commit_has_a_window(worker: Service, store: Store) -> None:
    """After ``late_window_seconds`` of the channel it is over."""
    await furnish(worker, {"tee": 2}, web=ChannelSpec(late_window_seconds=60))
    id = (await worker.engine.reserve(demand())).id
    make_due(store, id)
    await worker.lane.tidy()
    words = record(store, id).split(" ")
    words[3] = str(int(words[3]) - 61_000)
    store.hset(keys.bucket_of(id), id, " ".join(words))
    with pytest.raises(Expired):
        await worker.engine.commit(id, Commit())


# --- what does not exist or does not fit -------------------------------------------------------


async def test_what_is_unknown_is_said(worker: Service, store: Store) -> None:
    """Names that follow the grammar are unknown, others are invalid; nothing is written."""
    await furnish(worker, {"tee": 2})
    before = picture(store)
    engine = worker.engine
    for request, error in (
        (demand("cap"), UnknownSku),
        (demand("a b"), InvalidRequest),
        (demand(channel="fax"), UnknownChannel),
        (demand(channel="Fax!"), InvalidRequest),
        (Reserve("web", [Line("tee", 1, "moon")]), UnknownLocation),
        (Reserve("web", [Line("tee", 1, "all")]), InvalidRequest),
        (demand(durability="ledger"), DurabilityUnavailable),
        (demand(quantity=3), InsufficientStock),
    ):
        with pytest.raises(error):
            await engine.reserve(request)
    with pytest.raises(UnknownSku) as unknown:
        await engine.reserve(Reserve("web", [Line("cap", 1), Line("tee", 1), Line("hat", 2)]))
    assert [line["sku"] for line in unknown.value.lines] == ["cap", "hat"]
    nobody = "01930000-0000-7000-8000-000000000000"
    for id in (nobody, "nonsense", nobody[:-2] + "07"):
        for verb in VERBS.values():
            with pytest.raises(UnknownReservation):
                await verb(worker, id)
        with pytest.raises(UnknownReservation):
            await engine.reservation(id)
    pools = (("cap", "main"), ("tee", "moon"), ("tee", "A"))
    results = await worker.stock.receive(
        Receive([ReceiveLine(sku, place, 1) for sku, place in pools]), [None] * 3
    )
    assert [type(each.error) for each in results] == [UnknownSku, UnknownLocation, InvalidRequest]
    assert picture(store) == before


@pytest.mark.parametrize(
    "damage", ["no record", "no pool", "too few units", "row", "another's quota"]
)
async def test_a_corrupt_record_or_pool_is_left_alone(
    store_url: str, store: Store, workers: Workers, damage: str
) -> None:
    """It is told and logged, nothing moves, and others in the same batch go on."""
    worker = await workers(store_url, reaper=False, audited=False)
    await furnish(worker, {"tee": 5, "cap": 5})
    engine = worker.engine
    bad, good = (await engine.reserve(demand("tee"))).id, (await engine.reserve(demand("cap"))).id
    if damage == "no record":
        store.hset(keys.bucket_of(bad), bad, "what is this")
    elif damage == "no pool":
        store.hdel(keys.POOLS, "tee@main")
    elif damage == "row":
        store.hset(keys.POOLS, "tee@main", "7 nonsense")
    elif damage == "another's quota":
        store.hset(keys.POOLS, "tee@main", row(store, "tee@main") + " app@torn")
    else:
        was = row(store, "tee@main")
        store.hset(keys.POOLS, "tee@main", was.replace("web@0,1,0", "web@1,0,0"))
    before = picture(store)
    results = await asyncio.gather(
        *(engine.commit(id, Commit()) for id in (bad, good)), return_exceptions=True
    )
    assert isinstance(results[0], StockUnavailable)
    assert results[0].outcome == "none"
    assert isinstance(results[1], Receipt)
    after = picture(store)
    assert after[keys.bucket_of(bad)][bad.encode()] == before[keys.bucket_of(bad)][bad.encode()]
    assert after[keys.POOLS].get(b"tee@main") == before[keys.POOLS].get(b"tee@main")


# --- idempotency -------------------------------------------------------------------------------


async def test_a_key_has_one_effect_from_any_worker(
    store_url: str, store: Store, workers: Workers
) -> None:
    """Same key and body: same id; other body: KeyReused, also after a restart of all workers."""
    one, other = [await workers(store_url, reaper=False) for _ in range(2)]
    await furnish(one, {"tee": 10})
    first = await one.engine.reserve(demand(), key(1))
    assert not first.replayed
    for engine in (one.engine, other.engine):
        again = await engine.reserve(demand(), key(1))
        assert (again.id, again.replayed) == (first.id, True)
        with pytest.raises(KeyReused):
            await engine.reserve(demand(), key(1, "another body"))
    twins = await asyncio.gather(
        *(w.engine.reserve(demand(), key(2)) for _ in range(20) for w in (one, other))
    )
    assert len({twin.id for twin in twins}) == 1
    assert sum(not twin.replayed for twin in twins) == 1
    await one.engine.commit(first.id, Commit(), key(3))
    assert (await other.engine.commit(first.id, Commit(), key(3))).replayed
    with pytest.raises(KeyReused):
        await other.engine.commit(first.id, Commit(), key(3, "another body"))
    part = Fulfil([PartLine("tee", 1)])
    shipped = await one.engine.fulfil(first.id, part, key(4))
    assert (await other.engine.fulfil(first.id, part, key(4))).version == shipped.version
    line = Receive([ReceiveLine("tee", "main", 5)])
    assert (await one.stock.receive(line, [key(5)]))[0].error is None
    assert (await other.stock.receive(line, [key(5)]))[0].replayed
    assert isinstance((await other.stock.receive(line, [key(5, "x")]))[0].error, KeyReused)
    assert (await accounts(one))[4] == 10 + 5 - 1
    for service in (one, other):
        await workers.close(service)
    third = await workers(store_url, reaper=False)
    again = await third.engine.reserve(demand(), key(1))
    assert (again.id, again.reservation().state) == (first.id, "fulfilled")


async def test_a_refusal_is_not_stored(worker: Service) -> None:
    """The same key may succeed later: nothing had happened."""
    await furnish(worker, {"tee": 0, "cap": 1})
    with pytest.raises(InsufficientStock):
        await worker.engine.reserve(demand(), key(1))
    await receive(worker, {"tee": 1})
    assert not (await worker.engine.reserve(demand(), key(1))).replayed


async def test_keys_live_for_two_windows(store_url: str, store: Store, workers: Workers) -> None:
    """Found in the window before; new again when that window is out of reach."""
    worker = await workers(store_url, reaper=False)
    await furnish(worker, {"tee": 10})
    first = await worker.engine.reserve(demand(), key(1))
    now = int(text(store, keys.META, "h"))
    hour = 3_600_000
    await workers.close(worker)

    def make_older(current: int, before: int) -> None:
        old = keys.short_keys(text(store, keys.META, "h"))
        store.rename(old, keys.short_keys(str(now - hour * (1 if current != now else 2))))
        store.hset(keys.META, mapping={"h": current, "hp": before})

    make_older(now - hour, now - 2 * hour)
    worker = await workers(store_url, reaper=False)
    assert (await worker.engine.reserve(demand(), key(1))).id == first.id
    assert (await worker.engine.reserve(demand(), key(2))).replayed is False
    assert int(text(store, keys.META, "h")) == now  # a write brought the windows up to date
    store.rename(keys.short_keys(str(now - hour)), keys.short_keys(str(now - 2 * hour)))
    again = await worker.engine.reserve(demand(), key(1))
    assert (again.id != first.id, again.replayed) == (True, False)


# --- batches -----------------------------------------------------------------------------------


async def test_a_batch_answers_each_on_its_own(worker: Service) -> None:
    """Results in order; errors as values; twins answered by the first."""
    await furnish(worker, {"tee": 3})
    requests = [demand(), demand("cap"), demand(quantity=9), demand(channel="fax"), demand()]
    idempotency = [key(1), key(2), key(3), key(4), key(1)]
    results = await worker.engine.reserve_batch(requests, idempotency)
    kinds = [type(result) for result in results]
    assert kinds == [Receipt, UnknownSku, InsufficientStock, UnknownChannel, Receipt]
    first, last = results[0], results[4]
    assert isinstance(first, Receipt)
    assert isinstance(last, Receipt)
    assert (first.id, last.replayed) == (last.id, True)


async def test_partial_grants_say_what_was_refused(worker: Service) -> None:
    """What was not granted comes in ``refused``; nothing at all is a refusal."""
    await furnish(worker, {"tee": 3, "cap": 0})
    request = Reserve("web", [Line("tee", 5), Line("cap", 1)], partial=True)
    found = (await worker.engine.reserve(request)).reservation()
    assert [(x.sku, x.quantity) for x in found.lines] == [("tee", 3)]
    assert [(x.sku, x.requested, x.granted) for x in found.refused or []] == [
        ("tee", 5, 3), ("cap", 1, 0),
    ]  # fmt: skip
    with pytest.raises(InsufficientStock):
        await worker.engine.reserve(request)


async def test_reads_meet_a_changed_ceiling_before_anything_is_planned(
    store_url: str, workers: Workers
) -> None:
    """What a product page shows is what a demand would get."""
    worker = await workers(store_url)
    await furnish(worker, {"tee": 100}, web=ChannelSpec(floor_share=0.7, borrow=False))
    assert (await worker.stock.availability("web", ["tee"])).items == [Available("tee", 70)]
    capped = ChannelSpec(floor_share=0.7, borrow=False, ceiling_units=4)
    await worker.catalogue.put_channel("web", capped)
    (found,) = await worker.stock.read(["tee"])
    assert found.available == {"web": 4}
    assert found.pools[0].channels["web"].ceiling_left == 4
    assert found.pools[0].version == 1  # reading plans nothing
    with pytest.raises(InsufficientStock) as refused:
        await worker.engine.reserve(demand(quantity=5))
    assert refused.value.lines[0]["available"] == 4


async def test_an_id_cannot_be_guessed_from_another(worker: Service) -> None:
    """Of those of one batch, made in one millisecond, half of the random bits differ."""
    await furnish(worker, {"tee": 300}, web=ChannelSpec())
    made = await worker.engine.reserve_batch([demand()] * 300, [None] * 300)
    ids = [int(each.id.replace("-", ""), 16) for each in made if isinstance(each, Receipt)]
    assert len(ids) == 300
    differing = [(one ^ other).bit_count() for one, other in itertools.pairwise(ids)]
    assert sum(differing) / len(differing) > 24
    ever = functools.reduce(operator.or_, [each ^ ids[0] for each in ids])
    assert ever.bit_count() >= 50, "so many bits are chance"
