"""Whole runs against a service in memory, right ones and ones with a fault planted."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from msgspec.structs import replace

import loadtest.audit
import loadtest.client
import loadtest.crowd
from loadtest import report
from loadtest.audit import audit
from loadtest.book import Book
from loadtest.checks import About, Audit
from loadtest.client import Client, Refused, Unanswered
from loadtest.crowd import Crowd
from loadtest.journeys import DISPOSITIONS, journeys
from loadtest.measure import Measured, Meter
from loadtest.orders import Dirt, read
from loadtest.settings import Settings, WrongSetting, scenario
from loadtest.stocking import must_be_empty, stock_up, survey
from loadtest.tally import Tally
from loadtest.transport import reach
from tests.shop_in_memory import Shop, serving

ALWAYS = {
    "abandon": 0,
    "change": 1,
    "cancel": 1,
    "back": 1,
}
SAMPLE = Path(__file__).parents[2] / "loadtest" / "data" / "orders-sample.csv"


def chosen(**values: Any) -> Settings:
    """What a replay has, but smaller, and but for some values."""
    small: dict[str, Any] = {"seed": 7, "ttl_seconds": 1, "limit": 60, "concurrency": 16}
    return replace(scenario("replay"), **small | values)


async def run(shop: Shop, **values: Any) -> tuple[Tally, Audit, Measured]:
    settings = chosen(**values)
    plan = survey(SAMPLE, settings.limit)
    async with serving(shop) as url, reach(url, 16) as transport:
        client = Client(transport, random.Random(1), Meter())
        await must_be_empty(client)
        supply = plan.supply(settings.stock)
        book = await stock_up(client, supply, "run", settings.concurrency)
        plenty = settings.stock >= 1
        crowd = Crowd(client, book, settings, "run", plenty)
        baskets = read(SAMPLE, Dirt(), settings.limit)
        await crowd.queue(journeys(baskets, settings), settings.concurrency)
        audited = await audit(client, book, settings.concurrency, random.Random(1), 5.0)
        return crowd.tally, audited, client.meter.take()


async def test_the_report_has_every_count_and_is_json() -> None:
    stock = Decimal("0.8")
    tally, audited, measured = await run(Shop("loses answers"), **ALWAYS | {"stock": stock})
    made = report.Run(
        scenario="replay",
        id="run",
        service_version="1.2.3",
        started_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
        setup_s=1.0,
        settings=chosen(stock=stock),
        tally=tally,
        measured=measured,
        audit=audited,
        looks=[report.Look(0.5, 10, 7, {"north": 3})],
        log=SAMPLE,
        plan=survey(SAMPLE, 60),
    )
    document = orjson.loads(orjson.dumps(report.document(made)))
    assert document["refusals"] == {"on_hand": tally.refused + tally.amends_refused}
    assert document["happened"]["amends"] == dict(tally.amends)
    assert document["happened"]["returns"] == dict(tally.returns)
    assert document["retries"] == {"503": measured.retries["503"]}
    assert document["started_at"] == "2026-11-22T12:00:00Z"
    assert document["model"] == "closed"
    assert document["log"]["baskets"] == document["happened"]["baskets"] == 60
    reserve = document["operations"]["reserve"]
    assert reserve["count"] >= 60
    assert 0 < reserve["p50_ms"] <= reserve["max_ms"]
    assert reserve["curve"][-1] == [100, reserve["max_ms"]]
    first = document["timeline"][0]
    assert (first["t"], first["on_hand"], first["available"]) == (0, 10, 7)
    assert first["quota"] == {"north": 3}
    asked = [second["asked"] for second in document["timeline"]]
    assert sum(asked) == document["totals"]["asked"] == document["totals"]["answered"]
    assert document["audit"]["passed"]
    assert [check["name"] for check in document["audit"]["checks"]] == list(About)
    assert document["machine"]["cores"] > 0
    text = report.summary(made)
    assert f"refused   {tally.refused + tally.amends_refused} (on_hand " in text
    assert f"amended   {tally.amends.total()} (" in text
    assert f"), {tally.amends_refused} refused\n" in text
    assert f"cancelled {tally.units_cancelled:,} units in {tally.cancels} calls" in text
    assert f"returned  {tally.units_returned:,} units in {tally.returns.total()} calls (" in text
    assert "audit     passed" in text
    audited.add(About.STOCK, "pool tee@store-1: planted")
    assert "1 DIFFERENCES" in report.summary(made)
    assert "pool tee@store-1: planted" in report.summary(made)
    assert not report.document(made)["audit"]["passed"]


@pytest.fixture(autouse=True)
def prompt_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shop expires on the second; there is no reaper to give time to."""
    monkeypatch.setattr(loadtest.audit, "EXPIRY_S", 0.1)


async def test_a_right_service_passes() -> None:
    tally, audited, _ = await run(Shop(), abandon=0.5)
    assert audited.listed == []
    assert (tally.baskets, tally.refused, tally.errors.total()) == (60, 0, 0)
    ended = tally.fulfilled + tally.released + tally.left_to_expire + tally.cancelled
    assert ended == tally.granted >= 60
    assert min(tally.fulfilled, tally.released, tally.left_to_expire, tally.repeated_calls) > 0
    assert audited.checks[About.FOUND].checked == audited.acknowledged == tally.granted


