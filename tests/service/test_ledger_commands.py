"""``stockade export`` and ``stockade show`` as they are typed: beside a running service, and with
servers of their own."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.listening import Shop
from tests.processes import Service

COMMAND = (sys.executable, "-m", "api.cli")
DAY = "2020-01-01"


def run(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on a data directory."""
    return subprocess.run(
        [*COMMAND, *words, "--data", str(data)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def told(data: Path, *words: str) -> str:
    """The output of a command that must work."""
    done = run(data, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sell(shop: Shop) -> str:
    """A sale from beginning to end, with a wild reference; its id."""
    basket = {
        "channel": "web", "lines": [{"sku": "tee", "quantity": 2}], "reference": "=HYPERLINK(1)",
        "customer": "zoe",
    }  # fmt: skip
    id = str(shop.ask("POST", "/v1/reservations", basket)["id"])
    shop.ask("POST", f"/v1/reservations/{id}/commit", {"durability": "ledger"})
    shop.ask("POST", f"/v1/reservations/{id}/fulfil", {})
    adjust = {"lines": [{"sku": "tee", "location": "main", "delta": -3}], "reason": "@lost"}
    shop.ask("POST", "/v1/stock/adjust", adjust)
    last = shop.ask("POST", "/v1/reservations", basket)["id"]
    shop.ask("POST", f"/v1/reservations/{last}/commit", {"durability": "ledger"})
    return id


def check(data: Path, id: str, output: Path) -> dict[str, str]:
    """What the commands say of it."""
    said = {
        form: told(data, "export", "movements", "--since", DAY, "--format", form)
        for form in ("csv", "jsonl")
    }
    documents = [json.loads(line) for line in said["jsonl"].splitlines()]
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert len(rows) == len(documents) > 5
    for row, document in zip(rows, documents, strict=True):
        assert row.keys() >= document.keys()
        assert {name: row[name].removeprefix("'") for name in document} == {
            name: str(value) for name, value in document.items()
        }
    mine = [row for row in rows if row["reservation"] == id]
    assert [row["verb"] for row in mine] == ["reserve", "commit", "fulfil"]
    assert {row["reference"] for row in mine} == {"'=HYPERLINK(1)"}
    assert {row["reason"] for row in rows if row["verb"] == "adjust"} == {"'@lost"}
    whole = run(data, "export", "movements", "--since", DAY, "--output", str(output))
    assert (whole.returncode, whole.stdout, output.read_text()) == (0, "", said["csv"])
    assert os.listdir(output.parent) == [output.name]
    later = told(data, "export", "movements", "--since", "2099-01-01T00:00:00Z")
    assert later.count("\n") == 1
    reservations = told(data, "export", "reservations", "--since", DAY, "--format", "jsonl")
    states = [json.loads(line)["state"] for line in reservations.splitlines()]
    assert states == ["committed", "fulfilled"]
    lines = list(csv.DictReader(io.StringIO(told(data, "export", "reservations", "--since", DAY))))
    assert [(row["state"], row["sku"], row["quantity"]) for row in lines] == [
        ("committed", "tee", "2"), ("fulfilled", "tee", "2"),
    ]  # fmt: skip
    return {"reservation": told(data, "show", id), "sku": told(data, "show", "tee")}


def check_people(data: Path, id: str) -> None:
    """Whose a reservation is says a command only if it is asked to."""
    whole = ("export", "reservations", "--since", DAY)
    for words in (whole, ("show", id)):
        masked, shown = told(data, *words), told(data, *words, "--pii")
        assert "zoe" not in masked
        assert shown.count("zoe") == masked.count("***") > 0


def test_they_tell_the_same_beside_a_service_and_alone(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out" / "movements.csv"
    output.parent.mkdir()
    with Service("--data", str(data)) as service:
        shop = Shop(service)
        id = sell(shop)
        beside = check(data, id, output)
        check_people(data, id)
        shop.caller.close()
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0
    alone = check(data, id, output)
    assert alone == beside
    for line in "\n".join(alone.values()).splitlines():
        assert len(line) <= 100, line
    story = alone["reservation"].splitlines()
    assert story[0] == f"reservation {id}"
    assert "  in the store   fulfilled, version 3" in story[2]
    assert "  in the ledger  fulfilled, version 3" in story[3]
    verbs = [line.split()[2] for line in story[story.index("versions") + 1 :][:3]]
    assert verbs == ["reserve", "commit", "fulfil"]
    assert "  tee@main  2 units  borrowed 2  fulfilled 2" in story
    sku = alone["sku"].splitlines()
    assert "  web  free 0  reserved 0  committed 2  available 99993" in sku
    assert any("adjust" in line and "reason @lost" in line for line in sku)


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("show", "a b"), 1, "stockade: 'a b' is neither the id of a reservation nor a SKU"),
        (("export", "movements"), 2, "--since"),
        (("export", "movements", "--since", "x"), 2, "'x' is not a time"),
        (("export", "all", "--since", DAY), 2, "invalid choice"),
        (("export", "movements", "--since", DAY, "--output", "/nowhere/x"), 1,
         "stockade: /nowhere/x cannot be written: No such file or directory"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, words: tuple[str, ...], status: int, line: str
) -> None:
    done = run(tmp_path / "data", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "data").exists()


def test_who_reads_only_the_beginning_is_left_in_peace(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Service("--data", str(data)) as service:
        shop = Shop(service)
        basket: Any = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}]}
        for _ in range(4):
            shop.ask("POST", "/v1/reservations/batch", {"reservations": [basket] * 1_000})
        last = shop.ask("POST", "/v1/reservations", basket)["id"]
        shop.ask("POST", f"/v1/reservations/{last}/commit", {"durability": "ledger"})
        command = [*COMMAND, "export", "movements", "--since", DAY, "--data", str(data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
            assert export.stdout is not None
            assert export.stdout.readline().startswith(b"position,")
            export.stdout.close()
            assert export.stderr is not None
            assert export.stderr.read() == b""
            assert export.wait(60) == 141
        unknown = run(data, "show", "nothing")
        assert unknown.returncode == 1
        assert unknown.stderr == "stockade: neither the store nor the ledger knows nothing\n"
        shop.caller.close()
