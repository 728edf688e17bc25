"""Opens, wires and closes all of the core; and mends what the lane cannot mend itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from core.auditing.repair import Repairer
from core.backing import Backing
from core.backlog import Backlog
from core.catalogue import Catalogue, kernel_policy
from core.channels import CutOff
from core.counting import Counting
from core.embedded.valkey import find_running
from core.engine import Engine
from core.errors import Draining, LedgerUnavailable, StartRefused, StockUnavailable, Unavailable
from core.feed import Feed
from core.gauges import gauges
from core.importing.importer import Importer
from core.keyring import Keyring
from core.lane import RESEND_SECONDS, Lane
from core.ledger.audit import Files
from core.ledger.journal import Journal
from core.ledger.keys import KeyTable
from core.meters import Found, Meters
from core.model import Durability
from core.noting import Notes
from core.opening import open_journal, servers_are_ours
from core.policy_model import Mode
from core.protecting import Protection
from core.reaper import Reaper
from core.records import Records
from core.settings import Settings, masked_url
from core.single_flight import SingleFlight
from core.stock import Stock
from core.store import scripts
from core.store.link import Link, ReplyError, open_link
from core.store.shard import Meta, PolicyEntries, Shard
from core.store.survey import Survey
from core.throttle import Throttle
from core.trust import Trust

RECONNECT_SECONDS = 0.05
CANCEL_SECONDS = 0.1
BEAT_SECONDS = 1.0  # between signs of life to whoever reads the metrics
SETTLE_SECONDS = 0.5  # between looks at a store that is not the one that was known

log = logging.getLogger("stockade.service")


class Service:
    """One worker's core: engine, stock and catalogue over one lane."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        shard: Shard,
        durability: Durability,
        journal: Journal | None,
        meters: Meters,
    ) -> None:
        self._settings = settings
        self._url = url
        self._shard = shard
        self._durability = durability
        self._tasks: set[asyncio.Task[None]] = set()
        self._trust = Trust(shard, journal, servers_are_ours(settings))
        self.version = ""
        self._meters = meters
        self.lane = Lane(
            durability=durability,
            staleness_ms=settings.staleness_ms,
            short_window_ms=1000 * settings.key_window_seconds,
            long_window_ms=1000 * settings.goods_key_window_seconds,
            queue_limit=settings.queue_limit,
            wait_ms=settings.wait_ms,
            timeout_seconds=settings.store_timeout_seconds,
            trouble=self._on_trouble,
            meters=meters,
        )
        self._refresh_policy = SingleFlight(self._look_at_policy)
        self.lane.planner.limiter.live_most = settings.customer_live_reservations
        self.stock = Stock(self.lane, shard, self._refresh_policy)
        self.journal = journal
        self.backlog = Backlog(
            self.lane, shard, settings.backlog_bytes, settings.ledger_wait_seconds
        )
        self.engine = Engine(
            self.lane, shard, self._refresh_policy, self.stock.open_pool,
            Backing(
                self.lane, shard, self.backlog, journal, settings.commit_durability == "ledger"
            ),
            meters,
        )  # fmt: skip
        self.records = Records(self.lane, journal)
        self.feed = Feed(self.records, durability)
        counting = Counting(self.lane, shard, self.backlog, journal)
        self.catalogue = Catalogue(self.lane, shard, self._use_policy, counting)
        self.protection = Protection(
            self.lane, shard, journal, self._use_policy, self._refresh_policy,
            settings.protect_safety,
        )  # fmt: skip
        self.notes = Notes(self.lane, shard)
        self.mode = Mode()
        self.importer = Importer(self.lane, shard, self._refresh_policy)
        self.files = Files(journal) if journal is not None else None
        self.keyring = Keyring(None if journal is None else KeyTable(journal), shard)

    def readiness(self) -> dict[str, Any]:
        """What /readyz shows: whether requests can be served, and why not."""
        closed = self.lane.closed
        return {
            "ready": closed is None,
            "durability": self._durability,
            "store": {
                "url": masked_url(self._url),
                "version": self.version,
                "state": "ok" if closed is None else closed.detail,
                "last_refusal": self.lane.last_refusal,
                "memory_full": self.lane.full,
                "epoch": self.lane.epoch,
                "seq": self.lane.seq,
            },
            "scripts": "loaded" if closed is None else "unknown",
            "ledger": self._ledger_readiness(),
            "keys": self.keyring.shown(),
            "mode": self.mode,
            "clock": "suspect" if self.lane.clock.suspect else "ok",
        }

    async def gauges(self) -> Found:
        """What /metrics shows of store and ledger, as this worker knows them now."""
        return await gauges(
            self.lane, self._shard, self.backlog, self.journal is not None, self.mode.protect
        )

    def repairer(self, survey: Survey) -> Repairer:
        """Mends what reconciling found. Raises LedgerUnavailable where there is no ledger."""
        if self.files is None:
            raise LedgerUnavailable("there is no ledger")
        return Repairer(
            self.lane, self._shard, self.stock, survey, self.files, self.catalogue.recount
        )

    def _ledger_readiness(self) -> dict[str, Any]:
        """The ledger may be away for a while: what it does not have waits in the store."""
        if self.journal is None:
            return {"state": "none"}
        return {
            "url": masked_url(self._settings.postgres_dsn or ""),
            "state": self.backlog.trouble or "ok",
            "lag": self.backlog.shown(),
        }

    async def open(self) -> None:
        """Connects, makes the shard if there never was one, loads policy, starts the reaper.

        A store that cannot be trusted leaves the worker closed until it can be.
        """
        await self.keyring.read()
        await self._shard.load_scripts()
        meta, why = await self._trust.look("", 0)
        if meta.format not in ("", scripts.FORMAT):
            raise StartRefused(why)
        self.lane.use(await open_link(self._url, self._settings.store_timeout_seconds))
        if why:
            self._fence(why)
            self.lane.ask_for("epoch")
        else:
            await self._take(meta)
            await self.lane.tidy()
        self._spawn(Reaper(self.lane, self._shard, self.backlog, meta.purged).run())
        self._spawn(self.protection.run())
        self._spawn(self.keyring.run(lambda: self.lane.closed is None))
        self._meters.starts["worker"] += 1
        self._spawn(self._beat())
        self._spawn(CutOff(self.catalogue.channels, self.catalogue.delete_channel).run())

    async def _take(self, meta: Meta) -> None:
        """Begins on a shard: the first one, or one that was rebuilt meanwhile."""
        policy = await self._shard.policy()
        if policy.epoch != meta.epoch:
            raise StockUnavailable("the store changed while it was looked at")
        if self.lane.epoch:
            log.warning("the store was rebuilt: epoch %s follows %s", meta.epoch, self.lane.epoch)
            self._abandon("the store was rebuilt")
        self.lane.epoch, self.lane.seq = meta.epoch, meta.seq
        self.lane.snapshot.clear()
        self.lane.deadlines.begin(meta.cursor)
        self.lane.clock.heard(meta.time_ms, meta.sent_ms, meta.received_ms)
        self._use_policy(policy)
        self._reopen()

    async def close(self) -> None:
        """Answers what waits, then stops everything."""
        await self.lane.drain(self._settings.drain_seconds)
        self.backlog.close()
        await self.feed.close()
        self._meters.sheet.rest()
        # On Python 3.11 wait_for, which redis-py writes with, may swallow a cancellation.
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=CANCEL_SECONDS)

    # --- mending -------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    async def _beat(self) -> None:
        """Says every second that this worker lives, and how it is."""
        while True:
            closed = self.lane.closed
            state = "ready" if closed is None else "closed"
            if self._meters.draining or isinstance(closed, Draining):
                state = "draining"
            self._meters.beat(self.lane.queues.waiting(), state)
            await asyncio.sleep(BEAT_SECONDS)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("a background task failed", exc_info=task.exception())

    def _on_trouble(self, kind: str) -> None:
        mend: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "link": self._mend_link,
            "policy": self._mend_policy,
            "scripts": self._mend_scripts,
            "epoch": self._mend_epoch,
        }
        self._spawn(mend[kind]())

    async def _mend_link(self) -> None:
        """Reconnects. What was under way is sent again for up to RESEND_SECONDS, then given up."""
        loop = asyncio.get_running_loop()
        give_up_at: float | None = loop.time() + RESEND_SECONDS
        log.warning("the connection to the store is lost; reconnecting")
        while True:
            link: Link | None = None
            try:
                link = await open_link(self._url, self._settings.store_timeout_seconds)
                await self._shard.load_scripts()
                why = await self._mistrust() or await self._weaker()
                if not why:
                    self._reopen()
                    self.lane.use(link)
                    link = None
                    log.warning("connected to the store again")
                    return
                self._fence(why)
                give_up_at = None
            except (ConnectionError, ReplyError, Unavailable) as error:
                if give_up_at is not None and loop.time() >= give_up_at:
                    log.error("the store is away: %s", error)
                    self._abandon(f"the store is away: {error}")
                    give_up_at = None
            finally:
                if link is not None:
                    link.abort("not used")
            await asyncio.sleep(RECONNECT_SECONDS if give_up_at else SETTLE_SECONDS)

    async def _weaker(self) -> str:
        """Why a store that came back gives less durability than it did; empty if it does not."""
        durability, why = await self._shard.durability()
        return why if self._durability == "fsync" and durability != "fsync" else ""

    def _abandon(self, why: str) -> None:
        def error(outcome: Any, reservation: str | None) -> StockUnavailable:
            return StockUnavailable(why, outcome, reservation)

        if not isinstance(self.lane.closed, Draining):
            self.lane.closed = error("none", None)
        self.lane.abandon(error)

    def _reopen(self) -> None:
        if not isinstance(self.lane.closed, Draining):
            self.lane.closed = None

    async def _mistrust(self) -> str:
        """Why the store may not be written to; "" if it may. One that was rebuilt is taken."""
        meta, why = await self._trust.look(self.lane.epoch, self.lane.seq)
        if not why and meta.epoch != self.lane.epoch:
            await self._take(meta)
        return why

    def _fence(self, why: str) -> None:
        """No writes until the store can be trusted again."""
        known = self.lane.closed
        self._abandon(why)
        if known is None or str(self.lane.closed) != str(known):
            log.error("no writes: %s", self.lane.closed)

    async def _mend_epoch(self) -> None:
        """The shard is not the one that was known: fenced until it is again, or is rebuilt."""
        if not isinstance(self.lane.closed, StockUnavailable):
            self._abandon("the store is not the one that this worker knows")
        while True:
            with contextlib.suppress(Unavailable):
                await self._shard.load_scripts()
                why = await self._mistrust()
                if not why:
                    self._reopen()
                    self.lane.mended("epoch")
                    return
                self._fence(why)
            await asyncio.sleep(SETTLE_SECONDS)

    async def _mend_policy(self) -> None:
        await self._until_done(self._read_policy, planned_only=True)
        self.lane.mended("policy")

    async def _mend_scripts(self) -> None:
        await self._until_done(self._shard.load_scripts, planned_only=False)
        self.lane.mended("scripts")

    async def _until_done(
        self, work: Callable[[], Coroutine[Any, Any, None]], planned_only: bool
    ) -> None:
        """Tries until it works. Nobody waits for that longer than RESEND_SECONDS."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + RESEND_SECONDS
        while True:
            try:
                await work()
                return
            except Unavailable as error:
                log.warning("trying again: %s", error)
                if loop.time() >= give_up_at:
                    self.lane.give_up(error, planned_only)
                late = loop.time() >= give_up_at
                await asyncio.sleep(SETTLE_SECONDS if late else RECONNECT_SECONDS)

    # --- policy --------------------------------------------------------------------------------

    async def _read_policy(self) -> None:
        self._use_policy(await self._shard.policy())

    async def _look_at_policy(self) -> None:
        """Reads the policy if its number changed. Raises StockUnavailable for another store."""
        self.lane.check_readable()
        epoch, number = await self._shard.policy_number()
        self._check_epoch(epoch)
        if number != self.lane.policy_number:
            await self._read_policy()

    def _check_epoch(self, epoch: str) -> None:
        """What is read from another store is not answered: empty is never an empty warehouse."""
        if epoch != self.lane.epoch:
            self.lane.ask_for("epoch")  # an idle lane would not hear of it
            raise StockUnavailable(
                f"the store has epoch {epoch or 'none'}, this worker knows {self.lane.epoch}"
            )

    def _use_policy(self, entries: PolicyEntries) -> None:
        """Takes a policy that was read, unless a newer one is known already."""
        self._check_epoch(entries.epoch)
        if entries.number > self.lane.policy_number:
            self.lane.snapshot.policy = kernel_policy(entries)
            if entries.mode != self.mode:
                self._use_mode(entries.mode)

    def _use_mode(self, mode: Mode) -> None:
        """Each of the workers takes its part of what is taken while stock is protected."""
        self.mode, rate = mode, self._settings.protect_rate
        self.lane.throttle = (
            Throttle(rate / self._settings.workers) if mode.protect and rate is not None else None
        )
        log.log(
            logging.ERROR if mode.protect else logging.WARNING, "stock is %s, by %s: %s",
            "protected" if mode.protect else "not protected any more", mode.by, mode.reason,
        )  # fmt: skip


# --- opening ---------------------------------------------------------------------------------


@asynccontextmanager
async def open_service(
    settings: Settings, meters: Meters | None = None
) -> AsyncIterator[Service]:
    """The core of one worker on the store of ``settings.valkey_url``.

    ``meters`` is where the worker counts; a command counts for nobody. Raises StartRefused with one
    line for a store that cannot be used.
    """
    if settings.valkey_url is None:
        raise StartRefused("no store: valkey_url is not set")
    async with contextlib.AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(settings))
        shard = Shard(settings.valkey_url, settings.store_timeout_seconds)
        stack.push_async_callback(shard.close)
        try:
            version = await shard.version()
            durability, why = await shard.durability()
            if settings.durability == "fsync" and durability != "fsync":
                raise StartRefused(
                    f"durability fsync cannot be had: {why}, or set STOCKADE_DURABILITY=memory"
                )
            service = Service(
                settings, settings.valkey_url, shard, durability, journal, meters or Meters()
            )
            service.version = version
            try:
                await service.open()
            except BaseException:
                await service.close()
                raise
        except (Unavailable, ConnectionError, ReplyError) as error:
            raise StartRefused(f"{masked_url(settings.valkey_url)}: {error}") from error
        stack.push_async_callback(service.close)
        yield service


async def accept_clock(settings: Settings) -> None:
    """Tells every worker of the running store to take its clock for the true one."""
    url = settings.valkey_url or find_running(settings.data)
    if url is None:
        raise StartRefused(f"no service runs on {settings.data}; name its store or --data")
    shard = Shard(url, settings.store_timeout_seconds)
    try:
        await shard.accept_clock()
    finally:
        await shard.close()
