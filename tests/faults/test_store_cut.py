"""A store that was emptied or cut under a crowd, with a scribe that was behind: what the ledger was
told to have is there, and of the rest it is said what is not known."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis

from tests.faults.stage import Stage
from tests.processes import until

AT_STORE = ("memory", "fsync")
CUT_SECONDS = (1.0, 2.0)


def log_of(stage: Stage) -> Path:
    """The file that its Valkey appends to."""
    (found,) = (stage.data / "valkey").glob("appendonlydir/*.incr.aof")
    return found


def emptied_while_running(stage: Stage, dice: random.Random) -> None:
    """FLUSHALL; the workers notice, and the scribe makes it again."""
    with redis.Redis.from_url(stage.store_url) as plain:
        plain.flushall()


def empty_at_a_start(stage: Stage, dice: random.Random) -> None:
    """Everything is killed, and what Valkey had is gone."""
    stage.kill_all(lambda: shutil.rmtree(stage.data / "valkey"))


FAULTS = [emptied_while_running, empty_at_a_start]


def business(stage: Stage, dice: random.Random, ledger: bool, number: int) -> None:
    """People come, and go again with their last answer."""
    callers = stage.callers(dice.random(), ledger)
    callers.more(number, *AT_STORE)
    stage.told(callers)


def unknown_from(stage: Stage) -> int:
    """What the last rebuild said: the first event of which it does not know whether it was."""

    async def look() -> int:
        connection = await asyncpg.connect(stage.addresses.owner_dsn)
        row = await connection.fetchrow(
            "SELECT lost_seq FROM stockade.rebuild WHERE NOT whole ORDER BY epoch DESC LIMIT 1"
        )
        await connection.close()
        assert row is not None
        return int(row["lost_seq"]) + 1

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(look())


@pytest.mark.proof
@pytest.mark.parametrize("behind", [False, True], ids=["", "scribe_behind"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_empty_store_is_filled_again(
    stage: Stage, fault: Callable[[Stage, random.Random], None], behind: bool, dice: random.Random
) -> None:
    """All that the ledger had; and what it had not is what the rebuild says that it does not know.
    """
    business(stage, dice, True, dice.randrange(50, 150))
    until(lambda: stage.meta("mark") == stage.meta("seq"), "the ledger has it")
    epoch, seq = stage.meta("epoch"), stage.meta("seq")
    with stage.frozen(stage.scribe()) if behind else contextlib.nullcontext():
        if behind:
            business(stage, dice, False, dice.randrange(50, 150))
        fault(stage, dice)
    until(lambda: stage.rebuilt(epoch), "whole again")
    lost, words = stage.audit(dice)
    print(words)
    assert bool(lost) is behind
    # An empty store cannot say whether there was more. A scribe that waits as it is frozen has the
    # next event already.
    assert unknown_from(stage) - seq in (1, 2 if behind else 1)
    callers = stage.callers(dice.random())
    callers.more(5, "ledger")
    print(stage.check(callers, dice))
    stage.spoiled = False


@pytest.mark.proof
@pytest.mark.parametrize("behind", [False, True], ids=["", "scribe_behind"])
def test_a_log_that_was_cut_back_by_a_second_or_two(
    stage: Stage, behind: bool, dice: random.Random
) -> None:
    """With everything else killed as well. What the ledger had comes back from there; what nobody
    has is gone, and nothing of what is there contradicts it."""
    business(stage, dice, True, dice.randrange(20, 60))
    with contextlib.ExitStack() as stack:
        if behind:
            stack.enter_context(stage.frozen(stage.scribe()))
        callers = stage.callers(dice.random(), ledger=not behind)
        callers.more(dice.randrange(50, 150), *AT_STORE)
        size, since = log_of(stage).stat().st_size, time.monotonic()
        cut = since + dice.uniform(*CUT_SECONDS)
        until(lambda: time.monotonic() >= cut, "the time that is lost")
        stage.told(callers)
        if not behind:
            until(lambda: stage.readiness()["ledger"]["lag"]["events"] == 0, "the ledger has all")
        stage.kill_all(lambda: os.truncate(log_of(stage), size))
    lost, words = stage.audit(dice)
    print(words)
    assert bool(lost) is behind
    callers = stage.callers(dice.random())
    callers.more(5, "ledger")
    print(stage.check(callers, dice))
    stage.spoiled = False
