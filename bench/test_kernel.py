"""The planner, for pytest-benchmark: 700 baskets of one to four lines on 200 pools."""

from __future__ import annotations

from typing import Any

import pytest

from bench.kernel import Case


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_plan(benchmark: Any, case: Case) -> None:
    """Planning alone: flat arrays in, takes out."""

    def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
        case.take_in(case.demands())
        return (), {}

    benchmark.pedantic(case.plan, setup=setup, rounds=50)


def test_intake_plan_and_pack(benchmark: Any, case: Case) -> None:
    """What a pipeline costs its worker in the kernel."""
    benchmark.pedantic(case.kernel, rounds=50)


def test_reference(benchmark: Any, case: Case) -> None:
    """The same demands by the oracle of the tests."""
    benchmark.pedantic(case.reference, rounds=5)
