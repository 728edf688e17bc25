"""A client of server-sent events, as the standard has it, over a connection of its own."""

from __future__ import annotations

import http.client
import json
from typing import Any

PATIENCE_SECONDS = 30.0


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
