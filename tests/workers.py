"""What tests of the core on a real store share: workers, pictures of the store, moved deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis

from core import protecting
from core.model import Key, Line, Reserve
from core.policy_model import ChannelSpec, SkuSpec
from core.reaper import Reaper
from core.service import Service, open_service
from core.settings import Settings
from core.stock_model import Receive, ReceiveLine
from core.store import keys
from tests.audit import audit

PATIENCE_SECONDS = 20.0
# A disk or a core of a busy machine may be away for seconds: only tests of that shall hear of it.
PATIENT: dict[str, Any] = {
    "wait_ms": 60_000, "store_timeout_seconds": 20, "ledger_wait_seconds": 20,
}  # fmt: skip
HOUR_MS = 3_600_000
TURN_SECONDS = 0.002  # between two looks at a condition that no event announces

Store: TypeAlias = Any  # a redis.Redis, whose types do not know that it decodes nothing
moved: set[str] = set()  # reservations whose deadline a test moved; ids are never used again


def client(url: str) -> Store:
    """A plain, synchronous client: nothing else runs in this process while it is used."""
    return redis.Redis.from_url(url, protocol=2)


async def until(true: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Returns once ``true()`` is; fails after ``seconds``, naming what did not come about."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(TURN_SECONDS)


def picture(store: Store) -> dict[bytes, Any]:
    """Everything that is in the shard, key by key."""
    found: dict[bytes, Any] = {}
    for name in sorted(store.scan_iter(match=keys.EVERY, count=1000)):
        kind = store.type(name)
        if kind == b"hash":
            found[name] = store.hgetall(name)
        elif kind == b"list":
            found[name] = store.lrange(name, 0, -1)
        elif kind == b"zset":
            found[name] = store.zrange(name, 0, -1, withscores=True)
        elif kind == b"stream":
            found[name] = store.xrange(name)
        else:
            found[name] = store.get(name)
    return found


def text(store: Store, name: bytes, field: str) -> str:
    """A field of a hash."""
    found = store.hget(name, field)
    assert isinstance(found, bytes), f"{name.decode()} has no {field}"
    return found.decode()


def record(store: Store, reservation_id: str) -> str:
    """A reservation's record as it stands in the store."""
    return text(store, keys.bucket_of(reservation_id), reservation_id)


def row(store: Store, pool: str) -> str:
    """A pool's row as it stands in the store."""
    return text(store, keys.POOLS, pool)


def server_ms(store: Store) -> int:
    """The server's time."""
    seconds, microseconds = store.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def move_deadline(store: Store, reservation_id: str, deadline_ms: int) -> bool:
    """Gives a reservation another deadline, behind the back of every worker. False if it has none,
    not any more."""
    second = deadline_ms // 1000

    def move(pipe: Any) -> bool:
        words = record(store, reservation_id).split(" ")
        words[3] = str(deadline_ms)
        pipe.multi()
        if words[0] == "R":
            pipe.hset(keys.bucket_of(reservation_id), reservation_id, " ".join(words))
            pipe.rpush(keys.due_at(second), reservation_id)
        return words[0] == "R"

    if not store.transaction(move, keys.bucket_of(reservation_id), value_from_callable=True):
        return False
    moved.add(reservation_id)
    if int(text(store, keys.META, "cursor")) > second:
        store.hset(keys.META, "cursor", second)
    return True


