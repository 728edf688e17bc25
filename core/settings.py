"""Everything that can be set: one frozen struct, and where each value came from.

A flag wins over the environment (``STOCKADE_*``), that over ``stockade.toml``, that over the
default. Nothing is guessed: an unknown name and a value out of bounds stop the start with one
line. Limits that nobody should set live beside the code that they protect.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import Meta, Struct

from core.errors import StartRefused

PREFIX = "STOCKADE_"
FILE_NAME = "stockade.toml"
FILE_VARIABLE = "STOCKADE_CONFIG"
DAY_SECONDS = 86_400
WEEK_SECONDS = 7 * DAY_SECONDS
MEMORY_MIN_BYTES = 16 * 2**20  # a server that holds nothing but its scripts needs a few of these
URL_PARAMETERS = frozenset({
    "db", "username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs",
    "ssl_check_hostname",
})  # fmt: skip
STANDING = (  # what stands for as long as a service runs
    "data", "host", "port", "tls_cert", "tls_key", "tls_client_ca", "plain_http", "workers",
    "valkey_url", "valkey_bin", "valkey_maxmemory_bytes", "postgres_dsn", "postgres_owner_dsn",
    "postgres_bin",
)  # fmt: skip
KEY_WINDOW_MAX_SECONDS = 31_536_000  # a year of keys; more is surely a slip of the unit


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one service. Built directly in tests, by ``load`` everywhere else."""

    data: Annotated[Path, Meta(description="directory that holds the private store's data")] = Path(
        "var"
    )
    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65_535, description="port to listen on; 0 takes a free one")
    ] = 8080
    tls_cert: Annotated[
        Path | None, Meta(description="PEM file: our certificate and its chain; none: plain HTTP")
    ] = None
    tls_key: Annotated[
        Path | None, Meta(description="PEM file: the key of tls_cert, without a pass phrase")
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Meta(description="PEM file: callers must have a certificate of these; none: no need"),
    ] = None
    plain_http: Annotated[
        bool,
        Meta(description="serve others without TLS, for a proxy in front of us speaks it"),
    ] = False
    workers: Annotated[int, Meta(ge=1, le=64, description="processes that share the port")] = 1
    valkey_url: Annotated[
        str | None,
        Meta(description="redis://, rediss:// or unix:// server to use; none starts a private one"),
    ] = None
    valkey_bin: Annotated[
        Path | None, Meta(description="server binary for the private store; none looks for one")
    ] = None
    valkey_maxmemory_bytes: Annotated[
        Annotated[int, Meta(ge=MEMORY_MIN_BYTES, le=2**53)] | None,
        Meta(description="memory of the private store; none takes half of the machine's"),
    ] = None
    postgres_dsn: Annotated[
        str | None,
        Meta(description="postgresql:// server of the ledger; none starts a private one"),
    ] = None
    postgres_owner_dsn: Annotated[
        str | None,
        Meta(description="the same database as the role that owns it and migrates"),
    ] = None
    postgres_bin: Annotated[
        Path | None,
        Meta(description="directory of the private server's binaries; none looks for one"),
    ] = None
    durability: Annotated[
        Literal["fsync", "memory"],
        Meta(description="the least that must hold before a change is acknowledged"),
    ] = "fsync"
    commit_durability: Annotated[
        Literal["store", "ledger"],
        Meta(description="what must have a commit before it is acknowledged, unless it says more"),
    ] = "store"
    ledger_wait_seconds: Annotated[
        float, Meta(gt=0, le=60, description="how long a request may wait for the ledger")
    ] = 5.0
    ledger_timeout_seconds: Annotated[
        float, Meta(gt=0, le=600, description="how long one call to the ledger may take")
    ] = 30.0
    backlog_bytes: Annotated[
        Annotated[int, Meta(ge=2**20, le=2**53)] | None,
        Meta(description="events that may wait for the ledger; none: a quarter of maxmemory"),
    ] = None
    move_deadlines: Annotated[
        bool,
        Meta(description="a rebuild moves deadlines that passed meanwhile by the outage"),
    ] = True
    reconcile_at: Annotated[
        Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] | None,
        Meta(description="time of day (UTC, 03:30) to reconcile at, every night; none: never"),
    ] = None
    customer_retention_days: Annotated[
        Annotated[int, Meta(ge=1, le=36_500)] | None,
        Meta(description="when to forget whose a reservation was, after its end; none: never"),
    ] = None
    staleness_ms: Annotated[
        int, Meta(ge=0, le=1_000, description="how old a row may be that refuses a demand")
    ] = 3
    key_window_seconds: Annotated[
        int,
        Meta(ge=3_600, le=KEY_WINDOW_MAX_SECONDS, description="how long an Idempotency-Key counts"),
    ] = 3_600
    goods_key_window_seconds: Annotated[
        int,
        Meta(
            ge=WEEK_SECONDS,
            le=KEY_WINDOW_MAX_SECONDS,
            description="the same for cancel, fulfil, return and all of stock",
        ),
    ] = WEEK_SECONDS
    queue_limit: Annotated[
        int, Meta(ge=1, le=1_000_000, description="demands waiting in one worker before 503")
    ] = 20_000
    wait_ms: Annotated[
        int, Meta(ge=10, le=60_000, description="how long a request may wait for its turn there")
    ] = 2_000
    protect_safety: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="units that each channel leaves in each pool in protect mode, as set where "
            "it is switched; 0: none",
        ),
    ] = 1
    protect_rate: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="new reservations a second in protect mode, of all workers; none: all"),
    ] = None
    customer_rate: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="new reservations a minute for one customer; none: any number"),
    ] = None
    customer_live_reservations: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="reservations not paid yet that one customer may have; none: any number"),
    ] = None
    store_timeout_seconds: Annotated[
        float, Meta(gt=0, le=60, description="how long one call to the store may take")
    ] = 2.0
    notice_seconds: Annotated[
        int, Meta(ge=0, le=600, description="how long /readyz says no before the port is closed")
    ] = 1
    drain_seconds: Annotated[
        int, Meta(ge=0, le=3_600, description="how long open requests may take at shutdown")
    ] = 10
    trace_url: Annotated[
        str | None,
        Meta(description="OTLP over HTTP, where traces go; needs `stockade[tracing]`; none: none"),
    ] = None
    trace_ratio: Annotated[
        float, Meta(ge=0, le=1, description="share of requests to trace, if they do not say it")
    ] = 0.01
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")
    ] = "info"

    def __post_init__(self) -> None:
        """Check what a single field's type cannot say."""
        for name, check in _ADDRESSES.items():
            address = getattr(self, name)
            if address is not None:
                check(address)


