"""Limits per customer under everything that customers do, in random order and all at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import CustomerLimit, Expired, StockadeError
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Fulfil,
    PartLine,
    Release,
    Return,
    ReturnLine,
)
from core.ops import Receipt
from core.policy_model import SkuSpec
from core.service import Service
from tests.audit import audit
from tests.stored import parse_record
from tests.workers import (
    Store,
    Workers,
    calm_loop,
    demand,
    furnish,
    key,
    make_due,
    receive,
    record,
    store,
)

__all__ = ["calm_loop", "store"]

LIMIT = 6  # units that one may have
LIVE = 2  # reservations that one may have and not have paid
CUSTOMERS = ("ann", "bob", "cy & co")
VERBS = ("reserve", "reserve", "amend", "commit", "release", "cancel", "fulfil", "return", "late")


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    opened = Workers(tmp_path / "data")
    yield opened
    await opened.close_all()


async def do(
    service: Service, verb: str, one: str, units: int, name: str
) -> Receipt | StockadeError:
    """One verb on a reservation; what came of it."""
    engine = service.engine
    try:
        if verb == "amend":
            return await engine.amend(one, Amend([AmendLine("tee", units)]))
        if verb == "commit":
            return await engine.commit(one, Commit())
        if verb == "release":
            return await engine.release(one, Release())
        if verb == "cancel":
            return await engine.cancel(one, Cancel([PartLine("tee", units)]), key(name))
        if verb == "fulfil":
            return await engine.fulfil(one, Fulfil([PartLine("tee", units)]), key(name))
        if verb == "return":
            return await engine.return_(one, Return([ReturnLine("tee", units)]), key(name))
        return await engine.commit(one, Commit(late="reacquire"))
    except StockadeError as error:
        return error


def has(text: str) -> int:
    """Units that count of a record."""
    read = parse_record(text)
    if read.state in "LX":
        return 0
    return sum(each.own + each.borrowed - each.cancelled - each.returned for each in read.lines)


def held_to(store: Store, limit: int) -> Counter[str]:
    """The most that each customer had after any event, in the order in which things happened; and
    nobody ever had more live reservations than one may."""
    records: dict[str, tuple[str, int]] = {}
    live: dict[str, str] = {}
    most: Counter[str] = Counter()
    for _, fields in store.xrange("{s0}:events"):
        words = fields.get(b"r", b"").decode().split("\n")
        for id, text in zip(words[::2], words[1::2], strict=False):
            customer = text.split(" ")[7]
            records[id] = customer, has(text)
            live.pop(id, None)
            if text.startswith("R "):
                live[id] = customer
        assert all(count <= LIVE for count in Counter(live.values()).values()), (live, fields)
        sums: Counter[str] = Counter()
        for customer, units in records.values():
            sums[customer] += units
        assert all(units <= limit for units in sums.values()), (sums, fields)
        most |= sums
    return most


async def test_one_after_the_other_as_the_rule_says(
    workers: Workers, store_url: str, store: Store, seed: int
) -> None:
    """Granted exactly if both limits allow it: by a sum over all that one has."""
    dice = random.Random(seed)
    services = [
        await workers(store_url, reaper=False, staleness_ms=0, customer_live_reservations=LIVE)
        for _ in range(2)
    ]
    await furnish(services[0], {"cap": 1})
    await services[0].catalogue.put_sku("tee", SkuSpec(customer_limit=LIMIT))
    await receive(services[0], {"tee": 10_000})
    whose: dict[str, str] = {}
    counts: dict[str, int] = {}
    refused, crowded = 0, 0
    # Both limits are met whatever the dice say later.
    first = [(CUSTOMERS[0], 1)] * (LIVE + 1) + [(CUSTOMERS[1], LIMIT), (CUSTOMERS[1], 1)]
    for turn in range(160):
        service, verb = dice.choice(services), dice.choice(VERBS)
        customer, units = dice.choice(CUSTOMERS), dice.randint(1, 4)
        if turn < len(first):
            verb, (customer, units) = "reserve", first[turn]
        if verb == "reserve":
            total = sum(n for id, n in counts.items() if whose[id] == customer)
            live = sum(
                whose[id] == customer and record(store, id).startswith("R ") for id in whose
            )
            try:
                got = await service.engine.reserve(demand("tee", units, customer=customer))
            except CustomerLimit as error:
                refused += 1
                of_units = bool(error.lines)
                crowded += not of_units
                assert total + units > LIMIT if of_units else live == LIVE
                continue
            assert total + units <= LIMIT
            assert live < LIVE
            whose[got.id], counts[got.id] = customer, units
            continue
        one = dice.choice(list(whose))
        before = parse_record(record(store, one))
        if verb == "late" and before.state == "R":
            make_due(store, one)
        others = sum(n for id, n in counts.items() if whose[id] == whose[one] and id != one)
        found = await do(service, verb, one, units, str(turn))
        if isinstance(found, CustomerLimit):
            refused += 1
            assert others + counts[one] - sum(each.open for each in before.lines) + units > LIMIT
        elif isinstance(found, Expired):
            refused += 1
            assert others + sum(each.own + each.borrowed for each in before.lines) > LIMIT
        counts[one] = has(record(store, one))
        assert others + counts[one] <= LIMIT
    assert refused > crowded > 0
    held_to(store, LIMIT)


async def test_all_at_once_never_more(
    workers: Workers, store_url: str, store: Store, seed: int
) -> None:
    """Two workers, all verbs: after every event everybody has at most what the limits allow, and
    somebody has all of it."""
    dice = random.Random(seed)
    services = [
        await workers(store_url, reaper=False, customer_live_reservations=LIVE) for _ in range(2)
    ]
    await furnish(services[0], {"cap": 1})
    await services[0].catalogue.put_sku("tee", SkuSpec(customer_limit=LIMIT))
    await receive(services[0], {"tee": 10_000})
    made: list[str] = []

    async def caller(number: int) -> None:
        for turn in range(12):
            service, verb = dice.choice(services), dice.choice(VERBS)
            units, name = dice.randint(1, 3), f"{number}.{turn}"
            if verb == "reserve" or not made:
                wanted = demand("tee", units, customer=dice.choice(CUSTOMERS))
                try:
                    made.append((await service.engine.reserve(wanted)).id)
                except CustomerLimit:
                    continue
            else:
                await do(service, verb, dice.choice(made), units, name)

    await asyncio.gather(*map(caller, range(24)))
    most = held_to(store, LIMIT)
    assert max(most.values()) == LIMIT
    await audit(store_url)
