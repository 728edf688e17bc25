"""Fixtures of the tests that break things."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.stage import Stage
from tests.workers import calm_loop, store, worker, workers

__all__ = ["calm_loop", "store", "worker", "workers"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What draws from dice is repeated with others as often as ``--rounds`` says."""
    if "dice" in metafunc.fixturenames:
        rounds = max(1, metafunc.config.option.rounds)
        metafunc.parametrize("dice", range(rounds), indirect=True)


@pytest.fixture
def dice(request: pytest.FixtureRequest, seed: int) -> random.Random:
    """Dice that the run's seed, the test and its round decide."""
    return random.Random(f"{seed}/{request.node.name}")


class Stages:
    """One service for many faults; a new one after a test that failed."""

    def __init__(self, directory: Callable[[str], Path]) -> None:
        self._directory = directory
        self._stage: Stage | None = None

    def current(self) -> Stage:
        """The one that there is, or a new one."""
        if self._stage is not None and self._stage.spoiled:
            self.end()
        if self._stage is None:
            self._stage = Stage(self._directory("stage"))
        return self._stage

    def end(self) -> None:
        """Closes it."""
        if self._stage is not None:
            stage, self._stage = self._stage, None
            stage.close()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Services of a whole file of tests."""
    made = Stages(tmp_path_factory.mktemp)
    yield made
    made.end()


@pytest.fixture
def stage(stages: Stages) -> Stage:
    """A service that others have been tried on. It is thrown away after a test that does not take
    ``spoiled`` back in its last line."""
    found = stages.current()
    found.spoiled = True
    return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory that need not be read when a test failed: what is in it is large."""
    yield tmp_path / "data"
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
