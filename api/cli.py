"""The command line: ``stockade serve``, ``settings``, ``clock accept``, ``import``, ``reconcile``,
``rebuild``, ``export``, ``show``, ``audit``, ``purge``, ``top``, ``keys``, ``migrate``.

Every setting is a flag of every command. What goes wrong is one line on standard error, with
status 2 for a wrong command line or setting and 1 for anything later.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from api.log import configure
from core.access import ASKS, Operator
from core.errors import StartRefused, StockadeError
from core.settings import Origins, Settings, descriptions, flag, load, shown

N = TypeVar("N", int, float)

OVERLAP_SECONDS = 3_600  # in which whoever uses a key can be given its new secret


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    chosen = _parser().parse_args(arguments)
    flags = {name: getattr(chosen, name, None) for name in Settings.__struct_fields__}
    try:
        loaded = load(flags, os.environ, Path.cwd())
    except StartRefused as refused:
        return _complain(refused, 2)
    configure(loaded.settings.log_level)
    ASKS.set(Operator())
    try:
        match chosen.command:
            case "serve":
                _serve(loaded.settings, lambda: load(flags, os.environ, Path.cwd()).settings)
            case "settings":
                _show(loaded, chosen.format)
            case "clock accept":
                _accept_clock(loaded.settings)
            case "import":
                return _import(loaded.settings, chosen)
            case "reconcile" | "reconcile cases" | "reconcile explain":
                return _reconcile(loaded.settings, chosen)
            case "rebuild":
                return _rebuild(loaded.settings, chosen)
            case "export movements" | "export reservations":
                return _export(loaded.settings, chosen)
            case "mode" | "mode protect" | "mode normal":
                return _mode(loaded.settings, chosen)
            case "migrate":
                _migrate(loaded.settings)
            case "audit":
                _audit(loaded.settings, chosen)
            case "purge":
                _purge(loaded.settings)
            case "top":
                _top(loaded.settings, chosen)
            case "keys create" | "keys list" | "keys rotate" | "keys revoke":
                return _keys(loaded.settings, chosen)
            case "show":
                _tell(loaded.settings, chosen.what, chosen.pii)
    except StockadeError as error:
        return _complain(error, 1)
    return 0


def _migrate(settings: Settings) -> None:
    from core.opening import prepare_ledger

    if settings.postgres_owner_dsn is None:
        raise StartRefused("migrating needs postgres_owner_dsn, the role that owns the ledger")
    asyncio.run(prepare_ledger(settings))


def _audit(settings: Settings, chosen: argparse.Namespace) -> None:
    from api.audit import show

    show(settings, chosen.since, chosen.until, chosen.format)


def _purge(settings: Settings) -> None:
    from api.forgetting import purge

    purge(settings)


def _top(settings: Settings, chosen: argparse.Namespace) -> None:
    from api.top import top

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "http" if settings.tls_cert is None else "https"
    url = (chosen.url or f"{scheme}://{host}:{settings.port}").rstrip("/")
    top(url, chosen.key_file, chosen.interval, chosen.once)


def _number(kind: type[N], low: N, high: N) -> Callable[[str], N]:
    """Reads a number within these bounds, or raises ArgumentTypeError."""

    def read(text: str) -> N:
        with suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"expected a number from {low} to {high}, not {text!r}")

    return read


def _serve(settings: Settings, reread: Callable[[], Settings]) -> None:
    from api.serve import serve

    serve(settings, reread)


def _show(loaded: Origins, form: str) -> None:
    """Print every setting with its value and where that came from."""
    rows = [
        {"name": name, "value": value, "origin": loaded.by_name[name]}
        for name, value in shown(loaded.settings).items()
    ]
    if form == "json":
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
        return
    table = [["-" if cell is None else str(cell) for cell in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


def _accept_clock(settings: Settings) -> None:
    """Take the store's clock for the true one, in the store that is named or that runs on data."""
    from core.embedded.valkey import find_running

    if settings.valkey_url is None:
        url = find_running(settings.data)
        if url is None:
            raise StartRefused(f"no service runs on {settings.data}; see --data")
        settings = msgspec.structs.replace(settings, valkey_url=url)
    from core.service import accept_clock

    asyncio.run(accept_clock(settings))


def _import(settings: Settings, chosen: argparse.Namespace) -> int:
    """Import a file into the store that is named, that runs on data, or that is started for it."""
    from api.importing import import_file

    return import_file(
        settings, chosen.file, orders=chosen.orders, again=chosen.again, skip_bad=chosen.skip_bad
    )


def _reconcile(settings: Settings, chosen: argparse.Namespace) -> int:
    """Hold the store and the ledger of the service against each other, or see to what was found."""
    from api.reconciling import explain_case, reconcile, show_cases

    match chosen.command:
        case "reconcile cases":
            return show_cases(settings, chosen.format, chosen.output)
        case "reconcile explain":
            return explain_case(settings, chosen.case, chosen.note, chosen.by)
    return reconcile(settings, chosen)


