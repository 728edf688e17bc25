"""``GET /v1/events`` of a service that runs: what is told over a connection, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.listening import Listener, Shop
from tests.processes import Service

RESERVED = "?type=reservation.reserved"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One that goes on."""
    with Service("--data", str(tmp_path_factory.mktemp("data"))) as service:
        made = Shop(service)
        yield made
        made.caller.close()


@pytest.fixture
def closing(tmp_path: Path) -> Iterator[Shop]:
    """One of a test's own, to be stopped by it."""
    short = ("--drain-seconds", "4", "--ledger-wait-seconds", "4")
    with Service("--data", str(tmp_path / "data"), *short) as service:
        made = Shop(service)
        yield made
        made.caller.close()


def stalled(url: str, last_id: str) -> socket.socket:
    """Who asks for reservations from ``last_id`` on, and takes nothing of the answer."""
    host, port = url.removeprefix("http://").split(":")
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    made.settimeout(30)
    made.connect((host, int(port)))
    head = f"GET /v1/events{RESERVED} HTTP/1.1\r\nHost: localhost\r\n"
    made.sendall(f"{head}Last-Event-ID: {last_id}\r\n\r\n".encode())
    return made


def test_who_comes_back_has_missed_nothing(shop: Shop) -> None:
    """Connections that break anywhere: between events, before the first, unread."""
    listener = Listener(shop.url, RESERVED)
    ids = shop.reserve(5)
    heard = [listener.next()["subject"] for _ in range(3)]  # the others are on their way
    listener.close()
    ids += shop.reserve(4)
    listener = Listener(shop.url, RESERVED, listener.last_id)
    heard += [listener.next()["subject"] for _ in range(5)]
    listener.close()
    # Nothing was heard over this one: what it was told is where it began.
    listener = Listener(shop.url, RESERVED, listener.last_id)
    listener.close()
    ids += shop.reserve(1)
    listener = Listener(shop.url, RESERVED, listener.last_id)
    heard += [listener.next()["subject"] for _ in range(2)]
    listener.close()
    assert heard == ids


def test_one_that_begins_is_not_told_of_the_past(shop: Shop) -> None:
    listener = Listener(shop.url, RESERVED)
    first = shop.reserve(1)
    assert [listener.next()["subject"]] == first
    other = Listener(shop.url, RESERVED)
    second = shop.reserve(1)
    assert [other.next()["subject"]] == second
    event = listener.next()
    assert event["data"] == shop.ask("GET", f"/v1/reservations/{event['subject']}")
    assert (event["specversion"], event["source"]) == ("1.0", "urn:stockade:shard:0")
    assert event["time"] >= event["data"]["created_at"]
    # As far back as the ledger reaches: from the first on.
    past = Listener(shop.url, "", "0")
    types = [past.next()["type"] for _ in range(3)]
    assert types[:2] == ["policy.changed", "policy.changed"]
    for each in (listener, other, past):
        each.close()


def test_lists_show_what_single_reads_show(shop: Shop) -> None:
    basket = {
        "channel": "web", "lines": [{"sku": "tee", "quantity": 2}], "customer": "c 9",
        "durability": "ledger",
    }  # fmt: skip
    ids = [shop.ask("POST", "/v1/reservations", basket)["id"] for _ in range(3)]
    newest = [shop.ask("GET", f"/v1/reservations/{id}") for id in reversed(ids)]
    page = shop.ask("GET", "/v1/reservations?customer=c%209&limit=2")
    assert page["items"] == newest[:2]
    rest = shop.ask("GET", f"/v1/reservations?customer=c+9&cursor={page['next_cursor']}")
    assert (rest["items"], rest["next_cursor"]) == (newest[2:], None)
    assert rest["as_of_seq"] >= page["as_of_seq"] > 0
    moved = shop.ask("GET", f"/v1/movements?reservation={ids[0]}")
    (each,) = moved["items"]
    assert (each["verb"], each["from"], each["to"], each["quantity"]) == (
        "reserve", "shared", "reserved:web", 2,
    )  # fmt: skip
    assert shop.ask("GET", "/v1/reservations?at_risk=true")["items"] == []


def test_a_slow_reader_holds_nobody_up_and_loses_nothing(shop: Shop) -> None:
    """It takes nothing while far more happens than buffers hold; then it reads all of it."""
    quick = Listener(shop.url, RESERVED)
    slow = stalled(shop.url, f"{quick.last_id}")
    ids: list[str] = []
    for _ in range(6):
        basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        results = shop.ask("POST", "/v1/reservations/batch", {"reservations": [basket] * 1_000})
        ids += [each["reservation"]["id"] for each in results["results"]]
    assert len(ids) == 6_000
    assert {quick.next()["subject"] for _ in ids} == set(ids)
    quick.close()
    heard: list[str] = []
    with slow, slow.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"data: "):
                heard.append(json.loads(line[6:])["subject"])
                if len(heard) == len(ids):
                    break
    assert len(heard) == len(set(heard))
    assert set(heard) == set(ids)


@pytest.mark.parametrize("sent", ["", "x", "1.", "-1", "1.2.3", "1.234", " 7 8", "9" * 19])
def test_an_id_that_is_no_number_is_refused(shop: Shop, sent: str) -> None:
    shop.caller.request("GET", "/v1/events", headers={"Last-Event-ID": sent})
    answer = shop.caller.getresponse()
    document = json.loads(answer.read())
    assert (answer.status, document["code"]) == (422, "validation_failed")
    assert document["errors"][0]["pointer"] == "Last-Event-ID"


def test_a_head_has_no_end_to_wait_for(shop: Shop) -> None:
    shop.caller.request("HEAD", "/v1/events")
    answer = shop.caller.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert answer.headers["content-type"] == "text/event-stream"


def test_a_stream_ends_when_the_service_stops(closing: Shop) -> None:
    """At once and whole, long before the time that open requests may take."""
    listener = Listener(closing.url)
    (id,) = closing.reserve(1)
    while listener.next()["subject"] != id:
        pass
    closing.caller.close()
    started = time.monotonic()
    closing.service.signal(signal.SIGTERM)
    while listener.block() is not None:
        pass  # the last events and then the end, which is no broken connection
    took = time.monotonic() - started
    listener.close()
    status, _, lines = closing.service.finish()
    assert status == 0
    assert took < 4, lines


def test_one_who_takes_nothing_holds_the_stop_up_no_longer_than_others_may(closing: Shop) -> None:
    with stalled(closing.url, "0"):
        basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        quick = Listener(closing.url, RESERVED)
        for _ in range(6):
            closing.ask("POST", "/v1/reservations/batch", {"reservations": [basket] * 1_000})
        for _ in range(6_000):
            quick.next()
        quick.close()
        closing.caller.close()
        closing.service.signal(signal.SIGTERM)
        status, _, lines = closing.service.finish()
    assert status == 0
    assert not any("killed" in line for line in lines), lines
