"""``stockade import`` as it is typed: beside a running service, alone, killed, and what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Service, until

COMMAND = (sys.executable, "-m", "api.cli", "import")
HEADER = "sku,location,quantity\n"


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command in a directory, with its data in ``data`` there."""
    return subprocess.run(
        [*COMMAND, *words, "--data", "data"],
        cwd=directory, env=environ(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def environ() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def many(path: Path, count: int) -> None:
    path.write_text(HEADER + "".join(f"sku-{n:06d},main,2\n" for n in range(count)))


def stock(url: str, sku: str) -> Any:
    """What the service says is there."""
    with urllib.request.urlopen(f"{url}/v1/stock/{sku}", timeout=20) as answer:
        return json.loads(answer.read())


def test_it_starts_the_store_for_its_own_time(tmp_path: Path) -> None:
    many(tmp_path / "stock.csv", 3)
    done = run(tmp_path, "stock.csv")
    assert (done.returncode, done.stdout) == (
        0, "stock.csv: 3 of 3 rows applied: 3 new SKUs, 6 units\n",
    )  # fmt: skip
    again = run(tmp_path, "stock.csv")
    assert again.returncode == 0
    assert again.stdout.startswith("stock.csv: these 3 rows were imported before (20")
    assert again.stdout.endswith("); nothing was applied\n")
    with Service("--data", str(tmp_path / "data")) as service:
        assert stock(service.url(), "sku-000002")["pools"][0]["on_hand"] == 2


def test_it_works_beside_the_service_of_that_directory(tmp_path: Path) -> None:
    many(tmp_path / "stock.csv", 1_500)
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        done = run(tmp_path, "stock.csv")
        assert (done.returncode, done.stderr.count("imported 1,500 rows, 100%")) == (0, 1)
        assert stock(url, "sku-001499")["pools"][0]["on_hand"] == 2


def test_a_killed_command_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """SIGKILL in the middle, as often as it takes; every row counts once."""
    rows = 30_000
    many(tmp_path / "stock.csv", rows)
    with Service("--data", str(tmp_path / "data")) as service:
        url = service.url()
        process = subprocess.Popen(
            [*COMMAND, "stock.csv", "--data", "data"], cwd=tmp_path, env=environ(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def begun() -> bool:
            with urllib.request.urlopen(f"{url}/v1/stock?limit=1", timeout=20) as answer:
                return bool(json.loads(answer.read())["items"])

        until(begun, "the first rows")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        done = run(tmp_path, "stock.csv")
        assert done.returncode == 0, done.stderr
        assert "rows applied after the first " in done.stdout
        assert {stock(url, f"sku-{n:06d}")["pools"][0]["on_hand"] for n in range(0, rows, 499)} == {
            2
        }
        assert {stock(url, f"sku-{n:06d}")["pools"][0]["version"] for n in (0, rows - 1)} == {1}


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (None, [], "stockade: stock.csv cannot be read: No such file or directory\n"),
        ("sku;quantity\n", [], "stockade: stock.csv: its first line has no comma"),
        (HEADER + "tee,main,x\n", [], "stock.csv:2: quantity is 'x'; expected"),
        (HEADER, ["--orders"], "stockade: stock.csv: the column 'order' is missing"),
    ],
)
def test_what_cannot_be_imported_is_told_with_status_1(
    tmp_path: Path, content: str | None, words: list[str], said: str
) -> None:
    if content is not None:
        (tmp_path / "stock.csv").write_text(content)
    done = run(tmp_path, "stock.csv", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("stockade: stock.csv")


def test_more_than_a_hundred_bad_rows_are_counted(tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text(HEADER + "t t,main,1\n" * 150 + "tee,main,1\n")
    done = run(tmp_path, "stock.csv")
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert sum(line.startswith("stock.csv:") for line in lines) == 101
    assert lines[-2] == "stock.csv: and 50 more"
    assert lines[-1] == (
        "stockade: stock.csv: 150 rows of 151 cannot be imported; nothing was applied. "
        "Mend them, or leave them out with --skip-bad"
    )
    done = run(tmp_path, "stock.csv", "--skip-bad")
    assert done.returncode == 0
    assert done.stdout == (
        "stock.csv: 1 of 151 rows applied; 150 were left out: 1 new SKUs, 1 units\n"
    )
