"""``stockade mode`` as it is typed, beside a running service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.processes import ROOT, Service, until

COMMAND_SECONDS = 300.0


def mode(data: Path, *words: str) -> str:
    """What the command says."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "mode", *words, "--data", str(data)],
        cwd=data.parent, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_is_switched_shown_and_outlives_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "var"

    def shown(url: str) -> Any:
        with urllib.request.urlopen(f"{url}/readyz", timeout=20) as answer:
            return json.loads(answer.read())["mode"]

    with Service("--data", str(data)) as service:
        url = service.url()
        assert mode(data) == "normal"
        said = mode(data, "protect", "--reason", "counts are off", "--by", "ann")
        until(lambda: bool(shown(url)["protect"]), "the service heard of it")
        found = shown(url)
        assert (found["version"], found["by"], found["reason"]) == (1, "ann", "counts are off")
        assert said == f"protect, since {found['at']}, by ann: counts are off"
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    with Service("--data", str(data)) as service:
        url = service.url()
        assert shown(url) == found
        assert mode(data) == said
        assert mode(data, "normal", "--by", "ben").startswith("normal, since ")
        until(lambda: not shown(url)["protect"], "the service heard of it")
