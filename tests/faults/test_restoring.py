"""The steps of docs/OPERATIONS.md after PostgreSQL was lost, and for restoring a backup."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.embedded.find import find_postgres
from tests.databases import cluster_of
from tests.faults.stage import Stage
from tests.processes import until

AT_STORE = ("memory", "fsync")

pytestmark = pytest.mark.proof


@pytest.fixture
def own(place: Path) -> Iterator[Stage]:
    """A service for one test."""
    stage = Stage(place)
    yield stage
    stage.close()


def business(stage: Stage, dice: random.Random) -> None:
    """People come and go; the ledger has what they did."""
    callers = stage.callers(dice.random())
    callers.more(dice.randrange(40, 120), *AT_STORE)
    callers.more(3, "ledger")
    stage.told(callers)
    until(lambda: stage.meta("mark") == stage.meta("seq"), "the ledger has it")


def afterwards(stage: Stage, dice: random.Random) -> None:
    """Business as ever, and everything agrees."""
    callers = stage.callers(dice.random())
    callers.more(40, *AT_STORE)
    callers.more(5, "ledger")
    print(stage.check(callers, dice))


def tool(name: str, *words: str | Path) -> None:
    """One of PostgreSQL's programs."""
    done = subprocess.run(
        [find_postgres(None).directory / name, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def dump(stage: Stage, file: Path) -> None:
    """``pg_dump`` beside the running service."""
    tool("pg_dump", "--format=custom", "--schema=stockade", f"--file={file}",
         stage.addresses.owner_dsn)  # fmt: skip


def restore(stage: Stage, file: Path) -> None:
    """``pg_restore`` over what a running service has just made."""
    tool("pg_restore", "--clean", "--if-exists", "--single-transaction",
         f"--dbname={stage.addresses.owner_dsn}", file)  # fmt: skip


def rebuild(stage: Stage, status: int = 0) -> str:
    """``stockade rebuild --force``; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "rebuild", "--data", str(stage.data), "--force"],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout or done.stderr


def test_a_copy_of_the_directory_is_a_backup(
    own: Stage, tmp_path: Path, dice: random.Random
) -> None:
    """Made while it is stopped; started elsewhere it is the same service."""
    business(own, dice)
    own.stop()
    if cluster_of(own.data) != own.data / "postgres":
        pytest.skip("the cluster is elsewhere on this machine")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", own.data, copy], check=True)
    shutil.rmtree(own.data)
    copy.rename(own.data)
    own.restart()
    assert own.audit(dice)[0] == []
    afterwards(own, dice)


def test_the_ledgers_half_of_it_is_enough(own: Stage, dice: random.Random) -> None:
    """Without Valkey's data the store is made again at the start."""
    business(own, dice)
    epoch = own.meta("epoch")
    own.stop()
    shutil.rmtree(own.data / "valkey")
    own.restart()
    until(lambda: own.rebuilt(epoch), "whole again")
    assert own.audit(dice)[0] == []
    afterwards(own, dice)


@pytest.mark.parametrize("store_is_there", [False, True])
def test_a_dump_is_restored(
    own: Stage, tmp_path: Path, dice: random.Random, store_is_there: bool
) -> None:
    """Into a cluster that a start has made; what came after the dump is lost, and named as such."""
    business(own, dice)
    dump(own, tmp_path / "ledger.dump")
    seq, epoch = own.meta("seq"), own.meta("epoch")
    business(own, dice)
    own.stop()
    shutil.rmtree(cluster_of(own.data))
    if not store_is_there:
        shutil.rmtree(own.data / "valkey")
    own.restart()
    if store_is_there:
        until(lambda: "is missing" in own.readiness()["ledger"]["state"], "it is told")
        said = rebuild(own, status=1)
        assert "the ledger is empty and the store is not" in said
    restore(own, tmp_path / "ledger.dump")
    said = rebuild(own)
    print(said)
    assert f"not known: what was acknowledged after event {epoch}-{seq}, " in said
    until(lambda: own.rebuilt(epoch), "whole again")
    lost, words = own.audit(dice, older=True)
    print(words)
    assert lost
    afterwards(own, dice)
