"""A store that was lost, or cut, under real processes: what they say, what they do, what is there.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from core.embedded.postgres import Addresses
from core.embedded.valkey import EmbeddedValkey, find_running
from core.errors import StockUnavailable
from core.service import Service as Core
from core.settings import Settings
from tests.audit import audit
from tests.ledgered import Ledger, audit_ledger
from tests.processes import Service, until
from tests.workers import Workers, client, demand, furnish, key
from tests.workers import until as until_async

Fresh = Callable[..., Awaitable[EmbeddedValkey]]


# --- a log of writes that was cut ---------------------------------------------------------------


def log_of(server: EmbeddedValkey) -> Path:
    """The file that the server appends to."""
    (found,) = (server.data / "valkey").glob("appendonlydir/*.incr.aof")
    return found


def is_ready(worker: Core) -> bool:
    return bool(worker.readiness()["ready"])


@pytest.mark.parametrize("ledger_has_it", [False, True])
async def test_a_log_that_was_cut_is_found_out_and_mended(
    fresh_valkey: Fresh, workers: Workers, ledger: Ledger, seed: int, ledger_has_it: bool
) -> None:
    """Cut back at random behind a point that is remembered. What the ledger has is there again,
    whatever the log lost; and of what nobody has it is said that it is not known."""
    dice = random.Random(seed)
    server = await fresh_valkey()
    settings: dict[str, Any] = {"reaper": False, "staleness_ms": 0, "postgres_dsn": ledger.dsn}
    worker, idle = [await workers(server.url, **settings) for _ in range(2)]
    await furnish(worker, {"tee": 100})
    mark = await ledger.catch_up(server.url)
    size = log_of(server).stat().st_size
    held = [await worker.engine.reserve(demand(), key(n)) for n in range(30)]
    if ledger_has_it:
        mark = await ledger.catch_up(server.url)
    seq = worker.lane.seq
    await server.stop()
    with log_of(server).open("r+b") as file:
        file.truncate(dice.randrange(size, log_of(server).stat().st_size - 1_000))
    await server.start()
    for each in (worker, idle):  # the first one knows, if only it: the other one is told
        with pytest.raises(StockUnavailable):
            await each.engine.reserve(demand())
    assert not is_ready(worker)
    report = await ledger.rebuilding(server.url).run()
    for each in (worker, idle):
        await until_async(partial(is_ready, each), "ready")
    there = report.loss.seq - (seq - len(held))  # of the reservations that came after
    assert (report.loss.whole, report.loss.epoch) == (False, mark.epoch)
    assert there == len(held) if ledger_has_it else 0 <= there < len(held)
    for number, one in enumerate(held):
        again = await idle.engine.reserve(demand(), key(number))
        assert again.replayed is (number < there)
        assert (again.id == one.id) is (number < there)
    await ledger.catch_up(server.url)
    await audit_ledger(ledger.dsn, server.url)


# --- the service --------------------------------------------------------------------------------


def ask(url: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """One request; its status and its document."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    text = None if body is None else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, text, {"content-type": "application/json"} | named)
    with connection.getresponse() as answer:
        found = answer.status, json.loads(answer.read() or b"null")
    connection.close()
    return found


def ready(url: str) -> bool:
    return ask(url, "GET", "/readyz")[0] == 200


def stock(url: str) -> Any:
    """A warehouse with one pool; an order and what it answered with."""
    assert ask(url, "PUT", "/v1/channels/web", {})[0] in (200, 201)
    assert ask(url, "PUT", "/v1/skus/tee", {})[0] in (200, 201)
    lines = [{"sku": "tee", "location": "main", "quantity": 10}]
    assert ask(url, "POST", "/v1/stock/receive", {"lines": lines})[0] == 200
    return order(url)


def order(url: str, key: str = "once") -> Any:
    """An order that waits for the ledger, and is repeated until a worker takes it."""
    body = {"channel": "web", "lines": [{"sku": "tee", "quantity": 2}], "durability": "ledger"}
    answers: list[tuple[int, Any]] = []

    def taken() -> bool:
        answers.append(ask(url, "POST", "/v1/reservations", body, idempotency_key=key))
        assert answers[-1][0] in (201, 503), answers[-1]
        return answers[-1][0] == 201

    until(taken, "an order is taken")
    return answers[-1][1]


def test_a_private_store_that_was_emptied_comes_back_by_itself(tmp_path: Path) -> None:
    """Under a running service, and at a start: 503 meanwhile, then everything is there."""
    data = tmp_path / "data"
    with Service("--data", str(data), "--workers", "2") as service:
        url = service.url()
        first = stock(url)
        with redis.Redis.from_url(find_running(data) or "") as plain:
            plain.flushall()
        service.hears("the store is empty")
        service.hears("the store is whole again")
        until(lambda: ready(url), "ready again")
        assert order(url)["id"] == first["id"]
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    shutil.rmtree(data / "valkey")
    with Service("--data", str(data)) as service:
        url = service.url()
        until(lambda: ready(url), "ready again")
        assert order(url)["id"] == first["id"]
        status, found = ask(url, "GET", "/v1/stock/tee")
        assert (status, found["available"]["web"]) == (200, 8)
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0


