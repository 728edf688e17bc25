"""A whole answer leaves in one write, and closes the connection where it should."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.call import WHOLE
from api.connection import say

BODY = b'{"id": 1}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"9")]


class Cycle:
    """What of uvicorn's request and answer is used."""

    def __init__(self, **state: Any) -> None:
        self.said: list[bytes] = []
        self.closed = self.responded = self.told = self.disconnected = False
        self.response_started = self.response_complete = False
        self.waiting_for_100_continue = True
        self.keep_alive = True
        self.scope: dict[str, Any] = {"extensions": {WHOLE: self.answer}}
        self.default_headers: list[tuple[bytes, bytes]] = [(b"date", b"today")]
        self.flow = SimpleNamespace(write_paused=False)
        self.transport = SimpleNamespace(write=self.said.append, close=self._close)
        self.message_event = SimpleNamespace(set=self._tell)
        vars(self).update(state)

    def on_response(self) -> None:
        self.responded = True

    def _close(self) -> None:
        self.closed = True

    def _tell(self) -> None:
        self.told = True

    def answer(self) -> bool:
        return say(cast("RequestResponseCycle", self), 201, HEADERS, BODY)


def test_head_and_body_are_one_write_and_the_connection_stays() -> None:
    cycle = Cycle()
    assert cycle.answer()
    assert cycle.said == [
        b"HTTP/1.1 201 Created\r\ndate: today\r\ncontent-type: application/json\r\n"
        b"content-length: 9\r\n\r\n" + BODY
    ]
    assert cycle.response_started
    assert cycle.response_complete
    assert cycle.told
    assert cycle.responded
    assert not cycle.closed
    assert not cycle.waiting_for_100_continue  # no 100 behind the answer
    assert not cycle.scope  # else the two would hold each other


@pytest.mark.parametrize(
    "state",
    [
        {"keep_alive": False},
        {"default_headers": [(b"date", b"today"), (b"connection", b"close")]},
    ],
    ids=["the caller keeps none", "the worker stops"],
)
def test_an_answer_that_ends_the_connection_says_so_once(state: dict[str, Any]) -> None:
    cycle = Cycle(**state)
    assert cycle.answer()
    assert cycle.said[0].count(b"connection: close\r\n") == 1
    assert cycle.closed


def test_who_takes_nothing_gets_nothing_more() -> None:
    cycle = Cycle(flow=SimpleNamespace(write_paused=True))
    assert not cycle.answer()
    assert not cycle.said
    assert not cycle.response_started


def test_who_is_gone_is_told_nothing() -> None:
    cycle = Cycle(disconnected=True)
    assert cycle.answer()
    assert not cycle.said
