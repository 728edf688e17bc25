"""Keys that a batch's header gives to its elements: any verb, any id, one key. All audited."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from core.errors import KeyReused, StockadeError
from core.model import Commit, Fulfil, Key, Release, Return, ReturnLine
from core.ops import Receipt
from core.service import Service
from core.store import keys, wording
from tests.workers import Store, demand, furnish, key, make_due, picture, receive


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
    again = await worker.engine.commit(ids[0], Commit(), of_batch("a"))
    assert (again.replayed, again.reacquired) == (True, True)


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


async def test_keys_of_one_script_share_an_entry(worker: Service, store: Store) -> None:
    """Each names it, and stands for its own reservation, wherever it is looked up."""
    await furnish(worker, {"tee": 3})
    engine, window = worker.engine, worker.lane.short_window[0]
    fields: list[Key | None] = [key(n) for n in range(3)]
    first = await engine.reserve_batch([demand()] * 3, fields)
    ids = [each.id for each in first if isinstance(each, Receipt)]
    values = cast("dict[bytes, bytes]", store.hgetall(window))
    (name,) = {value for field, value in values.items() if value.startswith(b"=")}
    assert {*values, name} == {name, *(each.field for each in fields if each)}
    again = await engine.reserve_batch([demand()] * 3, fields)  # sold out: a look finds them
    assert [(each.id, each.replayed) for each in again if isinstance(each, Receipt)] == [
        (id, True) for id in ids
    ]
    await receive(worker, {"tee": 3})
    again = await engine.reserve_batch([demand()] * 3, fields)  # the script finds them
    assert [each.id for each in again if isinstance(each, Receipt)] == ids
    with pytest.raises(KeyReused):
        await engine.reserve(demand(), key(1, "other"))
    found = await worker._shard.keys(worker.lane.short_window, [key(n).field for n in range(4)])
    assert [wording.parse_key(each)[2] for each in found if each] == ids
    assert found[3] is None
    assert (await engine.release(ids[0], Release(), key("r"))).version == 2
    with pytest.raises(KeyReused):  # a verb that settles finds it as well
        await engine.release(ids[1], Release(), key(2, "other"))
