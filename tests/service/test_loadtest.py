"""Small crowds against a real service, both started by the harness: exact, and told."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.processes import ROOT

LIMIT_S = 600
BUYERS = 300


async def loadtest(
    tmp_path: Path, scenario: str, settings: str = "", build: Path = ROOT
) -> tuple[int, str, Any]:
    """Exit code, what was printed, and the document, if the run came that far.

    ``build``: where the service and the harness are taken from.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "loadtest", scenario, "--output", str(tmp_path)),
        *(part for setting in settings.split() for part in ("--set", setting)),
        cwd=build,
        env={**os.environ, "PYTHONPATH": str(build)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    path = tmp_path / "report.json"
    document = json.loads(path.read_bytes()) if path.exists() else None
    return process.returncode, output.decode(), document


async def test_a_drop_sells_out_and_nothing_is_sold_twice(tmp_path: Path) -> None:
    code, output, found = await loadtest(
        tmp_path,
        "flash-sale",
        f"buyers={BUYERS} units=40 seconds=2 seed=7 processes=2 double_click=0.3 retry=0.2",
    )
    assert code == 0, output
    totals, happened = found["totals"], found["happened"]
    assert found["audit"]["passed"]
    assert found["audit"]["oversold"] == 0
    assert (found["model"], found["seed"]) == ("open", 7)
    assert found["generator"]["processes"] == 2
    assert happened["baskets"] == BUYERS
    assert happened["granted"] == totals["granted"] >= 40
    assert totals["refused"] > 150
    assert {"on_hand"} <= found["refusals"].keys()
    assert min(happened["pressed_twice"], happened["hasty"], happened["paid"]) > 0
    assert totals["asked"] == totals["answered"] + totals["unanswered"] + totals["gave_up"]
    assert sum(second["asked"] for second in found["timeline"]) == totals["asked"]
    quota = found["timeline"][0]["quota"]
    assert quota.keys() == {"loadtest-web", "loadtest-app"}
    checked = {check["name"]: check["checked"] for check in found["audit"]["checks"]}
    assert checked["reservations found"] == happened["granted"]
    assert checked["keys answered once"] >= happened["pressed_twice"]
    assert checked["ledger = store"] > 3 * happened["paid"]
    assert "audit     passed: oversold 0" in output


async def test_a_promotion_keeps_quotas_while_more_arrives_and_is_counted(tmp_path: Path) -> None:
    code, output, found = await loadtest(
        tmp_path,
        "promotion",
        "buyers=200 seconds=2 skus=30 restocks=20 counts=20 seed=7 change=0.5 cancel=0.5 back=0.9 "
        "fulfil=0.9 extend=0.3 real_seconds=60 pay_seconds=1 pause_seconds=1 ttl_seconds=90",
    )
    assert code == 0, output
    happened = found["happened"]
    assert (happened["restocked"], happened["counted"]) == (20, 20)
    assert min(happened["extended"], happened["cancels"], happened["fulfilled"]) > 0
    assert happened["returns"].keys() == {"restock", "damaged", "quarantine"}
    assert found["refusals"].keys() >= {"channel_quota", "channel_ceiling"}
    assert "<html" in (tmp_path / "report.html").read_text()


async def test_a_search_within_a_bound_that_nothing_keeps_finds_no_knee(tmp_path: Path) -> None:
    """Two steps are enough to see that the second comes with baskets that are new."""
    code, output, found = await loadtest(
        tmp_path, "find-limit", "rate=3 step_seconds=1.5 p99_ms=0.001 skus=3"
    )
    assert code == 0, output
    steps = found["find_limit"]["steps"]
    assert [step["passed"] for step in steps] == [False, False]
    assert steps[0]["rate"] > steps[1]["rate"] > 0
    assert found["find_limit"]["knee"] == 0
    assert found["totals"]["granted"] == 4 + 2  # of 3 and of 1.5 a second
    assert "knee      0 requests a second" in output


async def test_a_scenario_that_is_none_says_so_in_one_line(tmp_path: Path) -> None:
    code, output, found = await loadtest(tmp_path, "flash-sail")
    assert (code, found) == (2, None)
    assert output.startswith("flash-sail: expected one of find-limit, flash-sale, ")
    assert output.count("\n") == 1
