"""The Lua scripts: read once, sent by hash, never EVALed.

A script is a file in ``lua/``; ``--%include name`` lines are replaced by ``lua/parts/name.lua``.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import Final

_INCLUDE = re.compile(r"^--%include (\w+)$", re.MULTILINE)

FORMAT = "2"  # of everything in the store; parts/shard.lua refuses another one


class Script:
    """One script: its name, its text as the server gets it, and its SHA-1."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str) -> None:
        folder = resources.files("core.store") / "lua"

        def part(match: re.Match[str]) -> str:
            return (folder / "parts" / f"{match[1]}.lua").read_text()

        self.name = name
        self.text = _INCLUDE.sub(part, (folder / f"{name}.lua").read_text()).encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


START: Final = Script("start")
LOOK: Final = Script("look")
STOCK: Final = Script("stock")
RESERVE: Final = Script("reserve")
REPLAN: Final = Script("replan")
JUDGE: Final = Script("judge")
COMMIT: Final = Script("commit")
FULFIL: Final = Script("fulfil")
GIVEBACK: Final = Script("giveback")
EXTEND: Final = Script("extend")
DUE: Final = Script("due")
SKU: Final = Script("sku")
POLICY: Final = Script("policy")
PURGE: Final = Script("purge")
DROP: Final = Script("drop")
IMPORT: Final = Script("import")
MARK: Final = Script("mark")
REBUILD_BEGIN: Final = Script("rebuild_begin")
REBUILD_PUT: Final = Script("rebuild_put")
REBUILD_END: Final = Script("rebuild_end")
RESTORE: Final = Script("restore")
REPAIR: Final = Script("repair")
RESTATE: Final = Script("restate")
COUNT: Final = Script("count")
SWEEP: Final = Script("sweep")
NOTE: Final = Script("note")

ALL: Final = (
    START, LOOK, STOCK, RESERVE, REPLAN, JUDGE, COMMIT, FULFIL, GIVEBACK, EXTEND, DUE, SKU, POLICY,
    PURGE, DROP, IMPORT, MARK, RESTORE, REBUILD_BEGIN, REBUILD_PUT, REBUILD_END, REPAIR, RESTATE,
    COUNT, SWEEP, NOTE,
)  # fmt: skip
