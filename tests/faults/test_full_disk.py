"""A disk that is full, as a small file system of its own: PostgreSQL's, then Valkey's."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from core.embedded.cluster import SUPERUSER
from tests.databases import cluster_of
from tests.faults.callers import Callers
from tests.faults.stage import Stage, in_loop
from tests.processes import until

AT_STORE = ("memory", "fsync")
SPARE_BYTES = 64 * 2**20  # a segment of PostgreSQL's log has 16 MiB, and it keeps a few

pytestmark = pytest.mark.proof


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """The directory lies on a file system that has a little room beside it."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a file system")
    aside = directory.with_name(f"{directory.name}-aside")
    directory.rename(aside)
    directory.mkdir(mode=aside.stat().st_mode & 0o777)
    used = int(subprocess.check_output(["du", "-sb", aside]).split()[0])
    size = f"size={used + SPARE_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", directory], capture_output=True, check=False
    )
    if mounted.returncode:
        aside_back(directory, aside)
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["cp", "-a", f"{aside}/.", directory], check=True)
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
        aside_back(directory, aside)


def aside_back(directory: Path, aside: Path) -> None:
    """What was there before."""
    directory.rmdir()
    aside.rename(directory)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left meanwhile."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.fixture
def own(place: Path) -> Iterator[Stage]:
    """A service for one test."""
    stage = Stage(place)
    yield stage
    stage.close()


def after(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """It comes back by itself, and nothing was lost."""
    callers.more(40, *AT_STORE)
    callers.more(5, "ledger")
    print(stage.check(callers, dice))


def test_the_ledger_has_no_room(own: Stage, dice: random.Random) -> None:
    """It is away: whoever does not ask for it goes on; with room again it has everything."""
    own.stop()
    with small_disk(cluster_of(own.data)) as disk:
        own.restart()
        callers = own.callers(dice.random())
        callers.more(dice.randrange(20, 100), *AT_STORE)
        own.faults += 1
        with full(disk):
            callers.more(3, "ledger_unavailable unknown")
            callers.more(100, *AT_STORE)
        after(own, callers, dice)
        own.stop()


def test_the_ledger_cannot_log_ahead(own: Stage, dice: random.Random) -> None:
    """Its server panics, and cannot start until there is room; then it recovers by itself."""
    own.stop()
    with small_disk(cluster_of(own.data) / "pg_wal") as disk:
        own.restart()
        callers = own.callers(dice.random())
        callers.more(dice.randrange(20, 100), *AT_STORE)
        own.faults += 1
        first = own.postmaster()
        with full(disk):
            until(lambda: not segment_ended(own), "no segment can be begun")
            callers.more(3, "ledger_unavailable unknown")
            callers.more(100, *AT_STORE)
        after(own, callers, dice)
        print("it had to be started again" if own.postmaster() != first else "it recovered")
        own.stop()


def segment_ended(stage: Stage) -> bool:
    """Has PostgreSQL begin another segment of its log; False if it could not."""
    dsn = stage.addresses.owner_dsn.replace("stockade_owner@/stockade", f"{SUPERUSER}@/postgres")

    async def end() -> None:
        connection = await asyncpg.connect(dsn, timeout=2, command_timeout=2)
        try:
            await connection.execute("SELECT pg_switch_wal()")
            await connection.execute("CREATE TEMPORARY TABLE something AS SELECT 1")
        finally:
            connection.terminate()

    try:
        in_loop(end)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


def test_the_store_has_no_room(own: Stage, dice: random.Random) -> None:
    """Nothing is acknowledged that it could not write; with room again it has everything."""
    own.stop()
    with small_disk(own.data / "valkey") as disk:
        own.restart()
        callers = own.callers(dice.random())
        callers.more(dice.randrange(20, 100), *AT_STORE)
        own.faults += 1
        with full(disk):
            callers.more(20, "unknown", "none")
        after(own, callers, dice)
        own.stop()
