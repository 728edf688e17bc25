"""A private store for a suite, and the start state that every round begins with."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.embedded.valkey import EmbeddedValkey
from core.policy_model import ChannelSpec, SkuSpec
from core.service import Service, open_service
from core.settings import Settings
from core.stock_model import Receive, ReceiveLine
from core.store import keys

UNITS = 1_500_000_000  # in every pool: no round comes near their end
CHANNEL = "web"
LOCATION = "main"
CHUNK = 5_000


class Store:
    """One running server. ``keep`` notes its state, ``reset`` brings it back, epoch and all."""

    def __init__(self, data: Path, server: EmbeddedValkey) -> None:
        self.server = server
        self.settings = Settings(data=data, valkey_url=server.url)
        self.admin = redis.Redis(
            unix_socket_path=str(server.socket), protocol=2, retry=Retry(NoBackoff(), 0)
        )
        self._kept: list[tuple[bytes, bytes]] = []

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def socket(self) -> str:
        return str(self.server.socket)

    def open(self) -> AbstractAsyncContextManager[Service]:
        """A worker's core on this store, as the service opens it."""
        return open_service(self.settings)

    def keep(self) -> None:
        """Notes every key as it is now."""
        names = list(self.admin.scan_iter(count=1000))
        self._kept = [(name, self.admin.dump(name) or b"") for name in names]

    def reset(self) -> None:
        """Back to what was kept."""
        # By default Valkey frees it later, and redis-py has no word for now.
        self.admin.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]
        pipe = self.admin.pipeline(transaction=False)
        for name, value in self._kept:
            pipe.restore(name, 0, value)
        pipe.execute()

    def tidy(self) -> None:
        """Rewrites the log now, so that the server does not do it while something is measured."""
        self.admin.bgrewriteaof()
        while self._rewrites():
            time.sleep(0.005)

    def _rewrites(self) -> bool:
        """True while the log is being rewritten, or will be when another child has ended."""
        told = self.admin.info("persistence")
        return bool(told["aof_rewrite_in_progress"] or told["aof_rewrite_scheduled"])

    def used_bytes(self) -> int:
        return int(self.admin.info("memory")["used_memory"])


@asynccontextmanager
async def private_store() -> AsyncIterator[Store]:
    """A server with ``appendfsync always``, in a directory of its own that goes with it."""
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as directory:
        server = EmbeddedValkey(Path(directory, "store"))
        await server.start()
        try:
            store = Store(Path(directory), server)
            # Rewrites are asked for between rounds: one that begins by itself is no one's cost.
            store.admin.config_set("auto-aof-rewrite-percentage", 0)
            yield store
            store.admin.close()
        finally:
            await server.stop()


def sku_names(count: int) -> list[str]:
    return [f"sku-{number:07d}" for number in range(count)]


async def fill(store: Store, count: int) -> list[str]:
    """Two channels, 70 to 30, and ``count`` SKUs with a pool each; kept as the start state."""
    names = sku_names(count)
    async with store.open() as service:
        for channel, floor in ((CHANNEL, 0.7), ("store", 0.3)):
            await service.catalogue.put_channel(channel, ChannelSpec(floor_share=floor))
        await service.catalogue.put_sku(names[0], SkuSpec())
        line = ReceiveLine(names[0], LOCATION, UNITS)
        (result,) = await service.stock.receive(Receive([line]), [None])
        assert result.error is None, result.error
    copy_sku(store, names[0], names[1:])
    store.keep()
    store.tidy()
    return names


def copy_sku(store: Store, sku: str, names: Sequence[str]) -> None:
    """Gives each of ``names`` the entry and the row of ``sku``, a million in a few seconds."""
    entry = store.admin.hget(keys.SKUS, sku)
    row = store.admin.hget(keys.POOLS, f"{sku}@{LOCATION}")
    assert entry is not None
    assert row is not None
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK]
        pipe = store.admin.pipeline(transaction=False)
        pipe.hset(keys.SKUS, mapping=dict.fromkeys(chunk, entry))
        pipe.hset(keys.POOLS, mapping={f"{name}@{LOCATION}": row for name in chunk})
        pipe.zadd(keys.CATALOG, dict.fromkeys(chunk, 0))
        pipe.execute()
