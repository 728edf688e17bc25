"""Traces of a share of the requests: which, and what they say."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.app import App
from api.tracing import Tracing, open_tracing
from core.clock import monotonic_ms
from core.errors import StartRefused
from core.service import Service
from core.settings import load
from tests.fake_service import ID, FakeService

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def parent(flags: str) -> dict[bytes, bytes]:
    return {b"traceparent": f"00-{TRACE}-{SPAN}-{flags}".encode()}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.mark.parametrize(
    ("ratio", "headers", "traced"),
    [
        (0.0, {}, False), (1.0, {}, True), (1.0, parent("00"), False), (0.0, parent("01"), True),
        (0.0, {b"traceparent": b"nonsense-01"}, False),
    ],
)  # fmt: skip
def test_the_caller_says_whether_it_is_traced_else_chance_does(
    exporter: InMemorySpanExporter, ratio: float, headers: dict[bytes, bytes], traced: bool
) -> None:
    tracing = Tracing(exporter, ratio)
    assert (tracing.begin("GET", headers) is not None) is traced
    tracing.close()


async def test_a_request_is_one_span_below_its_callers(
    service: FakeService, exporter: InMemorySpanExporter
) -> None:
    tracing = Tracing(exporter, 0.0)
    app = App(lambda: None, tracing=tracing)  # type: ignore[arg-type,return-value]
    app.service = cast(Service, service)
    transport = httpx2.ASGITransport(app=app)
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get(f"/v1/reservations/{ID}", headers=headers)).status_code == 200
        assert (await client.get(f"/v1/reservations/{ID}")).status_code == 200  # not traced
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /v1/reservations/{id}"
    assert span.context.trace_id == int(TRACE, 16)
    assert span.parent is not None
    assert span.parent.span_id == int(SPAN, 16)
    attributes = dict(span.attributes or {})
    assert attributes["http.response.status_code"] == 200


def test_the_lane_s_times_are_those_of_the_wall(exporter: InMemorySpanExporter) -> None:
    tracing = Tracing(exporter, 1.0)
    began = time.time_ns()
    trace = tracing.begin("POST", {})
    assert trace is not None
    now = monotonic_ms()
    took = time.time_ns() - began
    trace.span("lane", now, now + 2.0, {"stockade.script": "reserve"})
    trace.end("POST", "/v1/reservations", 503)
    tracing.close()
    lane, request = cast("tuple[ReadableSpan, ReadableSpan]", exporter.get_finished_spans())
    assert lane.parent is not None
    assert lane.parent.span_id == request.context.span_id
    assert abs((lane.start_time or 0) - (request.start_time or 0)) < took + 1e8
    assert (lane.end_time or 0) - (lane.start_time or 0) == pytest.approx(2e6, rel=0.01)
    assert not request.status.is_ok


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    taken: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    taken: list[ExportTraceServiceRequest] = []
    handler = type("Taking", (Collector,), {"taken": taken})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", taken
        server.shutdown()
        thread.join()


def test_spans_arrive_where_the_setting_says(
    collector: tuple[str, list[ExportTraceServiceRequest]],
) -> None:
    url, taken = collector
    tracing = open_tracing(url, 1.0)
    trace = tracing.begin("GET", {})
    assert trace is not None
    trace.end("GET", "/v1/stock", 200)
    tracing.close()
    (spans,) = [scope.spans for each in taken for resource in each.resource_spans
                for scope in resource.scope_spans]  # fmt: skip
    assert [span.name for span in spans] == ["GET /v1/stock"]


def test_a_wrong_address_stops_the_start_with_one_line(tmp_path: Path) -> None:
    for url in ("collector:4318", "grpc://collector:4317", "http://"):
        with pytest.raises(StartRefused, match="trace_url must be http://"):
            load({"trace_url": url}, {}, tmp_path)
    with pytest.raises(StartRefused, match="a number from 0 to 1"):
        load({"trace_ratio": "1.5"}, {}, tmp_path)
