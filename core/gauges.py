"""What a worker knows of store and ledger when somebody asks for the metrics."""

from __future__ import annotations

from core.backlog import Backlog
from core.errors import Unavailable
from core.lane import Lane
from core.meters import Found
from core.store.shard import Shard

LEVELS = ("memory", "fsync")


async def gauges(
    lane: Lane, shard: Shard, backlog: Backlog, ledger: bool, protected: bool
) -> Found:
    """Its own numbers; ``ledger``: whether there is one; ``protected``: whether stock is. A
    store that is away is no error."""
    found: Found = {}

    def show(name: str, value: float, *labels: str) -> None:
        found.setdefault(name, {})[labels] = [float(value)]

    show("stockade_store_up", lane.closed is None)
    for level in LEVELS:
        show("stockade_store_durability", lane.durability == level, level)
    show("stockade_protect_mode", protected)
    show("stockade_clock_suspect", lane.clock.suspect)
    if backlog.memory is not None:
        show("stockade_store_memory_bytes", backlog.memory.used_bytes)
        show("stockade_store_memory_limit_bytes", backlog.memory.limit_bytes)
    if ledger and backlog.memory is not None:
        behind = backlog.shown()
        show("stockade_ledger_lag_events", behind["events"])
        show("stockade_ledger_lag_seconds", behind["seconds"])
        show("stockade_ledger_backlog_bytes", backlog.size_bytes)
        show("stockade_ledger_backlog_limit_bytes", backlog.limit_bytes)
        show("stockade_ledger_up", not backlog.trouble)
    try:
        if lane.closed is None:
            calls, seconds = await shard.script_use()
            show("stockade_store_script_calls_total", calls)
            show("stockade_store_script_seconds_total", seconds)
    except Unavailable:
        pass  # stockade_store_up and the alarms say so
    return found
