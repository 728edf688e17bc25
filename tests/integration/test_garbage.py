"""Requests leave nothing that only the garbage collector could find.

Its turns were a fifth of a worker's time, and everybody waited for them.
"""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from typing import Any

from api.app import App
from core.service import Service
from tests.workers import furnish

REQUESTS = 100


async def _ask(app: App, method: str, path: str, body: object = None) -> int:
    """The status of one request."""
    sent: list[Any] = []
    message = {"type": "http.request", "body": json.dumps(body).encode() if body else b""}

    async def receive() -> Any:
        return message

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")] if body else []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


async def test_nothing_is_left_to_the_collector(worker: Service) -> None:
    await furnish(worker, {"tee": 10 * REQUESTS, "gone": 0})
    app = App(lambda: nullcontext(worker))
    app.service = worker

    def demand(sku: str) -> dict[str, Any]:
        return {"channel": "web", "lines": [{"sku": sku, "quantity": 1}]}

    asked = {
        "granted": ("POST", "/v1/reservations", demand("tee"), 201),
        "refused": ("POST", "/v1/reservations", demand("gone"), 409),
        "not understood": ("POST", "/v1/reservations", {"channel": "web"}, 422),
        "unknown": ("GET", "/v1/reservations/0193abcd-3333-7333-8333-33333333beef", None, 404),
        "no such route": ("GET", "/v1/nothing", None, 404),
        "read": ("GET", "/v1/skus/tee", None, 200),
        "several": ("POST", "/v1/reservations/batch", {"reservations": [demand("gone")] * 5}, 200),
    }
    left = {}
    for name, (method, path, body, status) in asked.items():
        assert await _ask(app, method, path, body) == status, name  # caches are filled
        gc.collect()
        gc.disable()
        try:
            for _ in range(REQUESTS):
                await _ask(app, method, path, body)
            left[name] = gc.collect()
        finally:
            gc.enable()
    # A little comes of what a worker does by itself meanwhile.
    assert not {name: count for name, count in left.items() if count >= REQUESTS}
