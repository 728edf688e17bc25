"""Over HTTP with wrk: one worker against a Starlette route that only echoes, and batches.

Both are served by uvicorn with uvloop and httptools, one process, no access log; the service also
runs its private store on the same machine.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import orjson

from bench.stores import CHANNEL, LOCATION, UNITS
from bench.table import Figure

SECONDS = 2
CONNECTIONS = 64
BATCH = 500
BATCH_CONNECTIONS = 8  # of 500 each: more would wait in the queue than it takes in
PATH = "/v1/reservations"
IN_STOCK, SOLD_OUT = "tee", "gone"
SCRIPT = Path(__file__).parent / "post.lua"
ROOT = SCRIPT.parent.parent
LAG_SAMPLE_SECONDS = 0.5


class Wrk(msgspec.Struct):
    """What wrk saw in one run. ``refused`` counts answers with a status of 400 or above."""

    requests: int
    microseconds: int
    refused: int
    broken: int
    p50_us: int
    p99_us: int

    @property
    def rate(self) -> float:
        return self.requests / self.microseconds * 1e6


def body(sku: str) -> bytes:
    return orjson.dumps({"channel": CHANNEL, "lines": [{"sku": sku, "quantity": 1}]})


def batch_body() -> bytes:
    return orjson.dumps({"reservations": [orjson.loads(body(IN_STOCK))] * BATCH})


def wrk(
    port: int, path: str, payload: bytes | None, connections: int, *, refused: bool = False
) -> Wrk:
    """One run of POSTs, or of GETs without a payload. Raises if an answer was not of the kind that
    is measured."""
    arguments = [] if payload is None else ["--", payload.decode()]
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", str(SCRIPT),
         f"http://127.0.0.1:{port}{path}", *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line = next(line for line in done.stdout.splitlines() if line.startswith("wrk {"))
    seen = msgspec.json.decode(line.removeprefix("wrk "), type=Wrk)
    if seen.broken or seen.refused != (seen.requests if refused else 0):
        raise RuntimeError(f"{path}: not the answers that were to be measured: {seen}")
    return seen


def ask(port: int, method: str, path: str, payload: bytes) -> tuple[int, Any]:
    """One request: status and decoded answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, payload, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, orjson.loads(content)


@contextmanager
def stockade() -> Iterator[tuple[int, str]]:
    """``stockade serve`` on private servers, with stock and a sold-out SKU: the port, the data
    directory."""
    with tempfile.TemporaryDirectory(prefix="stockade-bench-") as directory:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--data", directory,
             "--log-level", "warning"],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rpartition(":")[2])
            _stock(port)
            yield port, directory
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def _stock(port: int) -> None:
    lines = [
        {"sku": sku, "location": LOCATION, "quantity": quantity}
        for sku, quantity in ((IN_STOCK, UNITS), (SOLD_OUT, 1))
    ]
    for method, path, content in (
        ("PUT", f"/v1/channels/{CHANNEL}", {"floor_share": 0.7}),
        ("PUT", "/v1/channels/store", {"floor_share": 0.3}),
        ("PUT", f"/v1/skus/{IN_STOCK}", {}),
        ("PUT", f"/v1/skus/{SOLD_OUT}", {}),
        ("POST", "/v1/stock/receive", {"lines": lines}),
        ("POST", PATH, orjson.loads(body(SOLD_OUT))),
    ):
        status, answer = ask(port, method, path, orjson.dumps(content))
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")


def scribe_of(data: str) -> int:
    """The process of the scribe that belongs to this bench's service."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                mine = (Path("/proc") / parent / "cmdline").read_bytes()
            except OSError:
                continue
            if b"api.scribe" in words and data.encode() in mine:
                return int(entry.name)
    raise RuntimeError("the service has no scribe")


def _lag(port: int) -> int:
    return int(ask(port, "GET", "/readyz", b"")[1]["ledger"]["lag"]["events"])


def caught_up(port: int) -> None:
    """Returns when the ledger has all that happened."""
    while _lag(port):
        time.sleep(LAG_SAMPLE_SECONDS)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def starlette_echo() -> Iterator[int]:
    """The echo, served with the settings of our worker: the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.echo", str(listener.fileno())],
            pass_fds=(listener.fileno(),),
            cwd=ROOT,
        )
        try:
            port = listener.getsockname()[1]
            ask(port, "POST", PATH, body(IN_STOCK))  # waits in the backlog until it serves
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


async def http_suite(rounds: int) -> AsyncIterator[Figure]:
    """Reservations, refusals and batches per second, with the scribe standing still: the contest of
    the ledger tells what it takes of them."""
    if shutil.which("wrk") is None:
        print("http is left out: wrk is not installed (apt install wrk)", file=sys.stderr)
        return
    granted, refused, batches, echoed = [], [], [], []
    with ExitStack() as stack:
        port, data = stack.enter_context(stockade())
        echo = stack.enter_context(starlette_echo())
        one, gone, many = body(IN_STOCK), body(SOLD_OUT), batch_body()
        scribe = scribe_of(data)
        for _ in range(rounds):
            with stopped(scribe):
                granted.append(wrk(port, PATH, one, CONNECTIONS))
                refused.append(wrk(port, PATH, gone, CONNECTIONS, refused=True))
                batches.append(wrk(port, f"{PATH}/batch", many, BATCH_CONNECTIONS))
            caught_up(port)
            echoed.append(wrk(echo, PATH, one, CONNECTIONS))
    reserves = [seen.rate for seen in granted]
    echoes = [seen.rate for seen in echoed]
    yield Figure(
        f"http reserve, wrk -c{CONNECTIONS}: vs Starlette echo", reserves, echoes, 0.8, 1.2,
        note=latency(granted),
    )  # fmt: skip
    yield Figure(
        "http refusal when sold out: vs Starlette echo",
        [seen.rate for seen in refused], echoes, 0.9, 1.2, note=latency(refused),
    )  # fmt: skip
    yield Figure(
        f"http batch of {BATCH}: reservations/s vs single ones",
        [BATCH * seen.rate for seen in batches], reserves, 5, 10, note=latency(batches),
    )  # fmt: skip


def latency(seen: list[Wrk]) -> str:
    p50, p99 = median(run.p50_us for run in seen), median(run.p99_us for run in seen)
    return f"p50 {p50 / 1000:.1f} ms, p99 {p99 / 1000:.1f} ms"