def _rebuild(settings: Settings, chosen: argparse.Namespace) -> int:
    """Make the store again from the ledger."""
    from api.rebuilding import rebuild_store

    return rebuild_store(settings, force=chosen.force, form=chosen.format)


def _export(settings: Settings, chosen: argparse.Namespace) -> int:
    """Write what the ledger holds, of the one that is named, that runs on data, or that is started
    for it."""
    from api.exporting import export

    what = chosen.command.removeprefix("export ")
    until, pii = getattr(chosen, "until", None), getattr(chosen, "pii", False)
    return export(settings, what, chosen.since, until, chosen.format, chosen.output, pii)


def _mode(settings: Settings, chosen: argparse.Namespace) -> int:
    """Print whether stock is protected, or switch that."""
    from api.protecting import show_mode

    protect = {"mode protect": True, "mode normal": False}.get(chosen.command)
    reason, by = getattr(chosen, "reason", None), getattr(chosen, "by", None)
    return show_mode(settings, protect, reason, by)


def _keys(settings: Settings, chosen: argparse.Namespace) -> int:
    """Make, list, rotate and revoke API keys, as whom the ledger knows."""
    from api.keys import run

    return run(settings, chosen)


def _tell(settings: Settings, what: str, pii: bool) -> None:
    """Print the story of a reservation or a SKU, from the servers that are found as for import."""
    from api.showing import show

    show(settings, what, pii)


def moment(text: str) -> datetime:
    """A time: RFC 3339, or a day, which begins at midnight UTC. Raises ArgumentTypeError."""
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # year 0 or 10,000, by its time zone
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time as 2026-11-22T12:00:00Z, nor a day as 2026-11-22"
        ) from None


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"stockade: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the installed distribution's version, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(0, f"stockade {importlib.metadata.version('stockade')}\n")


