"""Settings: precedence, origins, refusals, and secrets that stay secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import settings as module
from core.errors import StartRefused
from core.settings import Settings, load, masked_url


def refusal(flags: dict[str, str | None], environ: dict[str, str], directory: Path) -> str:
    with pytest.raises(StartRefused) as caught:
        load(flags, environ, directory)
    assert "\n" not in caught.value.detail
    return caught.value.detail


def test_defaults(tmp_path: Path) -> None:
    loaded = load({}, {"PATH": "/bin"}, tmp_path)
    assert loaded.settings == Settings()
    assert set(loaded.by_name.values()) == {"default"}
    assert (loaded.settings.host, loaded.settings.port) == ("127.0.0.1", 8080)


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "stockade.toml").write_text("port = 1\nworkers = 2\nstaleness_ms = 0\n")
    environ = {"STOCKADE_PORT": "2", "STOCKADE_WORKERS": "4", "STOCKADE_DATA": "/srv/stock"}
    loaded = load({"port": "3", "host": None}, environ, tmp_path)
    assert (loaded.settings.port, loaded.settings.workers) == (3, 4)
    assert loaded.settings.staleness_ms == 0
    assert loaded.settings.data == Path("/srv/stock")
    assert loaded.by_name["port"] == "flag --port"
    assert loaded.by_name["workers"] == "environment STOCKADE_WORKERS"
    assert loaded.by_name["staleness_ms"] == str(tmp_path / "stockade.toml")
    assert loaded.by_name["host"] == "default"


def test_an_empty_variable_counts_as_absent(tmp_path: Path) -> None:
    loaded = load({}, {"STOCKADE_VALKEY_URL": "", "STOCKADE_CONFIG": ""}, tmp_path)
    assert loaded.settings.valkey_url is None
    assert loaded.by_name["valkey_url"] == "default"


def test_the_file_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('durability = "memory"\n')
    environ = {"STOCKADE_CONFIG": str(tmp_path / "other.toml")}
    assert load({}, environ, Path("/")).settings.durability == "memory"
    environ = {"STOCKADE_CONFIG": "missing.toml"}
    assert "does not exist" in refusal({}, environ, tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("port", "80.5"),
        ("workers", "0"),
        ("workers", "65"),
        ("host", None),
        ("valkey_maxmemory_bytes", "1"),
        ("valkey_maxmemory_bytes", "1gb"),
        ("durability", "ledger"),
        ("customer_retention_days", "0"),
        ("staleness_ms", "1001"),
        ("key_window_seconds", "3599"),
        ("goods_key_window_seconds", "604799"),
        ("queue_limit", "0"),
        ("store_timeout_seconds", "0"),
        ("store_timeout_seconds", "nan"),
        ("store_timeout_seconds", "inf"),
        ("drain_seconds", "1e3x"),
        ("log_level", "loud"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(
    name: str, text: str | None, tmp_path: Path
) -> None:
    told = refusal({name: text or ""}, {}, tmp_path)
    assert told.startswith(f"flag {module.flag(name)}: {name} must be ")
    if text is not None:
        told = refusal({}, {f"STOCKADE_{name.upper()}": text}, tmp_path)
        assert told.startswith(f"environment STOCKADE_{name.upper()}: {name} must be ")
        assert repr(text) in told


def test_who_waits_for_the_ledger_may_not_outlast_a_stop(tmp_path: Path) -> None:
    told = refusal({"drain_seconds": "4"}, {}, tmp_path)
    assert told.startswith("ledger_wait_seconds (5) exceeds drain_seconds (4): ")
    assert load({"drain_seconds": "5"}, {}, tmp_path).settings.drain_seconds == 5


def test_nobody_is_forgotten_whom_the_store_still_knows(tmp_path: Path) -> None:
    told = refusal({"customer_retention_days": "2", "key_window_seconds": "90000"}, {}, tmp_path)
    assert told.startswith("customer_retention_days (2) is less than two times key_window_seconds")
    for days, window in (("1", "3600"), ("3", "90000")):
        load({"customer_retention_days": days, "key_window_seconds": window}, {}, tmp_path)


@pytest.mark.parametrize("variable", ["STOCKADE_PROT", "STOCKADE_", "STOCKADE_port"])
def test_an_unknown_variable_is_refused(variable: str, tmp_path: Path) -> None:
    assert variable in refusal({}, {variable: "1"}, tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "there is no setting 'prot'"),
        ('port = "8080"', "must be a whole number from 0 to 65535, not '8080'"),
        ("port = true", "must be a whole number"),
        ("host = 1", "must be text"),
        ("[port]\nx = 1", "must be a whole number"),
        ("port =", "cannot be read"),
    ],
)
def test_a_wrong_file_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "stockade.toml").write_text(text)
    assert told in refusal({}, {}, tmp_path)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stockade.toml").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refusal({}, {}, tmp_path)
    assert "cannot be read" in refusal({}, {"STOCKADE_CONFIG": str(tmp_path)}, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "localhost:6379",
        "redis://",
        "unix://",
        "redis://:secret@h:port",
        "rediss://:secret@h:99999",
        "secret",
        "redis://[",
    ],
)
def test_a_wrong_url_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    told = refusal({"valkey_url": url}, {}, tmp_path)
    assert "must be redis://HOST:PORT" in told
    assert "secret" not in told
    with pytest.raises(ValueError, match="must be redis"):
        Settings(valkey_url=url)


@pytest.mark.parametrize(
    "url",
    ["redis://h", "redis://u:p@h:6379/2", "rediss://h:0", "unix:///run/v.sock", "redis://[::1]:1"],
)
def test_good_urls_are_taken_as_they_are(url: str, tmp_path: Path) -> None:
    assert load({"valkey_url": url}, {}, tmp_path).settings.valkey_url == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1", "redis://h:1"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("rediss://user:p:w@h:1", "rediss://user:***@h:1"),
        ("redis://user:p@w@h:1", "redis://user:***@h:1"),
        ("unix:///v.sock?password=pw&db=1", "unix:///v.sock?password=***&db=1"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert module.shown(Settings(valkey_url=url))["valkey_url"] == shown


@pytest.mark.parametrize("name", ["postgres_dsn", "postgres_owner_dsn"])
@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:secret@h/d",
        "secret",
        "postgresql://",
        "postgres:///d",
        "postgresql://u:secret@[/d",
    ],
)
def test_a_wrong_dsn_is_refused_and_not_repeated(name: str, dsn: str, tmp_path: Path) -> None:
    told = refusal({"postgres_dsn": "postgresql://h", name: dsn}, {}, tmp_path)
    assert f"{name} must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in told
    assert "secret" not in told
    with pytest.raises(ValueError, match="must be postgresql"):
        Settings(**{name: dsn})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgres://u:p@w@h:5432/d?sslmode=require", "postgres://u:***@h:5432/d?sslmode=require"),
        ("postgresql://u:pw@h1:1,h2:2/d", "postgresql://u:***@h1:1,h2:2/d"),
        ("postgresql://u@/d?host=/run&port=5432", "postgresql://u@/d?host=/run&port=5432"),
        (
            "postgresql://h/d?user=u&password=p&sslpassword=q",
            "postgresql://h/d?user=u&password=***&sslpassword=***",
        ),
    ],
)
def test_good_dsns_are_taken_as_they_are_and_shown_masked(
    dsn: str, shown: str, tmp_path: Path
) -> None:
    flags = {"postgres_dsn": dsn, "postgres_owner_dsn": dsn}
    settings = load(flags, {}, tmp_path).settings
    assert settings.postgres_dsn == settings.postgres_owner_dsn == dsn
    table = module.shown(settings)
    assert table["postgres_dsn"] == table["postgres_owner_dsn"] == shown


def test_an_owner_of_no_database_is_refused(tmp_path: Path) -> None:
    told = refusal({"postgres_owner_dsn": "postgresql://h/d"}, {}, tmp_path)
    assert told == "flag --postgres-owner-dsn: it needs a postgres_dsn beside it"


def test_a_worker_reads_what_the_supervisor_wrote() -> None:
    settings = Settings(data=Path("/a b"), valkey_url="redis://:pw@h", valkey_bin=Path("/v"))
    assert module.decode(module.encode(settings)) == settings


def test_every_setting_is_described() -> None:
    assert list(module.descriptions()) == list(Settings.__struct_fields__)
    assert all(module.descriptions().values())


def test_an_unknown_parameter_of_the_store_is_refused_by_name() -> None:
    with pytest.raises(StartRefused, match="'foo'"):
        load({"valkey_url": "redis://127.0.0.1:6379/0?foo=1"}, {}, Path("."))


@pytest.mark.parametrize("password", ["pa/ss", "pa@ss", "pa?ss", "pa:ss", "pa#ss"])
def test_a_password_that_breaks_its_address_is_not_shown_in_part(password: str) -> None:
    shown = masked_url(f"postgresql://stockade:{password}@db.example/stockade")
    assert shown == "postgresql://stockade:***@db.example/stockade"


@pytest.mark.parametrize("name", Settings.__struct_fields__)
@pytest.mark.parametrize("source", ["flag", "environment", "file"])
def test_every_setting_refuses_what_it_is_not_in_one_line(
    name: str, source: str, tmp_path: Path
) -> None:
    """Text where a number is wanted, and the like; of a text that may be anything, none at all."""
    wrong = "" if module.wanted(name) == "text that is not empty" else "\x00 no such value"
    if source == "flag":
        said = refusal({name: wrong}, {}, tmp_path)
    elif source == "environment" and wrong:
        said = refusal({}, {f"STOCKADE_{name.upper()}": wrong}, tmp_path)
    elif source == "environment":
        return  # an empty variable counts as absent
    else:
        (tmp_path / "stockade.toml").write_text(f'{name} = "{wrong[1:]}"')
        said = refusal({}, {}, tmp_path)
    assert f": {name} must be " in said
    assert "no such value" not in said or name not in module._ADDRESSES


@pytest.mark.parametrize(
    ("name", "other"),
    [("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")],
)
def test_tls_needs_both_of_its_files(name: str, other: str, tmp_path: Path) -> None:
    told = refusal({name: "file.pem"}, {}, tmp_path)
    assert f"{name} needs {other} beside it" in told
    load({"tls_cert": "a.pem", "tls_key": "b.pem", "tls_client_ca": "c.pem"}, {}, tmp_path)
