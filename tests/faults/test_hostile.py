"""Callers that mean no good, against a service as it is started: memory stays, others are served.

What a connection may do before it is ended is held, case by case, in
``tests/service/test_connections.py``.
"""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis

from core.embedded import valkey
from tests.audit import audit
from tests.faults.stage import in_loop
from tests.processes import Service, family, until

IDLE = 10_000
KEYS = 100_000
PATIENCE_SECONDS = 30.0
GROWTH_MAX_BYTES = 64 * 2**20
HEAD = b"POST /v1/reservations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


class Target:
    """A service with one worker, and ten thousand of each SKU."""

    def __init__(self, service: Service, data: Path) -> None:
        self.service = service
        host, port = service.url().removeprefix("http://").split(":")
        self.address = host, int(port)
        found = valkey.find_running(data)
        assert found is not None
        self.store = found
        self.put("/v1/channels/web", {"floor_share": 1})
        for sku in ("tee", "gone"):
            self.put(f"/v1/skus/{sku}", {})
        line = {"sku": "tee", "location": "main", "quantity": 2 * KEYS}
        assert self.ask("POST", "/v1/stock/receive", {"lines": [line]}).status == 200

    def put(self, path: str, body: Any) -> None:
        assert self.ask("PUT", path, body).status == 201

    def ask(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """One request on a connection of its own; the answer, whose body was read."""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_SECONDS)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.found = json.loads(answer.read() or b"null")  # type: ignore[attr-defined]
        connection.close()
        return answer

    def open(self) -> socket.socket:
        return socket.create_connection(self.address, PATIENCE_SECONDS)

    def sells(self) -> None:
        """Somebody else buys as if nothing were."""
        body = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        for _ in range(20):
            assert self.ask("POST", "/v1/reservations", body).status == 201

    def resident_bytes(self) -> int:
        """The memory of its worker."""
        (worker,) = [
            pid for pid, words in family(self.service.process.pid) if "api.worker" in words
        ]
        lines = Path(f"/proc/{worker}/status").read_text().splitlines()
        (found,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
        return int(found) * 1024

    @contextmanager
    def grows_no_more_than(self, bytes_max: int) -> Iterator[None]:
        self.sells()
        before = self.resident_bytes()
        yield
        grown = self.resident_bytes() - before
        print(f"grown by {grown / 2**20:.1f} MiB")
        assert grown <= bytes_max


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    data = tmp_path_factory.mktemp("hostile")
    with Service("--data", str(data)) as service:
        made = Target(service, data)
        yield made


@pytest.fixture
def descriptors() -> Iterator[int]:
    """As many open files as this process may have, meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_slow_callers_hold_nobody_up(target: Target) -> None:
    """Five hundred heads and five hundred bodies that drip, a byte at a time."""
    with ExitStack() as stack, target.grows_no_more_than(GROWTH_MAX_BYTES):
        heads = [stack.enter_context(target.open()) for _ in range(500)]
        bodies = [stack.enter_context(target.open()) for _ in range(500)]
        for each in bodies:
            each.sendall(HEAD + b"content-length: 1000\r\n\r\n")
        for byte in HEAD[:5]:
            for each in (*heads, *bodies):
                with suppress(ConnectionError):  # its time is up, on a machine that slow
                    each.sendall(bytes([byte]))
            target.sells()


@pytest.mark.proof
def test_slow_callers_are_ended(target: Target) -> None:
    """By the clock of a worker that serves: heads after 20 s, bodies after a minute."""
    with target.open() as head, target.open() as body:
        began = time.monotonic()
        head.sendall(HEAD)
        body.sendall(HEAD + b"content-length: 9\r\n\r\n")
        head.settimeout(40)
        assert b" 408 " in head.recv(65_536)
        assert time.monotonic() - began >= 20
        body.settimeout(80)
        assert b" 408 " in body.recv(65_536)
        assert time.monotonic() - began >= 60


def test_ten_thousand_that_idle(target: Target, descriptors: int) -> None:
    """Half of them have asked something once. Each costs its worker some kilobytes."""
    count = min(IDLE, descriptors - 200)
    question = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with ExitStack() as stack, target.grows_no_more_than(count * 24 * 1024):
        idle = []
        for number in range(count):
            each = stack.enter_context(target.open())
            if number % 2:
                each.sendall(question)
            if number % 500 == 499:  # not faster than they are taken
                assert each.recv(65_536).startswith(b"HTTP/1.1 200")
            idle.append(each)
        target.sells()
        print(f"{count} idle")


@pytest.mark.parametrize("framing", [b"content-length: 1073741824", b"transfer-encoding: chunked"])
def test_a_gigabyte_is_not_taken(target: Target, framing: bytes) -> None:
    """Four at once: refused at its head or at 1 MiB, and cut off soon after."""
    piece = b"10000\r\n" + b"x" * 2**16 + b"\r\n" if b"chunked" in framing else b"x" * 2**16
    sent: list[int] = []

    def pour() -> None:
        total = 0
        with target.open() as each, suppress(OSError):
            each.sendall(HEAD + framing + b"\r\n\r\n")
            while total < 2**30:
                each.sendall(piece)
                total += 2**16
        sent.append(total)

    with target.grows_no_more_than(GROWTH_MAX_BYTES):
        pourers = [threading.Thread(target=pour) for _ in range(4)]
        for each in pourers:
            each.start()
        target.sells()
        for each in pourers:
            each.join()
    assert max(sent) < 2**27, "of a gigabyte more than an eighth was taken"


def test_a_hundred_thousand_keys(target: Target) -> None:
    """Idempotency keys, each another one, of demands that are granted and that are refused; and as
    many SKUs that nobody has. The worker keeps none of it without bound, and the store what counts.
    """
    with redis.Redis.from_url(target.store) as store, target.grows_no_more_than(GROWTH_MAX_BYTES):
        before = store.info("memory")["used_memory"]
        granted = 0
        for first in range(0, KEYS, 1_000):
            sku = "gone" if first % 25_000 else "tee"
            elements = [
                {
                    "channel": "web", "lines": [{"sku": sku, "quantity": 1}],
                    "idempotency_key": f"{first + number}",
                }
                for number in range(1_000)
            ]  # fmt: skip
            answer = target.ask("POST", "/v1/reservations/batch", {"reservations": elements})
            found: Any = answer.found  # type: ignore[attr-defined]
            statuses = {each["status"] for each in found["results"]}
            assert statuses == {409 if sku == "gone" else 201}
            granted += sku == "tee"
        grown = store.info("memory")["used_memory"] - before
        print(f"{grown / (1_000 * granted):.0f} bytes of the store for each that was granted")
        for first in range(0, KEYS, 200):
            skus = "&".join(f"sku=no-{first + number}" for number in range(200))
            assert target.ask("GET", f"/v1/availability?channel=web&{skus}").status == 404


HOSTILE = (
    "' OR '1'='1", "'; DROP TABLE stockade.movement; --", "tee' --", "%", "_ee", "$1", "{s0}:pools",
    "tee@main", "tee\nmain", "tee\0", "\\x00", "tee main 0 1", "*", "\u202etee", "../skus/tee",
    "1e9", "' || pg_sleep(9) || '",
)  # fmt: skip
FILTERS = {
    "movements": ("sku", "location", "channel", "reservation", "reference", "verb", "since",
                  "until", "cursor", "limit"),
    "reservations": ("reference", "state", "channel", "sku", "location", "customer",
                     "created_before", "at_risk", "cursor", "limit"),
}  # fmt: skip


def test_no_filter_says_more_than_its_value(target: Target) -> None:
    """SQL, patterns, key names, control characters: refused, or found nowhere; nothing of it is run
    by the ledger or the store."""
    target.sells()

    def items(path: str) -> list[Any] | None:
        answer = target.ask("GET", path)
        assert answer.status in (200, 422), (path, answer.status)
        found: Any = answer.found  # type: ignore[attr-defined]
        return found["items"] if answer.status == 200 else None

    until(lambda: bool(items("/v1/movements?sku=tee")), "the ledger has some")
    keys = in_store(target, "dbsize")
    for records, names in FILTERS.items():
        for name in names:
            for value in HOSTILE:
                path = f"/v1/{records}?{name}={quote(value, safe='')}"
                assert not items(path), path
    assert items("/v1/movements?sku=tee")
    assert in_store(target, "dbsize") == keys


def in_store(target: Target, command: str) -> Any:
    with redis.Redis.from_url(target.store) as store:
        return store.execute_command(command)


def test_afterwards_it_is_as_before(target: Target) -> None:
    """It sells, and every unit is where it should be."""
    target.sells()
    until(lambda: target.ask("GET", "/readyz").status == 200, "ready")
    in_loop(lambda: audit(target.store))


def test_no_word_of_a_caller_begins_a_line_of_the_log(target: Target) -> None:
    """Whatever is in its path and headers, and if it is no HTTP at all. The last test: the log is
    whole when the service has ended."""
    forged = b"2026-01-01 00:00:00,000 ERROR stockade.forged[1]: forged"
    for request in (
        b"GET /v1/%0d%0a" + quote(forged).encode() + b" HTTP/1.1\r\n\r\n",
        b"GET /\r\n" + forged + b" HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nx-request-id: a\r\n " + forged + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n\r\n" + forged,
        forged + b"\r\n" + forged + b"\r\n\r\n",
    ):
        with target.open() as each:
            each.sendall(request)
            each.shutdown(socket.SHUT_WR)
            while each.recv(65_536):
                pass
    target.service.signal(signal.SIGTERM)
    status, _, lines = target.service.finish()
    assert status == 0
    assert not [line for line in lines if "forged" in line], lines
