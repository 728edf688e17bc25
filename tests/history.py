"""A history of a small warehouse: callers who do at random what callers do, all at once."""

from __future__ import annotations

import asyncio
import random

from core.errors import StockadeError
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
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from tests.workers import Store, demand, furnish, key, make_due, receive

CALLERS = 8
VERBS = 30  # of each caller


async def history(worker: Service, store: Store, seed: int) -> None:
    """Callers who do at random what callers do, at once; refusals are a part of it."""
    dice = random.Random(seed)
    engine, catalogue = worker.engine, worker.catalogue
    await catalogue.put_location("back", LocationSpec())
    walls = {"web": ChannelSpec(floor_share=0.5, ceiling_share=0.8, locations=["main", "back"])}
    await furnish(worker, {"tee": 60, "cap": 30}, **walls)
    await catalogue.put_sku("mug", SkuSpec(customer_limit=4))
    await receive(worker, {"mug": 20})
    await catalogue.put_sku("tee", SkuSpec(safety_stock=4))

    refused: list[str] = []

    async def caller(number: int) -> None:
        held: list[str] = []
        for turn in range(VERBS):
            name = f"{number}.{turn}"
            one = dice.choice(held) if held else None
            verb = dice.randrange(12)
            try:
                if verb < 4 or one is None:
                    sku = dice.choice(("tee", "cap", "mug"))
                    who = f"{'ABC'[dice.randrange(3)]} & Söhne"
                    wanted = demand(
                        sku, dice.randint(1, 3), reference=f"cart {name} \\ n", customer=who
                    )
                    held.append((await engine.reserve(wanted, key(name))).id)
                elif verb == 4:
                    await engine.commit(one, Commit(reference="paid"), key(name))
                elif verb == 5:
                    await engine.release(one, Release())
                elif verb == 6:
                    await engine.amend(one, Amend([AmendLine("tee", dice.randint(1, 4))]))
                elif verb == 7:
                    await engine.fulfil(one, Fulfil([PartLine("tee", 1)]), key(name))
                elif verb == 8:
                    await engine.cancel(one, Cancel([PartLine("tee", 1)], "a dear %"), key(name))
                elif verb == 9:
                    await engine.return_(one, Return([ReturnLine("tee", 1)], "rma 1"), key(name))
                elif verb == 10:
                    await engine.extend(one, Extend(ttl_seconds=dice.randint(100, 2_000)))
                elif make_due(store, one):
                    await engine.commit(one, Commit(), key(name))
            except StockadeError:
                refused.append(name)

    await asyncio.gather(*map(caller, range(CALLERS)))
    assert 0 < len(refused) < CALLERS * VERBS
    await receive(worker, {"tee": 7})
    await catalogue.put_sku("tee", SkuSpec(safety_stock=1))
