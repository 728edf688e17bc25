"""Keys that a batch's header gives to its elements: any verb, any id, one key. All audited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from core.errors import KeyReused, StockadeError
from core.model import Commit, Fulfil, Key, Return, ReturnLine
from core.ops import Receipt
from core.service import Service
from core.store import keys
from tests.workers import Store, demand, furnish, key, make_due, picture


def of_batch(body: str) -> Key:
    return Key(b"#" + key("k").field, key("k", body).fingerprint)


def told(results: Sequence[object]) -> list[bool]:
    """Which of them happened; the others were told that the key was used."""
    assert all(isinstance(each, Receipt | KeyReused) for each in results), results
    return [isinstance(each, Receipt) for each in results]


async def test_two_records_under_one_key_at_once(worker: Service, store: Store) -> None:
    """Both stand in one script: one of them happens."""
    await furnish(worker, {"tee": 9})
    ids = [(await worker.engine.reserve(demand())).id for _ in range(2)]
    results: list[Any] = await asyncio.gather(
        *(worker.engine.commit(id, Commit(), of_batch(id[-20:])) for id in ids),
        return_exceptions=True,
    )
    assert sorted(told(results)) == [False, True]
    for id in ids:
        await worker.engine.commit(id, Commit())
        await worker.engine.fulfil(id, Fulfil())
    back = Return([ReturnLine("tee", 1)])
    again = [Key(b"#" + key("r").field, key("r", id[-20:]).fingerprint) for id in ids]
    results = await asyncio.gather(
        *(worker.engine.return_(id, back, used) for id, used in zip(ids, again, strict=True)),
        return_exceptions=True,
    )
    assert sorted(told(results)) == [False, True]
    assert (await worker.stock.read(["tee"]))[0].pools[0].on_hand == 8


async def test_a_late_commit_has_its_key(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 9})
    ids = [(await worker.engine.reserve(demand())).id for _ in range(2)]
    for id in ids:
        make_due(store, id)
    done = await worker.engine.commit(ids[0], Commit(), of_batch("a"))
    assert done.reacquired
    with pytest.raises(KeyReused):
        await worker.engine.commit(ids[1], Commit(), of_batch("b"))
    assert (await worker.engine.commit(ids[0], Commit(), of_batch("a"))).replayed


async def test_it_is_kept_as_long_as_what_moves_goods(worker: Service, store: Store) -> None:
    await furnish(worker, {"tee": 1})
    first = await worker.engine.reserve(demand(), of_batch("a"))
    windows = {each for each in store.scan_iter() if b":idem:" in each}
    (name,) = [each for each in windows if store.hexists(each, of_batch("").field)]
    assert name.startswith(keys.long_keys(""))
    again: Receipt | StockadeError = await worker.engine.reserve(demand(), of_batch("a"))
    assert isinstance(again, Receipt)
    assert (again.id, again.replayed) == (first.id, True)
    before = picture(store)
    with pytest.raises(KeyReused):  # sold out: the look before the refusal finds it
        await worker.engine.reserve(demand(), of_batch("b"))
    assert picture(store) == before
