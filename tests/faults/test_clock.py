"""A server's wall clock that jumps: nothing expires that should not, nothing is held for ever."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.embedded.find import find_server
from core.embedded.valkey import EmbeddedValkey
from core.errors import InsufficientStock
from core.model import Commit, Extend, Release
from core.policy_model import ChannelSpec
from core.service import Service, accept_clock
from core.settings import Settings
from core.store import keys
from tests.workers import (
    PATIENCE_SECONDS,
    Store,
    Workers,
    client,
    demand,
    furnish,
    key,
    make_due,
    record,
    server_ms,
    stop_reaper,
    text,
    until,
)

HOUR_MS = 3_600_000

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None,
    reason="needs LD_PRELOAD and a C compiler",
)


class Skewed:
    """A server with a wall clock that can be moved, and a plain client of it."""

    def __init__(self, server: EmbeddedValkey, file: Path) -> None:
        self.url = server.url
        self.store: Store = client(server.url)
        self._file = file

    def jump(self, ms: int) -> None:
        """When this returns, the server's clock is off by this; it looks at it once a turn."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", ms * 1000))
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while abs(server_ms(self.store) - time.time() * 1000 - ms) > 250:
            assert time.monotonic() < give_up_at, "the server's clock does not move"


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that moves a wall clock, built."""
    library = tmp_path_factory.mktemp("clock") / "skewed_clock.so"
    source = Path(__file__).with_name("skewed_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
async def skewed(
    shim: Path, tmp_path: Path, fresh_valkey: Callable[..., Awaitable[EmbeddedValkey]]
) -> Skewed:
    """A private server with that clock."""
    offset, program = tmp_path / "offset", tmp_path / "skewed-server"
    offset.write_bytes(bytes(8))
    program.write_text(
        f'#!/bin/sh\nSKEWED_CLOCK_FILE="{offset}" LD_PRELOAD="{shim}" exec "{find_server()}" "$@"\n'
    )
    program.chmod(0o700)
    server = await fresh_valkey(binary=program)
    moved = Skewed(server, offset)
    moved.jump(0)
    return moved


async def noticed(service: Service) -> None:
    """The worker has heard of the jump."""
    await until(lambda: service.readiness()["clock"] == "suspect", "the jump noticed")


async def all_tidied(service: Service) -> None:
    """Whatever a reaper would do in a few turns."""
    for _ in range(3):
        await service.lane.tidy()


async def test_the_clock_is_moved(skewed: Skewed) -> None:
    """The tool itself: only the wall clock of this one server."""
    true = server_ms(skewed.store)
    skewed.jump(HOUR_MS)
    assert 0 <= server_ms(skewed.store) - true - HOUR_MS < 5_000
    skewed.jump(-HOUR_MS)
    assert -1_000 < server_ms(skewed.store) - true + HOUR_MS < 5_000
    skewed.store.close()


@pytest.mark.parametrize("ms", [HOUR_MS, -HOUR_MS])
async def test_nothing_expires_while_the_clock_is_in_doubt(
    skewed: Skewed, workers: Workers, caplog: pytest.LogCaptureFixture, ms: int
) -> None:
    """Not in the reaper, not lazily, not in a verb; and selling goes on."""
    service = await workers(skewed.url, staleness_ms=0)
    await furnish(service, {"tee": 6}, web=ChannelSpec(max_hold_seconds=86_400))
    engine = service.engine
    ids = [(await engine.reserve(demand())).id for _ in range(5)]
    skewed.jump(ms)
    await noticed(service)
    assert "clock jumped by" in caplog.text
    told_seconds = float(caplog.text.split("jumped by ")[1].split(" ")[0])
    assert abs(told_seconds - ms / 1000) < 5
    await all_tidied(service)
    new = await engine.reserve(demand(), key(1))
    with pytest.raises(InsufficientStock):
        await engine.reserve(demand())
    assert {record(skewed.store, id)[0] for id in ids} == {"R"}
    await engine.commit(ids[0], Commit())
    await engine.release(ids[1], Release())
    await engine.extend(ids[2], Extend(1800))
    assert record(skewed.store, ids[2])[0] == "R"
    skewed.jump(0)
    await until(lambda: service.readiness()["clock"] == "ok", "back on the old time line")
    assert "back on its old time line" in caplog.text
    assert [record(skewed.store, id)[0] for id in ids] == list("CLRRR")
    for id in (*ids[3:], new.id):
        make_due(skewed.store, id)
    due = [*ids[3:], new.id]
    await until(lambda: {record(skewed.store, id)[0] for id in due} == {"X"}, "expiry as ever")
    assert [record(skewed.store, id)[0] for id in ids] == list("CLRXX")
    short = (await engine.reserve(demand(ttl_seconds=1))).id
    await until(lambda: record(skewed.store, short)[0] == "X", "expiry as ever")
    skewed.store.close()


@pytest.mark.parametrize("verb", ["commit", "release", "extend", "refusal", "tidy"])
async def test_the_first_call_after_a_jump_is_not_judged_by_it(
    skewed: Skewed, workers: Workers, verb: str
) -> None:
    """The worker has not heard of the jump when it asks: the store tells it before it judges."""
    service = await workers(skewed.url, reaper=False, staleness_ms=0)
    await furnish(service, {"tee": 1}, web=ChannelSpec(max_hold_seconds=86_400))
    held = await service.engine.reserve(demand())
    skewed.jump(HOUR_MS)
    assert service.readiness()["clock"] == "ok"
    if verb == "commit":
        await service.engine.commit(held.id, Commit(late="refuse"))
    elif verb == "release":
        await service.engine.release(held.id, Release())
    elif verb == "extend":
        await service.engine.extend(held.id, Extend(60))
    elif verb == "refusal":
        with pytest.raises(InsufficientStock):
            await service.engine.reserve(demand())
    else:
        await all_tidied(service)
    state = {"commit": "C", "release": "L"}.get(verb, "R")
    assert record(skewed.store, held.id)[0] == state
    assert service.readiness()["clock"] == "suspect"
    skewed.store.close()


async def test_a_jump_that_is_accepted_counts(skewed: Skewed, workers: Workers) -> None:
    """Forward: what is due by the new time expires, in every worker."""
    pair = [await workers(skewed.url, staleness_ms=0) for _ in range(2)]
    await furnish(pair[0], {"tee": 5})
    ids = [(await pair[0].engine.reserve(demand())).id for _ in range(5)]
    skewed.jump(HOUR_MS)
    for service in pair:
        await noticed(service)
    assert {record(skewed.store, id)[0] for id in ids} == {"R"}
    await accept_clock(Settings(data=workers.data, valkey_url=skewed.url))
    await until(
        lambda: all(service.readiness()["clock"] == "ok" for service in pair), "accepted by all"
    )
    await until(lambda: {record(skewed.store, id)[0] for id in ids} == {"X"}, "all expired")
    assert (await pair[1].engine.reserve(demand(quantity=5))).version == 1
    skewed.store.close()


async def test_a_jump_back_leaves_no_immortal_holds(skewed: Skewed, workers: Workers) -> None:
    """Holds made after it expire in their time, those made before it when theirs has come."""
    service = await workers(skewed.url, staleness_ms=0)
    await furnish(service, {"tee": 5})
    old = (await service.engine.reserve(demand(ttl_seconds=900))).id
    skewed.jump(-HOUR_MS)
    await noticed(service)
    during = (await service.engine.reserve(demand(ttl_seconds=1))).id
    await accept_clock(Settings(data=workers.data, valkey_url=skewed.url))
    await until(lambda: service.readiness()["clock"] == "ok", "accepted")
    after = (await service.engine.reserve(demand(ttl_seconds=1))).id
    new = [during, after]
    await until(lambda: {record(skewed.store, id)[0] for id in new} == {"X"}, "expired")
    assert record(skewed.store, old)[0] == "R"
    assert int(text(skewed.store, keys.META, "cursor")) <= server_ms(skewed.store) // 1000
    skewed.jump(0)  # an hour later, as it were
    await noticed(service)
    await accept_clock(Settings(data=workers.data, valkey_url=skewed.url))
    await until(lambda: service.readiness()["clock"] == "ok", "accepted again")
    make_due(skewed.store, old)
    await until(lambda: record(skewed.store, old)[0] == "X", "expired")
    skewed.store.close()


async def test_a_worker_that_starts_after_the_jump_takes_the_time_as_it_is(
    skewed: Skewed, workers: Workers
) -> None:
    """It cannot know better; an estimate that is a little off is no jump."""
    service = await workers(skewed.url)
    await furnish(service, {"tee": 5})
    await stop_reaper(service)
    for ms in (600, 0, -600, 0):
        skewed.jump(ms)
        await service.engine.reserve(demand())
        assert service.readiness()["clock"] == "ok"
    skewed.jump(HOUR_MS)
    fresh = await workers(skewed.url)
    assert fresh.readiness()["clock"] == "ok"
    skewed.store.close()
