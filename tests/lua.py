"""The parts of the scripts for tests that try them alone, and a server to try them on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib import resources

import pytest

from tests.workers import Store, client

PARTS = "".join(
    (resources.files("core.store") / "lua" / "parts" / f"{name}.lua").read_text()
    for name in ("shard", "rows")
)


@pytest.fixture(scope="module")
def server(valkey: str) -> Iterator[Store]:
    """A client of the run's server, for as long as a file's tests last."""
    with closing(client(valkey)) as connection:
        yield connection
