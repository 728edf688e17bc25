"""Every kind of bad input gets its problem, and changes nothing."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.problems import assert_problem

NOBODY = "0193abcd-3333-7333-8333-33333333beef"
RESERVE = "/v1/reservations"
RECEIVE = "/v1/stock/receive"


def basket(**members: Any) -> dict[str, Any]:
    return {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]} | members


def line(**members: Any) -> dict[str, Any]:
    return basket(lines=[{"sku": "tee", "quantity": 1} | members])


def raw_quantity(text: str) -> bytes:
    return b'{"channel":"web","lines":[{"sku":"tee","quantity":%b}]}' % text.encode()


async def everything(client: httpx2.AsyncClient, reservation: str) -> list[Any]:
    """All that bad input could have changed."""
    paths = [
        "/v1/stock",
        "/v1/channels",
        "/v1/locations",
        "/v1/skus/tee",
        f"{RESERVE}/{reservation}",
    ]
    return [(await client.get(path)).json() for path in paths]


@pytest.fixture
async def held(shop: httpx2.AsyncClient) -> str:
    """A reservation of two ``tee``."""
    response = await shop.post(RESERVE, json=line(quantity=2))
    assert response.status_code == 201
    return str(response.json()["id"])


SKUS = {
    "spaces": "a b",
    "control": "a\x07",
    "nul": "a\x00",
    "line end": "tee\n",
    "braces": "{s0}",
    "at": "a@main",
    "quote": 'a"b',
    "backslash": "a\\b",
    "backtick": "a`b",
    "unicode": "té",
    "long": "x" * 65,
    "very long": "x" * 10_000,
    "empty": "",
}
NAMES = {
    "account": "shared",
    "all accounts": "all",
    "safety": "safety",
    "outside": "outside",
    "upper case": "Web",
    "spaces": "a b",
    "braces": "{s0}",
    "at": "a@b",
    "colon": "a:b",
    "unicode": "é",
    "control": "a\x00",
    "long": "x" * 33,
    "very long": "x" * 10_000,
    "empty": "",
}
QUANTITIES = {
    "zero": "0",
    "negative": "-1",
    "2^31": str(2**31),
    "2^53": str(2**53),
    "10^30": "1" + "0" * 30,
    "1e3": "1e3",
    "1.0": "1.0",
    "true": "true",
    "null": "null",
    "string": '"1"',
    "list": "[1]",
    "object": "{}",
}
MALFORMED = {
    "empty": b"",
    "broken": b'{"channel": "web"',
    "trailing": b"{}{}",
    "nan": raw_quantity("NaN"),
    "infinity": raw_quantity("Infinity"),
    "leading zero": raw_quantity("01"),
    "not utf-8": b'{"channel":"\xff"}',
    "utf-16": "{}".encode("utf-16"),
    "deep": b"[" * 50_000,
}

# (method, path, body, status, code, pointer). A body of bytes is sent as it is.
Row = tuple[str, str, Any, int, str, str | None]
ROWS: dict[str, Row] = {
    **{
        f"quantity {name}": ("POST", RESERVE, raw_quantity(text), 422, "validation_failed",
                             "/lines/0/quantity")
        for name, text in QUANTITIES.items()
    },
    **{
        f"malformed {name}": ("POST", RESERVE, body, 400, "malformed_json", None)
        for name, body in MALFORMED.items()
    },
    **{
        f"sku {name}": ("POST", RESERVE, line(sku=sku), 422, "validation_failed", "/lines/0/sku")
        for name, sku in SKUS.items()
    },
    **{
        f"received sku {name}": ("POST", RECEIVE,
                                 {"lines": [{"sku": sku, "location": "main", "quantity": 1}]},
                                 422, "validation_failed", "/lines/0/sku")
        for name, sku in SKUS.items() if name in ("long", "very long", "empty")
    },
    **{
        f"channel {name}": ("POST", RESERVE, basket(channel=channel), 422, "validation_failed",
                            "/channel")
        for name, channel in NAMES.items()
    },
    **{
        f"location {name}": ("POST", RESERVE, line(location=location), 422, "validation_failed",
                             "/lines/0/location")
        for name, location in NAMES.items()
    },
    "second location": ("POST", RESERVE, line(locations=["main", "a b"]), 422,
                        "validation_failed", "/lines/0/locations/1"),
    "pinned and not": ("POST", RESERVE, line(location="main", locations=["main"]), 422,
                       "validation_failed", "/lines/0/locations"),
    "no lines": ("POST", RESERVE, basket(lines=[]), 422, "validation_failed", "/lines"),
    "101 lines": ("POST", RESERVE, basket(lines=[{"sku": "tee", "quantity": 1}] * 101), 422,
                  "validation_failed", "/lines"),
    "21 locations": ("POST", RESERVE, line(locations=["main"] * 21), 422, "validation_failed",
                     "/lines/0/locations"),
    "a list": ("POST", RESERVE, [], 422, "validation_failed", ""),
    "null": ("POST", RESERVE, b"null", 422, "validation_failed", ""),
    "no channel": ("POST", RESERVE, {"lines": []}, 422, "validation_failed", None),
    "unknown member": ("POST", RESERVE, basket(chanel="web"), 422, "validation_failed",
                       "/chanel"),
    "unknown member of a line": ("POST", RESERVE, line(price=1), 422, "validation_failed",
                                 "/lines/0/price"),
    "lone surrogate": ("POST", RESERVE, b'{"channel":"web","lines":[{"sku":"\\ud800",'
                       b'"quantity":1}]}', 422, "validation_failed", "/lines/0/sku"),
    "ttl too long": ("POST", RESERVE, basket(ttl_seconds=3601), 422, "validation_failed",
                     "/ttl_seconds"),
    "ttl far too long": ("POST", RESERVE, basket(ttl_seconds=2**40), 422, "validation_failed",
                         "/ttl_seconds"),
    "reference with a line end": ("POST", RESERVE, basket(reference="a\nb"), 422,
                                  "validation_failed", "/reference"),
    "customer with an at": ("POST", RESERVE, basket(customer="a@b"), 422, "validation_failed",
                            "/customer"),
    "unknown sku": ("POST", RESERVE, line(sku="none"), 404, "unknown_sku", None),
    "unknown channel": ("POST", RESERVE, basket(channel="none"), 404, "unknown_channel", None),
    "unknown location": ("POST", RESERVE, line(location="none"), 404, "unknown_location", None),
    "ended already": ("POST", RESERVE, basket(state="cancelled"), 422, "validation_failed",
                      "/state"),
    "sold with a deadline": ("POST", RESERVE, basket(state="committed", ttl_seconds=9), 422,
                             "validation_failed", "/ttl_seconds"),
    "recorded": ("POST", RESERVE, basket(shortage="record"), 422, "validation_failed",
                 "/shortage"),
    "dry run of nothing": ("POST", RESERVE + "?dry_run=true", line(sku="none"), 404,
                           "unknown_sku", None),
    "dry run of too much": ("POST", RESERVE + "?dry_run=true", line(quantity=99), 409,
                            "insufficient_stock", None),
    "the ledger": ("POST", RESERVE, basket(durability="ledger"), 422, "durability_unavailable",
                   None),
    "customer limit": ("PUT", "/v1/skus/tee", {"customer_limit": 0}, 422, "validation_failed",
                       "/customer_limit"),
    "days of a limit": ("PUT", "/v1/skus/tee", {"customer_limit": 2, "customer_limit_days": 31},
                        422, "validation_failed", "/customer_limit_days"),
    **{
        f"id {name}": ("POST", f"{RESERVE}/{id}/commit", {}, 404, "unknown_reservation", None)
        for name, id in {"nobody's": NOBODY, "short": "x", "upper case": NOBODY.upper(),
                         "of version 4": NOBODY.replace("-7", "-4"), "nul": "%00",
                         "braces": "%7Bs0%7D", "long": "0" * 10_000}.items()
    },
    "an amend to nothing": ("POST", f"{RESERVE}/{NOBODY}/amend", {"lines": []}, 422,
                            "validation_failed", "/lines"),
    "an amend to 101 lines": ("POST", f"{RESERVE}/{NOBODY}/amend",
                              {"lines": [{"sku": "tee", "quantity": 1}] * 101}, 422,
                              "validation_failed", "/lines"),
    "an amend of nobody's": ("POST", f"{RESERVE}/{NOBODY}/amend",
                             {"lines": [{"sku": "tee", "quantity": 1}]}, 404,
                             "unknown_reservation", None),
    "an empty amend": ("POST", f"{RESERVE}/{NOBODY}/amend", b"", 400, "malformed_json", None),
    "a return without a key": ("POST", f"{RESERVE}/{NOBODY}/return",
                               {"lines": [{"sku": "tee", "quantity": 1}]}, 400,
                               "idempotency_key_required", None),
    "an unknown verb": ("POST", f"{RESERVE}/{NOBODY}/pay", {}, 404, "unknown_route", None),
    "unknown path": ("GET", "/v1/nothing", None, 404, "unknown_route", None),
    "unknown method": ("PATCH", "/v1/channels/web", None, 405, "method_not_allowed", None),
    **{
        f"{kind} called {name}": ("PUT", f"/v1/{kind}s/" + path, {}, 422, "validation_failed",
                                  "{name}")
        for kind in ("channel", "location")
        for name, path in {"account": "shared", "upper case": "Web", "spaces": "a%20b",
                           "unicode": "%C3%A9", "slash": "a%2Fb", "nul": "%00",
                           "long": "x" * 33}.items()
    },
    **{
        f"put sku {name}": ("PUT", "/v1/skus/" + path, {}, 422, "validation_failed", "{sku}")
        for name, path in {"spaces": "a%20b", "braces": "%7Bs0%7D", "at": "a%40b", "nul": "%00",
                           "unicode": "%C3%A9", "not utf-8": "%FF", "long": "x" * 65,
                           "very long": "x" * 10_000}.items()
    },
    "share above one": ("PUT", "/v1/channels/web", {"floor_share": 1.5}, 422,
                        "validation_failed", "/floor_share"),
    "share too fine": ("PUT", "/v1/channels/web", {"floor_share": 0.12345678}, 422,
                       "validation_failed", "/floor_share"),
    "both floors": ("PUT", "/v1/channels/web", {"floor_share": 0.1, "floor_units": 1}, 422,
                    "validation_failed", None),
    "floor above ceiling": ("PUT", "/v1/channels/web",
                            {"floor_share": 0.5, "ceiling_share": 0.4}, 422,
                            "validation_failed", None),
    "floors above one": ("PUT", "/v1/channels/web", {"floor_share": 0.8}, 422,
                         "validation_failed", None),
    "ttl above the longest": ("PUT", "/v1/channels/web",
                              {"ttl_seconds": 99, "max_hold_seconds": 98}, 422,
                              "validation_failed", "/ttl_seconds"),
    "channel at no location": ("PUT", "/v1/channels/web", {"locations": ["none"]}, 422,
                               "validation_failed", "/locations/0"),
    "channel at an account": ("PUT", "/v1/channels/web", {"locations": ["all"]}, 422,
                              "validation_failed", "/locations/0"),
    "sku of no channel": ("PUT", "/v1/skus/tee", {"channels": {"none": {}}}, 422,
                          "validation_failed", "/channels/none"),
    "sku at no location": ("PUT", "/v1/skus/tee", {"safety_by_location": {"none": 1}}, 422,
                           "validation_failed", "/safety_by_location/none"),
    "sku of an account": ("PUT", "/v1/skus/tee", {"channels": {"shared": {}}}, 422,
                          "validation_failed", "/channels/shared"),
    "negative safety": ("PUT", "/v1/skus/tee", {"safety_by_location": {"main": -1}}, 422,
                        "validation_failed", "/safety_by_location/main"),
    "received without a zone": ("POST", RECEIVE,
                                {"lines": [{"sku": "tee", "location": "main", "quantity": 1}],
                                 "occurred_at": "2026-11-22T12:00:00"}, 422,
                                "validation_failed", "/occurred_at"),
    "1001 received lines": ("POST", RECEIVE,
                            {"lines": [{"sku": "tee", "location": "main", "quantity": 1}] * 1001},
                            422, "validation_failed", "/lines"),
    "1001 elements": ("POST", RESERVE + "/batch", {"reservations": [basket()] * 1001}, 422,
                      "validation_failed", "/reservations"),
    "a broken element": ("POST", RESERVE + "/batch", {"reservations": [basket(), line(sku=1)]},
                         422, "validation_failed", "/reservations/1/lines/0/sku"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
async def test_bad_input_gets_its_problem_and_changes_nothing(
    shop: httpx2.AsyncClient, held: str, row: Row
) -> None:
    method, path, body, status, code, pointer = row
    before = await everything(shop, held)
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
    headers = {} if content is None else {"Content-Type": "application/json"}
    response = await shop.request(method, path, content=content, headers=headers)
    document = assert_problem(response, status, code)
    if pointer is not None:
        assert document["errors"][0]["pointer"] == pointer
    assert await everything(shop, held) == before


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ({}, b"{}", 415, "unsupported_media_type"),
        ({"Content-Type": "application/json", "Idempotency-Key": "a b"}, b"{}", 400,
         "idempotency_key_invalid"),
        ({"Content-Type": "application/json", "Idempotency-Key": "x" * 256}, b"{}", 400,
         "idempotency_key_invalid"),
        ({"Content-Type": "application/json"}, b" " * 10_000_000, 413, "body_too_large"),
    ],
    ids=["text", "no type", "key with a space", "long key", "10 MB"],
)  # fmt: skip
async def test_bad_headers_and_bodies(
    shop: httpx2.AsyncClient,
    held: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    code: str,
) -> None:
    before = await everything(shop, held)
    for path in (RESERVE, f"{RESERVE}/{held}/release"):
        response = await shop.post(path, content=body, headers=headers)
        assert_problem(response, status, code)
    assert await everything(shop, held) == before


async def test_every_verb_checks_what_it_is_sent(shop: httpx2.AsyncClient, held: str) -> None:
    committed = (await shop.post(RESERVE, json=basket())).json()["id"]
    assert (await shop.post(f"{RESERVE}/{committed}/commit")).status_code == 200
    before = await everything(shop, held)
    for verb, body, status, code in [
        ("extend", {}, 422, "validation_failed"),
        ("extend", {"ttl_seconds": 0}, 422, "validation_failed"),
        ("extend", {"ttl_seconds": "9"}, 422, "validation_failed"),
        ("commit", {"late": "maybe"}, 422, "validation_failed"),
        ("commit", {"durability": "ledger"}, 422, "durability_unavailable"),
        ("release", {"reason": "x"}, 422, "validation_failed"),
        ("cancel", {"lines": []}, 422, "validation_failed"),
        ("cancel", {"lines": [{"sku": "tee", "quantity": 1}]}, 400, "idempotency_key_required"),
        ("fulfil", {"lines": [{"sku": "tee", "quantity": 1}]}, 400, "idempotency_key_required"),
        ("cancel", {"lines": [{"sku": "a b", "quantity": 1}]}, 400, "idempotency_key_required"),
        ("cancel", {}, 409, "invalid_state"),
        ("fulfil", {}, 409, "invalid_state"),
    ]:
        response = await shop.post(f"{RESERVE}/{held}/{verb}", json=body)
        assert_problem(response, status, code)
    for verb in ("cancel", "fulfil"):
        response = await shop.post(
            f"{RESERVE}/{committed}/{verb}",
            json={"lines": [{"sku": "tee", "quantity": 2}]},
            headers={"Idempotency-Key": "k"},
        )
        document = assert_problem(response, 409, "invalid_quantity")
        assert document["lines"][0]["available"] == 1
        response = await shop.post(
            f"{RESERVE}/{committed}/{verb}",
            json={"lines": [{"sku": "tee", "quantity": 1}, {"sku": "a b", "quantity": 1},
                            {"sku": "tee", "quantity": 1, "location": "Main"}]},
            headers={"Idempotency-Key": "k"},
        )  # fmt: skip
        document = assert_problem(response, 422, "validation_failed")
        pointers = [error["pointer"] for error in document["errors"]]
        assert pointers == ["/lines/1/sku", "/lines/2/location"]
    assert await everything(shop, held) == before