class Origins(Struct, frozen=True):
    """Settings, and for each of their names the place that its value came from."""

    settings: Settings
    by_name: dict[str, str]


def load(flags: Mapping[str, str | None], environ: Mapping[str, str], directory: Path) -> Origins:
    """Settings from ``flags``, ``environ`` and the file in ``directory``.

    A flag that is None was not given. An empty variable counts as absent, so that
    ``STOCKADE_VALKEY_URL=`` takes one back. Raises StartRefused with one line that names the
    wrong setting and what it should be.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.__struct_fields__, "default")
    for name, value, origin, strict in (
        *_from_file(environ, directory),
        *_from_environment(environ),
        *((name, value, f"flag {flag(name)}", False) for name, value in flags.items()),
    ):
        if value is not None:
            values[name] = _convert(name, value, origin, strict)
            origins[name] = origin
    settings = Settings(**values)
    if settings.ledger_wait_seconds > settings.drain_seconds:
        raise StartRefused(
            f"ledger_wait_seconds ({settings.ledger_wait_seconds:g}) exceeds drain_seconds "
            f"({settings.drain_seconds}): a stop would cut off who waits for the ledger"
        )
    days, window_seconds = settings.customer_retention_days, settings.key_window_seconds
    if days is not None and days * DAY_SECONDS < 2 * window_seconds + DAY_SECONDS / 2:
        raise StartRefused(
            f"customer_retention_days ({days}) is less than two times key_window_seconds "
            f"({window_seconds}) and half a day: the store keeps what ended for as long"
        )
    if values.get("postgres_owner_dsn") and not values.get("postgres_dsn"):
        raise StartRefused(f"{origins['postgres_owner_dsn']}: it needs a postgres_dsn beside it")
    for name, other in (
        ("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")
    ):  # fmt: skip
        if values.get(name) and not values.get(other):
            raise StartRefused(f"{origins[name]}: {name} needs {other} beside it")
    return Origins(settings, origins)


def flag(name: str) -> str:
    """The command line's spelling of a setting: ``valkey_url`` is ``--valkey-url``."""
    return "--" + name.replace("_", "-")


def descriptions() -> dict[str, str]:
    """One line of help per setting, in their order."""
    return {name: _description(hint) for name, hint in _HINTS.items()}


def wanted(name: str) -> str:
    """What a setting takes, in words."""
    return "an address" if name in _ADDRESSES else _wanted(_HINTS[name])


def shown(settings: Settings) -> dict[str, str | int | float | None]:
    """Every value as it may be shown: plain, and with passwords masked."""
    values = msgspec.to_builtins(settings, enc_hook=_encode_path)
    for name in _ADDRESSES:
        if values[name] is not None:
            values[name] = masked_url(values[name])
    return dict(values)


def masked_url(url: str) -> str:
    """``url`` with its password, if it has one, as ``***``, in the authority or in the query."""
    # Up to the last @: a password that should have been percent-encoded is not half shown.
    url = re.sub(r"(?<=://)([^/@:]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", url)


