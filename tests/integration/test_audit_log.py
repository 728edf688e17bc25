"""Who changed what: told by the event of the change itself, so that there is none without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from core.access import ASKS, SCOPES, Caller, Operator
from core.errors import StaleVersion, StockUnavailable
from core.ledger.reading import Reading
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.record_model import AuditEntry, AuditFilter
from core.records import all_audit
from core.service import Service
from core.store import keys
from tests.ledgered import Ledger, audit_ledger
from tests.workers import Store, Workers, furnish, key, moved


class Request:
    """A request of a key."""

    def __init__(self, id: str, request_id: str | None = None) -> None:
        self.caller = Caller(id, id, frozenset(SCOPES))
        self.request_id = request_id


@contextmanager
def asking(request: Request | Operator | None) -> Iterator[None]:
    """What is asked in here is asked by this."""
    token = ASKS.set(request)
    try:
        yield
    finally:
        ASKS.reset(token)


@pytest.fixture
async def shop(workers: Workers, store_url: str, ledger: Ledger) -> Service:
    """A worker that reads the ledger."""
    return await workers(store_url, reaper=False, postgres_dsn=ledger.dsn)


async def entries(ledger: Ledger, url: str, **chosen: Any) -> list[AuditEntry]:
    """The audit log, when the ledger has all of the store."""
    await ledger.catch_up(url)
    return [each async for each in all_audit(Reading(ledger.journal), AuditFilter(**chosen))]


def told(found: list[AuditEntry]) -> list[tuple[Any, ...]]:
    return [(each.actor, each.request_id, each.verb, each.target) for each in found]


async def test_every_change_of_policy_says_who_what_and_what_was_before(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    with asking(Request("ann-key", "req 1")):
        await shop.catalogue.put_location("back", LocationSpec())
        await shop.catalogue.put_channel("web", ChannelSpec(floor_units=3))
    with asking(Request("bob-key")):
        await shop.catalogue.put_channel("web", ChannelSpec(floor_units=4, borrow=False))
        await shop.catalogue.put_sku("tee%#", SkuSpec(safety_stock=2))
        await shop.catalogue.put_sku("tee%#", SkuSpec(safety_stock=1))
        await shop.catalogue.delete_channel("web")
    with asking(Operator()):
        await shop.protection.switch(True, "counts are off", "ann")
    with asking(None):  # a command that ran in this process before may have said otherwise
        await shop.protection.switch(False, "all is well", "alarm")
    found = await entries(ledger, store_url)
    operator = Operator().caller.id
    assert operator.startswith("cli:")
    assert told(found) == [
        ("ann-key", "req 1", "put", "location/back"),
        ("ann-key", "req 1", "put", "channel/web"),
        ("bob-key", None, "put", "channel/web"),
        ("bob-key", None, "put", "sku/tee%#"),
        ("bob-key", None, "put", "sku/tee%#"),
        ("bob-key", None, "put", "channel/web"),  # closed, so that it can be swept
        ("bob-key", None, "delete", "channel/web"),
        (operator, None, "put", "mode/protect"),
        (None, None, "put", "mode/protect"),
    ]
    first, second = found[1:3]
    assert first.before is None
    assert first.after["floor_units"] == 3
    assert second.before == first.after
    assert (second.after["floor_units"], second.after["borrow"]) == (4, False)
    assert [each.before and each.before["safety_stock"] for each in found[3:5]] == [None, 2]
    assert found[5].after["closed"]
    assert (found[6].before["closed"], found[6].after) == (True, None)
    assert [each.after["reason"] for each in found[7:]] == ["counts are off", "all is well"]
    positions = [each.position for each in found]
    assert positions == sorted(set(positions))


async def test_what_did_not_happen_is_not_in_it(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    """Refused, done already, or repeated."""
    with asking(Request("k")):
        await shop.catalogue.put_channel("web", ChannelSpec(), key("a"))
        await shop.catalogue.put_channel("web", ChannelSpec(), key("a"))
        with pytest.raises(StaleVersion):
            await shop.catalogue.put_channel("web", ChannelSpec(borrow=False), None, 7)
    assert len(await entries(ledger, store_url)) == 1


async def test_stock_is_no_policy(shop: Service, store_url: str, ledger: Ledger) -> None:
    """A receipt at a new location changes a SKU's entry, and nobody's policy."""
    await furnish(shop, {"tee": 5})
    assert [each.target for each in await entries(ledger, store_url)] == ["channel/web", "sku/tee"]


async def test_a_note_is_one_event_and_changes_nothing(
    shop: Service, store: Store, store_url: str, ledger: Ledger
) -> None:
    await furnish(shop, {"tee": 5})
    before, seq = store.hgetall(keys.POOLS), int(store.hget(keys.META, "seq"))
    with asking(Request("k", "r-1")):
        await shop.notes.note("read", "reservation/x", after={"items": 2, "line": "a\nb\\n"})
    assert int(store.hget(keys.META, "seq")) == seq + 1
    assert store.hgetall(keys.POOLS) == before
    (found,) = await entries(ledger, store_url, actor="k")
    assert told([found]) == [("k", "r-1", "read", "reservation/x")]
    assert (found.before, found.after) == (None, {"items": 2, "line": "a\nb\\n"})
    await audit_ledger(ledger.dsn, store_url, moved)


async def test_what_cannot_be_noted_is_refused(
    shop: Service, store: Store, store_url: str, workers: Workers
) -> None:
    store.hset(keys.META, "epoch", "7")
    workers.forget(store_url)
    with pytest.raises(StockUnavailable):
        await shop.notes.note("read", "reservations")


async def test_it_is_asked_for_page_by_page(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    for number in range(5):
        with asking(Request("even" if number % 2 == 0 else "odd")):
            await shop.catalogue.put_location(f"l{number}", LocationSpec())
    await ledger.catch_up(store_url)
    reading, names = Reading(ledger.journal), []
    after: Any = 0
    while after is not None:
        found = await reading.audit(AuditFilter(), after, 2)
        names += [row["target"] for row in found.rows]
        after = found.following
    assert names == [f"location/l{number}" for number in range(5)]
    odd = await entries(ledger, store_url, actor="odd")
    assert [each.target for each in odd] == ["location/l1", "location/l3"]
    (one,) = await entries(ledger, store_url, target="location/l2")
    assert len(await entries(ledger, store_url, since=None, until=None)) == 5
    assert one.actor == "even"


async def test_the_service_adds_to_it_and_never_changes_it(
    shop: Service, store_url: str, ledger: Ledger
) -> None:
    await shop.catalogue.put_channel("web", ChannelSpec())
    assert await entries(ledger, store_url)
    service = await asyncpg.connect(ledger.dsn)
    try:
        for change in (
            "UPDATE stockade.audit SET actor = 'somebody else'", "DELETE FROM stockade.audit",
            "TRUNCATE stockade.audit",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await service.execute(change)
    finally:
        await service.close()


async def test_it_outlives_the_store(shop: Service, store: Store, store_url: str,
                                     ledger: Ledger) -> None:  # fmt: skip
    with asking(Request("k")):
        await shop.catalogue.put_channel("web", ChannelSpec())
    await ledger.catch_up(store_url)
    with asking(Request("late")):
        await shop.catalogue.put_channel("web", ChannelSpec(borrow=False))
    await ledger.rebuilding(store_url).run()  # carries what the stream still has
    assert [each.actor for each in await entries(ledger, store_url)] == ["k", "late"]
