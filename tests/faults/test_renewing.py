"""Stopped, and renewed worker by worker, under a crowd that hears of neither.

Some callers keep their connection, some make one for each request. Both get nothing but final
answers; a closed port, once the service is gone, is the one thing else that they may meet.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.callers import Callers, Client
from tests.faults.stage import WORKERS, Stage
from tests.processes import until

AT_STORE = ("memory", "fsync")
NOTICE = "notice_seconds = 3\nstore_timeout_seconds = 30"
LOST = ("broken", "none", "unknown", "ledger_unavailable none", "ledger_unavailable unknown")


class Renewed(NamedTuple):
    """A service, and the file that it reads its settings from."""

    stage: Stage
    file: Path


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renewed]:
    """For all tests of this file. A balancer has three seconds to see that it stops."""
    place = tmp_path_factory.mktemp("renewed")
    file = place / "stockade.toml"
    file.write_text(NOTICE)
    environ = {
        "STOCKADE_CONFIG": str(file),
        # Said in the file, or longer than a scribe is away that is renewed on a busy machine.
        "STOCKADE_NOTICE_SECONDS": "", "STOCKADE_WAIT_MS": "30000",
        "STOCKADE_DRAIN_SECONDS": "60", "STOCKADE_LEDGER_WAIT_SECONDS": "60",
    }  # fmt: skip
    with closing(Stage(place / "data", **environ)) as stage:
        yield Renewed(stage, file)


def told(callers: Callers) -> dict[str, int]:
    """What should never be told, if it was."""
    return {name: count for name in LOST if (count := callers.count(name))}


def commit(stage: Stage, key: str) -> Any:
    """A reservation that was committed with the service's own level of durability."""
    with closing(Client(lambda: stage.url)) as client:
        body = {"channel": "web", "lines": [{"sku": "tee-0", "quantity": 1}]}
        made = client.post("/v1/reservations", body, key)
        assert made is not None
        assert made.status == 201
        reply = client.post(f"/v1/reservations/{made.body['id']}/commit", {}, key)
        assert reply is not None
        assert reply.status == 200
        stage.told_of(client, made.body["id"])
        return reply.body


def test_every_process_is_replaced_and_nobody_hears_of_it(
    renewed: Renewed, dice: random.Random
) -> None:
    stage, file = renewed
    callers = stage.callers(dice.random())
    before = {*stage.workers(), stage.scribe()}
    file.write_text(f'{NOTICE}\ncommit_durability = "ledger"')
    callers.more(dice.randrange(100), *AT_STORE)
    stage.service.signal(signal.SIGHUP)
    stage.service.hears("everything is renewed")
    after = {*stage.workers(), stage.scribe()}
    assert not before & after
    assert len(after) == WORKERS + 1
    assert commit(stage, f"{dice.random()}")["durability"] == "ledger"
    callers.more(40, *AT_STORE)
    callers.more(5, "ledger")
    stage.told(callers)
    assert told(callers) == {}
    assert callers.count("closed") == 0
    lost, words = stage.audit(dice)
    assert not lost
    print(words)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("notice_seconds = true", "nothing is renewed: "),
        ("notice_seconds = 3\nstore_timeout_seconds = 1e-9", "goes on as it is"),
        (f'{NOTICE}\nvalkey_url = "redis://127.0.0.1:1"', "valkey_url stays as it was"),
    ],
)
def test_what_cannot_be_taken_is_told_and_changes_nothing(
    renewed: Renewed, settings: str, said: str
) -> None:
    stage, file = renewed
    file.write_text(settings)
    stage.service.signal(signal.SIGHUP)
    assert '"level":"error"' in stage.service.hears(said)
    if "valkey_url" in settings:
        stage.service.hears("everything is renewed")
    file.write_text(NOTICE)
    assert commit(stage, said.split()[0])["state"] == "committed"
    assert len(stage.workers()) == WORKERS


def test_it_stops_and_nobody_who_was_let_in_goes_without_an_answer(
    renewed: Renewed, dice: random.Random
) -> None:
    stage, _ = renewed
    callers = stage.callers(dice.random())
    callers.more(dice.randrange(40, 120), *AT_STORE)
    if dice.random() < 0.5:  # in the middle of a renewal
        stage.service.signal(signal.SIGHUP)
        callers.more(dice.randrange(1, 200), *AT_STORE)
    stage.service.signal(signal.SIGTERM)
    looks: list[int] = []
    balancer = Client(lambda: stage.url, keeps=False)

    def closed() -> bool:
        reply = balancer.ask("GET", "/readyz")
        looks.append(reply.status if reply else 0)
        return reply is None

    until(closed, "the port is closed")
    assert balancer.why == "closed"
    ready, unready = looks.count(200), looks.count(503)
    assert looks == [200] * ready + [503] * unready + [0]
    assert unready > 1
    stage.ended()
    assert told(callers) == {}
    stage.restart()
    callers.more(40, *AT_STORE)
    print(stage.check(callers, dice))
