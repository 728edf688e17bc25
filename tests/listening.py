"""Over real connections: a shop to sell from, and a client of server-sent events as the standard
has it."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.processes import Service

PATIENCE_SECONDS = 180.0


class Listener:
    """Listens to ``/v1/events`` of a service at ``url``. ``last_id`` is what it would resume by."""

    def __init__(self, url: str, query: str = "", last_id: str | None = None) -> None:
        self.connection = http.client.HTTPConnection(
            url.removeprefix("http://"), timeout=PATIENCE_SECONDS
        )
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self.connection.request("GET", f"/v1/events{query}", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["content-type"] == "text/event-stream"
        self.last_id = last_id
        assert self.block() == {}, "a stream begins with the place where it is"

    def block(self) -> dict[str, Any] | None:
        """The next block: an event, {} for one without data, None at the end of the stream."""
        data = ""
        while line := self.response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                self.last_id = value
            elif name == "data":
                data += value
            elif name == "":
                if not line.strip():
                    return dict(json.loads(data)) if data else {}
            else:
                assert name == "retry", line
        return None

    def next(self) -> dict[str, Any]:
        """The next event."""
        while (block := self.block()) == {}:
            pass
        assert block is not None, "the stream ended"
        assert block["id"] == self.last_id
        return block

    def close(self) -> None:
        self.response.close()
        self.connection.close()


class Shop:
    """A service with ``tee`` to sell, and a caller of it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.url = service.url()
        self.caller = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=30)
        self.ask("PUT", "/v1/channels/web", {})
        self.ask("PUT", "/v1/skus/tee", {})
        lines = [{"sku": "tee", "location": "main", "quantity": 100_000}]
        self.ask("POST", "/v1/stock/receive", {"lines": lines})

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"content-type": "application/json"}
        self.caller.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.caller.getresponse()
        document = json.loads(answer.read())
        assert answer.status < 300, document
        return document

    def reserve(self, count: int) -> list[str]:
        """Reservations; their ids, in order."""
        ids = []
        for _ in range(count):
            basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
            ids.append(self.ask("POST", "/v1/reservations", basket)["id"])
        return ids
