"""The private Valkey: found, started, found again, and never left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from core.embedded import guard, valkey
from core.embedded.find import find_server
from core.embedded.server import SOCKET_PATH_MAX_BYTES
from core.embedded.valkey import EmbeddedValkey, find_running
from core.errors import StartRefused
from tests.holders import NOBODY, Holder, anybodys_checkout, python_for
from tests.processes import is_running, until

Fresh = Callable[..., Awaitable[EmbeddedValkey]]


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


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    started = Holder(EmbeddedValkey, tmp_path / "data")
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


async def test_a_server_that_hangs_is_killed(
    fresh_valkey: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey, "STOP_SECONDS", 0.2)
    server = await fresh_valkey()
    pid = server_pid(server.socket)
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    until(lambda: not is_running(pid), "it is gone")


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
    with anybodys_checkout() as directory:
        shutil.copy(find_server(), directory / "valkey-server")
        started = Holder(
            EmbeddedValkey,
            directory / "home" / "data",
            python=python_for(NOBODY),
            path=directory,
            options={"binary": f"{directory}/valkey-server"},
            **NOBODY,
        )
        assert ask(started.socket, "SET", "k", "v") == "OK"
        assert started.socket.stat().st_uid == NOBODY["user"]
        started.end()
