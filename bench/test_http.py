"""Over HTTP, for pytest-benchmark: one connection that waits for each answer."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest

from bench.http import IN_STOCK, PATH, SOLD_OUT, batch_body, body, stockade

ROUNDS = 200
BATCH_ROUNDS = 20


@pytest.fixture(scope="module")
def connection() -> Iterator[http.client.HTTPConnection]:
    with stockade() as (port, _):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            yield connection
        finally:
            connection.close()


def _post(connection: http.client.HTTPConnection, path: str, payload: bytes) -> int:
    connection.request("POST", path, payload, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_reserve(benchmark: Any, connection: http.client.HTTPConnection) -> None:
    payload = body(IN_STOCK)
    status = benchmark.pedantic(_post, (connection, PATH, payload), rounds=ROUNDS, warmup_rounds=1)
    assert status == 201


def test_refusal(benchmark: Any, connection: http.client.HTTPConnection) -> None:
    payload = body(SOLD_OUT)
    status = benchmark.pedantic(_post, (connection, PATH, payload), rounds=ROUNDS, warmup_rounds=1)
    assert status == 409


def test_batch_of_500(benchmark: Any, connection: http.client.HTTPConnection) -> None:
    path, payload = f"{PATH}/batch", batch_body()
    status = benchmark.pedantic(
        _post, (connection, path, payload), rounds=BATCH_ROUNDS, warmup_rounds=1
    )
    assert status == 200
