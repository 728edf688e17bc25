"""What every test stands on: a kernel that is not stale, a seed that is shown, real servers.

The servers are the ones that the service itself starts, by the same code.
"""

from __future__ import annotations

import asyncio
import importlib.machinery
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import hypothesis
import pytest

from core.embedded.postgres import Addresses, EmbeddedPostgres
from core.embedded.valkey import EmbeddedValkey
from core.ledger.migrating import migrate
from tests.ledgered import Ledger

CORE = Path(__file__).parent.parent / "core"
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30  # for the logs of a few stores, each of up to 1 GiB before it is rewritten

# ``make proof`` searches for longer; by default a run shall stay short on two busy cores.
# What does not fit is drawn anew until there are as many as were asked for: how often that comes
# in a row is chance.
ANY = [hypothesis.HealthCheck.filter_too_much]
hypothesis.settings.register_profile("stockade", deadline=None, suppress_health_check=ANY)
hypothesis.settings.register_profile(
    "proof", deadline=None, max_examples=2_000, suppress_health_check=ANY
)
hypothesis.settings.load_profile("stockade")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--seed N`` repeats a run that used randomness; ``--rounds N`` breaks things for longer."""
    parser.addoption("--seed", type=int, help="seed of random and of Hypothesis")
    parser.addoption(
        "--rounds", type=int, default=0,
        help="how often each fault is made, and those with it that are only for make proof",
    )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is only for ``make proof``."""
    if not config.option.rounds:
        left_out = [item for item in items if item.get_closest_marker("proof")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Refuse a kernel that is not the one in the sources; choose the seed before Hypothesis."""
    stale = _stale_extensions()
    if stale:
        pytest.exit(f"missing or older than its source: {', '.join(stale)}; run make build", 3)
    # A setting in the caller's shell would reach the services under test.
    for variable in [name for name in os.environ if name.startswith("STOCKADE_")]:
        del os.environ[variable]
    # Where root's PostgreSQL can run nowhere else, see core.embedded.cluster; everybody may pass.
    state = tempfile.TemporaryDirectory(prefix="stockade-state-")
    config.add_cleanup(state.cleanup)
    Path(state.name).chmod(0o711)
    os.environ["STATE_DIRECTORY"] = state.name
    if config.option.seed is None:
        config.option.seed = random.SystemRandom().randrange(2**32)
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)


def pytest_report_header(config: pytest.Config) -> str:
    """Show the seed, so that the same run can be made again."""
    return f"seed: {config.option.seed} (--seed repeats it)"


def _stale_extensions() -> list[str]:
    headers = [path.stat().st_mtime for path in CORE.glob("*/*.pxd")]
    stale = []
    for source in sorted(CORE.glob("*/_*.pyx")):
        built = source.with_suffix(importlib.machinery.EXTENSION_SUFFIXES[0])
        newest = max(source.stat().st_mtime, *headers)
        if not built.exists() or built.stat().st_mtime < newest:
            stale.append(str(built.relative_to(CORE.parent)))
    return stale


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed, for a test that makes its own ``random.Random``."""
    return int(request.config.option.seed)


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)


def roomy() -> Path | None:
    """A directory in memory for what stores write; None where there is no room for it."""
    there = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES
    return MEMORY if there else None


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """The URL of one private server for the whole run, as the service starts it.

    Its log is in memory where there is room: on the disk of a busy machine one fsync may take
    longer than a request waits, and then a test about something else hears 503.
    """
    # A runner of its own: a server outlives the event loops of the tests that use it.
    with (
        asyncio.Runner() as runner,
        tempfile.TemporaryDirectory(dir=roomy()) as directory,
    ):
        server = EmbeddedValkey(Path(directory))
        runner.run(server.start())
        yield server.url
        runner.run(server.stop())


@pytest.fixture
def store_url(valkey: str) -> str:
    """The same server, empty."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(valkey.removeprefix("unix://"))
        connection.sendall(b"FLUSHALL SYNC\r\n")
        answer = connection.recv(100)
    assert answer == b"+OK\r\n", answer
    return valkey


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """One private PostgreSQL for the whole run, as the service starts it, but for the fsyncs."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as directory:
        server = EmbeddedPostgres(Path(directory), fsync=False)
        runner.run(server.start())
        yield server
        runner.run(server.stop())


@pytest.fixture
async def ledger_dsns(postgres: EmbeddedPostgres) -> AsyncIterator[Addresses]:
    """A fresh database on it: the DSN of the service's role, and its owner's, who migrates."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(postgres.superuser_dsn)
    # As a service finds its own at its first start: the same owner, the same grants.
    await admin.execute(f"CREATE DATABASE {name} OWNER stockade_owner")
    await admin.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
    await admin.execute(f"GRANT CONNECT ON DATABASE {name} TO stockade")
    yield postgres.addresses(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def ledger(ledger_dsns: Addresses) -> AsyncIterator[Ledger]:
    """A ledger with its schema and nothing in it."""
    await migrate(ledger_dsns.owner_dsn, "stockade")
    made = Ledger(ledger_dsns)
    yield made
    await made.close()


@pytest.fixture
async def fresh_valkey() -> AsyncIterator[Callable[..., Awaitable[EmbeddedValkey]]]:
    """Starts private servers: ``await fresh_valkey(data=None, **options of EmbeddedValkey)``.

    Without ``data`` each has a new directory, in memory like that of ``valkey``. All are stopped
    after the test.
    """
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=roomy())))

        async def start(data: Path | None = None, **options: object) -> EmbeddedValkey:
            directory = data or place / f"valkey-{len(os.listdir(place))}"
            server = EmbeddedValkey(directory, **options)  # type: ignore[arg-type]
            stack.push_async_callback(server.stop)
            await server.start()
            return server

        yield start
