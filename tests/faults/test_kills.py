"""Processes that are killed and frozen under a crowd; then everything is audited.

Each fault strikes the service that the faults before it have left. ``--seed`` repeats a run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from tests.faults.callers import Callers
from tests.faults.stage import Stage
from tests.processes import until

Fault: TypeAlias = Callable[[Stage, Callers, random.Random], None]

BUSINESS = 40  # answers between two faults
AT_STORE = ("memory", "fsync")


def worker(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """A worker, twice; the second time with what it was told to do under way."""
    for _ in range(2):
        stage.kill(dice.choice(stage.workers()))
        callers.more(dice.randrange(BUSINESS), *AT_STORE)


def scribe(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """The scribe, wherever it is between reading and writing."""
    for _ in range(2):
        stage.kill(stage.scribe())
        callers.more(dice.randrange(BUSINESS), *AT_STORE)


def store(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """Valkey."""
    stage.kill(stage.valkey())


def postmaster(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """PostgreSQL's first process; the others find out."""
    stage.kill(stage.postmaster())


def backend(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """One of PostgreSQL's; it ends the others and recovers."""
    found: list[int] = []

    def connected() -> bool:
        found[:] = stage.backends()
        return bool(found)

    until(connected, "somebody is connected")
    stage.kill(dice.choice(found))


def everything(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """All of it at once; started again on its directory half a second later."""
    stage.kill_all()


def frozen_ledger(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """PostgreSQL stands still for longer than a caller waits; whoever does not ask for it goes on.
    """
    with stage.frozen(*stage.all_of_postgres()):
        callers.more(2, "ledger_unavailable unknown")
        callers.more(dice.randrange(100, 300), *AT_STORE)


def long_frozen_ledger(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """For longer than the scribe waits for an answer."""
    with stage.frozen(*stage.all_of_postgres()):
        callers.more(dice.randrange(12, 20), "ledger_unavailable unknown")


def frozen_store(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """Valkey stands still for longer than a call may take."""
    with stage.frozen(stage.valkey()):
        callers.more(dice.randrange(1, 12), "unknown", "none", "broken")


def between_script_and_scribe(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """Scripts ran, the scribe has not read them; then it dies."""
    pid = stage.scribe()
    with stage.frozen(pid):
        callers.more(dice.randrange(20, 200), *AT_STORE)
        stage.kill(pid)


# What the scribe needs at the beginning of its transaction, and what behind it has moved the mark.
LOCKS = (
    "SELECT FROM stockade.mark FOR UPDATE",
    "LOCK TABLE stockade.reservation IN SHARE MODE",
)


@contextmanager
def inside_a_transaction(stage: Stage, lock: str) -> Iterator[int]:
    """Somebody holds what the scribe needs, so that it waits in its transaction: the process of
    PostgreSQL that does."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        holder = runner.run(asyncpg.connect(stage.addresses.owner_dsn))
        runner.run(holder.execute(f"BEGIN; {lock}"))
        waiting: list[int] = []

        def waits() -> bool:
            found = runner.run(holder.fetch("SELECT pid FROM pg_locks WHERE NOT granted"))
            waiting[:] = [row["pid"] for row in found]
            return bool(waiting)

        until(waits, "the scribe waits")
        yield waiting[0]
        holder.terminate()


def scribe_in_a_transaction(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """The scribe dies inside its transaction."""
    with inside_a_transaction(stage, dice.choice(LOCKS)):
        stage.kill(stage.scribe())
        callers.more(dice.randrange(BUSINESS), *AT_STORE)


def backend_in_a_transaction(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """The server's process that does it, or the whole server."""
    with inside_a_transaction(stage, dice.choice(LOCKS)) as pid:
        stage.kill(dice.choice((pid, stage.postmaster())))


def two_scribes(stage: Stage, callers: Callers, dice: random.Random) -> None:
    """One of them finds the mark moved and stands by; then the other one is gone."""
    with stage.second_scribe():
        callers.more(dice.randrange(BUSINESS, 4 * BUSINESS), *AT_STORE)
        callers.more(5, "ledger")


FAULTS: list[Any] = [
    worker, scribe, store, postmaster, backend, everything, frozen_ledger,
    between_script_and_scribe, scribe_in_a_transaction, backend_in_a_transaction, two_scribes,
    *(pytest.param(fault, marks=pytest.mark.proof) for fault in (frozen_store, long_frozen_ledger)),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nothing_is_lost(stage: Stage, fault: Fault, dice: random.Random) -> None:
    """Whatever dies or stands still under load, and whenever."""
    callers = stage.callers(dice.random())
    callers.more(dice.randrange(BUSINESS, 3 * BUSINESS), *AT_STORE)
    fault(stage, callers, dice)
    callers.more(BUSINESS, *AT_STORE)
    callers.more(5, "ledger")
    print(stage.check(callers, dice))
    stage.spoiled = False
