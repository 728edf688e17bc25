"""Importing a stock file: rows a second, and the memory of its check as the file grows: tenfold in
every round, and once to ten million rows, for that takes a minute and a half.

Run as ``python -m bench.importing URL DATA FILE`` this module is the process that checks a file,
and prints the most memory that it took, in KiB.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

from bench.stores import LOCATION, Store, private_store, sku_names
from bench.table import Figure
from core.errors import ImportRefused
from core.policy_model import ChannelSpec, SkuSpec
from core.service import Service, open_service
from core.settings import Settings
from core.stock_model import Receive, ReceiveLine

ROWS = 200_000
ROWS_CHECKED, ROWS_CHECKED_MANY, ROWS_CHECKED_MOST = 100_000, 1_000_000, 10_000_000
GROUP = 1_000  # lines of one request: as many as a part of a file has
UNITS = 10


def _silent(phase: str, rows: int, share: float) -> None:
    """Nobody looks at the progress."""


def _write(path: Path, count: int, last: str = "") -> Path:
    with path.open("w") as file:
        file.write("sku,location,quantity,safety_stock\n")
        file.writelines(f"sku-{number:07d},{LOCATION},{UNITS},1\n" for number in range(count))
        file.write(last)
    return path


async def _import(service: Service, path: Path) -> None:
    await service.importer.run(path, orders=False, again=False, skip_bad=False, tell=_silent)


async def _import_rate(store: Store, path: Path) -> float:
    """Rows a second of a file of new SKUs, both passes."""
    store.reset()
    store.tidy()
    async with store.open() as service:
        started = time.perf_counter()
        await _import(service, path)
        return ROWS / (time.perf_counter() - started)


async def _receive_rate(store: Store) -> float:
    """Lines a second received in process by somebody who made the SKUs before, one by one."""
    store.reset()
    names = sku_names(ROWS // 10)
    async with store.open() as service:
        for start in range(0, len(names), GROUP):
            await asyncio.gather(
                *(
                    service.catalogue.put_sku(name, SkuSpec(safety_stock=1))
                    for name in names[start : start + GROUP]
                )
            )
        store.tidy()
        started = time.perf_counter()
        for start in range(0, len(names), GROUP):
            lines = [ReceiveLine(name, LOCATION, UNITS) for name in names[start : start + GROUP]]
            await service.stock.receive(Receive(lines), [None] * len(lines))
        return len(names) / (time.perf_counter() - started)


async def _checked_kib(store: Store, path: Path) -> float:
    """The memory of a process that reads a file to its end and finds that its last row is bad."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.importing", store.url, str(store.settings.data), str(path)),
        stdout=PIPE,
    )
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"checking {path} ended with status {process.returncode}")
    return float(out)


async def importing(rounds: int) -> AsyncIterator[Figure]:
    """200,000 new SKUs against receiving; the memory of a check of ten and a hundred times as many
    rows against that of a small file."""
    async with private_store() as store:
        directory = store.settings.data
        async with store.open() as service:
            await service.catalogue.put_channel("web", ChannelSpec(floor_share=0.7))
            await service.catalogue.put_channel("store", ChannelSpec(floor_share=0.3))
        store.keep()
        path = _write(directory / "stock.csv", ROWS)
        ours, other = [], []
        for _ in range(rounds):
            other.append(await _receive_rate(store))
            ours.append(await _import_rate(store, path))
        yield Figure(
            f"import: rows/s of {ROWS:,} new SKUs vs lines/s received", ours, other,
            note="checked, SKUs made and units received; the other side has its SKUs already",
        )  # fmt: skip
        store.reset()
        small = _write(directory / "small.csv", ROWS_CHECKED, f"bad,{LOCATION},x,\n")
        large = _write(directory / "large.csv", ROWS_CHECKED_MANY, f"bad,{LOCATION},x,\n")
        base, grown = [], []
        for _ in range(rounds):
            base.append(await _checked_kib(store, small))
            grown.append(await _checked_kib(store, large))
        yield Figure(
            f"import: KiB to check {ROWS_CHECKED_MANY:,} rows vs {ROWS_CHECKED:,}", grown, base,
            1.2, at_most=True,
        )  # fmt: skip
        large.unlink()
        most = _write(directory / "most.csv", ROWS_CHECKED_MOST, f"bad,{LOCATION},x,\n")
        started = time.perf_counter()
        grown = [await _checked_kib(store, most)]
        seconds = time.perf_counter() - started
        yield Figure(
            f"import: KiB to check {ROWS_CHECKED_MOST:,} rows vs {ROWS_CHECKED:,}", grown,
            base[-1:], 1.2, at_most=True, note=f"one round, {seconds:.0f} s",
        )  # fmt: skip


def _peak_kib() -> int:
    """The most memory that this process had; not that of the one it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def _check(url: str, data: Path, path: Path) -> None:
    async with open_service(Settings(data=data, valkey_url=url)) as service:
        try:
            await _import(service, path)
        except ImportRefused as refused:
            if refused.count == 1:
                return
            raise
        raise RuntimeError("the file was to be refused for its last row")


if __name__ == "__main__":
    asyncio.run(_check(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
    print(_peak_kib())
