"""A port that is about to close, on systems that do not let it be filtered."""

from __future__ import annotations

import socket

import pytest

from api import door


async def test_a_system_that_takes_no_filter_is_told_of_and_the_port_empties(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(listener: socket.socket) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(door, "_drop_new_ones", refuse)
    monkeypatch.setattr("sys.platform", "linux")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await door.empty(listener)
    assert "may be turned away: Operation not permitted" in caplog.text
