"""What the benchmark compares with neither oversells nor loses count; and who does is found out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from bench.contest import RACED, Oversold, check, race
from bench.contestants import Ask, Contestant, LuaScript, Stockade, WatchMulti
from bench.postgres_peers import ConditionalUpdate, ForUpdate, SkipLocked
from bench.stores import Store, private_store
from core.embedded.postgres import Addresses, EmbeddedPostgres

CALLERS = 16
SKU = "tee"

OF_STORE: list[Callable[[Store], Contestant]] = [Stockade, LuaScript, WatchMulti]
OF_LEDGER: list[Callable[[str, str], Contestant]] = [ConditionalUpdate, ForUpdate, SkipLocked]


class Naive(LuaScript):
    """Reads what is free, and takes one of it when all others have read it as well."""

    @asynccontextmanager
    async def open(self, names: list[str], connections: int) -> AsyncIterator[Ask]:
        everybody = asyncio.Barrier(connections)
        async with self._connected(connections) as client:

            async def ask(sku: str) -> bool:
                stock = f"stock:{sku}"
                if int(await client.hget(stock, "free") or 0) < 1:
                    return False
                await everybody.wait()
                await client.hincrby(stock, "free", -1)
                await client.hincrby(stock, "reserved", 1)
                reservation = f"reservation:{uuid4()}"
                await client.hset(reservation, mapping={"sku": sku, "quantity": 1})
                return True

            yield ask


async def raced(contestant: Contestant) -> int:
    await contestant.stock([SKU], RACED)
    async with contestant.open([SKU], contestant.sizes(CALLERS)[-1]) as ask:
        granted = await race(ask, SKU, CALLERS)
        assert not await ask(SKU)
    await check(contestant, [SKU], RACED, granted)
    return granted


@pytest.mark.parametrize("make", OF_STORE)
async def test_store_peers_grant_what_there_is(make: Callable[[Store], Contestant]) -> None:
    async with private_store() as store:
        assert await raced(make(store)) == RACED


@pytest.mark.parametrize("make", OF_LEDGER)
async def test_postgres_peers_grant_what_there_is(
    make: Callable[[str, str], Contestant], ledger_dsns: Addresses, postgres: EmbeddedPostgres
) -> None:
    assert await raced(make(ledger_dsns.owner_dsn, postgres.superuser_dsn)) == RACED


async def test_one_that_oversells_is_found_out() -> None:
    async with private_store() as store:
        naive = Naive(store)
        await naive.stock([SKU], 1)
        async with naive.open([SKU], CALLERS) as ask:
            answers = await asyncio.gather(*(ask(SKU) for _ in range(CALLERS)))
        assert all(answers)
        with pytest.raises(Oversold, match=f"{SKU} had 1, now"):
            await check(naive, [SKU], 1, CALLERS)
