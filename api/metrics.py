"""``GET /metrics``: what all processes of the service have counted, for Prometheus.

Any worker answers for all of them: they count on sheets of one book (``core.sheets``), and what is
read of store and ledger is the same whoever reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from core.meters import FAMILIES, Found, merged

if TYPE_CHECKING:
    from api.app import App


class _Collected(Collector):
    """What was found, as the client library's encoders want it."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for name in FAMILIES:
            series = self._found.get(name)
            if series:
                yield _metric(name, series)


def _metric(name: str, series: dict[tuple[str, ...], list[float]]) -> Metric:
    """One family of the client library's."""
    family = FAMILIES[name]
    labels = list(family.labels)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.help, labels=labels)
        ends = [*map(repr, family.bounds), "+Inf"]
        for values, cells in series.items():
            counts = accumulate(cells[:-1])
            histogram.add_metric(values, list(zip(ends, counts, strict=True)), cells[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=labels)
    for values, (value,) in series.items():
        metric.add_metric(values, value)
    return metric


async def metrics(request: Request) -> Response:
    """``GET /metrics``."""
    app: App = request.app
    found = merged(app.book.used())
    if app.service is not None:
        found |= await app.service.gauges()
    text, content_type = render(found, request.headers.get("accept", ""))
    return Response(text, headers={"cache-control": "no-store", "content-type": content_type})


def render(found: Found, accept: str) -> tuple[bytes, str]:
    """What was found as ``accept`` wants it, and its media type."""
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(found)), content_type
