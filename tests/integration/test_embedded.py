"""The private Valkey: found, started, found again, and never left behind."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from core.embedded import guard
from core.embedded.find import find_server
from core.embedded.server import SOCKET_PATH_MAX_BYTES
from core.embedded.valkey import EmbeddedValkey, find_running
from core.errors import StartRefused
from tests.processes import ROOT, is_running, until

Fresh = Callable[..., Awaitable[EmbeddedValkey]]

# A service in miniature: starts a server, writes a key, says who is who, and never stops it.
HOLDER = """
import asyncio, json, os, sys
from pathlib import Path
from core.embedded.valkey import EmbeddedValkey

async def main():
    binary = Path(sys.argv[2]) if sys.argv[2] else None
    server = EmbeddedValkey(Path(sys.argv[1]), binary=binary)
    await server.start()
    print(json.dumps({"pid": os.getpid(), "socket": str(server.socket)}), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def ask(path: Path | str, *words: str) -> str:
    """One command to a server on a Unix socket; its answer without the type's sign."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall((" ".join(words) + "\r\n").encode())
        with connection.makefile("rb") as answers:
            line = answers.readline().decode().strip()
            if not line.startswith("$") or line == "$-1":
                return line[1:]
            return answers.read(int(line[1:])).decode()


def server_pid(path: Path | str) -> int:
    info = dict(line.split(":", 1) for line in ask(path, "INFO", "server").split() if ":" in line)
    return int(info["process_id"])


def is_free(data: Path) -> bool:
    """True when neither guard nor server holds the data directory."""
    with (data / EmbeddedValkey.lock_name).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class Holder:
    """A process of its own that holds a running server."""

    def __init__(
        self,
        data: Path,
        *,
        python: str = sys.executable,
        path: Path | str = ROOT,
        binary: str = "",
        **options: object,
    ) -> None:
        self.data = data
        self.process = subprocess.Popen(
            [python, "-c", HOLDER, str(data), binary],
            cwd=path,
            env=os.environ | {"PYTHONPATH": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,  # type: ignore[call-overload]
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        self.socket = Path(json.loads(line)["socket"])
        self.server_pid = server_pid(self.socket)
        self.guard_pid = json.loads((data / EmbeddedValkey.lock_name).read_text())["guard_pid"]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        until(lambda: is_free(self.data), "the data directory is free")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    started = Holder(tmp_path / "data")
    yield started
    started.end()


async def test_a_restart_finds_its_data_at_the_same_address(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "data")
    await server.start()
    assert find_running(server.data) == server.url
    assert ask(server.socket, "SET", "k", "v") == "OK"
    await server.stop()
    assert find_running(server.data) is None
    assert not server.socket.parent.exists()
    await server.start()
    assert ask(server.socket, "GET", "k") == "v"
    await server.stop()


async def test_it_keeps_what_a_killed_server_acknowledged(fresh_valkey: Fresh) -> None:
    server = await fresh_valkey()
    assert ask(server.socket, "SET", "k", "v") == "OK"
    os.kill(server_pid(server.socket), signal.SIGKILL)
    assert "ended with status -9" in await server.wait()
    await server.start()
    assert ask(server.socket, "GET", "k") == "v"


async def test_its_settings_are_the_durable_ones(fresh_valkey: Fresh) -> None:
    server = await fresh_valkey(maxmemory_bytes=2**26)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.socket))
        connection.sendall(
            b"CONFIG GET appendonly appendfsync maxmemory maxmemory-policy save port\r\n"
        )
        words = connection.recv(4096).decode().split("\r\n")
    found = dict(zip(words[2::4], words[4::4], strict=False))
    assert found == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory": str(2**26),
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }


async def test_nobody_else_can_enter(fresh_valkey: Fresh) -> None:
    server = await fresh_valkey()
    for directory in (server.socket.parent, server.data):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["long " * 40, "qu'o\"te\\s", "ünïcode", "{braces}$HOME"])
async def test_a_data_directory_may_have_any_name(
    name: str, tmp_path: Path, fresh_valkey: Fresh
) -> None:
    server = await fresh_valkey(tmp_path / name / "data")
    assert len(os.fsencode(server.socket)) <= SOCKET_PATH_MAX_BYTES
    assert ask(server.socket, "SET", "k", "v") == "OK"
    assert list((tmp_path / name / "data").rglob("*.aof"))


def test_a_long_temporary_directory_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(os.fsencode(EmbeddedValkey(tmp_path).socket)) <= SOCKET_PATH_MAX_BYTES


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_the_runtime_directory_is_used_if_it_is_private(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as runtime:
        Path(runtime).chmod(mode)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        used = EmbeddedValkey(tmp_path).socket.is_relative_to(runtime)
    assert used == (mode == 0o700)


async def test_a_second_service_is_told_who_holds_the_data(holder: Holder) -> None:
    with pytest.raises(StartRefused, match=f"in use by process {holder.process.pid} since 2"):
        await EmbeddedValkey(holder.data).start()
    assert ask(holder.socket, "PING") == "PONG"


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
async def test_a_killed_service_leaves_nothing_behind(holder: Holder, group: bool) -> None:
    assert ask(holder.socket, "SET", "k", "v") == "OK"
    if group:
        os.killpg(holder.process.pid, signal.SIGKILL)
    else:
        holder.process.kill()
    # At once, not after the orphan is gone: a start waits for it.
    server = EmbeddedValkey(holder.data)
    await server.start()
    assert ask(server.socket, "GET", "k") == "v"
    await server.stop()
    assert not is_running(holder.guard_pid)
    assert not is_running(holder.server_pid)
    assert not holder.socket.parent.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of this death")
async def test_a_killed_guard_leaves_nothing_behind(holder: Holder) -> None:
    os.kill(holder.guard_pid, signal.SIGKILL)
    server = EmbeddedValkey(holder.data)
    await server.start()
    assert not is_running(holder.server_pid)
    assert not holder.socket.parent.exists(), "the next start tidies what the guard could not"
    await server.stop()


async def test_a_start_waits_for_a_slow_orphan(holder: Holder) -> None:
    os.kill(holder.server_pid, signal.SIGSTOP)
    holder.process.kill()
    lock = holder.data / EmbeddedValkey.lock_name
    until(lambda: "stopping" in lock.read_text(), "the guard noticed")
    server = EmbeddedValkey(holder.data)
    start = asyncio.create_task(server.start())
    done, _ = await asyncio.wait([start], timeout=2 * guard.NOTICE_SECONDS)
    assert not done
    os.kill(holder.server_pid, signal.SIGCONT)
    await start
    await server.stop()


async def test_a_server_that_hangs_is_killed(fresh_valkey: Fresh) -> None:
    server = await fresh_valkey()
    pid = server_pid(server.socket)
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert not is_running(pid)


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path / "data")
    start = asyncio.create_task(server.start())
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await server.stop()
    await server.start()
    await server.stop()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path, fresh_valkey: Fresh) -> None:
    server = await fresh_valkey(tmp_path / "data")
    await server.stop()
    manifest = next(server.data.rglob("*.manifest"))
    manifest.write_text("nonsense\n")
    with pytest.raises(StartRefused, match=r"the private store ended: .*manifest") as caught:
        await server.start()
    assert "\n" not in caught.value.detail


async def test_a_wrong_binary_is_named(tmp_path: Path) -> None:
    for wrong in (tmp_path / "missing", tmp_path):
        with pytest.raises(StartRefused, match="is not a program that can be run"):
            await EmbeddedValkey(tmp_path / "data", binary=wrong).start()
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o700)
    with pytest.raises(StartRefused, match="Exec format error"):
        await EmbeddedValkey(tmp_path / "data", binary=text).start()
    other = Path(shutil.which("true") or "/bin/true")
    with pytest.raises(StartRefused, match="the private store ended"):
        await EmbeddedValkey(tmp_path / "data", binary=other).start()


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StartRefused, match="cannot be made"):
            await EmbeddedValkey(wrong).start()


def test_without_a_wheel_the_path_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartRefused, match=r"pip install 'stockade\[embedded\]'"):
        find_server()
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o700)
        assert find_server() == tmp_path / name


def test_the_log_stays_small(tmp_path: Path) -> None:
    log = guard.Log(tmp_path / "log")
    line = b"x" * 1023 + b"\n"
    for _ in range(3 * guard.LOG_BYTES // len(line)):
        log.write(line)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= guard.LOG_BYTES
    log.file.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_somebody_else_than_root_can_run_it() -> None:
    nobody = {"user": 65_534, "group": 65_534, "extra_groups": []}
    with tempfile.TemporaryDirectory() as directory:
        # Copied to where anybody can read it, as a checkout of root's own need not be.
        Path(directory).chmod(0o755)
        shutil.copytree(ROOT / "core", Path(directory, "core"))
        shutil.copy(find_server(), Path(directory, "valkey-server"))
        home = Path(directory, "home")
        home.mkdir()
        os.chown(home, 65_534, 65_534)
        python = _python_for(nobody)
        if python is None:
            pytest.skip("there is no Python 3.11 that others than root can run")
        started = Holder(
            home / "data",
            python=python,
            path=directory,
            binary=f"{directory}/valkey-server",
            **nobody,
        )
        assert ask(started.socket, "SET", "k", "v") == "OK"
        assert started.socket.stat().st_uid == 65_534
        started.end()


def _python_for(identity: dict[str, object]) -> str | None:
    """An interpreter that ``identity`` may run: ours, or the system's if it is new enough."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [python, "-c", "import asyncio; asyncio.Runner"],
                cwd="/",
                check=True,
                capture_output=True,
                **identity,  # type: ignore[call-overload]
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None
