"""A service that only remembers what it was asked: for tests of the door alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import asdict

from core.errors import InsufficientStock, Overloaded, UnknownChannel
from core.keyring import Keyring
from core.model import Available, Key, Pool, Reservation, ReservationLine, Reserve, SkuStock
from core.policy_model import Channel, ChannelEntry, ChannelSpec, LocationView, SkuSpec, SkuView
from core.record_model import Movement

ID = "0193abcd-3333-7333-8333-33333333beef"
BASKET = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}


class FakeReceipt:
    """A reservation as the engine hands it out."""

    def __init__(self, request: Reserve | None = None, replayed: bool = False) -> None:
        self.id = ID
        self.version = 7
        self.replayed = replayed
        self._reference = None if request is None else request.reference
        self._customer: str | None = None

    has_customer = True

    def masked(self) -> FakeReceipt:
        other = FakeReceipt(replayed=self.replayed)
        other._reference, other._customer = self._reference, "***"
        return other

    def reservation(self) -> Reservation:
        time = "2026-11-22T12:00:00.000Z"
        lines = [ReservationLine("tee", "main", 1, 1, 0, 0, 0, 0)]
        return Reservation(
            ID, "reserved", 7, "web", self._reference, self._customer, "fsync", time, time, time,
            None, lines,
        )  # fmt: skip

    def encode(self) -> bytes:
        return msgspec.json.encode(self.reservation())


class Answer:
    """Any result of the core, by its members."""

    def __init__(self, **members: Any) -> None:
        self.__dict__.update(members)


class FakeEngine:
    """Answers everything, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.error: Exception | None = None
        self.replayed = False

    @property
    def now_ms(self) -> int:
        return 1_795_348_800_000

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.error is not None:
            raise self.error

    async def reserve(self, request: Reserve, key: Key | None = None) -> FakeReceipt:
        self._note("reserve", request, key)
        return FakeReceipt(request, self.replayed)

    async def batch(self, elements: list[tuple[str, str, Any, Key | None]]) -> list[Any]:
        self._note("batch", elements)
        return [
            InsufficientStock()
            if getattr(request, "channel", "") == "sold-out"
            else FakeReceipt(request if verb == "reserve" else None)
            for verb, _, request, _ in elements
        ]

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb in {"receive", "adjust", "count", "transfer", "reallocate"}:
            return partial(self._stock, verb)
        if verb not in {"amend", "extend", "commit", "release", "cancel", "fulfil", "return_"}:
            raise AttributeError(verb)

        async def act(id: str, request: Any, key: Key | None, if_version: int | None) -> Any:
            self._note(verb, id, request, key, if_version)
            return FakeReceipt(replayed=self.replayed)

        return act

    async def reservation(self, id: str) -> FakeReceipt:
        self._note("reservation", id)
        return FakeReceipt()

    async def _stock(self, verb: str, request: Any, keys: list[Key | None]) -> list[Any]:
        self._note(verb, request, keys)
        pool = Pool("tee", "main", 1, 1, 0, 1, 0, 0, 0, {})
        return [
            Answer(pool=None, to_pool=None, error=Overloaded(), replayed=False)
            if line.sku == "busy"
            else Answer(pool=pool, to_pool=None, error=None, replayed=self.replayed)
            for line in request.lines
        ]

    async def read(self, skus: list[str], channel: str | None = None) -> list[SkuStock]:
        self._note("read", skus, channel)
        return [SkuStock(sku, {"web": 1}, []) for sku in skus]

    async def page(self, after: str, limit: int) -> tuple[list[SkuStock], str | None]:
        self._note("page", after, limit)
        return [SkuStock("a/b", {}, [])], "a/b" if after == "" else None

    async def availability(self, channel: str, skus: list[str], by_location: bool) -> Any:
        self._note("availability", channel, skus, by_location)
        places: Any = {"main": 3} if by_location else msgspec.UNSET
        return Answer(items=[Available(sku, 3, places) for sku in skus], seen_ms=0.0)

    def time_ms(self, monotonic: float) -> int:
        return 1_795_348_800_000

    async def channel(self, name: str) -> Channel:
        self._note("channel", name)
        if name == "missing":
            raise UnknownChannel
        return Channel(name, 3, ChannelEntry(floor_share=0.5))

    async def channels(self) -> list[Channel]:
        return [Channel(name, 1, ChannelEntry()) for name in ("web", "app", "store")]

    async def delete_channel(self, name: str, if_version: int | None) -> None:
        self._note("delete_channel", name, if_version)
        if name == "missing":
            raise UnknownChannel

    async def put_channel(
        self, name: str, spec: ChannelSpec, key: Key | None, if_version: int | None
    ) -> Any:
        self._note("put_channel", name, spec, key, if_version)
        channel = Channel(name, 1, ChannelEntry(**asdict(spec)))
        return Answer(value=channel, created=True, replayed=self.replayed)

    async def put_location(
        self, name: str, spec: Any, key: Key | None, if_version: int | None
    ) -> Any:
        self._note("put_location", name, spec, key, if_version)
        return Answer(value=LocationView(name, 2, True, True), created=False, replayed=False)

    async def location(self, name: str) -> LocationView:
        return LocationView(name, 2, True, True)

    async def locations(self) -> list[LocationView]:
        return [LocationView("main", 1, True, True)]

    async def put_sku(
        self, sku: str, spec: SkuSpec, key: Key | None, if_version: int | None
    ) -> Any:
        self._note("put_sku", sku, spec, key, if_version)
        return Answer(value=SkuView(sku, 4, 0, {}, {}), created=False, replayed=False)

    async def sku(self, sku: str) -> SkuView:
        self._note("sku", sku)
        return SkuView(sku, 4, 0, {}, {})


class FakeRecords:
    """A ledger with one page of each kind, which remembers what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Any, int]] = []

    async def movements(self, chosen: Any, after: int, limit: int) -> Any:
        self.calls.append(("movements", chosen, after, limit))
        items = [Movement(7, "2026-11-22T12:00:00.000Z", "receive", "tee", "main", "outside",
                          "shared", 3, 1)]  # fmt: skip
        return Answer(items=items, following=None if after else 7, as_of_seq=5)

    async def reservations(self, chosen: Any, after: str | None, limit: int) -> Any:
        self.calls.append(("reservations", chosen, after, limit))
        return Answer(items=[FakeReceipt()], following=None if after else ID, as_of_seq=5)

    async def at_risk(self, chosen: Any, after: str | None, limit: int) -> Any:
        self.calls.append(("at_risk", chosen, after, limit))
        return Answer(items=[], following=None if after else f"R{ID}", as_of_seq=5)


class FakeNotes:
    """Remembers what was noted, or cannot."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str]] = []
        self.error: Exception | None = None

    async def note(self, verb: str, target: str, before: Any = None, after: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.noted.append((verb, target))


class FakeService:
    """An opened service."""

    def __init__(self) -> None:
        self.engine = self.stock = self.catalogue = FakeEngine()
        self.records = FakeRecords()
        self.keyring = Keyring(None, None)
        self.notes = FakeNotes()
        self.ready = True
        self.history: list[str] = []

    def readiness(self) -> dict[str, Any]:
        return {"ready": self.ready, "durability": "fsync"}

    async def gauges(self) -> dict[str, dict[tuple[str, ...], list[float]]]:
        return {"stockade_store_up": {(): [1.0]}}
