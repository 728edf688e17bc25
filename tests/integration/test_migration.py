"""docs/MIGRATION.md does what it says: its commands are run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, Service

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A reader has one shell for all blocks; here each has its own, and finds the variables there.
STATE = "declare -p S H > state 2>/dev/null || true"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The two services that the page starts, by the port that it gives them."""
    with (
        Service("--data", str(tmp_path / "shadow")) as shadow,
        Service("--data", str(tmp_path / "var")) as real,
    ):
        yield {"8081": shadow.url().rpartition(":")[2], "8080": real.url().rpartition(":")[2]}


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands use curl")
def test_the_page_from_top_to_bottom(tmp_path: Path, services: dict[str, str]) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    command = binaries / "stockade"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m api.cli "$@"\n')
    command.chmod(0o755)
    environ = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_PROXY": "*",
    }  # fmt: skip
    told = []
    for block in BLOCK.findall((ROOT / "docs" / "MIGRATION.md").read_text()):
        if block.startswith("stockade serve"):
            assert re.search(r"--port (\d+)", block)[1] in services  # type: ignore[index]
            continue
        for port, actual in services.items():
            block = block.replace(f":{port}", f":{actual}")
        script = f"set -e; [ ! -f state ] || . ./state\n{block}\n{STATE}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        told.append(done.stdout)
    page = "".join(told)
    assert "stock.csv: 4 of 4 rows applied: 3 new SKUs, 60 units" in page
    assert "orders.csv: 3 of 3 rows applied: 2 orders, 4 units" in page
    assert "4 rows, 0 differences" in page
    assert re.search(r"3 same$", page, re.MULTILINE)
    assert "1 different: old yes, new no (409) order-4 web cap 9" in page
    assert '"code":"unknown_sku"' in page
    assert "group-1-orders.csv: 1 of 1 rows applied: 1 orders, 1 units" in page
    assert '"state":"reserved"' in page
    assert '"on_hand":12' in page
