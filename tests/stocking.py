"""What tests of stock share: one line of a verb, and a pool's accounts in a few words."""

from __future__ import annotations

from typing import Any, TypeVar

from core.model import Key, Pool
from core.service import Service
from core.stock import StockResult
from core.stock_model import (
    Adjust,
    AdjustLine,
    Count,
    CountLine,
    Reallocate,
    ReallocateLine,
    Transfer,
    TransferLine,
)

T = TypeVar("T")


def done(results: list[StockResult]) -> Pool:
    """The pool of the one line that was asked for. Raises what it was refused with."""
    (result,) = results
    if result.error is not None:
        raise result.error
    assert result.pool is not None
    return result.pool


async def adjust(
    service: Service, delta: int, account: Any = "sellable", *, location: str = "main",
    key: Key | None = None, sku: str = "tee",
) -> Pool:  # fmt: skip
    """Units of a SKU were found or lost."""
    line = AdjustLine(sku, location, delta, account)
    return done(await service.stock.adjust(Adjust([line]), [key]))


async def count(
    service: Service, counted: int, *, location: str = "main", key: Key | None = None,
    sku: str = "tee", **only: int,
) -> Pool:  # fmt: skip
    """A SKU was counted."""
    line = CountLine(sku, location, counted, **only)
    return done(await service.stock.count(Count([line]), [key]))


async def transfer(
    service: Service, quantity: int, *, source: str = "main", target: str = "annex",
    key: Key | None = None, sku: str = "tee",
) -> tuple[Pool, Pool]:  # fmt: skip
    """Units of a SKU go to another location: the pools there and here."""
    line = TransferLine(sku, source, target, quantity)
    results = await service.stock.transfer(Transfer([line]), [key])
    here, there = done(results), results[0].to_pool
    assert there is not None
    return here, there


async def reallocate(
    service: Service, source: str | None, target: str | None, quantity: Any, *,
    by: Any = None, location: str = "main", key: Key | None = None, sku: str = "tee",
) -> Pool:  # fmt: skip
    """Units of a SKU go to another account."""
    line = ReallocateLine(sku, location, source, target, quantity, by)
    return done(await service.stock.reallocate(Reallocate([line]), [key]))


async def by_policy(service: Service) -> Pool:
    """What is shared is dealt out anew."""
    return await reallocate(service, None, None, None, by="policy")


def held(pool: Pool) -> dict[str, int]:
    """The accounts of a pool that hold anything, by the names that movements use."""
    found = {
        name: getattr(pool, name)
        for name in ("shared", "safety", "damaged", "quarantine", "deficit")
    }
    for name, channel in pool.channels.items():
        for account in ("free", "reserved", "committed"):
            found[f"{account}:{name}"] = getattr(channel, account)
    return {name: units for name, units in found.items() if units}
