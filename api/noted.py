"""What commands do is noted, as what callers do: by whom, before it is done."""

from __future__ import annotations

from typing import Any

from api.servers import open_postgres, open_store
from core.opening import prepare_ledger
from core.service import open_service
from core.settings import Settings


async def note(settings: Settings, verb: str, target: str, after: Any = None) -> None:
    """Writes down that this is done now. Raises StockadeError: then it is not to be done."""
    async with open_store(settings) as opened, open_postgres(opened) as opened:
        await prepare_ledger(opened)
        async with open_service(opened) as service:
            await service.notes.note(verb, target, after=after)
