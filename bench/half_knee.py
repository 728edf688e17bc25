"""How long a reservation takes when half as many come as could: against an echo at that rate.

The crowd comes at its own rate and counts from when each request was due (``crowd.c``). It is made
faster, step by step, until it is not served as it comes: the last rate before that is the knee.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import orjson

from bench.crowd import Crowd, Seen
from bench.http import ask, caught_up, scribe_of, starlette_echo, stopped
from bench.http import stockade as serving
from bench.stores import LOCATION, UNITS
from bench.table import Figure

CONNECTIONS = 256
SKUS = 100
FIRST_RATE, STEP = 1_000.0, 1.2
STEP_SECONDS, SECONDS = 3, 10
TRIES = 3
KNEE_P99_MS = 50.0  # as in loadtest/scenarios/find-limit.toml
SERVED_MIN = 0.99


def serves(seen: Seen) -> bool:
    """True if a crowd was served as it came."""
    return seen.reserved >= SERVED_MIN * seen.came and seen.reserve_p99_ms <= KNEE_P99_MS


async def half_knee(rounds: int) -> AsyncIterator[Figure]:
    """The p99 of reservations that were granted, in ms, over that of the echo."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="stockade-bench-"))
        crowd = Crowd(Path(directory))
        port, data = stack.enter_context(serving())
        echo = stack.enter_context(starlette_echo())
        _stock(port)

        def comes(where: int, rate: float, seconds: float) -> Seen:
            return crowd.comes(where, CONNECTIONS, rate, seconds, skus=SKUS, buys=False)

        def served(rate: float) -> bool:
            """In one of three tries: a disk that stalls for a moment is no knee."""
            return any(serves(comes(port, rate, STEP_SECONDS)) for _ in range(TRIES))

        knee, rate = 0.0, FIRST_RATE
        while served(rate):
            knee, rate = rate, STEP * rate
        if not knee:
            print(f"half_knee is left out: {FIRST_RATE:,.0f}/s is too much", file=sys.stderr)
            return
        ours, alone, echoed = [], [], []
        scribe = scribe_of(data)
        for _ in range(rounds):
            ours.append(comes(port, knee / 2, SECONDS).reserve_p99_ms)
            caught_up(port)
            with stopped(scribe):
                alone.append(comes(port, knee / 2, SECONDS).reserve_p99_ms)
            caught_up(port)
            echoed.append(comes(echo, knee / 2, SECONDS).reserve_p99_ms)
    echoes = [1000 * each for each in echoed]
    yield Figure(
        "half of the knee: p99 in us of a reserve vs Starlette echo",
        [1000 * each for each in ours], echoes, 3, at_most=True,
        note=f"{knee / 2:,.0f} reservations/s over {SKUS} SKUs; the knee is {knee:,.0f}/s",
    )  # fmt: skip
    yield Figure(
        "    the same with the scribe standing still", [1000 * each for each in alone], echoes
    )


def _stock(port: int) -> None:
    """The SKUs that the crowd wants."""
    names = [f"tee-{number}" for number in range(SKUS)]
    lines = [{"sku": name, "location": LOCATION, "quantity": UNITS} for name in names]
    for method, path, content in (
        *(("PUT", f"/v1/skus/{name}", {}) for name in names),
        ("POST", "/v1/stock/receive", {"lines": lines}),
    ):
        status, answer = ask(port, method, path, orjson.dumps(content))
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
