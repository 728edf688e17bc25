"""``stockade purge`` as it is typed, and a service that forgets by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg

from core.embedded import postgres
from tests.listening import Shop
from tests.processes import ROOT, Service

COMMAND_SECONDS = 300.0


def purge(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    return subprocess.run(
        [sys.executable, "-m", "api.cli", "purge", *words, "--data", str(data)],
        cwd=data.parent, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def sell(shop: Shop) -> None:
    """A reservation that ended, once the ledger has it."""
    basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 1}], "customer": "c-9"}
    sold = {"state": "fulfilled", "durability": "ledger"}
    shop.ask("POST", "/v1/reservations", basket | sold)


async def _age(data: Path) -> None:
    """Makes what happened today a year older."""
    addresses = postgres.find_running(data)
    assert addresses is not None
    owner = await asyncpg.connect(addresses.owner_dsn)
    try:
        await owner.execute("SELECT stockade.open_month((now() - interval '1 year')::date)")
        await owner.execute(
            "UPDATE stockade.reservation_version SET time = time - interval '1 year' "
            "WHERE time > now() - interval '1 day'"
        )
    finally:
        await owner.close()


def test_it_forgets_beside_the_service_and_the_service_by_itself(tmp_path: Path) -> None:
    data = tmp_path / "var"
    with Service("--data", str(data)) as service:
        shop = Shop(service)
        sell(shop)
        asyncio.run(_age(data))
        told = purge(data)
        assert told.returncode == 1
        assert told.stderr.startswith("stockade: customer_retention_days is not set")
        told = purge(data, "--customer-retention-days", "364")
        assert told.returncode == 0, told.stderr
        assert told.stdout.startswith("forgot whose 1 reservations were, ")
        told = purge(data, "--customer-retention-days", "364")
        assert told.stdout.startswith("forgot whose 0 reservations were, ")
        sell(shop)
        asyncio.run(_age(data))
        shop.caller.close()
    with Service("--data", str(data), "--customer-retention-days", "90") as service:
        service.url()
        service.hears("forgot whose 1 reservations were")
        assert purge(data, "--customer-retention-days", "90").stdout.startswith("forgot whose 0 ")
