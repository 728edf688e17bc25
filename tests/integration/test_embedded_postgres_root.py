"""The private PostgreSQL of root, and of somebody else: who it runs as, and where its data is."""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core.embedded import cluster
from core.embedded.find import find_postgres
from core.embedded.postgres import EmbeddedPostgres, find_running
from tests.databases import ask, cluster_of, keep, kept, postmaster
from tests.holders import NOBODY, Holder, anybodys_checkout, children, python_for

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
# linux/filter.h: unshare answers EPERM, everything else is let through, as in a container.
UNSHARE = {"x86_64": 272, "aarch64": 97}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22


@pytest.fixture(scope="module")
def binaries() -> Iterator[Path]:
    """PostgreSQL's binaries where anybody can run them, wherever the environment lies."""
    with tempfile.TemporaryDirectory(prefix="stockade-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        prefix = find_postgres().directory.parent
        libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
        copy = Path(name, prefix.parent.name, prefix.name)
        shutil.copytree(prefix, copy, ignore=shutil.ignore_patterns("include"))
        if libraries.exists():
            shutil.copytree(libraries, Path(name, libraries.name))
        yield copy / "bin"


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that anybody can enter."""
    with tempfile.TemporaryDirectory(prefix="stockade-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def state(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state directory, not made yet."""
    monkeypatch.setenv("STATE_DIRECTORY", str(open_directory / "state"))
    return open_directory / "state"


def other_user() -> int:
    """Whom root's server runs as."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("there is nobody else")


def forbid_namespaces() -> None:
    """Have unshare refused to this process and all that it starts."""
    filters = (
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, UNSHARE[platform.machine()]),  # is it unshare?
        (0x06, 0, 0, 0x00050001),  # EPERM
        (0x06, 0, 0, 0x7FFF0000),  # allow
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in filters))
    program = struct.pack("HxxxxxxP", len(filters), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp")


def hold(data: Path, bindir: Path | None = None) -> Holder:
    """A service where namespaces are forbidden."""
    options: dict[str, object] = {"bindir": bindir and str(bindir), "fsync": False}
    return Holder(EmbeddedPostgres, data, options=options, preexec_fn=forbid_namespaces)


def namespaces_are_allowed() -> bool:
    return cluster._tries(cluster.User(65_534, 65_534, namespace=True), lambda: None)


confined = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in UNSHARE,
    reason="there is no filter for this machine",
)


def capabilities(pid: int) -> int:
    """The privileges that a process has in its namespace, as bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("CapEff:")[2].split()[0], 16)


def owner(path: Path) -> int:
    return path.stat().st_uid


def modes(*paths: Path) -> list[int]:
    return [stat.S_IMODE(path.stat().st_mode) for path in paths]


async def test_roots_server_runs_as_another_user_where_that_one_can_enter(
    open_directory: Path, binaries: Path
) -> None:
    data = open_directory / "data"
    data.mkdir(mode=0o755)
    server = EmbeddedPostgres(data, bindir=binaries, fsync=False)
    before = [(owner(path), *modes(path)) for path in (open_directory, data, binaries)]
    await server.start()
    await keep(server)
    assert owner(Path(f"/proc/{postmaster(server.socket)}")) == other_user()
    assert owner(data / "postgres") == owner(server.socket.parent) == other_user()
    assert modes(data / "postgres", server.socket.parent) == [0o700, 0o700]
    await server.stop()
    assert before == [(owner(path), *modes(path)) for path in (open_directory, data, binaries)]
    assert not server.socket.parent.exists()


