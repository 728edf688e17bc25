"""Traces of a share of the requests, sent by OpenTelemetry's own exporter (``stockade[tracing]``).

Imported only when the setting ``trace_url`` names where they go.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from api.call import ids
from core.clock import monotonic_ms

_PARENT = TraceContextTextMapPropagator()
SERVER_ERROR = 500


class Tracing:
    """Decides which requests are traced, and hands their spans on."""

    def __init__(self, exporter: SpanExporter, ratio: float) -> None:
        """``ratio``: the share of requests to trace among those that do not say it themselves."""
        self._ratio = ratio
        # Whether to trace is decided before there is a span: the many that are not cost nothing.
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": "stockade"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("stockade")

    def begin(self, method: str, headers: Mapping[bytes, bytes]) -> RequestTrace | None:
        """The trace of a request, or None. A caller's ``traceparent`` says whether it is traced."""
        parent: Context | None = None
        if "trace_id" in ids(headers):
            sent = headers[b"traceparent"].decode("ascii")
            if not int(sent[-2:], 16) & 1:
                return None
            parent = _PARENT.extract({"traceparent": sent})
        elif random.random() >= self._ratio:
            return None
        return RequestTrace(self, method, parent)

    def close(self) -> None:
        """Sends what is left; blocks until it is gone or the exporter gives up."""
        self._provider.shutdown()


class RequestTrace:
    """One traced request: a span of the server, and those of what it waited for below it."""

    def __init__(self, tracing: Tracing, method: str, parent: Context | None) -> None:
        self._tracer = tracing._tracer
        self._span = self._tracer.start_span(
            method, parent, SpanKind.SERVER, {"http.request.method": method}
        )
        self._context = set_span_in_context(self._span)
        self._offset_ns = time.time_ns() - int(monotonic_ms() * 1e6)

    def span(
        self, name: str, start_ms: float, end_ms: float, attributes: dict[str, str | int]
    ) -> None:
        """Something that took from then to then, of the monotonic clock."""
        start_ns = int(start_ms * 1e6) + self._offset_ns
        span = self._tracer.start_span(name, self._context, attributes=attributes,
                                       start_time=start_ns)  # fmt: skip
        span.end(int(end_ms * 1e6) + self._offset_ns)

    def end(self, method: str, route: str, status: int) -> None:
        """The request is about to be answered."""
        if route:
            self._span.update_name(f"{method} {route}")
            self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


def open_tracing(url: str, ratio: float) -> Tracing:
    """Traces to an OTLP endpoint over HTTP, such as ``http://collector:4318/v1/traces``."""
    return Tracing(OTLPSpanExporter(endpoint=url), ratio)