def _parser() -> _Parser:
    parser = _Parser(prog="stockade", description="Who gets the last unit.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "serve", "run the service")
    settings = _command(commands, "settings", "show every setting, its value and its origin")
    settings.add_argument("--format", choices=("text", "json"), default="text")
    importing = _command(commands, "import", "bring stock, or open orders, from a CSV file")
    importing.add_argument("file", metavar="FILE.csv", type=Path)
    importing.add_argument(
        "--orders", action="store_true", help="the file holds open orders, not stock"
    )
    importing.add_argument(
        "--again",
        action="store_true",
        help="import all of it although a file of this name was imported with another content",
    )
    importing.add_argument(
        "--skip-bad", action="store_true", help="leave out the rows that cannot be imported"
    )
    rebuilding = _command(commands, "rebuild", "make a store that was lost again from the ledger")
    rebuilding.add_argument("--format", choices=("text", "json"), default="text")
    rebuilding.add_argument(
        "--force", action="store_true", help="also a store that has all that the ledger has"
    )
    _add_export(commands)
    showing = _command(commands, "show", "tell the whole story of a reservation or of a SKU")
    showing.add_argument("what", metavar="RESERVATION|SKU")
    _add_pii(showing)
    _reconcile_parser(commands)
    mode = _command(commands, "mode", "show whether stock is protected, or switch that")
    modes = mode.add_subparsers(metavar="COMMAND")
    for name, does in (("protect", "lend nothing, take less"), ("normal", "lend and take again")):
        switch = _command(modes, name, does, "mode ")
        switch.add_argument("--reason", help="why")
        switch.add_argument("--by", metavar="NAME", help="who says so; you, if not said")
    _command(
        commands, "migrate", "bring the ledger's schema up to date, as the role that owns it"
    )
    _command(
        commands, "purge",
        "forget whose reservations were that ended customer_retention_days ago",
    )  # fmt: skip
    _keys_parser(commands)
    _add_audit(commands)
    watching = _command(commands, "top", "show what a running service does, on one screen")
    watching.add_argument("--url", help="its address; else that of the settings host and port")
    watching.add_argument(
        "--key-file", metavar="FILE", type=Path, help="holds an API key of scope operate"
    )
    seconds = _number(float, 0.1, 3_600.0)
    watching.add_argument("--interval", metavar="SECONDS", type=seconds, default=2.0)
    watching.add_argument("--once", action="store_true", help="print one interval, and end")
    clock = commands.add_parser("clock", help="the store's clock", allow_abbrev=False)
    clock_commands = clock.add_subparsers(required=True, metavar="COMMAND")
    _command(
        clock_commands, "accept", "take a store's clock that jumped for the true one", "clock "
    )
    return parser


def _add_export(commands: argparse._SubParsersAction[_Parser]) -> None:
    exporting = commands.add_parser(
        "export", help="write what the ledger holds", allow_abbrev=False
    )
    what = exporting.add_subparsers(required=True, metavar="WHAT")
    movements = _command(what, "movements", "every movement of units, in order", "export ")
    movements.add_argument("--until", metavar="TIME", type=moment, help="before this time")
    reservations = _command(
        what, "reservations", "every reservation as it is, newest first", "export "
    )
    for parser, since in ((movements, "from this time, or day, on"), (reservations, "made since")):
        parser.add_argument("--since", metavar="TIME", type=moment, required=True, help=since)
        parser.add_argument("--format", choices=("csv", "jsonl"), default="csv")
        parser.add_argument("--output", metavar="FILE", type=Path, help="else it is printed")


    _add_pii(reservations)


def _add_audit(commands: argparse._SubParsersAction[_Parser]) -> None:
    audit = _command(commands, "audit", "show who changed what, and who read personal data")
    audit.add_argument("--since", metavar="TIME", type=moment, help="from this time, or day, on")
    audit.add_argument("--until", metavar="TIME", type=moment, help="before this time")
    audit.add_argument("--format", choices=("text", "jsonl"), default="text")


def _add_pii(parser: _Parser) -> None:
    parser.add_argument(
        "--pii", action="store_true", help="show customers, which are masked otherwise"
    )


def _reconcile_parser(commands: argparse._SubParsersAction[_Parser]) -> None:
    reconcile = _command(commands, "reconcile", "hold store, ledger and counts against each other")
    reconcile.add_argument("--format", choices=("text", "json", "csv", "html"), default="text")
    reconcile.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    reconcile.add_argument("--sku", help="only the pools of this one")
    reconcile.add_argument(
        "--counts", type=Path, metavar="FILE",
        help="what was counted: sku, location, counted, as CSV, or .json with a list of objects",
    )  # fmt: skip
    reconcile.add_argument(
        "--full", action="store_true",
        help="sum all movements, not only those since a pool was found to be right",
    )  # fmt: skip
    reconcile.add_argument(
        "--repair", action="store_true", help="say what would mend what is derived"
    )
    reconcile.add_argument(
        "--apply-counts", action="store_true", help="with --repair: book what was counted"
    )
    reconcile.add_argument("--yes", action="store_true", help="with --repair: do it")
    reconcile.add_argument("--by", metavar="NAME", help="who repairs; you, if not said")
    inner = reconcile.add_subparsers(metavar="COMMAND")
    cases = _command(inner, "cases", "show all cases that are not closed", "reconcile ")
    cases.add_argument("--format", choices=("text", "json", "csv", "html"), default="text")
    cases.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    explain = _command(inner, "explain", "note why a difference is there", "reconcile ")
    explain.add_argument("case", type=int, metavar="CASE", help="its number")
    explain.add_argument("--note", required=True, help="why")
    explain.add_argument("--by", required=True, metavar="NAME", help="who says so")


def _keys_parser(commands: argparse._SubParsersAction[_Parser]) -> None:
    keys = commands.add_parser("keys", help="who may ask, and for what", allow_abbrev=False)
    inner = keys.add_subparsers(required=True, metavar="COMMAND")
    create = _command(inner, "create", "make an API key and print it, once", "keys ")
    create.add_argument("--name", required=True, help="what it is for")
    create.add_argument("--scope", required=True, action="append", help="what it may; repeat it")
    create.add_argument("--channel", action="append", help="only for this channel; repeat it")
    create.add_argument(
        "--rate", metavar="N", type=_number(int, 1, 1_000_000),
        help="requests a second; any number if not said",
    )
    listing = _command(inner, "list", "show all keys", "keys ")
    rotate = _command(inner, "rotate", "give a key another secret, and print it, once", "keys ")
    rotate.add_argument("id", metavar="ID", help="what stands before the point")
    rotate.add_argument(
        "--overlap", metavar="SECONDS", type=_number(int, 0, 30 * 86_400),
        default=OVERLAP_SECONDS,
        help=f"how long the secret before counts as well ({OVERLAP_SECONDS})",
    )  # fmt: skip
    revoke = _command(inner, "revoke", "let nobody in with a key any more", "keys ")
    revoke.add_argument("id", metavar="ID", help="what stands before the point")
    for parser in (create, listing, rotate, revoke):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    help_text: str,
    group: str = "",
) -> _Parser:
    """A command that takes every setting as a flag. One of a group keeps those that were given
    before it."""
    parser = commands.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    parser.set_defaults(command=group + name)
    defaults = Settings()
    for setting, description in descriptions().items():
        default = getattr(defaults, setting)
        note = "" if default is None else f" ({default})"
        parser.add_argument(
            flag(setting), metavar="VALUE", help=f"{description}{note}".replace("%", "%%"),
            default=argparse.SUPPRESS if group else None,
        )  # fmt: skip
    return parser


def _complain(error: StockadeError, status: int) -> int:
    print(f"stockade: {' '.join(error.detail.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
