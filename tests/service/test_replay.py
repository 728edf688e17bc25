"""Real orders through the real service, started, audited and stopped by the harness itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "loadtest" / "data" / "orders-sample.csv"
LIMIT_S = 600


async def replay(tmp_path: Path, *settings: str, log: Path = SAMPLE) -> tuple[int, str, Any]:
    """Exit code, what was printed, and the document, if the run came that far."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "replay", str(log), "--output", str(tmp_path)),
        *(part for setting in settings for part in ("--set", setting)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    path = tmp_path / "report.json"
    return (
        process.returncode,
        output.decode(),
        json.loads(path.read_bytes()) if path.exists() else None,
    )


@pytest.mark.slow
async def test_the_whole_sample_is_sold_and_audited(tmp_path: Path) -> None:
    code, output, found = await replay(tmp_path, "seed=1")
    assert code == 0, output
    assert found["audit"]["passed"]
    checked = {check["name"]: check["checked"] for check in found["audit"]["checks"]}
    totals, happened = found["totals"], found["happened"]
    assert checked["stock as acknowledged"] == found["log"]["pools"] > 10_000
    assert checked["reservations found"] == totals["granted"] == happened["granted"] > 3000
    assert checked["ledger = store"] > checked["reservations found"]
    assert totals["refused"] == 0
    assert found["log"]["large_baskets"] == 4
    assert found["log"]["zero_lines"] > 50
    ends = [happened[end] for end in ("fulfilled", "released", "left_to_expire", "cancelled")]
    assert sum(ends) == totals["granted"]
    assert min(ends) > 0
    assert happened["repeated_calls"] > 200
    assert happened["units_granted"] == found["log"]["units"]
    assert happened["amends"].keys() == {
        f"{state} {way}" for state in ("reserved", "committed") for way in ("up", "down")
    }
    assert happened["returns"].keys() == {"restock", "damaged", "quarantine"}
    assert (
        min(*happened["amends"].values(), *happened["returns"].values(), happened["cancels"]) > 20
    )
    assert "audit     passed" in output


async def test_short_stock_is_refused_by_reason_and_still_adds_up(tmp_path: Path) -> None:
    code, output, found = await replay(
        *(tmp_path, "seed=2", "limit=400", "stock=0.9", "abandon=0.3", "ttl_seconds=1"),
        *("change=1", "cancel=0.5", "back=0.5"),
    )
    assert code == 0, output
    happened = found["happened"]
    assert min(happened["refused"], happened["amends_refused"]) > 0
    assert happened["amends"]["committed up"] > 0
    assert found["refusals"].keys() == {"on_hand"}
    assert happened["baskets"] == 400


async def test_a_log_with_malformed_rows_is_replayed_without_them(tmp_path: Path) -> None:
    lines = SAMPLE.read_text().splitlines(keepends=True)[:60]
    lines[10] = "not an order\n"
    log = tmp_path / "orders.csv"
    log.write_text("".join(lines))
    code, output, found = await replay(tmp_path, "abandon=0", log=log)
    assert code == 0, output
    assert "line 11: 1 cells instead of 6" in output
    assert found["log"]["malformed_rows"] == 1


async def test_what_cannot_be_run_says_so_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "orders.csv"
    log.write_text("when,what\n")
    code, output, found = await replay(tmp_path, log=log)
    assert (code, found) == (2, None)
    assert output.count("\n") == 1
    assert "the first line must be time,basket,channel,location,sku,quantity" in output


async def test_sigterm_stops_the_harness_and_the_service_it_started(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", "replay", str(SAMPLE), "--set", "speed=1"),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        started = await process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert started.startswith(b"run "), errors.decode()
    assert process.returncode == 130, errors.decode()
    assert os.listdir(tmp_path) == []
