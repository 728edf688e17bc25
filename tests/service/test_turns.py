"""Who goes first on a busy machine: the store and the workers; the ledger has time."""

from __future__ import annotations

import errno
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import slices
from core.embedded.cluster import CORES_SHARE, NICENESS, stand_back
from core.embedded.find import find_server
from core.embedded.postgres import EmbeddedPostgres
from tests.databases import postmaster
from tests.processes import Service, family, until

SERVER = find_server(None).name
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told so")


def gives_slices() -> bool:
    """True if this system does: asked in a process of its own, which alone is changed."""
    code = "import sys; from core.slices import shorten; sys.exit(shorten() != '')"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def one(pid: int, words: str) -> int:
    """The one descendant of a process that is called so."""
    found: list[int] = []

    def there() -> bool:
        found.clear()
        lines = [pid]
        while lines:
            for child, said in family(lines.pop()):
                lines.append(child)
                if words in said and "guard.py" not in said:
                    found.append(child)
        return len(found) == 1

    until(there, f"there is one {words}")
    return found[0]


@LINUX_ONLY
def test_who_is_waited_for_goes_before_who_writes_what_happened(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    with Service("--data", str(tmp_path / "data")) as service:
        service.url()
        supervisor = service.process.pid
        first = [one(supervisor, name) for name in (SERVER, "api.worker")]
        behind = [one(supervisor, name) for name in ("postgres -D", "api.scribe")]
        for pid in first:
            assert os.sched_getaffinity(pid) == cores
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        for pid in behind:
            kept = os.sched_getaffinity(pid)
            assert kept < cores or len(cores) == 1
            assert len(kept) == max(1, len(cores) // CORES_SHARE)
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(
                19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
            )
        if gives_slices():
            assert [slices.length_ns(pid) for pid in first] == [slices.SLICE_NS] * 2
            assert slices.SLICE_NS not in map(slices.length_ns, behind)
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0


@LINUX_ONLY
async def test_a_postgres_of_nobodys_service_has_the_machine(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data", fsync=False)
    await server.start()
    try:
        pid = postmaster(server.socket)
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    finally:
        await server.stop()


@LINUX_ONLY
def test_a_process_that_is_gone_is_no_trouble() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    told = slices.shorten(ended.pid)
    assert told == "No such process" or not slices.can_be_told()


@LINUX_ONLY
def test_who_may_not_choose_its_cores_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "nice", lambda _: 0)  # else the rest of the tests would have it
    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    assert stand_back() == "Operation not permitted"


def test_where_it_is_not_known_how_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert slices.shorten().endswith(", vax")
