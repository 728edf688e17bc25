"""A shop that is reconciled: what tests of reconciling share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from core.auditing.auditor import Auditor
from core.auditing.counts import Counts
from core.auditing.repair import Repair
from core.chronicle import Accounts
from core.errors import StockadeError
from core.ledger.audit import Case, Files, Reconciliation
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
from core.policy_model import ChannelSpec
from core.service import Service
from core.store import keys, wording
from core.store.survey import Survey
from tests.audit import audit
from tests.ledgered import Ledger, audit_ledger
from tests.workers import Store, demand, furnish, key, receive, record, row

SKUS = ("tee", "cap", "mug")
TEE = "tee@main"


class Reconciler:
    """Reconciles one store and one ledger, in this process."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url = url
        self.ledger = ledger
        self.survey = Survey(url, 2.0)
        self.files = Files(ledger.journal)

    async def close(self) -> None:
        await self.survey.close()

    async def run(
        self,
        *,
        sku: str | None = None,
        whole: bool = False,
        counts: Counts | None = None,
        patience_seconds: float = 20.0,
    ) -> tuple[Reconciliation, list[Case]]:
        """Looks at everything once; what it came to, and the cases that it found."""
        auditor = Auditor(self.survey, self.files, patience_seconds)
        number = await auditor.run(sku=sku, whole=whole, counts=counts)
        assert number is not None
        (done,) = await self.files.reconciliations(number + 1, 1)
        assert done.id == number
        return done, await self.files.cases_of(number, 0, 1_000)

    async def repair(
        self, worker: Service, cases: list[Case], apply: bool = True, apply_counts: bool = False
    ) -> list[Repair]:
        """Mends cases, or says what it would do."""
        repairer = worker.repairer(self.survey)
        return [
            await repairer.mend(case, "ann", apply=apply, apply_counts=apply_counts)
            for case in cases
        ]


async def open_shop(worker: Service) -> None:
    """Three SKUs at ``main``, two channels that share them."""
    await furnish(
        worker, {"tee": 60, "cap": 30, "mug": 5},
        web=ChannelSpec(floor_share=0.5, ceiling_share=0.8), store=ChannelSpec(floor_units=3),
    )  # fmt: skip


async def crowd(
    worker: Service, seed: int, callers: int = 6, until: Callable[[], bool] = lambda: True,
    turns: int = 40,
) -> int:  # fmt: skip
    """Callers who do at random what callers do, at once: ``turns`` each, and on until it is
    enough. How many verbs were done."""
    dice = random.Random(seed)
    engine, done = worker.engine, 0

    async def caller(number: int) -> None:
        nonlocal done
        held: list[str] = []
        turn = 0
        while turn < turns or not until():
            name, turn = f"{seed}.{number}.{turn}", turn + 1
            one = dice.choice(held) if held else None
            verb = dice.randrange(11)
            try:
                if verb < 4 or one is None:
                    wanted = demand(
                        dice.choice(SKUS), dice.randint(1, 3), dice.choice(("web", "store")),
                        reference=f"cart {name} \\ n",
                    )  # fmt: skip
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
                else:
                    await engine.extend(one, Extend(ttl_seconds=dice.randint(100, 2_000)))
                done += 1
            except StockadeError:
                await asyncio.sleep(0)
            if turn % 10 == 0:
                await receive(worker, {dice.choice(SKUS): dice.randint(1, 5)})

    await asyncio.gather(*map(caller, range(callers)))
    return done


def edit_row(store: Store, pool: str, version: int = 0, **units: int) -> None:
    """Something other than Stockade changes accounts of a row, or adds to its version."""
    text = row(store, pool)
    accounts = {name: units + Accounts(text).units[name] for name, units in units.items()}
    fresh = wording.changed_row(text, Accounts(text).version + version, accounts)
    store.hset(keys.POOLS, pool, fresh)


def edit_record(store: Store, id: str, word: int, text: str) -> None:
    """Something other than Stockade changes one word of a record."""
    words = record(store, id).split(" ")
    words[word] = text
    store.hset(keys.bucket_of(id), id, " ".join(words))


class Shop:
    """A shop with a history that is in the ledger; ``old`` texts are from its middle."""

    def __init__(self, worker: Service, store: Store, reconciler: Reconciler) -> None:
        self.worker = worker
        self.store = store
        self.reconciler = reconciler

    async def open(self) -> None:
        engine = self.worker.engine
        await open_shop(self.worker)
        self.held = (await engine.reserve(demand("tee", 3), key("held"))).id
        self.sold = (await engine.reserve(demand("tee", 2), key("sold"))).id
        self.gone = (await engine.reserve(demand("cap", 2), key("gone"))).id
        self.old_row = row(self.store, TEE)
        self.old_records = {id: record(self.store, id) for id in (self.held, self.gone)}
        await engine.commit(self.sold, Commit(), key("paid"))
        await engine.extend(self.held, Extend(ttl_seconds=3_000))
        await engine.release(self.gone, Release())
        await self.catch_up()

    async def catch_up(self) -> None:
        await self.reconciler.ledger.catch_up(self.reconciler.url)

    async def audit(self) -> None:
        await self.catch_up()
        await audit(self.reconciler.url)
        await audit_ledger(self.reconciler.ledger.dsn, self.reconciler.url)
