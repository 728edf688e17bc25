"""A store on this machine may have the core; one elsewhere has cores of its own."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.store.link import Link


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
    wire = SimpleNamespace(get_extra_info={"peername": peer}.get, write=lambda payload: None)
    link.connection_made(cast("Any", wire))
    replies: list[Any] = []
    link.send(b"*1\r\n$4\r\nPING\r\n", 1, replies.append)
    link.data_received(b"+PONG\r\n")
    assert not yields  # for a few it would be dear
    link.send(b"*1\r\n$4\r\nPING\r\n", 1, replies.append, crowd=True)
    assert len(yields) == near  # the store may begin
    link.data_received(b"+PONG\r\n")
    assert len(yields) == 2 * near  # and go on
    assert replies == [[b"PONG"]] * 2
