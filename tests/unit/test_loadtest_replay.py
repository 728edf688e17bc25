"""Whole runs against a service in memory, right ones and ones with a fault planted."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

import loadtest.client
import loadtest.replay
from loadtest import report
from loadtest.audit import Audit, allotted, audit
from loadtest.client import Refused, connect
from loadtest.orders import Dirt, read
from loadtest.replay import Fate, Replay, Tally, journeys
from loadtest.settings import Settings, WrongSetting, parse
from loadtest.stocking import stock_up, survey

SAMPLE = Path(__file__).parents[2] / "loadtest" / "data" / "orders-sample.csv"
STATES = {"commit": "committed", "fulfil": "fulfilled", "release": "released"}


class Shop:
    """The contract in memory, as far as a replay needs it. ``fault`` names what it does wrong."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.floors: dict[str, dict[str, int]] = {}
        self.pools: dict[tuple[str, str], dict[str, int]] = {}
        self.reservations: dict[str, dict[str, Any]] = {}
        self.answered: dict[tuple[str, str], web.Response] = {}
        self.asked = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.idempotency])
        app.router.add_put("/v1/{kind}/{name}", self.put)
        app.router.add_post("/v1/stock/receive", self.receive)
        app.router.add_get("/v1/stock", self.stock)
        app.router.add_post("/v1/reservations", self.reserve)
        app.router.add_post("/v1/reservations/{id}/{verb}", self.verb)
        app.router.add_get("/v1/reservations/{id}", self.read)
        return app

    @web.middleware
    async def idempotency(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self.asked += 1
        key = request.path, request.headers.get("Idempotency-Key", "")
        if key in self.answered and self.fault != "repeats":
            first = self.answered[key]
            return web.Response(
                status=first.status, body=first.body, headers={"Idempotent-Replayed": "true"}
            )
        answer = await handler(request)
        assert isinstance(answer, web.Response)
        if key[1] and answer.status < 400 and '"status": 503' not in (answer.text or ""):
            self.answered[key] = answer
        if self.fault == "loses answers" and self.asked % 7 == 0:
            return web.Response(status=503, headers={"Retry-After": "0"})
        return answer

    async def put(self, request: web.Request) -> web.Response:
        if request.match_info["kind"] == "channels":
            spec = await request.json()
            for location in spec["locations"]:
                share = round(spec["floor_share"] * 1_000_000)
                self.floors.setdefault(location, {})[request.match_info["name"]] = share
        return web.json_response({}, status=201)

    async def receive(self, request: web.Request) -> web.Response:
        lines = (await request.json())["lines"]
        if self.fault == "busy lines" and not self.pools:
            lines, busy = lines[: len(lines) // 2], len(lines) - len(lines) // 2
        else:
            busy = 0
        for line in lines:
            shares = self.floors[line["location"]]
            quotas = allotted(line["quantity"], shares)
            accounts = {"shared": line["quantity"] - sum(quotas.values())}
            for name, quota in quotas.items():
                accounts |= {f"free {name}": quota, f"reserved {name}": 0, f"committed {name}": 0}
                if self.fault == "quota" and quota:
                    accounts[f"free {name}"] -= 1
                    accounts["shared"] += 1
            self.pools[line["sku"], line["location"]] = accounts
        results: list[dict[str, Any]] = [{"status": 200, "pool": {}} for _ in lines]
        results += [{"status": 503, "problem": {"code": "overloaded"}}] * busy
        return web.json_response({"results": results})

    async def reserve(self, request: web.Request) -> web.Response:
        body = await request.json()
        channel, lines = body["channel"], []
        for line in body["lines"]:
            pool = self.pools.get((line["sku"], line["location"]), {"shared": 0})
            own = min(line["quantity"], pool.get(f"free {channel}", 0))
            lines.append({**line, "own": own, "borrowed": line["quantity"] - own})
            if lines[-1]["borrowed"] > pool["shared"]:
                if self.fault != "oversells" or not pool.get(f"free {channel}"):
                    refusal = {"limited_by": "on_hand"}
                    problem = {"code": "insufficient_stock", "lines": [refusal]}
                    return web.json_response(problem, status=409)
                lines[-1]["borrowed"] = pool["shared"]
                lines[-1]["own"] = line["quantity"] - pool["shared"]
        for line in lines:
            self._take(channel, line, 1)
        id = f"r{len(self.reservations)}"
        held = {"id": id, "state": "reserved", "channel": channel, "lines": lines}
        self.reservations[id] = held
        if "ttl_seconds" in body and self.fault != "never expires":
            asyncio.get_running_loop().call_later(body["ttl_seconds"], self._expire, id)
        return web.json_response(held, status=201)

    async def verb(self, request: web.Request) -> web.Response:
        held = self.reservations[request.match_info["id"]]
        verb, channel = request.match_info["verb"], held["channel"]
        if self.fault == "loses a commit" and held["id"] == "r3" and verb == "fulfil":
            return web.json_response({**held, "state": "fulfilled"})
        held["state"] = STATES[verb]
        for line in held["lines"]:
            pool = self.pools[line["sku"], line["location"]]
            if verb == "release":
                self._take(channel, line, -1)
            elif verb == "commit":
                pool[f"reserved {channel}"] -= line["quantity"]
                pool[f"committed {channel}"] += line["quantity"]
            else:
                pool[f"committed {channel}"] -= line["quantity"]
        return web.json_response(held)

    async def read(self, request: web.Request) -> web.Response:
        id = request.match_info["id"]
        if self.fault == "loses a reservation" and id == "r5":
            return web.json_response({"code": "unknown_reservation"}, status=404)
        return web.json_response(self.reservations[id])

    async def stock(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("cursor", 0)), min(100, int(request.query["limit"]))
        listed = sorted(self.pools)[start : start + limit]
        end = start + limit
        items = [{"sku": sku, "pools": [self._pool(sku, at)]} for sku, at in listed]
        if self.fault == "loses a pool" and not start:
            items = items[1:]
        cursor = str(end) if end < len(self.pools) else None
        return web.json_response({"items": items, "next_cursor": cursor})

    def _pool(self, sku: str, location: str) -> dict[str, Any]:
        accounts = self.pools[sku, location]
        channels = {}
        for name in self.floors[location]:
            free = accounts[f"free {name}"]
            channels[name] = {
                "free": free,
                "reserved": accounts[f"reserved {name}"],
                "committed": accounts[f"committed {name}"],
                "available": free + accounts["shared"],
            }
        nothing = dict.fromkeys(("safety", "damaged", "quarantine", "deficit"), 0)
        on_hand = sum(accounts.values())
        return {
            "location": location,
            "on_hand": on_hand,
            "shared": accounts["shared"],
            "channels": channels,
            **nothing,
        }

    def _take(self, channel: str, line: dict[str, Any], sign: int) -> None:
        pool = self.pools[line["sku"], line["location"]]
        pool[f"free {channel}"] -= sign * line["own"]
        pool["shared"] -= sign * line["borrowed"]
        pool[f"reserved {channel}"] += sign * line["quantity"]

    def _expire(self, id: str) -> None:
        held = self.reservations[id]
        held["state"] = "expired"
        for line in held["lines"]:
            self._take(held["channel"], line, -1)


@asynccontextmanager
async def serving(shop: Shop) -> AsyncIterator[str]:
    runner = web.AppRunner(shop.app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def run(shop: Shop, **settings: Any) -> tuple[Tally, Audit, loadtest.client.Client]:
    chosen = Settings(**({"seed": 7, "ttl_seconds": 1, "limit": 60, "concurrency": 16} | settings))
    rng = random.Random(1)
    plan = survey(SAMPLE, chosen.limit)
    async with serving(shop) as url, connect(url, chosen.concurrency, rng) as client:
        book = await stock_up(client, plan, chosen.stock, "run", chosen.concurrency)
        replay = Replay(client, book, plan, chosen, "run")
        await replay.run(read(SAMPLE, Dirt(), chosen.limit))
        return replay.tally, await audit(client, book, chosen.concurrency, rng), client


async def test_the_report_has_every_count_and_is_json() -> None:
    stock = Decimal("0.8")
    tally, audited, client = await run(Shop("loses answers"), stock=stock)
    made = report.Run(
        id="run",
        log=SAMPLE,
        service_version="1.2.3",
        started_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
        setup_s=1.0,
        settings=Settings(seed=7, stock=stock),
        plan=survey(SAMPLE, 60),
        tally=tally,
        client=client,
        audit=audited,
    )
    document = orjson.loads(orjson.dumps(report.document(made)))
    assert document["refused_lines"] == {"on_hand": tally.refused}
    assert document["retries"] == {"503": client.retries["503"]}
    assert document["started_at"] == "2026-11-22T12:00:00Z"
    assert document["log"]["baskets"] == document["baskets"] == 60
    assert document["calls"]["reserve"]["count"] >= 60
    assert 0 < document["calls"]["reserve"]["p50_ms"] <= document["calls"]["reserve"]["max_ms"]
    assert "per_s" not in document["calls"]["put"]
    assert document["audit"]["passed"]
    assert document["machine"]["cores"] > 0
    text = report.summary(made)
    assert f"refused   {tally.refused} (lines: on_hand {tally.refused})" in text
    assert "audit     passed" in text
    audited.differences.add("pool tee@store-1: planted")
    assert "1 DIFFERENCES" in report.summary(made)
    assert "pool tee@store-1: planted" in report.summary(made)


@pytest.fixture(autouse=True)
def prompt_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop expires on the second; there is no reaper to give time to."""
    monkeypatch.setattr(loadtest.replay, "EXPIRY_S", 0.1)


async def test_a_right_service_passes() -> None:
    tally, audited, _ = await run(Shop(), abandon=Decimal("0.5"))
    assert audited.differences.listed == []
    assert (tally.baskets, tally.refused, tally.errors.total()) == (60, 0, 0)
    assert tally.fulfilled + tally.released + tally.left_to_expire == tally.granted >= 60
    assert min(tally.fulfilled, tally.released, tally.left_to_expire, tally.repeated_calls) > 0
    assert audited.read_back == audited.acknowledged == tally.granted


async def test_short_stock_is_refused_and_counted_by_reason() -> None:
    tally, audited, _ = await run(Shop(), stock=Decimal("0.8"), abandon=Decimal(0))
    assert audited.differences.listed == []
    assert tally.refused > 0
    assert tally.refused_lines == {"on_hand": tally.refused}
    assert tally.granted + tally.refused >= 60


async def test_lost_answers_are_asked_for_again_under_the_same_key() -> None:
    tally, audited, client = await run(Shop("loses answers"))
    assert audited.differences.listed == []
    assert client.retries["503"] > 10
    assert tally.fulfilled > 40


async def test_lines_the_service_had_no_room_for_are_sent_again() -> None:
    _, audited, client = await run(Shop("busy lines"))
    assert audited.differences.listed == []
    assert client.retries == {"busy lines": 1}


async def test_an_outcome_that_stays_unknown_fails_the_audit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loadtest.client, "PATIENCE_S", 0.2)
    shop = Shop()
    verb = shop.verb

    async def broken(request: web.Request) -> web.Response:
        fails = request.match_info["id"] == "r3"
        return web.Response(status=500) if fails else await verb(request)

    monkeypatch.setattr(shop, "verb", broken)
    tally, audited, _ = await run(shop, abandon=Decimal(0))
    assert tally.unanswered == 1
    assert ["outcome unknown" in text for text in audited.differences.listed] == [True]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("oversells", "oversold"),
        ("quota", "free["),
        ("loses a reservation", "reservation r5: acknowledged, but reading it answers 404"),
        ("loses a commit", "reservation r3: is committed, should be fulfilled"),
        ("loses a pool", "not listed, though"),
        ("never expires", "is reserved, should be expired"),
        ("repeats", "marked as replayed"),
    ],
)
async def test_a_planted_fault_fails_the_audit(fault: str, message: str) -> None:
    stock = Decimal("0.8") if fault == "oversells" else Decimal(1)
    abandon = Decimal("0.5") if fault == "never expires" else Decimal(0)
    _, audited, _ = await run(Shop(fault), stock=stock, abandon=abandon)
    assert audited.differences.count > 0
    assert any(message in text for text in audited.differences.listed)


async def test_refusing_what_is_there_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()

    async def sold_out(request: web.Request) -> web.Response:
        return web.json_response({"code": "insufficient_stock"}, status=409)

    monkeypatch.setattr(shop, "reserve", sold_out)
    tally, audited, _ = await run(shop)
    assert tally.errors["reserve 409 insufficient_stock"] >= 60
    assert audited.differences.count >= 60


async def test_a_service_that_has_stock_is_left_alone() -> None:
    shop = Shop()
    shop.floors["store-1"] = {}
    shop.pools["tee", "store-1"] = {"shared": 1}
    with pytest.raises(Refused, match="has stock already"):
        await run(shop)


def test_the_same_seed_gives_the_same_journeys() -> None:
    def fates(seed: int) -> list[tuple[Fate, frozenset[str]]]:
        settings = Settings(seed=seed, abandon=Decimal("0.2"))
        drawn = journeys(read(SAMPLE, Dirt(), 1000), settings)
        return [(journey.fate, journey.repeated) for journey in drawn]

    assert fates(7) == fates(7) != fates(8)
    counted = {fate: sum(drawn == fate for drawn, _ in fates(7)) for fate in Fate}
    assert 50 < counted[Fate.RELEASE] < 150
    assert 50 < counted[Fate.LEAVE] < 150


def test_settings_are_read_and_wrong_ones_told() -> None:
    settings = parse(["speed=3600", "abandon=0.25", "seed=9", "limit=5"])
    assert settings.as_dict() == {
        "speed": 3600.0,
        "concurrency": 64,
        "abandon": 0.25,
        "seed": 9,
        "stock": 1.0,
        "ttl_seconds": 2,
        "limit": 5,
    }
    assert json.dumps(parse(["speed=max"]).as_dict()["speed"]) == '"max"'
    for wrong in ("speed", "colour=red", "abandon=1.5", "abandon=NaN", "limit=0", "stock=-1"):
        with pytest.raises(WrongSetting, match=f"--set {wrong}"):
            parse([wrong])
