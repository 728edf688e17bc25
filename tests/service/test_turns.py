"""Who goes first on a busy machine: the store and the workers; the ledger has time."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from pathlib import Path

import pytest

from core import slices
from core.embedded.cluster import CORES_SHARE, NICENESS
from core.embedded.postgres import EmbeddedPostgres
from tests.databases import postmaster
from tests.processes import Service, family, until

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can be told so")
GIVEN_FROM = (6, 12)  # the version of Linux that gives slices


def slice_ns(pid: int) -> int:
    """What a process has, by sched_getattr, whose number follows that of sched_setattr."""
    buffer = ctypes.create_string_buffer(slices._ATTRIBUTES.size)
    number = slices._NUMBERS[platform.machine()] + 1
    assert ctypes.CDLL(None).syscall(number, pid, buffer, len(buffer.raw), 0) == 0
    return int(slices._ATTRIBUTES.unpack(buffer.raw[: slices._ATTRIBUTES.size])[5])


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
        first = [one(supervisor, name) for name in ("valkey-server", "api.worker")]
        behind = [one(supervisor, name) for name in ("postgres -D", "api.scribe")]
        for pid in first:
            assert os.sched_getaffinity(pid) == cores
            assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
        until(
            lambda: all(os.sched_getaffinity(pid) != cores or len(cores) == 1 for pid in behind),
            "both have stood back",
        )
        for pid in behind:
            kept = os.sched_getaffinity(pid)
            assert kept < cores or len(cores) == 1
            assert len(kept) == max(1, len(cores) // CORES_SHARE)
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(
                19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS
            )
        if tuple(map(int, platform.release().split(".")[:2])) >= GIVEN_FROM:
            assert [slice_ns(pid) for pid in first] == [slices.SLICE_NS] * 2
            assert slices.SLICE_NS not in map(slice_ns, behind)
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
    ended = os.fork()
    if not ended:
        os._exit(0)
    os.waitpid(ended, 0)
    assert slices.shorten(ended) == "No such process"


def test_where_it_is_not_known_how_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert slices.shorten().endswith(", vax")
