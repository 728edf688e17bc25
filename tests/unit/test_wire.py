"""Bytes to structs and back, without a server."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import wire
from api.batch import BATCH
from api.call import Call
from api.policy import CHANNEL, SKU
from api.problems import IfMatchInvalid, KeyInvalid, MalformedJson, UnsupportedMediaType
from api.reservations import CANCEL, COMMIT, RESERVE
from api.stock import ADJUST, COUNT, REALLOCATE, RECEIVE, TRANSFER
from core.errors import InvalidRequest
from core.model import Reserve

LINE = b'{"sku":"tee","quantity":1}'


def call(query: bytes = b"", headers: dict[bytes, bytes] | None = None, body: bytes = b"") -> Call:
    scope = {
        "method": "POST",
        "path": "/v1/reservations",
        "raw_path": b"/v1/reservations",
        "query_string": query,
        "headers": list((headers or {}).items()),
    }
    made = Call(scope, None)  # type: ignore[arg-type]
    made.body = body
    return made


def reserve(*members: bytes, lines: bytes = LINE) -> bytes:
    return b"{" + b",".join([b'"channel":"web","lines":[' + lines + b"]", *members]) + b"}"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", ""),
        (b"null", ""),
        (b"{}", "/channel"),
        (reserve(lines=b""), "/lines"),
        (reserve(lines=b",".join([LINE] * 101)), "/lines"),
        (reserve(lines=LINE + b',{"sku":"tee"}'), "/lines/1/quantity"),
        (reserve(lines=LINE + b',{"sku":"tee","quantity":0}'), "/lines/1/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":-1}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":2147483648}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":9007199254740992}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":1%s}' % (b"0" * 30)), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":1%s}' % (b"0" * 9999)), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":1e3}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":1.0}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":"1"}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":true}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":"tee","quantity":null}'), "/lines/0/quantity"),
        (reserve(lines=b'{"sku":7,"quantity":1}'), "/lines/0/sku"),
        (reserve(lines=b'{"sku":"","quantity":1}'), "/lines/0/sku"),
        (reserve(lines=b'{"sku":"\\ud800","quantity":1}'), "/lines/0/sku"),
        (reserve(lines=b'{"sku":"tee","quantity":1,"a/b~c":1}'), "/lines/0/a~1b~0c"),
        (reserve(b'"customer":"a@b"'), "/customer"),
        (reserve(b'"reference":"a\\u0000b"'), "/reference"),
        (reserve(b'"reference":"a\\nb"'), "/reference"),
        (reserve(b'"reference":"\xe2\x80\xae"'), "/reference"),
        (reserve(b'"reference":"' + b"x" * 129 + b'"'), "/reference"),
        (reserve(b'"reference":""'), "/reference"),
        (reserve(b'"state":"expired"'), "/state"),
        (reserve(b'"shortage":"ignore"'), "/shortage"),
        (reserve(b'"dry_run":true'), "/dry_run"),
        (reserve(b'"ttl_seconds":0'), "/ttl_seconds"),
        (reserve(b'"durability":"disk"'), "/durability"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_pointer(body: bytes, pointer: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        RESERVE.decode(body)
    assert [at for at, _ in caught.value.errors] == [pointer]
    assert len(caught.value.detail) < 500


def test_a_pointer_names_the_key_of_a_mapping() -> None:
    body = b'{"channels":{"web":{"floor_share":0.5},"a/b":{"floor_share":2}}}'
    with pytest.raises(InvalidRequest) as caught:
        SKU.decode(body)
    assert caught.value.errors[0][0] == "/channels/a~1b/floor_share"
    with pytest.raises(InvalidRequest) as caught:
        SKU.decode(b'{"safety_by_location":{"main":1,"far":-1}}')
    assert caught.value.errors[0][0] == "/safety_by_location/far"
    with pytest.raises(InvalidRequest) as caught:
        SKU.decode(b'{"safety_by_location":{"":1}}')
    assert caught.value.errors[0][0] == "/safety_by_location"


@pytest.mark.parametrize(
    "body",
    [
        b'{"safety_by_location":{"main":1%s}}' % (b"0" * 30),
        b'{"safety_by_location":{"main":1e400}}',
        b'{"safety_by_location":{"main":[]},"channels":{"web":{}}}',
    ],
)
def test_a_pointer_is_found_beside_any_number(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SKU.decode(body)
    assert caught.value.errors[0][0] == "/safety_by_location/main"


@pytest.mark.parametrize(
    "name",
    [
        "a` - at `$.channels[...]",
        "a` - at `$.nothing[...]",
        "a` - at `$[0][...]",
        "a` - at `$.safety_stock[...]",
        " - at ",
        "` - at `$",
        "x" * 100_000,
    ],
)
def test_a_member_may_be_called_like_a_message(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SKU.decode(wire.encode({"safety_stock": 1, name: 1}))
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize("depth", [10, 100, 500, 900, 960, 1_000, 2_000, 10_000, 100_000])
def test_a_body_of_any_depth_is_refused(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    for body in (nested, b'{"unknown":' + nested + b"}", reserve(b'"reference":' + nested)):
        with pytest.raises((InvalidRequest, MalformedJson)):
            RESERVE.decode(body)
    with pytest.raises((InvalidRequest, MalformedJson)):
        SKU.decode(b'{"safety_by_location":{"main":' + nested + b"}}")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["channel", "lines", "sku", "quantity", "channels", "safety_by_location"]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary() | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_sent_is_taken_or_refused_properly(body: bytes) -> None:
    stock = (RECEIVE, ADJUST, COUNT, TRANSFER, REALLOCATE)
    for kind in (RESERVE, BATCH, COMMIT, CANCEL, SKU, CHANNEL, *stock):
        with suppress(InvalidRequest, MalformedJson):
            kind.decode(body)


def test_a_time_without_a_zone_is_refused() -> None:
    body = b'{"lines":[{"sku":"t","location":"main","quantity":1}],"occurred_at":"%s"}'
    assert RECEIVE.decode(body % b"2026-11-22T12:00:00Z").occurred_at is not None
    for wrong in (b"2026-11-22T12:00:00", b"2026-11-22", b"now"):
        with pytest.raises(InvalidRequest) as caught:
            RECEIVE.decode(body % wrong)
        assert caught.value.errors[0][0] == "/occurred_at"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}x",
        b"\xef\xbb\xbf{}",
        b"\x00",
        "{}".encode("utf-16"),
        reserve(b'"reference":"\xff"'),
        reserve(b'"reference":"\xed\xa0\x80"'),
        reserve(b'"reference":"a\nb"'),
        reserve(lines=b'{"sku":"tee","quantity":NaN}'),
        reserve(lines=b'{"sku":"tee","quantity":-Infinity}'),
        reserve(lines=b'{"sku":"tee","quantity":01}'),
        reserve(lines=b'{"sku":"tee","quantity":0},'),
        b'{"channel":7,"lines":',
        b'{"unknown":"\xff"}',
        b"[" * 100_000,
        b'{"unknown":' + b"[" * 100_000,
    ],
)
def test_what_is_not_json_comes_before_what_does_not_fit(body: bytes) -> None:
    with pytest.raises(MalformedJson):
        RESERVE.decode(body)


def test_a_repeated_member_counts_last() -> None:
    assert RESERVE.decode(reserve(b'"channel":"store"')).channel == "store"


def test_an_absent_body_is_an_empty_object_where_it_may_be_absent() -> None:
    assert COMMIT.read(call())[1].late is None
    with pytest.raises(UnsupportedMediaType):
        RESERVE.read(call())


@pytest.mark.parametrize(
    "sent",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
    ],
)
def test_json_is_taken(sent: bytes) -> None:
    RESERVE.read(call(headers={b"content-type": sent}, body=reserve()))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"text/plain",
        b"application/jsonp",
        b"application/json; charset=latin-1",
        b"application/json, application/json",
        b"application/x-www-form-urlencoded",
    ],
)
def test_other_media_types_are_refused(sent: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        RESERVE.read(call(headers={b"content-type": sent}, body=reserve()))


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        (b"abc", b"abc"),
        (b'"abc"', b"abc"),
        (b'"a\\"b\\\\c"', b'a"b\\c'),
        (b"a,b", b"a,b"),
        (b"x" * 255, b"x" * 255),
        (b'"' + b"x" * 255 + b'"', b"x" * 255),
    ],
)
def test_a_key_is_quoted_or_bare(sent: bytes, key: bytes) -> None:
    assert wire.header_key(call(headers={b"idempotency-key": sent})) == key


@pytest.mark.parametrize(
    "sent",
    [b"", b'""', b"a b", b'"a b"', b'"abc', b'"a"b"', b'"a\\b"', b"\xc3\xa9", b"a\x00", b"x" * 256],
)
def test_another_key_is_refused(sent: bytes) -> None:
    with pytest.raises(KeyInvalid):
        wire.header_key(call(headers={b"idempotency-key": sent}))


def test_a_key_is_scoped_and_the_request_fingerprinted() -> None:
    one = RESERVE.decode(reserve())
    same = RESERVE.decode(reserve(b'"partial": false'))
    other = RESERVE.decode(reserve(b'"partial": true'))
    path = b"/v1/reservations"
    key = wire.scoped(b"", b"POST", path, b"k", one)
    assert len(key.field) == len(key.fingerprint) == 22
    again = wire.scoped(b"", b"POST", path, b"k", same)
    assert (again.field, again.fingerprint) == (key.field, key.fingerprint)
    assert again.mark != key.mark
    changed = wire.scoped(b"", b"POST", path, b"k", other)
    assert changed.field == key.field
    assert changed.fingerprint != key.fingerprint
    fields = {
        wire.scoped(owner, method, path, sent, one).field
        for owner, method, path, sent in [
            (b"", b"POST", b"/a", b"b"),
            (b"", b"POST", b"/ab", b""),
            (b"", b"POST", b"/a", b"b1"),
            (b"", b"PUT", b"/a", b"b"),
            (b"stockade_a", b"POST", b"/a", b"b"),
        ]
    }
    assert len(fields) == 5


@pytest.mark.parametrize(
    ("sent", "version"),
    [
        (b"*", None),
        (b'"3"', 3),
        (b"3", 3),
        (b'"0"', wire.NO_SUCH_VERSION),
        (b"007", wire.NO_SUCH_VERSION),
        (b'W/"3"', wire.NO_SUCH_VERSION),
        (b'"abc"', wire.NO_SUCH_VERSION),
        (b'"99999999999999999999"', wire.NO_SUCH_VERSION),
    ],
)
def test_if_match_names_a_version(sent: bytes, version: int | None) -> None:
    assert wire.if_match(call(headers={b"if-match": sent})) == version


@pytest.mark.parametrize("sent", [b"", b'"3', b'3"', b"abc", b'"3", "4"', b'"a"b"', b"-1", b"3.0"])
def test_another_if_match_is_refused(sent: bytes) -> None:
    with pytest.raises(IfMatchInvalid):
        wire.if_match(call(headers={b"if-match": sent}))


def test_a_query_is_read_strictly() -> None:
    parameters = wire.Parameters(call(b"limit=7&sku=a%2Fb&sku=c&sku=c"), ("limit",), ("sku",))
    assert parameters.page() == ("", 7)
    assert parameters.skus("sku", 2) == ["a/b", "c"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        (b"dry_run=true", "?dry_run"),
        (b"dry_run", "?dry_run"),
        (b"limit=1&limit=1", "?limit"),
        (b"limit=0", "?limit"),
        (b"limit=1001", "?limit"),
        (b"limit=", "?limit"),
        (b"limit=%2B5", "?limit"),
        (b"limit=%D9%A1", "?limit"),
        (b"cursor=", "?cursor"),
        (b"cursor=!", "?cursor"),
        (b"cursor=YQ%3D%3D", "?cursor"),
        (b"cursor=_w", "?cursor"),
        (b"sku=a%20b", "?sku"),
        (b"sku=", "?sku"),
        (b"sku=%FF", "?sku"),
        (b"sku=a&sku=b&sku=c", "?sku"),
        (b"&".join([b"sku=a"] * 300), "?"),
    ],
)
def test_another_query_is_refused(query: bytes, pointer: str) -> None:
    def read() -> Any:
        parameters = wire.Parameters(call(query), ("limit", "cursor"), ("sku",))
        return parameters.page(), parameters.skus("sku", 2)

    with pytest.raises(InvalidRequest) as caught:
        read()
    assert [at for at, _ in caught.value.errors] == [pointer]


@pytest.mark.parametrize("item", ["tee", "a/b?c#d%", "~" * 64, "web"])
def test_a_cursor_goes_on_after_its_item(item: str) -> None:
    sent = wire.cursor(item)
    assert sent is not None
    assert sent.isascii()
    assert wire.cursor_after(sent) == item
    assert wire.cursor(None) is None


def test_defaults_of_a_channel_are_those_of_the_contract() -> None:
    assert wire.encode(CHANNEL.decode(b"{}")) == wire.encode(
        {
            "floor_share": None,
            "floor_units": None,
            "ceiling_share": None,
            "ceiling_units": None,
            "borrow": True,
            "split": True,
            "locations": ["main"],
            "ttl_seconds": 900,
            "max_hold_seconds": 3600,
            "late_window_seconds": 86400,
        }
    )


def test_a_request_survives_its_own_encoding() -> None:
    request = RESERVE.decode(reserve(b'"ttl_seconds":9', b'"customer":"c-9"'))
    assert isinstance(request, Reserve)
    assert RESERVE.decode(wire.encode(request)) == request
