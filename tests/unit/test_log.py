"""Lines of the log: JSON with the ids of the request, and nothing that breaks a line."""

from __future__ import annotations

import json
import logging
from typing import Any

import httpx2
import pytest

from api.app import App
from api.log import JsonLines
from tests.fake_service import ID, FakeService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


class Kept(logging.Handler):
    """Keeps the lines that would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def kept() -> Any:
    handler = Kept()
    logging.getLogger("stockade").addHandler(handler)
    yield handler
    logging.getLogger("stockade").removeHandler(handler)


async def test_a_line_of_a_request_has_its_ids(
    app: App, service: FakeService, client: httpx2.AsyncClient, kept: Kept
) -> None:
    app.service = None  # then a handler that asks for it meets a defect of ours
    service.engine = None  # type: ignore[assignment]
    app.service = service  # type: ignore[assignment]
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "order-17"}
    answer = await client.get(f"/v1/reservations/{ID}", headers=headers)
    assert answer.status_code == 500
    (line,) = [json.loads(each) for each in kept.lines]
    assert line["message"] == f"GET /v1/reservations/{ID} failed"
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("order-17", TRACE, SPAN)
    assert line["level"] == "error"
    assert "AttributeError" in line["error"]


async def test_ids_that_are_none_are_not_written(
    service: FakeService, client: httpx2.AsyncClient, kept: Kept
) -> None:
    service.engine = None  # type: ignore[assignment]
    headers = {"traceparent": f"00-{'0' * 32}-{SPAN}-01", "x-request-id": "a\tb"}
    await client.get(f"/v1/reservations/{ID}", headers=headers)
    (line,) = [json.loads(each) for each in kept.lines]
    assert not {"request_id", "trace_id", "span_id"} & set(line)


async def test_a_request_writes_no_line(
    client: httpx2.AsyncClient, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("stockade"), "level", logging.DEBUG)
    assert (await client.get(f"/v1/reservations/{ID}")).status_code == 200
    assert (await client.post("/v1/reservations", content=b"{")).status_code in (400, 415)
    assert kept.lines == []


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "half \ud800", "\x1b[31mred", "\x00"])
def test_whatever_is_said_is_one_line_of_json(
    kept: Kept, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test runner keeps what reaches the root, and cannot hand on every one of these texts.
    monkeypatch.setattr(logging.getLogger("stockade"), "propagate", False)
    logging.getLogger("stockade.test").error("%s", text)
    (line,) = kept.lines
    assert line.isprintable()
    said = json.loads(line)
    assert said["message"] == text.encode("utf-8", "backslashreplace").decode()
    assert said["time"].endswith("Z")
