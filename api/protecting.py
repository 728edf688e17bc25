"""``stockade mode``: which mode the shard is in, and switching it."""

from __future__ import annotations

import asyncio
import getpass

from api.servers import open_postgres, open_store
from core.opening import prepare_ledger
from core.policy_model import Mode
from core.service import open_service
from core.settings import Settings


def show_mode(settings: Settings, protect: bool | None, reason: str | None, by: str | None) -> int:
    """Print the mode; before that, switch it unless ``protect`` is None. Raises StockadeError."""
    mode = asyncio.run(_mode(settings, protect, reason or "by hand", by or getpass.getuser()))
    name = "protect" if mode.protect else "normal"
    print(f"{name}, since {mode.at}, by {mode.by}: {mode.reason}" if mode.version else name)
    return 0


async def _mode(settings: Settings, protect: bool | None, reason: str, by: str) -> Mode:
    async with open_store(settings) as settings, open_postgres(settings) as settings:
        await prepare_ledger(settings)
        async with open_service(settings) as service:
            if protect is None:
                return await service.protection.mode()
            return await service.protection.switch(protect, reason, by)
