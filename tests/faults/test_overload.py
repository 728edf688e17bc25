"""Twice as many come as the store can serve: as much is sold as before, and commits do not wait.

The way to the store is made so narrow that waiting is the limit, and neither processor is.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bench.crowd import Crowd, Seen
from core.embedded.postgres import Addresses
from core.embedded.valkey import EmbeddedValkey
from tests.audit import audit
from tests.faults.callers import SKUS, Client, furnish
from tests.faults.proxy import Proxy
from tests.processes import Service

NARROW_BYTES_PER_SECOND = 200_000.0  # some 400 reservations with their commits
KNEE, CALLERS = 400, 3_000
SECONDS = 3
ROUNDS = 5
WAIT_MS = 500
COMMIT_P99_MS = 1_200.0  # two pipelines and its own, each with its way; 400 to 700 were seen
GROWTH_KB = 40_000


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    """The crowd, compiled."""
    return Crowd(tmp_path_factory.mktemp("crowd"))


def resident_kb(pid: int) -> int:
    """The memory of a process."""
    said = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True
    )
    return int(said.stdout)


async def test_twice_the_knee_sells_as_much_and_commits_do_not_wait(
    crowd: Crowd, fresh_valkey: Callable[..., Awaitable[EmbeddedValkey]], ledger_dsns: Addresses
) -> None:
    store = await fresh_valkey()
    proxy = Proxy(Path(store.url.removeprefix("unix://")))
    await proxy.start()
    environ = {
        "STOCKADE_VALKEY_URL": proxy.url,
        "STOCKADE_POSTGRES_DSN": ledger_dsns.dsn,
        "STOCKADE_POSTGRES_OWNER_DSN": ledger_dsns.owner_dsn,
        "STOCKADE_WAIT_MS": str(WAIT_MS),
    }

    def comes(url: str, rate: int) -> Seen:
        port = int(url.rpartition(":")[2])
        return crowd.comes(port, CALLERS, rate, SECONDS, skus=len(SKUS), buys=True)

    def run() -> None:
        with Service(environ=environ) as service:
            url = service.url()
            told = re.search(r"process (\d+)", service.hears("a worker runs as"))
            assert told is not None
            furnish(url)
            proxy.bytes_per_second = NARROW_BYTES_PER_SECOND
            for left in reversed(range(ROUNDS)):
                knee = comes(url, KNEE)
                before_kb = resident_kb(int(told[1]))
                twice = comes(url, 2 * KNEE)
                growth_kb = resident_kb(int(told[1])) - before_kb
                print(f"knee {knee}; twice {twice}; {growth_kb} KB more")
                assert twice.reserves_refused > 0
                assert twice.commits_refused == 0
                assert growth_kb < GROWTH_KB
                quick = twice.commit_p99_ms < COMMIT_P99_MS
                if quick and twice.committed_per_second >= 0.7 * knee.committed_per_second:
                    break  # whatever else was busy here before made it only slower
                assert left, "in none of the rounds"
            proxy.bytes_per_second = 0.0
            client = Client(lambda: url)
            reply = client.ask("GET", "/readyz")
            client.close()
            assert reply is not None
            assert reply.status == 200

    await asyncio.to_thread(run)
    await proxy.stop()
    await audit(store.url)
