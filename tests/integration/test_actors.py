"""Who moved each unit: said once for a batch of one caller, id by id for one of several."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

import pytest

from core.access import ASKS, LOOPBACK, Operator
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Release,
    Return,
    ReturnLine,
)
from core.service import Service
from core.stock_model import Adjust, AdjustLine
from core.store import keys
from tests.ledgered import Ledger, audit_ledger
from tests.workers import Store, Workers, demand, furnish, key, make_due, moved

T = TypeVar("T")


class Request:
    """A request of a key."""

    request_id = "r-1"

    def __init__(self, id: str) -> None:
        self.caller = type(LOOPBACK)(id, id, frozenset())


async def by(actor: str, asked: Awaitable[T]) -> T:
    """What this key asked for."""
    token = ASKS.set(Request(actor) if actor else None)
    try:
        return await asked
    finally:
        ASKS.reset(token)


@pytest.fixture
async def shop(workers: Workers, store_url: str, ledger: Ledger) -> Service:
    worker = await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)
    await furnish(worker, {"tee": 1_000, "cap": 100})
    return worker


async def movers(ledger: Ledger, **more: Any) -> set[tuple[str, str | None]]:
    """(verb, actor) of the movements of a reservation, or of a SKU."""
    ((column, value),) = more.items()
    rows = await ledger.fetch(
        f"SELECT DISTINCT verb, actor FROM stockade.movement WHERE {column} = $1", value
    )
    return {(row["verb"], row["actor"]) for row in rows}


async def test_each_movement_says_who_whoever_was_in_its_batch(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    """Thirty demands of three keys and of nobody's, at once; then their commits, at once."""
    names = ["ann", "bob", "cli:eve %", ""]
    engine = shop.engine
    asked = [names[number % 4] for number in range(30)]
    held = await asyncio.gather(*(by(who, engine.reserve(demand(), key(n)))
                                  for n, who in enumerate(asked)))  # fmt: skip
    others = [names[(number + 1) % 4] for number in range(30)]
    await asyncio.gather(*(by(who, engine.commit(each.id, Commit()))
                           for who, each in zip(others, held, strict=True)))  # fmt: skip
    events = [fields[b"a"] for _, fields in store.xrange(keys.EVENTS) if b"a" in fields]
    assert any(each.startswith(b"\n") for each in events), "no batch was of several"
    await ledger.catch_up(store_url)
    for first, second, each in zip(asked, others, held, strict=True):
        assert await movers(ledger, reservation=each.id) == {
            ("reserve", first or None), ("commit", second or None)
        }  # fmt: skip
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_one_caller_is_named_once(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    await asyncio.gather(*(by("ann", shop.engine.reserve(demand(), key(n))) for n in range(20)))
    said = {fields.get(b"a") for _, fields in store.xrange(keys.EVENTS)
            if fields[b"v"] == b"reserve"}  # fmt: skip
    assert said == {b"ann -"}


async def test_all_verbs_say_who(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    engine = shop.engine
    one, two, three = [(await by("a", engine.reserve(demand(quantity=4), key(n)))).id
                       for n in range(3)]  # fmt: skip
    await by("b", engine.extend(one, Extend(2_000)))
    await by("c", engine.amend(one, Amend([AmendLine("tee", 3)])))
    await by("d", engine.commit(one, Commit()))
    await by("e", engine.fulfil(one, Fulfil(), key("f")))
    back = Return([ReturnLine("tee", 1, disposition="restock")])
    await by("f", engine.return_(one, back, key("r")))
    make_due(store, two)
    await by("g", shop.lane.tidy())  # who meets what is due did not ask for its end
    await by("h", engine.commit(two, Commit()))
    await by("i", engine.cancel(two, Cancel(), key("x")))
    await by("j", engine.release(three, Release()))
    await ledger.catch_up(store_url)
    assert await movers(ledger, reservation=one) == {
        ("reserve", "a"), ("amend", "c"), ("commit", "d"), ("fulfil", "e"), ("return", "f"),
    }  # fmt: skip
    assert await movers(ledger, reservation=two) == {
        ("reserve", "a"), ("expire", None), ("commit", "h"), ("cancel", "i"),
    }  # fmt: skip
    assert await movers(ledger, reservation=three) == {("reserve", "a"), ("release", "j")}
    rows = await ledger.fetch(
        "SELECT verb, actor FROM stockade.reservation_version WHERE reservation = $1 "
        "ORDER BY version", one,
    )  # fmt: skip
    assert [tuple(row) for row in rows] == [
        ("reserve", "a"), ("extend", "b"), ("amend", "c"), ("commit", "d"), ("fulfil", "e"),
        ("return", "f"),
    ]  # fmt: skip


async def test_stock_says_who_line_by_line(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    async def adjust(who: str, sku: str, number: int) -> None:
        lines = [AdjustLine(sku, "main", -1)]
        request = Adjust(lines, reason=f"by {who or 'nobody'}")
        await by(who, shop.stock.adjust(request, [key(f"{sku}{number}")]))

    names = ["ann", "bob", ""]
    await asyncio.gather(*(adjust(names[n % 3], "tee", n) for n in range(12)))
    await ledger.catch_up(store_url)
    rows = await ledger.fetch(
        "SELECT actor, reason FROM stockade.movement WHERE verb = 'adjust'"
    )
    assert len(rows) == 12
    assert all(row["reason"] == f"by {row['actor'] or 'nobody'}" for row in rows)
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_where_no_key_is_needed_nobody_is_named(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    held = await by(LOOPBACK.id, shop.engine.reserve(demand()))
    token = ASKS.set(Operator())
    sold = await shop.engine.reserve(demand())
    ASKS.reset(token)
    await ledger.catch_up(store_url)
    assert await movers(ledger, reservation=held.id) == {("reserve", None)}
    assert await movers(ledger, reservation=sold.id) == {("reserve", Operator().caller.id)}
