"""A store on this machine gets the core when it has something to do; a far one costs nothing."""

from __future__ import annotations

import asyncio
import os
from typing import Any, cast

import pytest

from core.store.link import Link


class Wire:
    """A connection to whoever is at the other end."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer

    def get_extra_info(self, name: str) -> Any:
        assert name == "peername"
        return self._peer

    def write(self, payload: bytes) -> None:
        assert payload


@pytest.mark.parametrize(
    ("peer", "near"),
    [
        ("", True),
        ("/run/valkey.sock", True),
        (("127.0.0.1", 6379), True),
        (("::1", 6379, 0, 0), True),
        (("10.0.0.7", 6379), False),
        (("fe80::1%eth0", 6379, 0, 2), False),
    ],
)
def test_only_a_near_store_is_given_way_to(
    monkeypatch: pytest.MonkeyPatch, peer: Any, near: bool
) -> None:
    yields: list[str] = []
    monkeypatch.setattr(os, "sched_yield", lambda: yields.append("yield"))
    link = Link()
    replies: list[Any] = []
    link.connection_made(cast("asyncio.BaseTransport", Wire(peer)))
    link.send(b"*1\r\n$4\r\nPING\r\n", 1, replies.append)
    assert len(yields) == near  # it may begin
    link.data_received(b"+PO")
    assert len(yields) == near
    link.data_received(b"NG\r\n")
    assert replies == [[b"PONG"]]
    assert len(yields) == 2 * near  # before the callers of this are served, it goes on
