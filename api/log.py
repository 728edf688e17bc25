"""How the service's processes log: one line per event, on standard error.

For people at a terminal in words, for everything else as a JSON object. A line that is written on
behalf of one request carries the ids that came with it. A request by itself writes none.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

import orjson

from api.call import ids

_WORDS = "%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"

# Of the request that is being answered. What it sets going may outlive it, or be done for many, so
# only these loggers speak of it.
HEADERS: ContextVar[Mapping[bytes, bytes] | None] = ContextVar("headers", default=None)
OF_REQUESTS = ("stockade.api", "stockade.engine")


class JsonLines(logging.Formatter):
    """A record as one line of JSON, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": _text(record.getMessage()),
        }
        headers = HEADERS.get()
        if headers is not None and record.name in OF_REQUESTS:
            line |= ids(headers)
        if record.exc_info:
            line["error"] = _text(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def _text(text: str) -> str:
    """Text that can be encoded: half a character of a foreign file name, say, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def configure(level: str) -> None:
    """Log what is at least ``level``, one of the setting ``log_level``'s values, from now on."""
    handler = logging.StreamHandler()
    terminal = sys.stderr is not None and sys.stderr.isatty()
    handler.setFormatter(logging.Formatter(_WORDS) if terminal else JsonLines())
    logging.basicConfig(handlers=[handler])
    logging.getLogger().setLevel(level.upper())
