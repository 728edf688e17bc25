"""Who may do what over HTTP: keys, scopes, channels; every route of the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio as redis

from api import call
from api.app import App
from api.routes import PAGES, ROUTES
from core.access import SCOPES
from core.keyring import hash_of, new_id, new_secret
from core.ledger.keys import KeyTable
from core.settings import Settings
from core.store import keys
from tests.ledgered import Ledger
from tests.problems import assert_problem
from tests.service.conftest import opened

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/problems/{code}"}
ID = "01932d5a-1c4e-7a3b-9f00-3c5e8b0a4d00"
VALUES = {"{id}": ID, "{sku}": "tee", "{name}": "web", "{code}": "expired"}
VERBS: dict[str, Any] = {
    "amend": {"lines": [{"sku": "tee", "quantity": 1}]},
    "extend": {"ttl_seconds": 9},
    "commit": {},
    "release": {},
    "cancel": {},
    "fulfil": {},
    "return": {"lines": [{"sku": "tee", "quantity": 1, "disposition": "restock"}]},
}

Keys = dict[str, dict[str, str]]


class Shop:
    """The application over a store and a ledger, and keys to it."""

    def __init__(self, app: App, client: httpx2.AsyncClient, ledger: Ledger, url: str) -> None:
        self.app = app
        self.client = client
        self._ledger = ledger
        self._url = url
        self.table = KeyTable(ledger.journal)

    async def key(self, *scopes: str, channels: list[str] | None = None) -> dict[str, str]:
        """The headers of a new key, which the worker knows."""
        id, secret = new_id(), new_secret()
        assert await self.table.make(id, "a test", list(scopes), channels, None, hash_of(secret))
        await self.app.opened.keyring.read()
        return {"Authorization": f"Bearer {id}.{secret}"}

    async def ask(
        self, method: str, path: str, headers: dict[str, str], body: Any = None
    ) -> httpx2.Response:
        content = None if body is None else json.dumps(body).encode()
        more = {} if body is None else {"Content-Type": "application/json"}
        return await self.client.request(method, path, content=content, headers=headers | more)

    async def catch_up(self) -> None:
        """The ledger has what the store has."""
        await self._ledger.catch_up(self._url)


@pytest.fixture
async def shop(store_url: str, ledger: Ledger, tmp_path: Path) -> AsyncIterator[Shop]:
    """Ten ``tee``: 7 behind the wall of ``web``, 3 of ``store``. No key yet."""
    settings = Settings(valkey_url=store_url, postgres_dsn=ledger.dsn, data=tmp_path)
    async with opened(settings) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for name, share in (("web", 0.7), ("store", 0.3)):
                spec = {"floor_share": share, "borrow": False}
                assert (await client.put(f"/v1/channels/{name}", json=spec)).status_code == 201
            assert (await client.put("/v1/skus/tee", json={})).status_code == 201
            lines = [{"sku": "tee", "location": "main", "quantity": 10}]
            await client.post("/v1/stock/receive", json={"lines": lines})
            yield Shop(app, client, ledger, store_url)


def basket(channel: str, **more: Any) -> dict[str, Any]:
    return {"channel": channel, "lines": [{"sku": "tee", "quantity": 1}]} | more


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, set[str], Any]]:
    """(method, path, scopes, an example of its body) of all there are, HEAD as well."""
    for path, methods in document["paths"].items():
        filled = path
        for name, value in VALUES.items():
            filled = filled.replace(name, value)
        for method, operation in methods.items():
            scopes = {scope for each in operation["security"] for scope in each["key"]}
            assert bool(scopes) != (path in OPEN), (method, path)
            body = None
            if "requestBody" in operation:
                examples = operation["requestBody"]["content"]["application/json"]["examples"]
                body = examples["plain"]["value"]
            yield method.upper(), filled, scopes, body
            if method == "get":
                yield "HEAD", filled, scopes, None


async def test_a_stranger_s_key_opens_no_route(shop: Shop) -> None:
    """Each route of the document: without a key, with a wrong one, with one of other scopes."""
    document = (await shop.client.get("/openapi.json")).json()
    assert sum(map(len, document["paths"].values())) == len(ROUTES) + len(PAGES)
    few = {scope: await shop.key(scope) for scope in SCOPES}
    right = next(iter(few.values()))["Authorization"]
    strangers = [
        {}, {"Authorization": right[:-1] + ("a" if right[-1] != "a" else "b")},
        {"Authorization": "Basic YTpi"}, {"Authorization": right.removeprefix("Bearer ")},
        {"Authorization": f"Bearer {new_id()}.{new_secret()}"},
        {"Authorization": "Bearer " + "x" * 5_000},
    ]  # fmt: skip
    tried = 0
    for method, path, scopes, body in operations(document):
        for headers in strangers:
            answer = await shop.ask(method, path, headers, body)
            if not scopes:
                assert answer.status_code != 401, (method, path)
                continue
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            if method != "HEAD":
                assert_problem(answer, 401, "unauthenticated")
            tried += 1
        if not scopes:
            continue
        for scope in SCOPES.keys() - scopes:
            answer = await shop.ask(method, path, few[scope], body)
            assert answer.status_code == 403, (method, path, scope)
        if path.startswith("/v1/events"):
            continue  # does not end; asked for below
        for scope in scopes:
            answer = await shop.ask(method, path, few[scope], body)
            assert answer.status_code not in (401, 403, 500), (method, path, scope, answer.text)
    assert tried > 150


async def test_no_route_is_found_out_behind_a_key(shop: Shop) -> None:
    """What there is not, is not there for anybody (and needs no key to be known)."""
    await shop.key("operate")
    assert_problem(await shop.client.get("/v1/nothing"), 404, "unknown_route")
    assert_problem(await shop.client.delete("/v1/reservations"), 405, "method_not_allowed")


async def test_who_is_bound_to_a_channel_reserves_there_alone(shop: Shop) -> None:
    web = await shop.key("reserve", "fulfil", "stock:read", channels=["web"])
    made = await shop.ask("POST", "/v1/reservations", web, basket("web"))
    assert made.status_code == 201
    id = made.json()["id"]
    for body in (basket("store"), basket("none"), basket("store", state="committed")):
        for query in ("", "?dry_run=true"):
            answer = await shop.ask("POST", f"/v1/reservations{query}", web, body)
            assert_problem(answer, 403, "forbidden")
    assert_problem(
        await shop.ask("POST", "/v1/reservations", web, basket("web", shortage="record")),
        403, "forbidden",
    )  # fmt: skip
    # What is wrong with the request comes first.
    answer = await shop.ask("POST", "/v1/reservations", web, basket("store", ttl_seconds=0))
    assert_problem(answer, 422, "validation_failed")
    for path in ("/v1/availability?channel=store&sku=tee", "/v1/channels/store",
                 "/v1/stock/tee?channel=store", "/v1/reservations?channel=store",
                 "/v1/movements?channel=store", "/v1/events?channel=store"):  # fmt: skip
        assert_problem(await shop.ask("GET", path, web), 403, "forbidden")
    assert (await shop.ask("GET", f"/v1/reservations/{id}", web)).status_code == 200
    done = await shop.ask("POST", f"/v1/reservations/{id}/commit", web, {})
    assert done.json()["state"] == "committed"


async def test_another_channel_s_reservation_is_unknown(shop: Shop) -> None:
    """By every verb, alone and in a batch, also for a worker that never saw it; it stays as it
    was."""
    web = await shop.key("reserve", "fulfil", channels=["web"])
    store = await shop.key("reserve", "fulfil", channels=["store"])
    made = await shop.ask("POST", "/v1/reservations", store, basket("store"))
    id = made.json()["id"]
    path = f"/v1/reservations/{id}"
    for forgotten in (False, True):
        if forgotten:
            shop.app.opened.engine.known.clear()
        for method in ("GET", "HEAD"):
            assert (await shop.ask(method, path, web)).status_code == 404
        for verb, body in VERBS.items():
            headers = web | {"Idempotency-Key": verb}
            answer = await shop.ask("POST", f"{path}/{verb}", headers, body)
            assert_problem(answer, 404, "unknown_reservation")
    elements = [{"verb": verb, "id": id, "idempotency_key": verb} | body
                for verb, body in VERBS.items()]  # fmt: skip
    elements += [basket("store"), basket("web")]
    answer = await shop.ask("POST", "/v1/reservations/batch", web, {"reservations": elements})
    codes = [each.get("problem", {}).get("code") for each in answer.json()["results"]]
    assert codes == ["unknown_reservation"] * len(VERBS) + ["forbidden", None]
    mine = answer.json()["results"][-1]["reservation"]["id"]
    assert (await shop.ask("GET", path, store)).json()["version"] == 1
    await shop.catch_up()
    for key, own in ((web, [mine]), (store, [id])):
        for query in ("", "?sku=tee", "?state=reserved"):
            found = (await shop.ask("GET", f"/v1/reservations{query}", key)).json()
            assert [each["id"] for each in found["items"]] == own
        assert found["next_cursor"] is None


async def test_an_element_of_a_batch_needs_its_own_scope(shop: Shop) -> None:
    reserve, fulfil = await shop.key("reserve"), await shop.key("fulfil")
    made = await shop.ask("POST", "/v1/reservations", reserve, basket("web", state="committed"))
    id = made.json()["id"]
    elements = [basket("web"), {"verb": "fulfil", "id": id}, basket("web", shortage="record")]
    answers = [
        await shop.ask("POST", "/v1/reservations/batch", key, {"reservations": elements})
        for key in (reserve, fulfil)
    ]
    found = [[each["status"] for each in answer.json()["results"]] for answer in answers]
    assert found == [[201, 403, 403], [403, 200, 403]]


async def test_numbers_of_other_channels_are_not_shown(shop: Shop) -> None:
    web = await shop.key("stock:read", "stock:write", "reserve", channels=["web"])
    whole = await shop.key("stock:read", "quota:write")
    spec = {"channels": {"store": {"ceiling_units": 9}, "web": {"ceiling_units": 8}}}
    assert (await shop.ask("PUT", "/v1/skus/tee", whole, spec)).status_code == 200
    lines = [{"sku": "tee", "location": "main", "quantity": 10}]
    answers = [
        await shop.ask("POST", "/v1/stock/receive", web, {"lines": lines}),
        await shop.ask("GET", "/v1/stock/tee", web),
        await shop.ask("GET", "/v1/stock?sku=tee", web),
        await shop.ask("GET", "/v1/stock", web),
        await shop.ask("GET", "/v1/channels", web),
        await shop.ask("GET", "/v1/skus/tee", web),
    ]
    move = {"sku": "tee", "location": "main", "from": "store", "to": "web", "quantity": 1}
    moved = await shop.ask("POST", "/v1/stock/reallocate", whole, {"lines": [move]})
    assert moved.json()["results"][0]["status"] == 200
    await shop.catch_up()
    answers.append(await shop.ask("GET", "/v1/movements", web))
    (heard,) = await Listening(shop, "/v1/events?type=stock.reallocated", web, 1).all()
    for each in (heard["data"], answers[-1].json()["items"][-1]):
        assert (each["from"], each["to"]) == ("free:***", "free:web")
    for answer in answers:
        assert answer.status_code == 200
        assert "web" in answer.text
        assert "store" not in answer.text, answer.url
    for path in ("/v1/stock/tee", "/v1/channels", "/v1/skus/tee", "/v1/movements"):
        assert "store" in (await shop.ask("GET", path, whole)).text


async def test_a_key_of_another_means_nothing(shop: Shop) -> None:
    """The same Idempotency-Key by two API keys: two requests; by one and the same: a replay."""
    one, other = await shop.key("reserve"), await shop.key("reserve")
    ids = []
    for key in (one, other, one):
        headers = key | {"Idempotency-Key": "cart-1"}
        answer = await shop.ask("POST", "/v1/reservations", headers, basket("web"))
        assert answer.status_code == 201
        ids.append(answer.json()["id"])
    assert ids[0] == ids[2] != ids[1]
    batch = {"reservations": [basket("web")]}
    made = [
        await shop.ask("POST", "/v1/reservations/batch", key | {"Idempotency-Key": "b"}, batch)
        for key in (one, other)
    ]
    assert len({each.json()["results"][0]["reservation"]["id"] for each in made}) == 2


class Listening:
    """Who listens to events from the beginning of the ledger on, until it has heard ``count``."""

    def __init__(self, shop: Shop, path: str, key: dict[str, str], count: int) -> None:
        self.began = asyncio.Event()
        self._text = bytearray()
        self._count = count
        self._gone = asyncio.Event()
        place, _, query = path.partition("?")
        head = [(name.lower().encode(), value.encode()) for name, value in key.items()]
        scope = {
            "type": "http", "method": "GET", "path": place, "raw_path": place.encode(),
            "query_string": query.encode(), "headers": [*head, (b"last-event-id", b"0")],
        }  # fmt: skip
        self.task = asyncio.create_task(shop.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self._text.extend(message.get("body", b""))
        if self._text:
            self.began.set()
        if len(self.heard()) >= self._count:
            self._gone.set()

    def heard(self) -> list[dict[str, Any]]:
        lines = self._text.decode().split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    async def all(self) -> list[dict[str, Any]]:
        """All that was heard when it ended."""
        async with asyncio.timeout(30):
            await self.task
        return self.heard()


async def test_events_of_other_channels_are_not_heard(shop: Shop) -> None:
    selling = await shop.key("reserve")
    for channel, units in (("store", 3), ("web", 7)):
        body = {"channel": channel, "lines": [{"sku": "tee", "quantity": units}]}
        assert (await shop.ask("POST", "/v1/reservations", selling, body)).status_code == 201
    await shop.catch_up()
    web = await shop.key("reserve", channels=["web"])
    heard = await Listening(shop, "/v1/events", web, 3).all()
    types = {each["type"] for each in heard}
    assert types == {"stock.back", "reservation.reserved", "stock.sold_out"}
    assert "store" not in json.dumps(heard)
    everything = await shop.key("stock:read")
    types = {
        each["type"] for each in await Listening(shop, "/v1/events", everything, 8).all()
    }
    assert "stock.received" in types
    answer = await shop.ask("GET", "/v1/events?type=stock.received", web)
    assert_problem(answer, 403, "forbidden")


async def test_readiness_is_for_everybody_and_its_reasons_are_not(shop: Shop) -> None:
    assert "store" in (await shop.client.get("/readyz")).json()
    operate, reserve = await shop.key("operate"), await shop.key("reserve")
    for headers in ({}, reserve, {"Authorization": "Bearer x.y"}):
        answer = await shop.ask("GET", "/readyz", headers)
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "draining": False})
    shown = (await shop.ask("GET", "/readyz", operate)).json()
    assert shown["keys"] == {"count": 2, "needed": True, "state": "ok"}
    shop.app.draining = True
    assert "store" not in assert_problem(await shop.client.get("/readyz"), 503, "draining")


async def test_who_starts_while_the_ledger_is_away_knows_the_keys(
    shop: Shop, store_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """From a copy in the store; without one nobody comes in, for there may be keys."""
    operate = await shop.key("operate")
    await shop.app.opened.keyring.copy()
    away = Settings(
        valkey_url=store_url, data=tmp_path,
        postgres_dsn=ledger.dsn.replace("host=", "host=/nowhere"),
    )  # fmt: skip
    for copied, status in ((True, 200), (False, 503)):
        if not copied:
            async with redis.from_url(store_url) as store:
                await store.delete(keys.API_KEYS)
        async with opened(away) as app:
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as two:
                assert (await two.get("/metrics", headers=operate)).status_code == status
                assert (await two.get("/metrics")).status_code == (401 if copied else 503)


async def test_a_key_that_was_revoked_or_rotated(shop: Shop) -> None:
    keyring = shop.app.opened.keyring
    first = await shop.key("operate")
    id = first["Authorization"].removeprefix("Bearer ").partition(".")[0]
    secret = new_secret()
    second = {"Authorization": f"Bearer {id}.{secret}"}

    async def seen() -> list[int]:
        await keyring.read()
        return [(await shop.ask("GET", "/metrics", key)).status_code for key in (first, second)]

    assert await seen() == [200, 401]
    assert await shop.table.rotate(id, hash_of(secret), 3_600)
    assert await seen() == [200, 200]
    assert await shop.table.rotate(id, hash_of(secret), 0)
    assert await seen() == [401, 200]
    assert await shop.table.revoke(id)
    # The last one: that opens nothing, for there was a key.
    assert await seen() == [401, 401]
    assert (await shop.client.get("/metrics")).status_code == 401
    assert not await shop.table.rotate(id, hash_of(secret), 0)


async def test_a_stream_ends_with_its_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "ADMITTED_SECONDS", 0.01)
    one, other = await shop.key("stock:read"), await shop.key("stock:read")
    streams = [Listening(shop, "/v1/events?type=deficit.opened", key, 1) for key in (one, other)]
    for each in streams:
        await each.began.wait()
    id = one["Authorization"].removeprefix("Bearer ").partition(".")[0]
    assert await shop.table.revoke(id)
    await shop.app.opened.keyring.read()
    assert await streams[0].all() == []
    assert not streams[1].task.done()
    shop.app.drain()
    assert await streams[1].all() == []
