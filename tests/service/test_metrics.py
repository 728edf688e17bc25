"""``/metrics`` of a service of several processes: right whoever answers, and whoever died."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from core.meters import FAMILIES
from tests.processes import ROOT, Service, until

WORKERS = 2
UNITS = 30
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


def ask(url: str, method: str, path: str, body: Any = None, accept: str = "") -> tuple[int, str]:
    """One request on a connection of its own, so that any of the workers may answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    headers = {"content-type": "application/json", "accept": accept}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    with connection.getresponse() as answer:
        found = answer.status, answer.read().decode()
    connection.close()
    return found


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Name, then values of its labels in the order of their names → value."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def scrape(url: str) -> dict[tuple[str, ...], float]:
    status, text = ask(url, "GET", "/metrics")
    assert status == 200
    return samples(text)


def reservations(found: dict[tuple[str, ...], float], verb: str, outcome: str) -> float:
    """Of the channel ``web``, for whatever reason."""
    return sum(
        value
        for (name, *labels), value in found.items()
        if name == "stockade_reservations_total"
        and (labels[0], labels[1], labels[3]) == ("web", outcome, verb)
    )


def sell(url: str, count: int) -> list[str]:
    """Reserves of one unit each; the ids of those that were granted."""
    ids = []
    for _ in range(count):
        basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        status, text = ask(url, "POST", "/v1/reservations", basket)
        if status == 201:
            ids.append(json.loads(text)["id"])
    return ids


def test_numbers_are_right_with_several_workers_and_after_a_kill(tmp_path: Path) -> None:
    with Service("--data", str(tmp_path / "data"), "--workers", str(WORKERS)) as service:
        url = service.url()
        first = re.search(r"process (\d+)", service.hears("a worker runs as process"))
        assert first is not None
        assert ask(url, "PUT", "/v1/channels/web", {"borrow": True})[0] == 201
        assert ask(url, "PUT", "/v1/skus/tee", {})[0] == 201
        line = {"sku": "tee", "location": "main", "quantity": UNITS}
        assert ask(url, "POST", "/v1/stock/receive", {"lines": [line]})[0] == 200
        ids = sell(url, UNITS + 10)
        assert len(ids) == UNITS
        for _ in range(2):
            assert ask(url, "POST", f"/v1/reservations/{ids[0]}/commit", {})[0] == 200
        assert ask(url, "POST", f"/v1/reservations/{ids[1]}/release", {})[0] == 200

        for _ in range(6):  # whoever is asked
            found = scrape(url)
            assert reservations(found, "reserve", "done") == UNITS
            assert reservations(found, "reserve", "refused") == 10
            assert reservations(found, "commit", "done") == 1
            assert reservations(found, "commit", "repeated") == 1
            assert reservations(found, "release", "done") == 1
        route = ("POST", "/v1/reservations")
        assert found["stockade_http_requests_total", *route, "201"] == UNITS
        assert found["stockade_http_requests_total", *route, "409"] == 10
        assert found["stockade_http_request_duration_seconds_count", *route] == UNITS + 10
        waits = "stockade_queue_wait_seconds"
        assert found[f"{waits}_count", "reserve"] == UNITS + 10
        assert found[f"{waits}_bucket", "+Inf", "reserve"] == UNITS + 10
        assert found["stockade_stock_lines_total", "done", "", "receive"] == 1
        assert found["stockade_store_durability", "fsync"] == 1
        until(lambda: scrape(url).get(("stockade_workers", "ready")) == WORKERS, "both beat")

        # What a process had counted stays when it is killed, and its successor goes on from there.
        os.kill(int(first[1]), signal.SIGKILL)
        service.hears("a worker runs again")
        assert len(sell(url, 1)) == 1  # the one that was released
        found = scrape(url)
        assert reservations(found, "reserve", "done") == UNITS + 1
        assert found["stockade_process_starts_total", "worker"] == WORKERS + 1

        until(lambda: scrape(url)["stockade_ledger_lag_events",] == 0, "the ledger has all")
        done = subprocess.run(
            [sys.executable, "-m", "api.cli", "top", "--once", "--interval", "0.2", "--url", url],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{WORKERS} ready" in done.stdout
        assert "durability fsync" in done.stdout
        until(lambda: ("stockade_watch_timestamp_seconds",) in scrape(url), "the ledger is watched")
        found = scrape(url)
        assert found["stockade_drift_open_cases",] == 0
        assert found["stockade_deficit_units",] == 0
        check_documents(url)


def check_documents(url: str) -> None:
    """The text is what Prometheus reads, whichever of its formats it asks for."""
    _, text = ask(url, "GET", "/metrics", accept=PLAIN)
    shown = {family.name for family in parse(text)}
    assert shown <= {name.removesuffix("_total") for name in FAMILIES}
    for name in ("stockade_ledger_backlog_bytes", "stockade_store_memory_bytes"):
        assert name in shown
    if shutil.which("promtool") is not None:
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    _, text = ask(url, "GET", "/metrics", accept=accept)
    families = parse_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == shown
