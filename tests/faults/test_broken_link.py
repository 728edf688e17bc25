"""Connections that break at the worst moment: one effect, and the caller gets its answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from core.clock import monotonic_ms
from core.errors import CustomerLimit, KeyReused, StockUnavailable, Unavailable
from core.lane import SEND_AT
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    PartLine,
    Release,
    Return,
    ReturnLine,
)
from core.ops import Receipt
from core.policy_model import ChannelSpec
from core.service import Service
from core.stock_model import Adjust, AdjustLine, Count, CountLine, Receive, ReceiveLine
from core.store import keys, scripts
from tests.faults.proxy import Kind, Proxy
from tests.workers import (
    Store,
    Workers,
    accounts,
    demand,
    furnish,
    key,
    make_due,
    receive,
    record,
    until,
)


@pytest.fixture
async def proxy(store_url: str, tmp_path: Path, seed: int) -> AsyncIterator[Proxy]:
    """A proxy before the empty store."""
    print(f"seed {seed}")
    opened = Proxy(Path(store_url.removeprefix("unix://")), seed)
    await opened.start()
    yield opened
    await opened.stop()


@pytest.fixture
async def shop(proxy: Proxy, store_url: str, workers: Workers) -> Service:
    """A worker that reaches its store through the proxy, with ten units at hand."""
    await workers(store_url, reaper=False)  # so that the store is audited directly
    service = await workers(proxy.url, reaper=False, audited=False, staleness_ms=0)
    await furnish(service, {"tee": 10}, web=ChannelSpec(floor_share=0.5))
    return service


def events(store: Store) -> list[str]:
    """The verbs of all events so far."""
    return [fields[b"v"].decode() for _, fields in store.xrange(keys.EVENTS)]


async def brought_about(shop: Service, store: Store, verb: str) -> Callable[[], Awaitable[Any]]:
    """All that a verb needs, and the call of it."""
    engine = shop.engine
    id = (await engine.reserve(demand(quantity=2))).id
    if verb in ("fulfil", "fulfil part", "cancel", "return", "amend what is paid"):
        await engine.commit(id, Commit())
    if verb == "return":
        await engine.fulfil(id, Fulfil())
    if verb.startswith("late commit"):
        make_due(store, id)
        await shop.lane.tidy()
    part = Fulfil([PartLine("tee", 1)])
    line = Receive([ReceiveLine("tee", "main", 4)])
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "reserve": lambda: engine.reserve(demand(quantity=3)),
        "reserve with key": lambda: engine.reserve(demand(quantity=3), key(1)),
        "commit": lambda: engine.commit(id, Commit(), None, 1),
        "late commit": lambda: engine.commit(id, Commit()),
        "amend": lambda: engine.amend(id, Amend([AmendLine("tee", 3)], 1000)),
        "amend what is paid": lambda: engine.amend(id, Amend([AmendLine("tee", 1)]), key(4), 2),
        "return": lambda: engine.return_(id, Return([ReturnLine("tee", 2)]), key(5), 3),
        "fact": lambda: engine.reserve(demand(quantity=99, state="fulfilled", shortage="record")),
        "late commit with key": lambda: engine.commit(id, Commit(), key(6)),
        "commit with key": lambda: engine.commit(id, Commit(), key(6)),
        "extend": lambda: engine.extend(id, Extend(1800), None, 1),
        "extend with key": lambda: engine.extend(id, Extend(1800), key(6)),
        "release with key": lambda: engine.release(id, Release(), key(6)),
        "release": lambda: engine.release(id, Release(), None, 1),
        "cancel": lambda: engine.cancel(id, Cancel(), None, 2),
        "fulfil": lambda: engine.fulfil(id, Fulfil(), None, 2),
        "fulfil part": lambda: engine.fulfil(id, part, key(2), 2),
        "receive": lambda: shop.stock.receive(line, [None]),
        "receive with key": lambda: shop.stock.receive(line, [key(3)]),
        "adjust": lambda: shop.stock.adjust(Adjust([AdjustLine("tee", "main", 4)]), [None]),
        "count with key": lambda: shop.stock.count(
            Count([CountLine("tee", "main", 14, if_on_hand=10)]), [key(4)]
        ),
    }
    return calls[verb]


SHAS = {
    "reserve": scripts.RESERVE, "reserve with key": scripts.RESERVE, "commit": scripts.COMMIT,
    "late commit": scripts.REPLAN, "amend": scripts.REPLAN, "amend what is paid": scripts.REPLAN,
    "return": scripts.REPLAN, "fact": scripts.RESERVE, "extend": scripts.EXTEND,
    "late commit with key": scripts.REPLAN, "commit with key": scripts.COMMIT,
    "extend with key": scripts.EXTEND,
    "release": scripts.GIVEBACK, "release with key": scripts.GIVEBACK,
    "cancel": scripts.GIVEBACK, "fulfil": scripts.FULFIL, "fulfil part": scripts.FULFIL,
    "receive": scripts.STOCK, "receive with key": scripts.STOCK, "adjust": scripts.STOCK,
    "count with key": scripts.STOCK,
}  # fmt: skip


@pytest.mark.parametrize("verb", SHAS)
@pytest.mark.parametrize(
    ("kind", "reply_bytes"), [("cut reply", 0), ("cut reply", 9), ("lose request", 0)]
)
async def test_a_cut_is_healed_by_sending_the_same_again(
    shop: Service, proxy: Proxy, store: Store, verb: str, kind: Kind, reply_bytes: int
) -> None:
    """One event, whether the script had run or not; success; the reservation that was named."""
    call = await brought_about(shop, store, verb)
    before = events(store)
    struck = proxy.arm(kind, SHAS[verb].sha, reply_bytes)
    answer = await call()
    assert struck.is_set()
    assert shop.lane.counts["resent"] == 1
    happened = events(store)[len(before) :]
    assert len(happened) == 1, happened
    if isinstance(answer, Receipt):
        assert record(store, answer.id).split(" ")[1] == str(answer.version)
        assert not answer.replayed, "nobody has asked before"
        made = sum(store.hlen(name) for name in store.keys("{s0}:rsv:*"))
        assert made == (2 if "reserve" in verb or verb == "fact" else 1)
    else:
        assert answer[0].error is None
        assert not answer[0].replayed, "nobody has asked before"
        assert (await accounts(shop))[4] == 14


@pytest.mark.parametrize(
    ("kind", "reply_bytes"), [("cut reply", 0), ("cut reply", 9), ("lose request", 0)]
)
async def test_both_pipelines_under_way_are_sent_again(
    shop: Service, proxy: Proxy, kind: Kind, reply_bytes: int
) -> None:
    """The first is cut while the second follows it: each demand is granted once, in order."""
    await receive(shop, {"tee": 1_000})
    struck = proxy.arm(kind, scripts.RESERVE.sha, reply_bytes)
    crowd = [shop.engine.reserve(demand(), key(n)) for n in range(2 * SEND_AT)]
    receipts = await asyncio.gather(*crowd)
    assert struck.is_set()
    assert shop.lane.counts["resent"] == shop.lane.counts["ahead"] + 1 == 2
    assert len({receipt.id for receipt in receipts}) == 2 * SEND_AT
    assert not any(receipt.replayed for receipt in receipts)
    assert (await accounts(shop))[1] == 2 * SEND_AT


@pytest.mark.parametrize("change", ["time", "policy", "time and policy"])
async def test_a_batch_that_was_done_is_done_whatever_changed_since(
    shop: Service, proxy: Proxy, store: Store, store_url: str, workers: Workers, change: str
) -> None:
    """The way back takes longer than the clock check allows, or the policy moved meanwhile."""
    elsewhere = await workers(store_url, reaper=False)
    struck = proxy.arm("cut reply", scripts.RESERVE.sha)
    proxied = asyncio.ensure_future(shop.engine.reserve(demand(quantity=3)))
    await struck.wait()
    proxy.refusing = True
    if "policy" in change:
        await elsewhere.catalogue.put_channel("web", ChannelSpec(floor_share=0.25))
    if "time" in change:
        struck_ms = monotonic_ms()
        await until(lambda: monotonic_ms() - struck_ms > 1_200, "more than the clock check allows")
    proxy.refusing = False
    receipt = await proxied
    assert receipt.version == 1
    assert (await accounts(elsewhere))[1] == 3
    assert len(store.hgetall(keys.bucket_of(receipt.id))) == 1


@pytest.mark.parametrize("verb", [verb for verb in SHAS if "key" in verb or "part" in verb])
async def test_what_was_done_is_no_replay_however_long_the_way_back(
    shop: Service, proxy: Proxy, store: Store, verb: str
) -> None:
    """It takes longer than the clock check allows, so what was sent is formed anew. Whoever comes
    with the same key afterwards is told that it was done before, also if a cut comes between."""
    call = await brought_about(shop, store, verb)
    struck = proxy.arm("cut reply", SHAS[verb].sha)
    asked = asyncio.ensure_future(call())
    await struck.wait()
    proxy.refusing = True
    struck_ms = monotonic_ms()
    await until(lambda: monotonic_ms() - struck_ms > 1_200, "more than the clock check allows")
    proxy.refusing = False
    assert replayed(await asked) is False
    happened = events(store)
    proxy.cut()
    assert replayed(await call()) is True
    assert events(store) == happened


def replayed(answer: Any) -> bool:
    """Whether a receipt, or the first line of an answer on stock, says so."""
    return bool((answer if isinstance(answer, Receipt) else answer[0]).replayed)


async def test_a_key_of_another_body_is_told_also_after_a_cut(shop: Service, proxy: Proxy) -> None:
    """The reply that said so was lost: the second sending must not take it for its own success."""
    line = Receive([ReceiveLine("tee", "main", 4)])
    await shop.stock.receive(line, [key(1)])
    struck = proxy.arm("cut reply", scripts.STOCK.sha)
    result = (await shop.stock.receive(line, [key(1, "another body")]))[0]
    assert struck.is_set()
    assert isinstance(result.error, KeyReused)
    assert (await accounts(shop))[4] == 14


async def test_a_store_that_stays_away_is_told_and_found_again(
    shop: Service, proxy: Proxy, store: Store
) -> None:
    """After two seconds: what was sent is unknown and named, what waited did not happen."""
    struck = proxy.arm("cut reply", scripts.RESERVE.sha)
    sent = asyncio.ensure_future(shop.engine.reserve(demand(), key(1)))
    await struck.wait()
    proxy.refusing = True
    proxy.cut()
    waited = asyncio.ensure_future(shop.engine.reserve(demand()))
    results = await asyncio.gather(sent, waited, return_exceptions=True)
    unknown, none = results
    assert isinstance(unknown, StockUnavailable)
    assert isinstance(none, StockUnavailable)
    assert (unknown.outcome, none.outcome) == ("unknown", "none")
    assert unknown.reservation is not None
    assert none.reservation is None
    assert record(store, unknown.reservation).startswith("R 1 ")
    assert shop.readiness()["ready"] is False
    with pytest.raises(StockUnavailable):
        await shop.engine.reserve(demand())
    tries = proxy.accepted
    await until(lambda: proxy.accepted > tries, "it tries again")
    proxy.refusing = False
    await until(lambda: shop.readiness()["ready"], "connected by itself")
    again = await shop.engine.reserve(demand(), key(1))
    assert (again.id, again.replayed) == (unknown.reservation, True)


async def test_a_line_that_goes_silent_is_given_up(
    proxy: Proxy, store_url: str, store: Store, workers: Workers
) -> None:
    """Half open: the store acts and nobody hears of it. A time-out, then the same batch again."""
    await workers(store_url, reaper=False)
    shop = await workers(proxy.url, reaper=False, audited=False, store_timeout_seconds=2)
    await furnish(shop, {"tee": 10})
    struck = proxy.arm("silence", scripts.RESERVE.sha)
    receipt = await shop.engine.reserve(demand(quantity=2))
    assert struck.is_set()
    assert shop.lane.counts["resent"] >= 1
    assert (await accounts(shop))[1] == 2
    assert receipt.version == 1


async def test_a_store_that_never_answers_a_batch_does_not_hold_the_others(
    proxy: Proxy, store_url: str, store: Store, workers: Workers
) -> None:
    """It takes connections, and swallows this batch: bounded, unknown, and the lane goes on."""
    await workers(store_url, reaper=False)
    shop = await workers(
        proxy.url, reaper=False, audited=False, store_timeout_seconds=0.5, wait_ms=20_000
    )
    await furnish(shop, {"tee": 10, "cap": 10})
    strikes = [proxy.arm("silence", b"tee@main") for _ in range(40)]
    sent = asyncio.ensure_future(shop.engine.reserve(demand("tee")))
    await strikes[0].wait()
    behind = asyncio.ensure_future(shop.engine.reserve(demand("cap")))
    with pytest.raises(StockUnavailable) as given_up:
        await sent
    assert given_up.value.outcome == "unknown"
    assert (await behind).version == 1
    assert 2 <= sum(strike.is_set() for strike in strikes) <= 8
    assert record(store, str(given_up.value.reservation)).startswith("R 1 ")


async def test_cuts_resets_and_delays_under_load(
    proxy: Proxy, store_url: str, store: Store, workers: Workers, seed: int
) -> None:
    """Every acknowledged change is there, once; what is unknown either happened or did not."""
    dice = random.Random(seed)
    await workers(store_url, reaper=False)
    pair = [await workers(proxy.url, audited=False, store_timeout_seconds=0.5) for _ in range(2)]
    await furnish(pair[0], {f"sku-{n}": 500 for n in range(4)})
    proxy.delay_seconds = (0.0, 0.003)
    counts: Counter[str] = Counter()
    acknowledged: dict[str, str] = {}
    named: set[str] = set()

    async def buyer(number: int) -> None:
        engine = pair[number % 2].engine
        try:
            receipt = await engine.reserve(demand(f"sku-{number % 4}"), key(number))
            acknowledged[receipt.id] = "R"
            counts["reserved"] += 1
            if number % 3:
                acknowledged[receipt.id] = "?"
                if number % 3 == 1:
                    await engine.commit(receipt.id, Commit())
                else:
                    await engine.release(receipt.id, Release())
                acknowledged[receipt.id] = "C" if number % 3 == 1 else "L"
                counts["settled"] += 1
        except Unavailable as error:
            counts[error.outcome] += 1
            if isinstance(error, StockUnavailable) and error.reservation:
                named.add(error.reservation)

    async def saboteur() -> None:
        for strike in range(12):
            business = 20 * strike
            await until(lambda: counts["reserved"] > business, "business in between")  # noqa: B023
            script = dice.choice([scripts.RESERVE, scripts.COMMIT, scripts.GIVEBACK])
            kind: Kind = dice.choice(["cut reply", "cut reply", "lose request", "silence"])
            await proxy.arm(kind, script.sha, dice.randrange(40), dice.random() < 0.5).wait()
            counts[kind] += 1

    async def load(first: int) -> None:
        number = first
        while not breaking.done():
            await buyer(number)
            number += 32

    breaking = asyncio.ensure_future(saboteur())
    await asyncio.gather(*(load(first) for first in range(32)), breaking)
    print(counts)
    assert counts["reserved"] > 100
    for id, state in acknowledged.items():
        assert record(store, id)[0] == state or state == "?", (id, state)
    held = {id.decode() for name in store.keys("{s0}:rsv:*") for id in store.hgetall(name)}
    assert held >= acknowledged.keys()
    assert held - acknowledged.keys() <= named  # nothing that nobody was told of
    sold = sum([(await accounts(pair[0], f"sku-{n}"))[2] for n in range(4)])
    assert sold == Counter(record(store, id)[0] for id in held)["C"]


async def test_a_reset_of_every_connection_is_survived(shop: Service, proxy: Proxy) -> None:
    """The pool of the cold calls and the lane's connection find their way back by themselves."""
    for reset in (True, False):
        await shop.stock.read(["tee"])
        proxy.cut(reset)
        assert (await shop.engine.reserve(demand())).version == 1
        proxy.cut(reset)
        assert (await shop.stock.read(["tee"]))[0].sku == "tee"


@pytest.mark.parametrize("kind", ["cut reply", "lose request"])
async def test_a_place_is_taken_and_left_once(
    proxy: Proxy, store_url: str, store: Store, workers: Workers, kind: Kind
) -> None:
    """A demand that was sent again is not one too many itself, and what ended is not counted."""
    await workers(store_url, reaper=False)  # so that the store is audited directly
    shop = await workers(
        proxy.url, reaper=False, audited=False, staleness_ms=0, customer_live_reservations=1
    )
    await furnish(shop, {"tee": 10})
    for number in range(2):
        proxy.arm(kind, scripts.RESERVE.sha)
        held = await shop.engine.reserve(demand(customer="ann"), key(number))
        assert store.zrange(keys.LIVE, 0, -1) == [f"ann@{held.id}".encode()]
        proxy.arm(kind, scripts.RESERVE.sha)
        with pytest.raises(CustomerLimit):
            await shop.engine.reserve(demand(customer="ann"), key("other"))
        proxy.arm(kind, scripts.GIVEBACK.sha)
        await shop.engine.release(held.id, Release())
        assert not store.exists(keys.LIVE)
    assert shop.lane.counts["resent"] == 6