@pytest.mark.skipif(not namespaces_are_allowed(), reason="user namespaces are forbidden here")
async def test_closed_parents_stay_closed_and_data_is_found_from_either_side(
    open_directory: Path, binaries: Path
) -> None:
    parent, data = open_directory / "parent", open_directory / "parent" / "data"
    data.mkdir(mode=0o755, parents=True)
    server = EmbeddedPostgres(data, bindir=binaries, fsync=False)
    for mode, expected in ((0o700, 0), (0o755, other_user()), (0o700, 0)):
        parent.chmod(mode)
        await server.start()
        if not list(data.glob("kept")):
            await keep(server)
            (data / "kept").touch()
        assert await kept(server)
        assert owner(data / "postgres") == expected
        files = list((data / "postgres").rglob("*"))
        assert {owner(path) for path in files} == {expected}
        await server.stop()
        assert modes(parent, data) == [mode, 0o755]
    assert not (data / "postgres.at").exists()


@pytest.mark.skipif(not namespaces_are_allowed(), reason="user namespaces are forbidden here")
async def test_in_its_namespace_the_server_has_no_privilege(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o700)
    server = EmbeddedPostgres(tmp_path / "data", fsync=False)
    await server.start()
    assert capabilities(postmaster(server.socket)) == 0
    for pid in children(postmaster(server.socket)):
        with suppress(FileNotFoundError, ProcessLookupError):  # some end by themselves
            assert capabilities(pid) == 0
    await server.stop()


@confined
async def test_without_namespaces_the_data_is_in_the_state_directory(
    tmp_path: Path, state: Path, binaries: Path
) -> None:
    closed = tmp_path / "closed"
    shutil.copytree(binaries.parent.parent.parent, closed)
    closed.chmod(0o700)
    bindir = closed / binaries.relative_to(binaries.parent.parent.parent)
    data = tmp_path / "data"

    holder = hold(data, bindir)
    found = find_running(data)
    assert found is not None
    await ask(found.owner_dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    place = cluster_of(data)
    assert place.is_relative_to(state)
    assert not (data / "postgres").exists()
    assert owner(place) == owner(Path(f"/proc/{holder.server_pid}")) == other_user()
    assert modes(state, place.parent, place) == [0o711, 0o711, 0o700]
    assert modes(tmp_path, closed, data) == [0o700, 0o700, 0o700]
    assert (place.parent / "data").read_text() == f"{data}\n"
    # A copy of the data directory names the same cluster: one service at a time.
    shutil.copytree(data, tmp_path / "copy")
    with pytest.raises(AssertionError, match="in use by the service of another data directory"):
        hold(tmp_path / "copy", bindir)
    holder.end()
    again = hold(data, bindir)
    found = find_running(data)
    assert found is not None
    assert await ask(found.owner_dsn, "SELECT answer FROM kept") == 42
    again.end()
    assert len(os.listdir(state)) == 2, "one cluster, one copy of the binaries"


@confined
def test_a_cluster_that_is_gone_is_no_empty_one(tmp_path: Path, state: Path) -> None:
    data = tmp_path / "data"
    hold(data).end()
    shutil.rmtree(cluster_of(data))
    with pytest.raises(AssertionError, match="and no cluster is there"):
        hold(data)


@confined
@pytest.mark.skipif(not namespaces_are_allowed(), reason="user namespaces are forbidden here")
def test_data_that_came_out_of_reach_is_not_left_for_an_empty_cluster(
    tmp_path: Path, state: Path
) -> None:
    Holder(EmbeddedPostgres, tmp_path / "data", options={"fsync": False}).end()
    with pytest.raises(AssertionError, match="cannot be entered by user"):
        hold(tmp_path / "data")
    assert not state.exists()


def test_somebody_else_than_root_can_run_it(binaries: Path) -> None:
    with anybodys_checkout() as directory:
        started = Holder(
            EmbeddedPostgres,
            directory / "home" / "data",
            python=python_for(NOBODY),
            path=directory,
            options={"bindir": str(binaries), "fsync": False},
            **NOBODY,
        )
        place = directory / "home" / "data" / "postgres"
        assert owner(started.socket) == owner(place) == NOBODY["user"]
        assert owner(Path(f"/proc/{started.server_pid}")) == NOBODY["user"]
        started.end()
