"""Making the store again from the ledger: rows a second, and whether twice as much takes twice as
long. What the ledger has is put there by SQL, as the scribe would have written it.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from bench.stores import CHANNEL, LOCATION, Store, private_store
from bench.table import Figure
from core.embedded.postgres import EmbeddedPostgres
from core.ledger.books import Books
from core.ledger.journal import Journal
from core.ledger.migrating import migrate
from core.ledger.rebuilding import Report
from core.policy_model import SkuSpec
from core.rebuild import Rebuild
from core.store import keys, wording
from core.store.events import MAIN_ENTRY, EventStream
from core.store.rebuilding import Refill

FEW, MANY = 10_000, 100_000
TIMEOUT_SECONDS = 60.0
WINDOWS_MS = (3_600_000, 604_800_000)
PER_SCRIPT = 50  # idempotency keys that one script kept
TABLES = "policy, pool, reservation, idempotency_keys, mark, rebuild_end, rebuild"
SKU = "'sku-' || lpad(n::text, 7, '0')"

FILL = (
    f"""
    INSERT INTO stockade.policy SELECT 'sku', {SKU}, $2 FROM generate_series(1, $1::int) n
    """,
    f"""
    INSERT INTO stockade.pool SELECT {SKU}, '{LOCATION}', 2, n,
      '2 1 1 90,5,0,0,0,0 {CHANNEL}@4,1,0,0', 100, 1, 99, 0
    FROM generate_series(1, $1::int) n, (SELECT $2::text) unused
    """,
)
# A thousand reservations a second, each with its key, until now; they wait for an hour.
RESERVATIONS = f"""
    INSERT INTO stockade.reservation SELECT id::uuid, 'R', 1, n, '{CHANNEL}', NULL, NULL,
      'R 1 - ' || ms + 3600000 || ' - - {CHANNEL} - - sku-' || lpad((n % $2 + 1)::text, 7, '0')
      || '@{LOCATION}@1,0'
    FROM generate_series(1, $1::int) n,
      LATERAL (SELECT $3::bigint - ($1 - n) AS ms) t,
      LATERAL (SELECT lpad(to_hex(ms), 12, '0') AS hex) h,
      LATERAL (SELECT left(hex, 8) || '-' || right(hex, 4) || '-7000-8000-'
        || lpad(to_hex(n), 10, '0') || '00' AS id) i
"""
KEYS = f"""
    INSERT INTO stockade.idempotency_keys
    SELECT min(position), max(time), false,
      string_agg(lpad(position::text, 22, '_') || ' ' || repeat('x', 22) || ' 201 ' || id, E'\\n')
    FROM (SELECT position, id, $1::bigint AS time FROM stockade.reservation) r
    GROUP BY position / {PER_SCRIPT}
"""


class Ledger:
    """A ledger with as much in it as is wanted."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self._owner_dsn = server.addresses().owner_dsn
        self.journal = Journal(server.addresses().dsn, TIMEOUT_SECONDS)

    async def fill(self, skus: int, reservations: int, now_ms: int) -> None:
        """SKUs with a pool each, and live reservations with an idempotency key each."""
        owner = await asyncpg.connect(self._owner_dsn)
        entry = wording.sku_entry(1, (LOCATION,), SkuSpec()).decode()
        await owner.execute("SET search_path TO stockade")
        await owner.execute(f"TRUNCATE {TABLES}")
        await Books(self.journal).begin(1, now_ms, MAIN_ENTRY)
        for statement in FILL:
            await owner.execute(statement, skus, entry)
        await owner.execute(RESERVATIONS, reservations, skus, now_ms)
        await owner.execute(KEYS, now_ms)
        await owner.execute("ANALYZE")
        await owner.close()


@asynccontextmanager
async def open_ledger() -> AsyncIterator[Ledger]:
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as directory:
        server = EmbeddedPostgres(Path(directory))
        await server.start()
        try:
            await migrate(server.addresses().owner_dsn, "stockade")
            ledger = Ledger(server)
            yield ledger
            await ledger.journal.close()
        finally:
            await server.stop()


async def rebuilt(store: Store, ledger: Ledger) -> Report:
    """One rebuild of a store that lost everything."""
    stream, refill = EventStream(store.url, 5.0), Refill(store.url, 5.0)
    try:
        return await Rebuild(stream, refill, ledger.journal, WINDOWS_MS, True).run()
    finally:
        await refill.close()
        await stream.close()


async def rebuilding(rounds: int) -> AsyncIterator[Figure]:
    """100,000 SKUs and as many live reservations; ten times as many SKUs, or reservations."""
    seconds: dict[tuple[int, int], list[float]] = {}
    rates: list[float] = []
    async with private_store() as store, open_ledger() as ledger:
        for _ in range(rounds):
            for skus, live in ((FEW, FEW), (MANY, FEW), (FEW, MANY), (MANY, MANY)):
                await ledger.fill(skus, live, int(store.admin.time()[0]) * 1000)
                store.admin.flushall(asynchronous=False)
                store.tidy()
                report = await rebuilt(store, ledger)
                counts = (report.counts["pools"], report.counts["reservations"])
                if counts != (skus, live) or store.admin.hlen(keys.POOLS) != skus:
                    raise RuntimeError(f"rebuilt {report.counts}, not {skus} and {live}")
                seconds.setdefault((skus, live), []).append(report.seconds)
                if (skus, live) == (MANY, MANY):
                    rates.append(sum(report.counts.values()) / report.seconds)
    few, many = seconds[FEW, FEW], seconds[MANY, MANY]
    yield Figure(
        f"rebuild: rows/s, {MANY:,} SKUs and live reservations", rates,
        note=f"{min(many):.1f}-{max(many):.1f} s for them, their pools and keys",
    )  # fmt: skip
    for what, pair in (("SKUs", (MANY, FEW)), ("reservations", (FEW, MANY))):
        # What the ten-fold adds, per row, against what the other ten-fold adds beside it.
        alone = [each - base for each, base in zip(seconds[pair], few, strict=True)]
        other = seconds[pair[1], pair[0]]
        beside = [each - base for each, base in zip(many, other, strict=True)]
        yield Figure(
            f"rebuild: s for {MANY - FEW:,} {what} more, beside {MANY:,} vs {FEW:,}", beside, alone,
            1.5, at_most=True,
        )  # fmt: skip
    yield Figure(
        f"rebuild: us per SKU and reservation, {MANY:,} vs {FEW:,} of each",
        [1e6 * each / (2 * MANY) for each in many], [1e6 * each / (2 * FEW) for each in few],
        1.2, at_most=True,
    )  # fmt: skip
