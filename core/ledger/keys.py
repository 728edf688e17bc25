"""API keys as the ledger keeps them. Of a secret it has the hash alone."""

from __future__ import annotations

from datetime import datetime

import asyncpg
from msgspec import Struct

from core.ledger.journal import Journal

KEYS_MAX = 1_000  # that count at once: each worker reads all of them every second


class LiveKey(Struct, frozen=True):
    """A key that counts. ``former_hash``: of the secret before, for ``former_seconds`` more."""

    id: str
    name: str
    scopes: frozenset[str]
    channels: frozenset[str] | None
    rate: int | None
    hash: bytes
    former_hash: bytes | None
    former_seconds: float


class KeyRow(Struct, frozen=True):
    """A key as it is shown."""

    id: str
    name: str
    scopes: list[str]
    channels: list[str] | None
    rate: int | None
    created_at: datetime
    rotated_at: datetime | None
    former_until: datetime | None
    revoked_at: datetime | None


class KeyTable:
    """The keys of one ledger. All of it raises LedgerUnavailable."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def live(self) -> list[LiveKey] | None:
        """Those that count; None if there never was one."""
        rows = await self._journal.fetch("live_keys")
        if not rows and not (await self._journal.fetch("any_key"))[0][0]:
            return None
        return [
            LiveKey(
                row["id"], row["name"], frozenset(row["scopes"]), _names(row), row["rate"],
                row["hash"], row["former_hash"], row["former_seconds"] or 0.0,
            )
            for row in rows
        ]  # fmt: skip

    async def all(self) -> list[KeyRow]:
        """All that there ever were, in the order in which they were made."""
        return [
            KeyRow(
                row["id"], row["name"], sorted(row["scopes"]), row["channels"], row["rate"],
                row["created_at"], row["rotated_at"], row["former_until"], row["revoked_at"],
            )
            for row in await self._journal.fetch("all_keys")
        ]  # fmt: skip

    async def make(
        self,
        id: str,
        name: str,
        scopes: list[str],
        channels: list[str] | None,
        rate: int | None,
        hash: bytes,
    ) -> bool:
        """A new key; False if there are too many."""
        made = await self._journal.change(
            "make_key", id, name, scopes, channels, rate, hash, KEYS_MAX
        )
        return made > 0

    async def rotate(self, id: str, hash: bytes, overlap_seconds: int) -> bool:
        """Another secret; the one before is taken for so long. False if there is no such key, or
        it was revoked."""
        return await self._journal.change("rotate_key", id, hash, overlap_seconds) > 0

    async def revoke(self, id: str) -> bool:
        """Nobody gets in with it any more. False if there is no such key."""
        return await self._journal.change("revoke_key", id) > 0


def _names(row: asyncpg.Record) -> frozenset[str] | None:
    return None if row["channels"] is None else frozenset(row["channels"])
