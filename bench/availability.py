"""Over HTTP with wrk: a product page of 60 tiles against a page of one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator

import orjson

from bench.http import CONNECTIONS, Wrk, ask, latency, stockade, wrk
from bench.stores import CHANNEL, LOCATION
from bench.table import Figure

TILES = 60


def page(tiles: int) -> str:
    """What a page of the shop asks."""
    skus = "".join(f"&sku=tee-{number:03d}-m" for number in range(tiles))
    return f"/v1/availability?channel={CHANNEL}{skus}"


def fill(port: int) -> None:
    """A SKU for every tile, with units."""
    names = [f"tee-{number:03d}-m" for number in range(TILES)]
    lines = [{"sku": name, "location": LOCATION, "quantity": 1_000} for name in names]
    for method, path, content in (
        *(("PUT", f"/v1/skus/{name}", {}) for name in names),
        ("POST", "/v1/stock/receive", {"lines": lines}),
    ):
        status, answer = ask(port, method, path, orjson.dumps(content))
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")


async def availability(rounds: int) -> AsyncIterator[Figure]:
    """Pages per second; each is looked at afresh once a second."""
    if shutil.which("wrk") is None:
        print("availability is left out: wrk is not installed (apt install wrk)", file=sys.stderr)
        return
    many: list[Wrk] = []
    one: list[Wrk] = []
    with stockade() as (port, _):
        fill(port)
        for _ in range(rounds):
            many.append(wrk(port, page(TILES), None, CONNECTIONS))
            one.append(wrk(port, page(1), None, CONNECTIONS))
    yield Figure(
        f"http availability of {TILES} SKUs: pages/s vs pages of one SKU",
        [seen.rate for seen in many], [seen.rate for seen in one], 0.5,
        note=latency(many),
    )  # fmt: skip