async def test_baskets_change_lose_a_part_and_come_back() -> None:
    """Every kind of it, and in the end just what the log asks for was granted."""
    tally, audited, _ = await run(Shop(), **ALWAYS, limit=200)
    assert audited.listed == []
    assert tally.errors.total() == tally.refused == tally.amends_refused == 0
    kinds = {f"{state} {way}" for state in ("reserved", "committed") for way in ("up", "down")}
    assert tally.amends.keys() == kinds
    assert tally.returns.keys() == set(DISPOSITIONS)
    assert min(*tally.amends.values(), *tally.returns.values(), tally.cancelled) > 10
    assert tally.cancels == tally.granted
    assert tally.units_granted == sum(survey(SAMPLE, 200).demand.values())
    assert tally.repeated_calls > 50


async def test_who_presses_twice_or_does_not_wait_has_one_reservation() -> None:
    tally, audited, measured = await run(Shop(), double_click=1.0, retry=1.0)
    assert audited.listed == []
    assert tally.pressed_twice > 100  # reserves and commits
    assert tally.hasty == measured.gave_up >= 60
    assert audited.checks[About.KEYS].checked >= tally.pressed_twice


async def test_a_key_that_has_two_effects_when_pressed_twice_is_found() -> None:
    _, audited, _ = await run(Shop("repeats"), double_click=1.0, stock=Decimal(2))
    assert any("pressed twice, answered 201 r" in text for text in audited.listed)
    assert any("was never acknowledged" in text for text in audited.listed)


async def test_short_stock_is_refused_and_counted_by_reason() -> None:
    tally, audited, _ = await run(Shop(), stock=Decimal("0.8"), abandon=0, change=1)
    assert audited.listed == []
    assert min(tally.refused, tally.amends_refused) > 0
    assert tally.refused_lines == {"on_hand": tally.refused + tally.amends_refused}
    assert tally.granted + tally.refused >= 60


async def test_lost_answers_are_asked_for_again_under_the_same_key() -> None:
    tally, audited, measured = await run(Shop("loses answers"))
    assert audited.listed == []
    assert measured.retries["503"] > 10
    assert tally.fulfilled > 40


async def test_lines_the_service_had_no_room_for_are_sent_again() -> None:
    _, audited, measured = await run(Shop("busy lines"))
    assert audited.listed == []
    assert measured.retries == {"busy lines": 1}


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
    tally, audited, _ = await run(shop, abandon=0)
    assert tally.unanswered == 1
    assert ["outcome unknown" in text for text in audited.listed] == [True]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("oversells", "are promised of"),
        ("forgets a movement", "the ledger moved 0 to"),
        ("reserves what nobody asked for", "reservation r-more of"),
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
    abandon = 0.5 if fault == "never expires" else 0
    _, audited, _ = await run(Shop(fault), stock=stock, abandon=abandon)
    assert audited.count > 0
    assert any(message in text for text in audited.listed)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loses what an amend gives back", "should be"),
        ("amends the answer only", "cancel answered"),
        ("shrinks what it refuses", "should hold"),
        ("refuses to shrink", "amend answered 409 insufficient_stock"),
        ("gives what was borrowed to the quota", "shared is"),
        ("loses what was cancelled", "on_hand is"),
        ("does not count what was cancelled", "cancel answered"),
        ("ships what was cancelled", "committed["),
        ("counts returns twice", "on_hand is"),
        ("sells what is damaged", "damaged is"),
        ("restocks for all", "shared is"),
        ("forgets what came back", "should hold"),
    ],
)
async def test_a_fault_in_what_changes_fails_the_audit(fault: str, message: str) -> None:
    stock = Decimal("0.8") if "refuse" in fault else Decimal(1)
    _, audited, _ = await run(Shop(fault), **ALWAYS | {"stock": stock})
    assert audited.count > 0
    assert any(message in text for text in audited.listed)


async def test_refusing_what_is_there_fails_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()

    async def sold_out(request: web.Request) -> web.Response:
        return web.json_response({"code": "insufficient_stock"}, status=409)

    monkeypatch.setattr(shop, "reserve", sold_out)
    tally, audited, _ = await run(shop)
    assert tally.errors["reserve 409 insufficient_stock"] >= 60
    assert audited.count >= 60


async def test_a_service_that_has_stock_is_left_alone() -> None:
    shop = Shop()
    shop.floors["store-1"] = {}
    shop.pools["tee", "store-1"] = {"shared": 1, "damaged": 0, "quarantine": 0}
    with pytest.raises(Refused, match="has stock already"):
        await run(shop)


def test_settings_are_read_and_wrong_ones_told() -> None:
    settings = scenario("replay", ["speed=3600", "abandon=0.25", "seed=9", "limit=5"])
    told = settings.as_dict()
    assert (told["speed"], told["abandon"], told["seed"], told["limit"]) == (3600, 0.25, 9, 5)
    assert (told["concurrency"], told["change"], told["ttl_seconds"]) == (64, 0.2, 2)
    assert json.dumps(scenario("replay", ["speed=max"]).as_dict()["speed"]) == '"max"'
    for wrong in ("speed", "colour=red", "abandon=1.5", "abandon=NaN", "limit=-1", "back=2"):
        with pytest.raises(WrongSetting, match=f"--set {wrong}"):
            scenario("replay", [wrong])


async def test_a_service_that_is_gone_ends_an_open_run_with_one_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loadtest.crowd, "UNANSWERED_MAX", 3)
    settings = chosen(patience_seconds=0, limit=60)
    async with reach("http://127.0.0.1:9", 16) as transport:  # nobody listens there
        client = Client(transport, random.Random(1), Meter(), settings.patience_seconds)
        crowd = Crowd(client, Book({}), settings, "run")
        baskets = read(SAMPLE, Dirt(), settings.limit)
        with pytest.raises(Unanswered, match="calls were not answered: ConnectionRefusedError"):
            await crowd.arrive(journeys(baskets, settings), time.monotonic_ns(), 0.0, 1e12)
