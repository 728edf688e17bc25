"""The command line: what it shows, and complaints of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli import main
from core.settings import Settings, flag

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(arguments: list[str], capsys: Captured) -> tuple[int, str]:
    """The status and the one line of a command that must not work."""
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(str(stopped.code))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("stockade: ")
    assert told.err.count("\n") == 1
    return status, told.err


def test_settings_shows_value_and_origin(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_VALKEY_URL", "redis://:secret@h:1")
    Path("stockade.toml").write_text("workers = 2\n")
    assert main(["settings", "--port", "0"]) == 0
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in _lines(capsys)}
    assert list(lines) == list(Settings.__struct_fields__)
    assert lines["port"] == ["0", "flag --port"]
    assert lines["workers"] == ["2", str(Path.cwd() / "stockade.toml")]
    assert lines["valkey_url"] == ["redis://:***@h:1", "environment STOCKADE_VALKEY_URL"]
    assert lines["valkey_bin"] == ["-", "default"]


def test_settings_as_json(capsys: Captured) -> None:
    assert main(["settings", "--format", "json", "--data", "/srv"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["data"] == {"name": "data", "value": "/srv", "origin": "flag --data"}
    assert rows["port"]["value"] == 8080
    assert rows["valkey_url"]["value"] is None


def test_every_setting_is_a_flag_with_help(capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "--help"])
    assert stopped.value.code == 0
    told = capsys.readouterr().out
    assert all(flag(name) in told for name in Settings.__struct_fields__)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serf"],
        ["serve", "--prot", "1"],
        ["serve", "--por", "1"],
        ["serve", "--port"],
        ["serve", "--port", "x"],
        ["settings", "--format", "xml"],
        ["import"],
        ["import", "a.csv", "b.csv"],
        ["clock"],
        ["clock", "refuse"],
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(
    arguments: list[str], capsys: Captured
) -> None:
    status, _ = complaint(arguments, capsys)
    assert status == 2


@pytest.mark.parametrize(
    ("arguments", "bounds"),
    [
        (["keys", "rotate", "stockade_x", "--overlap", "-1"], "0 to 2592000, not '-1'"),
        (["keys", "create", "--rate", "none"], "1 to 1000000, not 'none'"),
        (["top", "--interval", "nan"], "0.1 to 3600.0, not 'nan'"),
    ],
)
def test_a_number_out_of_bounds_is_told_its_bounds(
    arguments: list[str], bounds: str, capsys: Captured
) -> None:
    status, told = complaint(arguments, capsys)
    assert (status, f"expected a number from {bounds}" in told) == (2, True), told


def test_a_wrong_variable_is_one_line_and_status_2(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_PROT", "1")
    assert complaint(["serve"], capsys) == (
        2,
        "stockade: environment STOCKADE_PROT: there is no such setting\n",
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_host_that_others_can_reach_is_refused(host: str, capsys: Captured) -> None:
    status, told = complaint(["serve", "--host", host, "--port", "0"], capsys)
    assert (status, "in the clear" in told) == (1, True)


def test_a_host_that_is_no_address_is_refused(capsys: Captured) -> None:
    status, told = complaint(["serve", "--host", "no such host", "--port", "0"], capsys)
    assert (status, "is not an address" in told) == (1, True)


def test_the_clock_of_no_service_cannot_be_accepted(capsys: Captured) -> None:
    status, told = complaint(["clock", "accept", "--data", "nothing"], capsys)
    assert (status, "no service runs on nothing" in told) == (1, True)


def _lines(capsys: Captured) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_migrating_needs_the_owner(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate"]) == 1
    assert "postgres_owner_dsn" in capsys.readouterr().err
