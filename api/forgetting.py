"""``stockade purge``: forgets now what the service would forget within the hour."""

from __future__ import annotations

import asyncio

from api.noted import note
from api.servers import open_ledger
from core.errors import StartRefused
from core.opening import open_forgetting
from core.settings import Settings


def purge(settings: Settings) -> None:
    """Forget, and print of how many reservations. Raises StockadeError with one line."""
    if settings.customer_retention_days is None:
        raise StartRefused(
            "customer_retention_days is not set, so nothing is forgotten; name the days: "
            "stockade purge --customer-retention-days 90"
        )
    total = asyncio.run(_purge(settings))
    days = settings.customer_retention_days
    print(f"forgot whose {total:,} reservations were, of those that ended {days} days ago or more")


async def _purge(settings: Settings) -> int:
    days = settings.customer_retention_days
    await note(settings, "purge", "people", {"customer_retention_days": days})
    async with open_ledger(settings) as opened, open_forgetting(opened) as forgetting:
        assert forgetting is not None
        return await forgetting.all()
