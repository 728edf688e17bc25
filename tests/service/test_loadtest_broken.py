"""A build without its guard against overselling: the harness must say so, and by how much."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.processes import ROOT
from tests.service.test_loadtest import loadtest

# Whether the row is still the one that the plan was made on: the optimistic lock itself.
GUARD = "    if text ~= old then\n"
NONE = "    if false then\n"


def broken(directory: Path) -> Path:
    """A copy of the service, and of the harness, in which workers overwrite each other."""
    for part in ("core", "api", "loadtest"):
        shutil.copytree(
            ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__", "data")
        )
    rows = directory / "core" / "store" / "lua" / "parts" / "rows.lua"
    text = rows.read_text()
    assert text.count(GUARD) == 1
    rows.write_text(text.replace(GUARD, NONE))
    return directory


async def test_a_build_without_its_guard_is_found_to_oversell(tmp_path: Path) -> None:
    # Its scribe refuses a history that cannot be, so the ledger does not catch up.
    # So many workers that some of them meet, however few of them a busy machine lets have callers.
    settings = "buyers=1000 units=400 seconds=1 workers=4 seed=7"
    settings += " patience_seconds=1 ledger_seconds=1"
    build = broken(tmp_path / "build")
    code, output, found = await loadtest(tmp_path, "flash-sale", settings, build)
    assert code == 1, output
    assert found["audit"]["oversold"] > 0
    assert not found["audit"]["passed"]
    failed = {check["name"] for check in found["audit"]["checks"] if not check["passed"]}
    assert "no oversell" in failed
    assert f"oversold {found['audit']['oversold']}" in output
    assert "are promised of 400" in output
    assert "the ledger has events up to" in output