async def leave_store(service: Service, store: Store, ids: list[str]) -> None:
    """Lets the hours pass after which records that ended leave the store; the ledger has them."""
    moved.update(ids)
    past_ms = server_ms(store) - 4 * HOUR_MS
    store.delete(keys.done_at(server_ms(store) // HOUR_MS))
    for id in ids:
        words = record(store, id).split(" ")
        words[2] = str(past_ms)
        store.hset(keys.bucket_of(id), id, " ".join(words))
        store.rpush(keys.done_at(past_ms // HOUR_MS), id)
    store.hset(keys.META, "mark_ms", server_ms(store))
    reaper = Reaper(service.lane, service._shard, service.backlog, past_ms // HOUR_MS - 1)
    await reaper.turn()
    assert not any(store.hexists(keys.bucket_of(id), id) for id in ids)


def make_due(store: Store, reservation_id: str) -> bool:
    """Makes a reservation's deadline the millisecond before now. False if it has none."""
    return move_deadline(store, reservation_id, server_ms(store) - 1)


def key(name: object, body: object = "") -> Key:
    """An idempotency key, and what was asked under it."""
    return Key(f"{name:_>22}".encode(), f"{body:_>22}".encode())


def demand(sku: str = "tee", quantity: int = 1, channel: str = "web", **more: Any) -> Reserve:
    """A demand of one line."""
    return Reserve(channel, [Line(sku, quantity)], **more)


async def furnish(service: Service, units: dict[str, int], **channels: ChannelSpec) -> None:
    """Channels (``web`` without floor or ceiling if none is named), SKUs and stock at ``main``."""
    for name, spec in (channels or {"web": ChannelSpec()}).items():
        await service.catalogue.put_channel(name, spec)
    for sku in units:
        await service.catalogue.put_sku(sku, SkuSpec())
    await receive(service, units)


async def receive(service: Service, units: dict[str, int]) -> None:
    """Units arrive at ``main``."""
    lines = [ReceiveLine(sku, "main", quantity) for sku, quantity in units.items() if quantity]
    if lines:
        results = await service.stock.receive(Receive(lines), [None] * len(lines))
        assert [result.error for result in results] == [None] * len(lines)


async def accounts(service: Service, sku: str = "tee", channel: str = "web") -> tuple[int, ...]:
    """(free, reserved, committed, shared, on hand) of a SKU at ``main``."""
    pool = (await service.stock.read([sku]))[0].pools[0]
    own = pool.channels[channel]
    return own.free, own.reserved, own.committed, pool.shared, pool.on_hand


def reaper_of(service: Service) -> asyncio.Task[None]:
    """The task of a worker's reaper."""
    for task in service._tasks:
        if getattr(task.get_coro(), "__qualname__", "") == Reaper.run.__qualname__:
            return task
    raise AssertionError("this worker has no reaper")


async def stop_reaper(service: Service) -> None:
    """From now on this worker tidies nothing by itself."""
    task = reaper_of(service)
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


@contextlib.contextmanager
def frozen(store: Store) -> Iterator[None]:
    """The server stands still: it has all that is sent to it in its buffers, and does nothing."""
    pid = int(store.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Workers:
    """Opens workers on a store; several on one store act like several processes."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._open: dict[Service, AsyncExitStack] = {}
        self._urls: set[str] = set()

    async def __call__(
        self, url: str, *, data: Path | None = None, reaper: bool = True, audited: bool = True,
        **settings: Any,
    ) -> Service:  # fmt: skip
        """A worker, as patient as PATIENT if nothing else is said. ``audited``: after the test the
        store of this URL must be lawful."""
        stack = AsyncExitStack()
        chosen = Settings(data=data or self.data, valkey_url=url, **(PATIENT | settings))
        service = await stack.enter_async_context(open_service(chosen))
        self._open[service] = stack
        if audited:
            self._urls.add(url)
        if not reaper:
            await stop_reaper(service)
        return service

    def forget(self, url: str) -> None:
        """The store of this URL is not audited: the test broke it by hand."""
        self._urls.discard(url)

    async def close(self, service: Service) -> None:
        """Closes one worker now."""
        await self._open.pop(service).aclose()

    async def close_all(self) -> None:
        """Closes what is open and audits the stores."""
        while self._open:
            await self.close(next(iter(self._open)))
        for url in sorted(self._urls):
            await audit(url, moved)


# --- fixtures: the conftests of integration and faults take them from here ---------------------


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker looks at the policy by itself, however long the test takes."""
    monkeypatch.setattr(protecting, "TURN_SECONDS", 3_600.0)


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    """Opens workers; all are closed and their stores audited after the test."""
    opened = Workers(tmp_path / "data")
    yield opened
    await opened.close_all()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A plain client of the empty store that ``store_url`` names."""
    with contextlib.closing(client(store_url)) as connection:
        yield connection


@pytest.fixture
async def worker(store_url: str, workers: Workers) -> Service:
    """One worker on an empty store, without a reaper: nothing happens by itself."""
    return await workers(store_url, reaper=False, staleness_ms=0)


@pytest.fixture(autouse=True)
async def calm_loop() -> AsyncIterator[None]:
    """Fails a test that left an exception that nobody retrieved, or one in a callback."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect()
    assert not complaints, complaints


Fresh = Callable[..., Awaitable[Any]]