def encode(settings: Settings) -> bytes:
    """Settings as JSON, for a worker. Secrets are in it: send it through a pipe."""
    return msgspec.json.encode(settings, enc_hook=_encode_path)


def decode(encoded: bytes) -> Settings:
    """What ``encode`` wrote."""
    return msgspec.json.decode(encoded, type=Settings, dec_hook=_decode_path)


_Found = tuple[str, Any, str, bool]  # name, value, origin, whether the value has a type already


def _from_file(environ: Mapping[str, str], directory: Path) -> Iterator[_Found]:
    """What the file says; one that was named must exist, the one by default need not."""
    named = environ.get(FILE_VARIABLE) or None
    path = directory / (named or FILE_NAME)
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        if named:
            raise StartRefused(f"{FILE_VARIABLE} names {path}, which does not exist") from None
        return
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartRefused(f"{path} cannot be read: {reason}") from None
    for name, value in table.items():
        if name not in _HINTS:
            raise StartRefused(f"{path}: there is no setting {name!r}")
        yield name, value, str(path), True


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Found]:
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and variable != FILE_VARIABLE:
            name = variable.removeprefix(PREFIX).lower()
            if name not in _HINTS or variable != variable.upper():
                raise StartRefused(f"environment {variable}: there is no such setting")
            yield name, value or None, f"environment {variable}", False


def _convert(name: str, value: Any, origin: str, strict: bool) -> Any:
    """``value`` in the setting's type; text is read as a number where one is wanted."""
    hint = _HINTS[name]
    try:
        converted = msgspec.convert(value, hint, strict=strict, dec_hook=_decode_path)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ValueError(converted)
        if name in _ADDRESSES:
            _ADDRESSES[name](converted)
    except ValueError as error:
        # An address may hold a password, so it is never repeated in a message.
        words = str(error) if name in _ADDRESSES else f"must be {_wanted(hint)}, not {value!r}"
        raise StartRefused(f"{origin}: {name} {words}") from None
    return converted


def _check_url(url: str) -> None:
    """Raise ValueError unless ``url`` names a server in one of the three ways."""
    try:
        parts = urlsplit(url)
        complete = parts.path if parts.scheme == "unix" else parts.hostname and (parts.port, 1)
    except ValueError:
        complete = None
    if not complete or parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must be redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH")
    for name in parse_qs(parts.query, keep_blank_values=True):
        if name not in URL_PARAMETERS:
            known = ", ".join(sorted(URL_PARAMETERS))
            raise ValueError(f"has the parameter {name!r}; there are {known}")


def _check_dsn(dsn: str) -> None:
    """Raise ValueError unless ``dsn`` names a PostgreSQL server, by host or by ``?host=``."""
    try:
        parts = urlsplit(dsn)
        hosts = parts.netloc.rpartition("@")[2] or parse_qs(parts.query).get("host")
    except ValueError:
        hosts = None
    if not hosts or parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(
            "must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "or postgresql://USER@/DATABASE?host=/DIRECTORY of its socket"
        )


def _check_http(url: str) -> None:
    """Raise ValueError unless ``url`` is one of HTTP."""
    try:
        parts = urlsplit(url)
        complete = parts.hostname and (parts.port, 1)
    except ValueError:
        complete = None
    if not complete or parts.scheme not in ("http", "https"):
        raise ValueError("must be http://HOST:PORT/v1/traces, or the same with https://")


def _wanted(hint: Any) -> str:
    """What a setting takes, in words."""
    kind = msgspec.inspect.type_info(hint)
    while isinstance(kind, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        kind = kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind.types[0]
    match kind:
        case msgspec.inspect.IntType(ge=low, le=high):
            return f"a whole number from {low} to {high}"
        case msgspec.inspect.FloatType(ge=float() | int() as low, le=high):
            return f"a number from {low} to {high}"
        case msgspec.inspect.FloatType(le=high):
            return f"a number above 0 and up to {high}"
        case msgspec.inspect.BoolType():
            return "true or false"
        case msgspec.inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case msgspec.inspect.StrType(pattern=str()):
            return "a time of day from 00:00 to 23:59"
    return "text that is not empty"


def _description(hint: Any) -> str:
    return next(str(meta.description) for meta in hint.__metadata__ if meta.description)


def _encode_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(type(value))


def _decode_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str) and value:
        return Path(value)
    raise ValueError(value)


# What names a server and may hold a password, and how it is checked.
_ADDRESSES: dict[str, Callable[[str], None]] = {
    "valkey_url": _check_url,
    "postgres_dsn": _check_dsn,
    "postgres_owner_dsn": _check_dsn,
    "trace_url": _check_http,
}
_HINTS: dict[str, Any] = get_type_hints(Settings, include_extras=True)
