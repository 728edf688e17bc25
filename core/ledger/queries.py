"""The named queries of ``queries.sql``: ``queries.get("mark")``."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def _all() -> dict[str, str]:
    text = (resources.files("core.ledger") / "queries.sql").read_text()
    words = _NAME.split(text)[1:]
    found = {name: body.strip() for name, body in zip(words[::2], words[1::2], strict=True)}
    assert len(found) == len(words) // 2, "a name stands twice in queries.sql"
    return found


def get(name: str) -> str:
    """The query of this name."""
    return _all()[name]
