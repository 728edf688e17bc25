"""``stockade serve`` as a process: starts, keeps, drains, and ends without a trace."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from core.embedded.postgres import Addresses, EmbeddedPostgres
from core.embedded.postgres import find_running as find_postgres
from core.embedded.valkey import EmbeddedValkey, find_running
from tests.processes import Service, is_running, until

Fresh = Callable[..., Awaitable[EmbeddedValkey]]
CHANNEL = json.dumps({"borrow": True})


def request(url: str, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, body, headers)
    with connection.getresponse() as answer:
        found = answer.status, answer.read()
    connection.close()
    return found


def worker_pid(line: str) -> int:
    found = re.search(r"a worker runs as process (\d+)", line)
    assert found is not None, line
    return int(found[1])


def is_listening(url: str) -> bool:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_with_status_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        assert request(url, "GET", "/healthz")[0] == 200
        assert request(url, "GET", "/readyz")[0] == 200
        # To the whole group, as a terminal's Ctrl-C is.
        os.killpg(service.process.pid, number)
        status, out, lines = service.finish()
    assert (status, out) == (0, "")
    assert {json.loads(line)["level"] for line in lines} == {"info"}, lines
    assert find_running(tmp_path / "data") is None
    assert find_postgres(tmp_path / "data") is None


def test_a_restart_finds_what_was_acknowledged(tmp_path: Path) -> None:
    for expected in (404, 200):
        with Service("--data", str(tmp_path / "data")) as service:
            url = service.url()
            assert request(url, "GET", "/v1/channels/web")[0] == expected
            assert request(url, "PUT", "/v1/channels/web", CHANNEL)[0] in (200, 201)
            service.signal(signal.SIGTERM)
            assert service.finish()[0] == 0


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data"), "--workers", "2") as service:
        url = service.url()
        first, second = (worker_pid(service.hears("a worker runs")) for _ in range(2))
        assert first != second
        os.kill(first, signal.SIGKILL)
        assert f"process {first}, status -9" in service.hears("a worker ended")
        third = worker_pid(service.hears("a worker runs"))
        assert third not in (first, second)
        assert request(url, "GET", "/readyz")[0] == 200
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    assert not any(map(is_running, (second, third)))


def test_a_killed_store_is_started_again_with_its_data(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        assert request(url, "PUT", "/v1/channels/web", CHANNEL)[0] in (200, 201)
        holder = json.loads((tmp_path / "data" / EmbeddedValkey.lock_name).read_text())
        os.kill(holder["guard_pid"], signal.SIGKILL)
        service.hears("the private store runs again")
        until(lambda: request(url, "GET", "/readyz")[0] == 200, "ready again")
        assert request(url, "GET", "/v1/channels/web")[0] == 200


def test_a_killed_postgres_is_started_again_at_its_address(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        before = find_postgres(tmp_path / "data")
        assert before is not None
        holder = json.loads((tmp_path / "data" / EmbeddedPostgres.lock_name).read_text())
        os.kill(holder["guard_pid"], signal.SIGKILL)
        service.hears("the private PostgreSQL runs again")
        assert find_postgres(tmp_path / "data") == before
        assert request(url, "GET", "/readyz")[0] == 200


def test_an_open_request_is_answered_before_the_end(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.putrequest("PUT", "/v1/channels/web")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(CHANNEL)))
        connection.endheaders()
        service.signal(signal.SIGTERM)
        until(lambda: not is_listening(url), "the port is closed")
        connection.send(CHANNEL.encode())
        with connection.getresponse() as answer:
            assert answer.status in (200, 201)
            assert answer.getheader("connection") == "close"
        connection.close()
        assert service.finish()[0] == 0


def test_a_request_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    short = ("--drain-seconds", "1", "--ledger-wait-seconds", "1")
    with Service("--data", str(tmp_path / "data"), *short) as service:
        url = service.url()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.putrequest("PUT", "/v1/channels/web")
        connection.putheader("content-length", "10")
        connection.endheaders()
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
        connection.close()


def test_a_kept_connection_hears_that_it_ends(tmp_path: Path) -> None:
    environ = {"STOCKADE_NOTICE_SECONDS": "5"}  # it stays open for so long
    with Service("--data", str(tmp_path / "data"), environ=environ) as service:
        url = service.url()
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        told: list[tuple[int, str | None]] = []

        def asked() -> tuple[int, str | None]:
            connection.request("GET", "/readyz")
            with connection.getresponse() as answer:
                answer.read()
                told.append((answer.status, answer.getheader("connection")))
            return told[-1]

        assert asked() == (200, None)
        service.signal(signal.SIGTERM)
        until(lambda: asked()[0] == 503, "unready")
        until(lambda: asked() == (503, "close"), "it closes")
        assert request(url, "GET", "/readyz")[0] == 503, "the port is still open"
        assert service.finish()[0] == 0


def test_a_killed_supervisor_leaves_nothing_behind(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data"), "--workers", "2") as service:
        url = service.url()
        workers = [worker_pid(service.hears("a worker runs")) for _ in range(2)]
        assert request(url, "PUT", "/v1/channels/web", CHANNEL)[0] in (200, 201)
        os.killpg(service.process.pid, signal.SIGKILL)
        with Service("--data", str(tmp_path / "data")) as next_service:
            assert request(next_service.url(), "GET", "/v1/channels/web")[0] == 200
        until(lambda: not any(map(is_running, workers)), "the workers are gone")
        assert service.finish()[0] == -signal.SIGKILL


def refusal(*flags: str, environ: dict[str, str] | None = None) -> str:
    """The one line of a service that must not start."""
    with Service(*flags, environ=environ) as service:
        status, out, lines = service.finish()
    assert (status, out) == (1, "")
    assert len(lines) == 1, lines
    assert lines[0].startswith("stockade: ")
    return lines[0]


def test_a_second_service_on_one_directory_is_refused(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        told = refusal("--data", str(tmp_path / "data"))
        assert f"in use by process {service.process.pid} since" in told
        assert request(url, "GET", "/readyz")[0] == 200


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = refusal("--data", str(tmp_path / "data"), "--port", str(port))
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in told


def test_a_store_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    assert refusal("--valkey-url", f"unix://{tmp_path}/nothing.sock")
    assert "secret" not in refusal("--valkey-url", "redis://:secret@127.0.0.1:1")


async def test_servers_that_are_named_are_used_and_left_running(
    fresh_valkey: Fresh, postgres: EmbeddedPostgres, ledger_dsns: Addresses, tmp_path: Path
) -> None:
    store = await fresh_valkey()

    def serve() -> None:
        environ = {
            "STOCKADE_VALKEY_URL": store.url,
            "STOCKADE_POSTGRES_DSN": ledger_dsns.dsn,
            "STOCKADE_POSTGRES_OWNER_DSN": ledger_dsns.owner_dsn,
            "STOCKADE_DATA": str(tmp_path / "data"),
        }
        with Service(environ=environ) as service:
            assert request(service.url(), "PUT", "/v1/channels/web", CHANNEL)[0] in (200, 201)
            service.signal(signal.SIGTERM)
            assert service.finish()[0] == 0

    await asyncio.to_thread(serve)
    assert not (tmp_path / "data").exists(), "no server is kept there, and nothing else"
    assert find_running(store.data) == store.url
    assert find_postgres(postgres.data) == postgres.addresses()


async def test_a_store_too_weak_is_refused_with_the_setting_to_change(fresh_valkey: Fresh) -> None:
    store = await fresh_valkey(appendfsync="everysec")
    told = await asyncio.to_thread(refusal, "--valkey-url", store.url)
    assert "durability" in told.lower()
