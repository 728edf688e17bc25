"""Bodies of the verbs of stock, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.stock import ADJUST, COUNT, REALLOCATE, RECEIVE, TRANSFER
from api.wire import Body
from core.errors import InvalidRequest

AT_MAIN = {"sku": "tee", "location": "main"}
MOVED = {"sku": "tee", "from_location": "main", "to_location": "annex"}
TO_WEB = AT_MAIN | {"from": "shared", "to": "web"}


def decode(kind: Body[Any], *lines: Any, **more: Any) -> Any:
    return kind.decode(json.dumps({"lines": lines, **more}).encode())


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (RECEIVE, AT_MAIN | {"quantity": 2**31 - 1}),
        (ADJUST, AT_MAIN | {"delta": -(2**31) + 1}),
        (ADJUST, AT_MAIN | {"delta": 2**31 - 1, "account": "sellable"}),
        (ADJUST, AT_MAIN | {"delta": -1, "account": "damaged"}),
        (ADJUST, AT_MAIN | {"delta": 1, "account": "quarantine"}),
        (COUNT, AT_MAIN | {"counted": 0}),
        (COUNT, AT_MAIN | {"counted": 2**53 - 1, "if_on_hand": 0, "if_version": 0}),
        (TRANSFER, MOVED | {"quantity": 1}),
        (REALLOCATE, TO_WEB | {"quantity": "all"}),
        (REALLOCATE, TO_WEB | {"quantity": 2**31 - 1}),
        (REALLOCATE, AT_MAIN | {"by": "policy"}),
    ],
)
def test_what_fits_is_taken(kind: Body[Any], line: dict[str, Any]) -> None:
    found = decode(
        kind, line, reference="truck 1", reason="moved", occurred_at="2026-11-22T12:00:00Z"
    )
    assert len(found.lines) == 1
    assert found.reference == "truck 1"


@pytest.mark.parametrize(
    ("kind", "line", "pointer"),
    [
        (ADJUST, AT_MAIN, "/delta"),
        (ADJUST, AT_MAIN | {"delta": 0}, ""),
        (ADJUST, AT_MAIN | {"delta": 2**31}, "/delta"),
        (ADJUST, AT_MAIN | {"delta": -(2**31)}, "/delta"),
        (ADJUST, AT_MAIN | {"delta": 1.5}, "/delta"),
        (ADJUST, AT_MAIN | {"delta": 1, "account": "safety"}, "/account"),
        (COUNT, AT_MAIN, "/counted"),
        (COUNT, AT_MAIN | {"counted": -1}, "/counted"),
        (COUNT, AT_MAIN | {"counted": 2**53}, "/counted"),
        (COUNT, AT_MAIN | {"counted": "9"}, "/counted"),
        (COUNT, AT_MAIN | {"counted": 1, "if_on_hand": -1}, "/if_on_hand"),
        (COUNT, AT_MAIN | {"counted": 1, "if_version": 2**53}, "/if_version"),
        (TRANSFER, MOVED | {"quantity": 0}, "/quantity"),
        (TRANSFER, MOVED | {"quantity": "all"}, "/quantity"),
        (TRANSFER, {"sku": "tee", "from_location": "main", "quantity": 1}, "/to_location"),
        (TRANSFER, MOVED | {"quantity": 1, "location": "main"}, "/location"),
        (REALLOCATE, AT_MAIN, ""),
        (REALLOCATE, TO_WEB, ""),
        (REALLOCATE, TO_WEB | {"quantity": 0}, "/quantity"),
        (REALLOCATE, TO_WEB | {"quantity": -1}, "/quantity"),
        (REALLOCATE, TO_WEB | {"quantity": "some"}, "/quantity"),
        (REALLOCATE, TO_WEB | {"quantity": 1, "by": "policy"}, ""),
        (REALLOCATE, AT_MAIN | {"quantity": "all", "by": "policy"}, ""),
        (REALLOCATE, AT_MAIN | {"from": "shared", "quantity": "all"}, ""),
        (REALLOCATE, AT_MAIN | {"by": "hand"}, "/by"),
        (REALLOCATE, TO_WEB | {"quantity": 1, "from": ""}, "/from"),
        (REALLOCATE, TO_WEB | {"quantity": 1, "to": "x" * 65}, "/to"),
        (REALLOCATE, AT_MAIN | {"source": "shared", "target": "web", "quantity": 1}, "/source"),
    ],
)
def test_what_does_not_is_pointed_at(kind: Body[Any], line: dict[str, Any], pointer: str) -> None:
    """As a whole: nothing of a body that cannot be understood is done."""
    good = {
        ADJUST: AT_MAIN | {"delta": 1},
        COUNT: AT_MAIN | {"counted": 1},
        TRANSFER: MOVED | {"quantity": 1},
        REALLOCATE: AT_MAIN | {"by": "policy"},
    }[kind]
    with pytest.raises(InvalidRequest) as caught:
        decode(kind, good, line)
    assert caught.value.errors[0][0] == f"/lines/1{pointer}"


@pytest.mark.parametrize("kind", [RECEIVE, ADJUST, COUNT, TRANSFER, REALLOCATE])
def test_a_request_has_one_to_a_thousand_lines_and_printable_text(kind: Body[Any]) -> None:
    line = {
        RECEIVE: AT_MAIN | {"quantity": 1},
        ADJUST: AT_MAIN | {"delta": 1},
        COUNT: AT_MAIN | {"counted": 1},
        TRANSFER: MOVED | {"quantity": 1},
        REALLOCATE: AT_MAIN | {"by": "policy"},
    }[kind]
    assert len(decode(kind, *[line] * 1_000).lines) == 1_000
    for lines, more, pointer in (
        ([], {}, "/lines"),
        ([line] * 1_001, {}, "/lines"),
        ([line], {"reference": "a\nb"}, "/reference"),
        ([line], {"reason": ""}, "/reason"),
        ([line], {"occurred_at": "2026-11-22T12:00:00"}, "/occurred_at"),
        ([line], {"occurred_at": "0001-01-01T00:00:00+14:00"}, ""),  # year 0
        ([line], {"occurred_at": "1969-12-31T23:59:59.999Z"}, ""),
        ([line], {"occurred_at": "9999-12-31T23:59:59-12:00"}, ""),  # year 10,000
        ([line], {"durability": "fsync"}, "/durability"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            decode(kind, *lines, **more)
        assert caught.value.errors[0][0] == pointer
