"""The whole story of a reservation or of a SKU, from the store and from the ledger, for a person.

Only reads, and says of each side what it does not answer: whoever asks may have just that trouble.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from msgspec import Struct, field

from core.errors import StockUnavailable
from core.ledger.journal import Journal
from core.ledger.reading import Found, Reading
from core.model import Pool, Reservation
from core.opening import open_journal
from core.ops import Receipt
from core.policy_model import ChannelSpec, SkuView
from core.record_model import LAST_ID, Movement, MovementFilter, ReservationFilter
from core.records import movement, rfc3339
from core.settings import Settings
from core.store import wording
from core.store.shard import Shard

MOVEMENTS_MAX: Final = 1_000  # of a reservation; one of a hundred lines has some hundreds
NEWEST_MAX: Final = 20  # of everything that a SKU may have thousands of


class Version(Struct, frozen=True):
    """What a reservation became."""

    time: str
    verb: str
    reservation: Reservation


class ReservationStory(Struct):
    """A reservation. ``trouble``: why the store's side is not known."""

    id: str
    versions: list[Version]
    movements: list[Movement]
    more: bool  # there are more movements
    in_store: Reservation | None = None
    in_ledger: Reservation | None = None
    trouble: str = ""


class PoolStory(Struct, frozen=True):
    """A pool as the store has it, or if that is not known as the ledger has it; and the version
    that each has."""

    pool: Pool
    in_store: int | None
    in_ledger: int | None


class SkuStory(Struct):
    """A SKU. ``open`` and ``at_risk``: the newest reservations, and whether there are more."""

    sku: str
    policy: SkuView | None = None
    pools: list[PoolStory] = field(default_factory=list)
    newest: list[Movement] = field(default_factory=list)
    open: list[Reservation] = field(default_factory=list)
    more_open: bool = False
    at_risk: list[Reservation] = field(default_factory=list)
    more_at_risk: bool = False
    trouble: str = ""


class Teller:
    """Asks both sides."""

    def __init__(
        self, shard: Shard, reading: Reading, journal: Journal, people: bool
    ) -> None:
        """``people``: also whose reservations are."""
        self._people = people
        self._shard = shard
        self._reading = reading
        self._journal = journal

    async def reservation(self, id: str) -> ReservationStory | None:
        """The story of a reservation; None if nobody knows it. Raises LedgerUnavailable."""
        versions = [
            Version(rfc3339(row["time"]), row["verb"], self._told(id, row["record"].encode()))
            for row in await self._journal.fetch("versions_of", id)
        ]
        found = await self._reading.movements(MovementFilter(reservation=id), 0, MOVEMENTS_MAX)
        story = ReservationStory(
            id, versions, [movement(row) for row in found.rows], found.following is not None
        )
        cold = await self._journal.record(id)
        story.in_ledger = None if cold is None else self._told(id, cold)
        try:
            hot, _ = await self._shard.record(id)
            story.in_store = None if hot is None else self._told(id, hot)
        except StockUnavailable as error:
            story.trouble = error.detail
        known = versions or story.in_store or story.in_ledger or story.trouble
        return story if known else None

    async def sku(self, sku: str) -> SkuStory | None:
        """The story of a SKU; None if nobody knows it. Raises LedgerUnavailable."""
        story = SkuStory(sku)
        cold = {row["location"]: row for row in await self._journal.fetch("pools_of", sku)}
        hot: dict[str, bytes] = {}
        specs: dict[str, ChannelSpec] = {}
        selling: dict[str, bool] = {}
        try:
            policy = await self._shard.policy()
            specs = {n: each.spec for n, each in policy.channels.items() if not each.spec.closed}
            selling = {name: each.sells for name, each in policy.locations.items()}
            (entry,) = await self._shard.skus([sku])
            if entry is not None:
                story.policy = wording.sku_view(sku, entry)
                places = wording.parse_sku(entry)[1]
                rows = await self._shard.rows([f"{sku}@{place}" for place in places])
                hot = {place: row for place, row in zip(places, rows, strict=True) if row}
        except StockUnavailable as error:
            story.trouble = error.detail
        for place in sorted({*hot, *cold}):
            row = hot[place] if place in hot else cold[place]["row"].encode()
            pool, _ = wording.parse_pool(f"{sku}@{place}", row, specs, selling.get(place, True))
            story.pools.append(PoolStory(
                pool,
                int(hot[place].split(b" ", 1)[0]) if place in hot else None,
                cold[place]["version"] if place in cold else None,
            ))  # fmt: skip
        newest = await self._journal.fetch("newest_movements", sku, NEWEST_MAX)
        story.newest = [movement(row) for row in newest]
        story.open, story.more_open = await self._held(sku, False)
        if any(each.pool.deficit for each in story.pools):
            story.at_risk, story.more_at_risk = await self._held(sku, True)
        known = story.policy or story.pools or story.newest or story.trouble
        return story if known else None

    async def _held(self, sku: str, at_risk: bool) -> tuple[list[Reservation], bool]:
        """The newest reservations that hold the SKU, unpaid ones first."""
        now_ms = (await self._reading.mark()).seen_ms
        held: list[Reservation] = []
        more = False
        for state in ("reserved", "committed"):
            chosen = ReservationFilter(sku=sku, state=state)
            found: Found = await self._reading.reservations(
                chosen, LAST_ID, NEWEST_MAX, now_ms, at_risk
            )
            held += [self._told(str(row["id"]), row["record"].encode()) for row in found.rows]
            more = more or found.following is not None
        return held, more

    def _told(self, id: str, record: bytes) -> Reservation:
        """A record as it reads: its deadline is told, not judged."""
        receipt = Receipt(id, record, "ledger")
        return (receipt if self._people else receipt.masked()).reservation()


@asynccontextmanager
async def open_teller(settings: Settings, people: bool) -> AsyncIterator[Teller]:
    """Who tells stories of the store and the ledger that the settings name; ``people``: also whose
    reservations are."""
    assert settings.valkey_url is not None
    shard = Shard(settings.valkey_url, settings.store_timeout_seconds)
    try:
        async with open_journal(settings) as journal:
            assert journal is not None
            yield Teller(shard, Reading(journal), journal, people)
    finally:
        await shard.close()
