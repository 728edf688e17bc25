"""docs/OPERATIONS.md does what it says: its commands are run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT, Service, until
from tests.service.test_reconcile_command import call, reconcile

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_reading_a_reconciliation(tmp_path: Path) -> None:
    """Step by step beside a running service, of whose 40 ``tee-m`` three are broken."""
    page = (ROOT / "docs" / "OPERATIONS.md").read_text()
    section = page.partition("## Reading a reconciliation")[2].partition("\n## ")[0]
    command = tmp_path / "stockade"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m api.cli "$@"\n')
    command.chmod(0o755)
    environ = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with Service("--data", str(tmp_path / "var")) as service:
        url = service.url()
        call("PUT", f"{url}/v1/channels/web", {})
        call("PUT", f"{url}/v1/skus/tee-m", {})
        lines = [{"sku": "tee-m", "location": "main", "quantity": 40}]
        call("POST", f"{url}/v1/stock/receive", {"lines": lines})
        until(
            lambda: call("GET", f"{url}/readyz")["ledger"]["lag"]["events"] == 0,
            "the ledger has it",
        )
        blocks = BLOCK.findall(section)
        assert len(blocks) == 5
        said = ""
        for block in blocks:
            done = subprocess.run(
                ["sh", "-ec", block], cwd=tmp_path, env=environ, capture_output=True, text=True,
                check=False, timeout=300,
            )  # fmt: skip
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            said += done.stdout
        for words in (
            "shrinkage", "would be repaired: adjust by -3", "three broken at the photo shoot (ann)",
            "repaired: adjust by -3", "differences  0",
        ):  # fmt: skip
            assert words in said, words
        assert call("GET", f"{url}/v1/stock/tee-m")["pools"][0]["on_hand"] == 37
        assert call("GET", f"{url}/v1/reconciliations/latest")["differences"] == []
    assert reconcile(tmp_path / "var")[0] == 0
