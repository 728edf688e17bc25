"""The ledger behind PgBouncer in transaction mode: each transaction may meet another session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from core.embedded.postgres import Addresses
from core.ledger.journal import Journal
from core.ledger.migrating import migrate
from core.service import Service
from tests.history import history
from tests.ledgered import Ledger, audit_ledger
from tests.processes import until
from tests.workers import Store, moved

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PORT = 6432

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed")


@pytest.fixture
def pooled(ledger_dsns: Addresses) -> Iterator[Addresses]:
    """The same two DSNs through a pooler that has two sessions for everybody."""
    assert PGBOUNCER is not None
    with tempfile.TemporaryDirectory(prefix="stockade-pooler-") as name:
        directory = Path(name)
        parts = urlsplit(ledger_dsns.dsn)
        behind = parse_qs(parts.query)
        # It refuses to be root, and must reach what is root's: root under another name.
        alias = ["unshare", "--user", "--map-user=65534"] if os.getuid() == 0 else []
        ini = directory / "pgbouncer.ini"
        ini.write_text(
            f"""[databases]
* = host={behind["host"][0]} port={behind["port"][0]}
[pgbouncer]
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
listen_addr =
unix_socket_dir = {directory}
listen_port = {PORT}
auth_type = trust
auth_file = {directory}/users
logfile =
pidfile = {directory}/pid
"""
        )
        auth = "\n".join(f'"{role}" ""' for role in ("stockade", "stockade_owner"))
        (directory / "users").write_text(auth)
        process = subprocess.Popen([*alias, PGBOUNCER, "-q", str(ini)], stderr=subprocess.PIPE)
        try:
            socket = directory / f".s.PGSQL.{PORT}"
            until(lambda: socket.exists() or process.poll() is not None, "the pooler listens")
            assert process.stderr is not None
            assert process.poll() is None, process.stderr.read()
            yield Addresses(
                *(
                    f"postgresql://{role}@{parts.path}?host={directory}&port={PORT}"
                    for role in ("stockade", "stockade_owner")
                )
            )
        finally:
            process.terminate()
            process.communicate()


async def test_everything_works_behind_a_pooler(
    worker: Service, store: Store, store_url: str, pooled: Addresses, ledger_dsns: Addresses,
    seed: int,
) -> None:  # fmt: skip
    """Migrating, writing, reading; and what is there is what the store has."""
    await migrate(pooled.owner_dsn, "stockade")
    through = Ledger(pooled)
    await history(worker, store, seed)
    mark = await through.catch_up(store_url)
    await audit_ledger(ledger_dsns.dsn, store_url, moved)
    journal = Journal(pooled.dsn, 10.0)
    await journal.open()
    found = await journal.mark()
    assert found is not None
    assert (found.epoch, found.seq, found.position) == (mark.epoch, mark.seq, mark.position)
    await journal.close()
    await through.close()
