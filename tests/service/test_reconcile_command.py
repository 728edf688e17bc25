"""``stockade reconcile`` as a process: beside a running service, and alone on its data."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from core.embedded.valkey import find_running
from core.store import keys
from tests.processes import ROOT, Service

COMMAND_SECONDS = 300.0


def reconcile(data: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, output, errors."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "reconcile", "--data", str(data), *words],
        cwd=data.parent, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def call(method: str, url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "var"


@pytest.fixture
def service(data: Path) -> Iterator[Service]:
    """A service with 60 ``tee`` of which one is sold."""
    with Service("--data", str(data)) as running:
        url = running.url()
        call("PUT", f"{url}/v1/channels/web", {})
        call("PUT", f"{url}/v1/skus/tee", {})
        lines = [{"sku": "tee", "location": "main", "quantity": 60}]
        call("POST", f"{url}/v1/stock/receive", {"lines": lines})
        basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        call("POST", f"{url}/v1/reservations", {**basket, "durability": "ledger"})
        yield running


def damage(data: Path) -> None:
    """Two units appear in the store, behind everybody's back."""
    url = find_running(data)
    assert url is not None
    with redis.Redis.from_url(url, decode_responses=True) as store:
        pools = keys.POOLS.decode()
        row = str(store.hget(pools, "tee@main"))
        assert " 59,0," in row
        store.hset(pools, "tee@main", row.replace(" 59,0,", " 61,0,"))


def test_from_a_difference_to_none(service: Service, data: Path, tmp_path: Path) -> None:
    """0 where there is none, 1 where there is, whatever the form; repaired, 0 again; and the
    service that ran all the time goes on."""
    status, text, errors = reconcile(data, "--format", "json")
    document = json.loads(text)
    assert (status, document["differences"], document["variance_rate"]) == (0, [], 0.0), errors
    assert (document["checked"], document["pools"], document["reservations"]) == (2, 1, 1)
    assert document["position"] > 0

    damage(data)
    for form in ("text", "json", "csv", "html"):
        status, text, _ = reconcile(data, "--format", form)
        assert (status, "store_edited" in text, "tee@main" in text) == (1, True, True), form
    (row,) = csv.DictReader(io.StringIO(reconcile(data, "--format", "csv")[1]))
    assert (row["case"], row["units"], row["state"]) == ("1", "2", "open")
    page = tmp_path / "page.html"
    status, text, _ = reconcile(data, "--format", "html", "--output", str(page), "--sku", "tee")
    assert (status, text) == (1, "")
    assert page.read_text().endswith("</html>\n")
    assert [each.name for each in tmp_path.iterdir() if "page" in each.name] == ["page.html"]

    assert reconcile(data, "explain", "1", "--note", "=we know", "--by", "ann")[0] == 0
    status, text, _ = reconcile(data, "cases", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (status, row["state"], row["person"]) == (0, "explained", "ann")
    assert row["note"] == "'=we know"

    status, text, _ = reconcile(data, "--repair")
    assert status == 1
    assert "would be repaired: the row becomes" in text
    assert "Nothing was changed; with --yes it is done." in text
    assert reconcile(data)[0] == 1
    status, text, _ = reconcile(data, "--repair", "--yes", "--by", "ann", "--format", "json")
    document = json.loads(text)
    assert (status, document["differences"][0]["state"]) == (0, "repaired")
    assert document["repairs"][0]["state"] == "done"
    assert reconcile(data, "--full")[0] == 0

    service.signal(signal.SIGTERM)
    assert service.finish()[0] == 0
    # Alone on the data it starts the servers for its own time.
    status, text, errors = reconcile(data, "--format", "json", "--full")
    document = json.loads(text)
    assert (status, document["differences"], document["reservations"]) == (0, [], 1), errors
    assert find_running(data) is None
    # And it mends there as well, with nobody else to carry the event into the ledger.
    with Service("--data", str(data)) as again:
        again.url()
        damage(data)
    assert reconcile(data, "--repair", "--yes")[0] == 0
    assert reconcile(data, "--full")[0] == 0


def test_counts_from_the_command_line(service: Service, data: Path, tmp_path: Path) -> None:
    counts, bad = tmp_path / "counts.csv", tmp_path / "bad.csv"
    counts.write_text("sku,location,counted\ntee,main,58\n")
    bad.write_text("sku,location,counted\ntee,main,58\ntee,main,many\n")
    status, text, _ = reconcile(data, "--counts", str(counts))
    assert (status, "shrinkage" in text, "2 of 60 counted" in text) == (1, True, True)
    status, text, errors = reconcile(data, "--counts", str(bad))
    assert (status, text) == (2, "")
    assert errors.startswith("bad.csv:3: counted: expected a whole number")
    assert reconcile(data, "--counts", str(counts), "--repair", "--yes")[0] == 1
    booked = reconcile(data, "--counts", str(counts), "--repair", "--yes", "--apply-counts")
    assert booked[0] == 0
    assert reconcile(data, "--counts", str(counts))[0] == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--yes"], "--yes needs --repair"),
        (["--apply-counts"], "--apply-counts needs --repair"),
        (["--apply-counts", "--repair"], "--apply-counts needs --counts"),
        (["--format", "xml"], "invalid choice"),
        (["--counts", "none.csv"], "cannot be read"),
        (["explain", "1"], "are required"),
        (["explain", "1", "--note", " ", "--by", "ann"], "must say something"),
    ],
)
def test_a_wrong_command_line(data: Path, words: list[str], why: str) -> None:
    """One line, status 2, and no server is started for it."""
    status, text, errors = reconcile(data, *words)
    assert (status, text, errors.count("\n")) == (2, "", 1), errors
    assert why in errors
    assert not data.exists()


def test_what_cannot_be_done_is_one_line(service: Service, data: Path, tmp_path: Path) -> None:
    status, _, errors = reconcile(data, "explain", "99", "--note", "x", "--by", "ann")
    assert (status, errors) == (
        1, "stockade: there is no open case 99; see stockade reconcile cases\n",
    )  # fmt: skip
    status, _, errors = reconcile(data, "--output", str(tmp_path / "none" / "report"))
    assert status == 1
    assert "cannot be written: No such file or directory" in errors.splitlines()[-1]
