"""``stockade keys`` as it is typed, and two workers that hear of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT, Service, until

KEY = re.compile(r"stockade_[a-z0-9]{16}\.[A-Za-z0-9_-]{43}")
FELT_SECONDS = 30.0
ASKED = 8  # new connections each time, so that both workers are


def run(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli", "keys", *words, "--data", str(data)],
        cwd=data.parent, capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def keys(data: Path, *words: str) -> str:
    """What a command that works prints."""
    done = run(data, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def statuses(url: str, key: str | None) -> set[int]:
    """What all workers answer to a key."""
    found = set()
    for _ in range(ASKED):
        request = urllib.request.Request(f"{url}/metrics")
        if key is not None:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found.add(answer.status)
        except urllib.error.HTTPError as error:
            found.add(error.code)
    return found


def test_two_workers_hear_of_every_change(tmp_path: Path) -> None:
    data = tmp_path / "var"

    def felt(key: str | None, status: int) -> None:
        until(lambda: statuses(url, key) == {status}, f"{status} everywhere", FELT_SECONDS)

    with Service("--data", str(data), "--workers", "2") as service:
        url = service.url()
        assert statuses(url, None) == {200}
        first = keys(data, "create", "--name", "watch", "--scope", "operate")
        assert KEY.fullmatch(first)
        felt(None, 401)
        assert statuses(url, first) == {200}
        made: dict[str, str] = json.loads(
            keys(data, "create", "--name", "web shop", "--scope", "reserve", "--channel", "web",
                 "--channel", "app", "--json")
        )  # fmt: skip
        felt(made["key"], 403)
        id = first.partition(".")[0]
        second = keys(data, "rotate", id, "--overlap", "600")
        assert second.startswith(f"{id}.")
        felt(second, 200)
        assert statuses(url, first) == {200}
        third: dict[str, str] = json.loads(keys(data, "rotate", id, "--overlap", "0", "--json"))
        felt(second, 401)
        felt(first, 401)
        felt(third["key"], 200)
        assert id in keys(data, "revoke", id)
        felt(third["key"], 401)
        rows: list[dict[str, Any]] = json.loads(keys(data, "list", "--json"))
        assert [(row["id"], row["name"], row["scopes"], row["channels"]) for row in rows] == [
            (id, "watch", ["operate"], None), (made["id"], "web shop", ["reserve"], ["app", "web"]),
        ]  # fmt: skip
        assert [row["revoked_at"] is None for row in rows] == [False, True]
        shown = keys(data, "list")
        assert "revoked" in shown
        for secret in (first, second, third["key"], made["key"]):
            assert secret.partition(".")[2] not in shown + json.dumps(rows)
    # With a key others may be served, if somebody says that it is not in the clear.
    with Service("--data", str(data), "--host", "0.0.0.0", "--plain-http", "true") as service:
        url = service.url().replace("0.0.0.0", "127.0.0.1")
        assert statuses(url, made["key"]) == {403}


@pytest.mark.parametrize("words", [("--host", "0.0.0.0", "--plain-http", "true")])
def test_others_are_not_served_without_a_key(tmp_path: Path, words: tuple[str, ...]) -> None:
    with Service("--data", str(tmp_path / "var"), *words) as service:
        status, _, told = service.finish()
        assert status == 1
        assert any("there is no API key to keep them out" in line for line in told)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "--name", "a", "--scope", "all"), "--scope all: there are reserve, fulfil"),
        (("create", "--name", "", "--scope", "operate"), "--name: expected"),
        (("create", "--name", "a", "--scope", "reserve", "--channel", "Web"), "--channel Web: "),
        (("create", "--name", "a", "--scope", "audit", "--channel", "web"), "--scope audit is"),
        (("rotate", "stockade_0123456789abcdef.s3cr3t"), "ID: expected what stands before"),
        (("revoke", "stockade_0123456789abcdef.s3cr3t"), "ID: expected what stands before"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(tmp_path / "var", *words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"stockade: {said}")
    assert done.stderr.count("\n") == 1
    assert "s3cr3t" not in done.stderr
    assert not (tmp_path / "var").exists()