def test_a_private_store_whose_log_was_cut_comes_back_by_itself(tmp_path: Path) -> None:
    """Found out at the next start: what the ledger has, the store has again."""
    data = tmp_path / "data"
    with Service("--data", str(data)) as service:
        url = service.url()
        stock(url)
        (log,) = (data / "valkey").glob("appendonlydir/*.incr.aof")
        size = log.stat().st_size
        second = order(url, "twice")
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    os.truncate(log, size)
    with Service("--data", str(data)) as service:
        service.hears("the store went back in time")
        service.hears("is not known")
        url = service.url()
        until(lambda: ready(url), "ready again")
        assert order(url, "twice")["id"] == second["id"]
        status, found = ask(url, "GET", "/v1/stock/tee")
        assert (status, found["available"]["web"]) == (200, 6)
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0


def test_all_of_it_is_killed_in_the_middle_of_a_rebuild(tmp_path: Path) -> None:
    """And started again on the same directory, half a second later, with a store half filled."""
    data = tmp_path / "data"
    with Service("--data", str(data)) as service:
        first = stock(service.url())
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    shutil.rmtree(data / "valkey")
    with Service("--data", str(data)) as service:
        service.hears("the store is rebuilt from the ledger")
        locks = (EmbeddedValkey.lock_name, "postgres.lock")
        guards = [json.loads((data / name).read_text())["guard_pid"] for name in locks]
        os.killpg(service.process.pid, signal.SIGKILL)
        for pid in guards:
            with suppress(ProcessLookupError):  # it has noticed already, and is gone
                os.kill(pid, signal.SIGKILL)
        service.finish()
    with Service("--data", str(data)) as service:
        url = service.url()
        until(lambda: ready(url), "ready again")
        assert order(url)["id"] == first["id"]
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0


def command(*words: str, environ: dict[str, str]) -> tuple[int, str, str]:
    """``stockade`` with these words: status, output, what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *words],
        env=os.environ | environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def named(tmp_path: Path, ledger_dsns: Addresses) -> Callable[[EmbeddedValkey], dict[str, str]]:
    """The environment of a service whose servers are somebody else's."""

    def environ(server: EmbeddedValkey) -> dict[str, str]:
        link = tmp_path / "servers"  # a private one's address would be known for one
        if not link.exists():
            link.symlink_to(server.socket.parent)
        return {
            "STOCKADE_VALKEY_URL": f"unix://{link / server.socket.name}",
            "STOCKADE_POSTGRES_DSN": ledger_dsns.dsn,
            "STOCKADE_POSTGRES_OWNER_DSN": ledger_dsns.owner_dsn,
            "STOCKADE_DATA": str(tmp_path / "data"),
        }

    return environ


async def test_a_store_of_somebody_else_waits_for_the_command(
    fresh_valkey: Fresh, named: Callable[[EmbeddedValkey], dict[str, str]]
) -> None:
    """Not ready, and named is what to run; which says what is not known, and nothing twice."""
    server = await fresh_valkey()
    environ = named(server)
    plain = client(server.url)

    def run() -> None:
        with Service(environ=environ) as service:
            url = service.url()
            first = stock(url)
            status, out, _ = command("rebuild", environ=environ)
            assert (status, out) == (
                0, "the store has all that the ledger has: nothing was done\n"
            )  # fmt: skip
            plain.flushall()
            until(lambda: not ready(url), "not ready")
            until(lambda: "run `stockade rebuild`" in state(url), "the command is named")
            assert plain.dbsize() == 0
            status, out, said = command("rebuild", "--format", "json", environ=environ)
            assert status == 0, said
            found = json.loads(out)
            assert found["rows"]["pools"] == found["rows"]["reservations"] == 1
            unknown = found["lost"]["unknown_after"]
            assert (unknown["seq"], found["lost"]["reservations"]) == (4, [])
            until(lambda: ready(url), "ready again")
            assert order(url)["id"] == first["id"]
            status, out, _ = command("rebuild", "--force", environ=environ)
            assert status == 0
            assert "nothing is lost: the ledger has all that the store had" in out
            until(lambda: ready(url), "ready again")
            service.signal(signal.SIGTERM)
            assert service.finish()[0] == 0

    def state(url: str) -> str:
        return str(ask(url, "GET", "/readyz")[1]["store"]["state"])

    await asyncio.to_thread(run)
    await audit(server.url)
    await audit_ledger(environ["STOCKADE_POSTGRES_DSN"], server.url)
    plain.close()


async def test_there_is_nothing_to_rebuild_from_an_empty_ledger(
    fresh_valkey: Fresh, named: Callable[[EmbeddedValkey], dict[str, str]]
) -> None:
    """One line, status 1, and the store stays as it is."""
    server = await fresh_valkey()
    status, out, said = await asyncio.to_thread(command, "rebuild", environ=named(server))
    assert (status, out) == (1, "")
    assert said.splitlines()[-1] == (
        "stockade: the ledger has never seen a store: there is nothing to restore"
    )
    plain = client(server.url)
    assert plain.dbsize() == 0
    plain.close()


def test_the_setting_is_there() -> None:
    """On unless somebody says otherwise."""
    assert Settings().move_deadlines is True
