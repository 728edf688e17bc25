"""A shop as its people speak of it: baskets, orders, parcels, the stock room. All of it over HTTP.

A step that is not done raises ``Refused``, so a story only says so where it expects it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx2
import pytest

from core.store import keys
from tests.processes import until
from tests.shop import PASS_DEADLINE
from tests.workers import client as store_client
from tests.workers import record, server_ms

Goods: TypeAlias = Mapping[str, int]  # "tee" or, at one location, "tee@main" → units
RESERVATIONS = "/v1/reservations"


@dataclass(frozen=True)
class Answer:
    """What the service said: a reservation, a pool or a problem."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        """The problem's code; empty if there is no problem."""
        return str(self.body.get("code", ""))

    @property
    def id(self) -> str:
        """The reservation's."""
        return str(self.body["id"])

    @property
    def state(self) -> str:
        """The reservation's, also of a refusal that tells it."""
        return str(self.body["state"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The reservation's, or those that the refusal is about."""
        found: list[dict[str, Any]] = self.body["lines"]
        return found

    @property
    def replayed(self) -> bool:
        """True if it had happened before."""
        return self.headers.get("idempotent-replayed") == "true"

    @property
    def goods(self) -> dict[str, int]:
        """What is still held or owed: open units by ``sku@location``."""
        found: dict[str, int] = {}
        for line in self.lines:
            pool = f"{line['sku']}@{line['location']}"
            units = line["quantity"] - line["fulfilled"] - line["cancelled"]
            if units:
                found[pool] = found.get(pool, 0) + units
        return found

    def total(self, counter: str) -> int:
        """All units of all lines: ``quantity``, ``fulfilled``, ``returned`` …"""
        return sum(line[counter] for line in self.lines)


class Refused(Exception):
    """The service did not do it; ``answer`` is the problem."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.body}")
        self.answer = answer


async def refused(step: Awaitable[Answer], code: str) -> Answer:
    """The problem with which a step must be refused."""
    with pytest.raises(Refused) as caught:
        await step
    answer = caught.value.answer
    assert answer.code == code, answer.body
    return answer


async def together(*steps: Awaitable[Answer]) -> list[Answer]:
    """Steps of several people at once: what each got, done or refused."""

    async def one(step: Awaitable[Answer]) -> Answer:
        try:
            return await step
        except Refused as no:
            return no.answer

    return await asyncio.gather(*map(one, steps))


class Storefront:
    """The counter of one service."""

    def __init__(self, client: httpx2.AsyncClient, store: str) -> None:
        """``store``: the URL of its store, for moving deadlines and for nothing else."""
        self.client = client
        self.moved: set[str] = set()  # reservations whose deadline a story moved
        self._store = store

    async def ask(
        self, method: str, path: str, body: object = None, key: str | None = None
    ) -> Answer:
        """One request. Raises Refused."""
        headers = {} if key is None else {"Idempotency-Key": key}
        response = await self.client.request(method, path, json=body, headers=headers)
        answer = Answer(response.status_code, response.json(), response.headers)
        if answer.status >= 400:
            raise Refused(answer)
        return answer

    # --- the shop is opened --------------------------------------------------------------------

    async def location(self, name: str, **rules: Any) -> None:
        """Somewhere goods lie."""
        await self.ask("PUT", f"/v1/locations/{name}", rules)

    async def channel(self, name: str, **rules: Any) -> None:
        """Somebody who sells."""
        await self.ask("PUT", f"/v1/channels/{name}", rules)

    async def stocks(self, sku: str, units: int, location: str = "main") -> None:
        """A new article, and the first delivery of it."""
        assert (await self.ask("PUT", f"/v1/skus/{sku}", {})).status == 201, "of another story"
        if units:
            await self.receive(sku, units, location)

    # --- customers and their baskets -----------------------------------------------------------

    async def reserve(
        self, goods: Goods, channel: str = "web", key: str | None = None, **members: Any
    ) -> Answer:
        """A customer puts goods into the basket."""
        body = {"channel": channel, "lines": _lines(goods)} | members
        return await self.ask("POST", RESERVATIONS, body, key)

    async def amend(
        self, basket: Answer, goods: Goods, key: str | None = None, **members: Any
    ) -> Answer:
        """The basket, or the order, as it shall be."""
        return await self._verb(basket, "amend", {"lines": _lines(goods)} | members, key)

    async def extend(self, basket: Answer, seconds: int) -> Answer:
        """The customer needs longer."""
        return await self._verb(basket, "extend", {"ttl_seconds": seconds})

    async def commit(self, basket: Answer, key: str | None = None, **members: Any) -> Answer:
        """It is paid."""
        return await self._verb(basket, "commit", members, key)

    async def release(self, basket: Answer) -> Answer:
        """The customer gives it up."""
        return await self._verb(basket, "release", {})

    async def cancel(
        self, order: Answer, goods: Goods | None = None, key: str | None = None
    ) -> Answer:
        """The customer does not want these any more, or none of it."""
        return await self._verb(order, "cancel", _parts(goods), key)

    async def fulfil(
        self, order: Answer, goods: Goods | None = None, key: str | None = None, **members: Any
    ) -> Answer:
        """A parcel leaves, or goods are handed over: these, or all of it."""
        return await self._verb(order, "fulfil", _parts(goods) | members, key)

    async def take_back(
        self, order: Answer, goods: Goods, disposition: str, key: str, to: str | None = None
    ) -> Answer:
        """Goods came back: to ``restock`` them, or ``damaged``, or for ``quarantine``."""
        way = {"disposition": disposition} | ({} if to is None else {"to": to})
        lines = [line | way for line in _lines(goods)]
        return await self._verb(order, "return", {"lines": lines}, key)

    async def look(self, basket: Answer) -> Answer:
        """It, as it is now."""
        return await self.ask("GET", f"{RESERVATIONS}/{basket.id}")

    async def _verb(
        self, basket: Answer, verb: str, body: object, key: str | None = None
    ) -> Answer:
        return await self.ask("POST", f"{RESERVATIONS}/{basket.id}/{verb}", body, key)

    # --- the stock room ------------------------------------------------------------------------

    async def receive(
        self, sku: str, units: int, location: str = "main", key: str | None = None
    ) -> Answer:
        """A delivery."""
        return await self._stock("receive", sku, key, location=location, quantity=units)

    async def count(self, sku: str, counted: int, location: str = "main", **members: Any) -> Answer:
        """Somebody counted all that lies there."""
        return await self._stock("count", sku, None, location=location, counted=counted, **members)

    async def transfer(self, sku: str, units: int, source: str, target: str) -> Answer:
        """Units go from one location to another."""
        legs = {"from_location": source, "to_location": target}
        return await self._stock("transfer", sku, None, quantity=units, **legs)

    async def reallocate(
        self, sku: str, units: int | str, source: str, target: str, location: str = "main"
    ) -> Answer:
        """Units that one account has are for another from now on."""
        way = {"from": source, "to": target, "location": location}
        return await self._stock("reallocate", sku, None, quantity=units, **way)

    async def _stock(self, verb: str, sku: str, key: str | None, **members: Any) -> Answer:
        """A stock verb of one line. Raises Refused for the line's problem too."""
        lines = [{"sku": sku} | members]
        answer = await self.ask("POST", f"/v1/stock/{verb}", {"lines": lines}, key)
        (result,) = answer.body["results"]
        found = Answer(result["status"], result.get("pool") or result["problem"], answer.headers)
        if found.status >= 400:
            raise Refused(found)
        return found

    # --- what is left --------------------------------------------------------------------------

    async def left(self, sku: str, channel: str = "web") -> int:
        """What this channel's customers can still take."""
        found = await self.ask("GET", f"/v1/stock/{sku}")
        return int(found.body["available"].get(channel, 0))

    async def stock(self, sku: str, location: str = "main") -> dict[str, int]:
        """All that lies there, and each account that has any of it; zeros are left out."""
        pools = (await self.ask("GET", f"/v1/stock/{sku}")).body["pools"]
        (pool,) = [each for each in pools if each["location"] == location]
        names = ("shared", "safety", "damaged", "quarantine", "deficit")
        found = {name: pool[name] for name in names}
        for channel, parts in pool["channels"].items():
            for part in ("free", "reserved", "committed"):
                found[f"{part}:{channel}"] = parts[part]
        assert pool["on_hand"] == sum(found.values()) - 2 * pool["deficit"]
        return {"on_hand": pool["on_hand"]} | {name: n for name, n in found.items() if n}

    # --- time ----------------------------------------------------------------------------------

    def was_due(self, basket: Answer, seconds_ago: float = 0) -> None:
        """The basket's deadline was that long ago, and nobody has seen to it yet."""
        self.moved.add(basket.id)
        prefix = keys.due_at(0).decode()[:-1]
        names = (keys.META.decode(), keys.bucket_of(basket.id).decode())
        with contextlib.closing(store_client(self._store)) as store:
            ago_ms = round(1000 * seconds_ago)
            assert store.eval(PASS_DEADLINE, 2, *names, basket.id, ago_ms, prefix) == 1, "not alive"

    def expired(self, basket: Answer, seconds_ago: int) -> None:
        """The basket expired that long ago; its units were free since."""
        self.was_due(basket)
        with contextlib.closing(store_client(self._store)) as store:
            until(lambda: record(store, basket.id).startswith("X "), "the reaper comes by")
            words = record(store, basket.id).split(" ")
            words[3] = str(server_ms(store) - 1000 * seconds_ago)
            store.hset(keys.bucket_of(basket.id), basket.id, " ".join(words))


def _lines(goods: Goods) -> list[dict[str, Any]]:
    lines = []
    for name, units in goods.items():
        sku, _, location = name.partition("@")
        pinned = {"location": location} if location else {}
        lines.append({"sku": sku, "quantity": units} | pinned)
    return lines


def _parts(goods: Goods | None) -> dict[str, Any]:
    return {} if goods is None else {"lines": _lines(goods)}
