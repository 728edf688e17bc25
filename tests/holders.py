"""A process of its own that holds a private server, to be killed; and one that is not root's."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.embedded.server import EmbeddedServer
from tests.processes import ROOT, until

NOBODY: dict[str, Any] = {"user": 65_534, "group": 65_534, "extra_groups": []}

# A service in miniature: starts a server, says who is who, and never stops it.
HOLDER = """
import asyncio, importlib, json, os, sys
from pathlib import Path

async def main(module, name, data, options):
    kind = getattr(importlib.import_module(module), name)
    given = json.loads(options).items()
    server = kind(Path(data), **{k: Path(v) if isinstance(v, str) else v for k, v in given})
    await server.start()
    print(json.dumps({"pid": os.getpid(), "socket": str(server.socket)}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Holder:
    """A process of its own that holds a running server."""

    def __init__(
        self,
        kind: type[EmbeddedServer],
        data: Path,
        *,
        python: str = sys.executable,
        path: Path = ROOT,
        options: dict[str, object] | None = None,
        **of_process: Any,
    ) -> None:
        self.data = data
        self.kind = kind
        self.process = subprocess.Popen(
            [
                *(python, "-c", HOLDER, kind.__module__, kind.__name__),
                *(str(data), json.dumps(options or {})),
            ],
            cwd=path,
            env=os.environ | {"PYTHONPATH": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **of_process,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.socket = Path(json.loads(line)["socket"])
        self.guard_pid = int(json.loads(self.lock.read_text())["guard_pid"])
        (self.server_pid,) = children(self.guard_pid)

    @property
    def lock(self) -> Path:
        """The lock on its data directory."""
        return self.data / self.kind.lock_name

    def end(self) -> None:
        """Kill it, and return when guard and server are gone as well."""
        self.process.kill()
        self.process.communicate()
        until(lambda: is_free(self.lock), "the data directory is free")


def is_free(lock: Path) -> bool:
    """True when neither a guard nor a server holds the lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    said = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [tuple(map(int, line.split())) for line in said.splitlines()]
    return [child for child, parent in pairs if parent == pid]


@contextmanager
def anybodys_checkout() -> Iterator[Path]:
    """A directory that anybody can read, as root's own need not be: our code, NOBODY's home."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        shutil.copytree(ROOT / "core", directory / "core")
        (directory / "home").mkdir()
        os.chown(directory / "home", NOBODY["user"], NOBODY["group"])
        yield directory


def python_for(identity: dict[str, Any]) -> str:
    """An interpreter that ``identity`` may run: ours, or the system's if it is new enough."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", "import asyncio; asyncio.Runner"],
                cwd="/",
                check=True,
                capture_output=True,
                **identity,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("there is no Python 3.11 that others than root can run")
