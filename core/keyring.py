"""The API keys that a worker knows: read once a second, asked on every request.

While the ledger is away those that are known go on being valid, for sales must go on; for so long
nobody can be shut out, which ``/readyz`` says. After ``KEPT_SECONDS`` nobody gets in any more. A
copy in the store, without which nobody sells anyway, is for workers that start meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from core.access import Caller
from core.clock import monotonic_ms
from core.errors import LedgerUnavailable, StockUnavailable
from core.ledger.keys import KeyTable, LiveKey
from core.store.shard import Shard

READ_SECONDS: Final = 1.0
KEPT_SECONDS: Final = 86_400.0
ANSWER_SECONDS: Final = 5.0  # who starts is not held up by a ledger that hangs
COPY_SECONDS: Final = 600.0  # between copies of keys that stay the same: they say when they counted
SPELLINGS_MAX: Final = 4_096  # of headers whose key is known: one per key, or a few
HEADER_BYTES_MAX: Final = 512  # a key in its header has some eighty
SECRET_BYTES: Final = 32
ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
ID_PREFIX: Final = "stockade_"  # so that a scanner knows a key that was left somewhere
ID_CHARS: Final = 16
_NO_HASH: Final = bytes(32)

log = logging.getLogger("stockade.keys")


def new_id() -> str:
    """The id of a new key."""
    return ID_PREFIX + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))


def is_key_id(text: str) -> bool:
    """True for what may be the id of a key; not for a whole key, which has its secret behind it."""
    chars = text.removeprefix(ID_PREFIX)
    return chars != text and len(chars) == ID_CHARS and set(ID_ALPHABET).issuperset(chars)


def new_secret() -> str:
    """A secret of 256 bits."""
    return secrets.token_urlsafe(SECRET_BYTES)


def hash_of(secret: str) -> bytes:
    """What is kept of a secret. SHA-256 alone: nobody can try all that 256 random bits may be, so a
    slow hash would only slow down requests."""
    return hashlib.sha256(secret.encode()).digest()


def _now_ms() -> int:
    """The time of day: what is copied outlives the process that counts from its own start."""
    return int(1000 * time.time())


class _Known(Struct, frozen=True):
    """A key that counts, and until when its secret before does, monotonic."""

    caller: Caller
    hash: bytes
    former_hash: bytes
    former_until_ms: float


class _Copy(Struct, frozen=True):
    """What was in the ledger at a time; no ``keys`` at all if there never was one."""

    read_ms: int
    keys: list[LiveKey] | None


class Keyring:
    """The keys of one worker. ``needed``: there is a key, so whoever comes must have one."""

    def __init__(self, table: KeyTable | None, shard: Shard | None) -> None:
        """``table``: None where there is no ledger, and so no key; ``shard`` has the copy."""
        self._table = table
        self._shard = shard
        self._found: list[LiveKey] | None = None
        self._copied: list[LiveKey] | None = None
        self._copied_at_ms = float("-inf")
        self._uncopied = False  # and that was told
        self.needed = table is not None
        self._keys: dict[str, _Known] = {}
        self._read_at_ms: float | None = None
        self._by_header: dict[bytes, Caller] = {}
        self._trouble = ""

    def caller(self, header: bytes) -> Caller | None:
        """Whose an ``Authorization`` is; None if nobody's. Raises LedgerUnavailable while the keys
        are not known."""
        known = self._by_header.get(header)
        if known is not None:
            return known
        if self._read_at_ms is None:
            raise LedgerUnavailable("the API keys could not be read")
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or len(header) > HEADER_BYTES_MAX:
            return None
        id, _, secret = token.strip(b" ").decode("ascii", "replace").partition(".")
        key, sent = self._keys.get(id), hash_of(secret)
        now = hmac.compare_digest(sent, _NO_HASH if key is None else key.hash)
        before = hmac.compare_digest(sent, _NO_HASH if key is None else key.former_hash)
        if key is None:
            return None
        if now:
            if len(self._by_header) >= SPELLINGS_MAX:
                self._by_header.clear()
            self._by_header[header] = key.caller
            return key.caller
        return key.caller if before and monotonic_ms() < key.former_until_ms else None

    async def read(self) -> None:
        """Reads the keys. Those that are known stay for a while if they cannot be read."""
        if self._table is None:
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await self._table.live()
        except (LedgerUnavailable, TimeoutError) as error:
            await self._do_without(str(error) or "the ledger does not answer")
            return
        if self._trouble:
            log.warning("the API keys can be read again")
        self._trouble = ""
        self._read_at_ms = monotonic_ms()
        self._found = found
        self._take(found)

    async def _do_without(self, why: str) -> None:
        """The ledger is away: what is known counts, and for who knows nothing yet the copy does."""
        if not self._trouble:
            log.warning("the API keys cannot be read: %s", why)
        self._trouble = why
        at = self._read_at_ms
        if at is None:
            await self._take_copy()
        elif monotonic_ms() - at > 1000 * KEPT_SECONDS:
            log.error("the API keys were not read for too long: nobody gets in any more")
            self._read_at_ms = None
            self._take([])

    async def _take_copy(self) -> None:
        """Takes what another worker read, unless that was too long ago."""
        text: bytes | None = None
        if self._shard is not None:
            with suppress(StockUnavailable):
                text = await self._shard.api_keys()
        if text is None:
            return
        try:
            copy = msgspec.json.decode(text, type=_Copy)
        except msgspec.MsgspecError as error:  # another version's, perhaps
            log.warning("the copy of the API keys cannot be read: %s", error)
            return
        age_ms = max(0, _now_ms() - copy.read_ms)
        if age_ms < 1000 * KEPT_SECONDS:
            self._read_at_ms = monotonic_ms() - age_ms
            self._take(copy.keys)

    async def copy(self) -> None:
        """Keeps the copy in the store as it should be. Only for a store that may be written to."""
        if self._trouble or self._read_at_ms is None:
            return
        found = self._found
        bare = found and [structs.replace(key, former_hash=None, former_seconds=0) for key in found]
        now = monotonic_ms()
        if bare == self._copied and now - self._copied_at_ms < 1000 * COPY_SECONDS:
            return
        if self._shard is not None:
            try:
                await self._shard.copy_api_keys(msgspec.json.encode(_Copy(_now_ms(), bare)))
            except StockUnavailable as error:
                if not self._uncopied:
                    log.warning("no copy of the API keys: %s", error)
                self._uncopied = True
                return
            self._uncopied = False
        self._copied, self._copied_at_ms = bare, now

    def _take(self, found: list[LiveKey] | None) -> None:
        """These count from now on, None if there never was one. Whose header is whose is found out
        anew."""
        now = monotonic_ms()
        self.needed = found is not None
        self._keys = {
            key.id: _Known(
                Caller(key.id, key.name, key.scopes, key.channels, key.rate),
                key.hash,
                key.former_hash or _NO_HASH,
                now + 1000 * key.former_seconds,
            )
            for key in found or ()
        }
        self._by_header.clear()

    async def run(self, may_write: Callable[[], bool]) -> None:
        """Reads them again and again, and keeps the copy while the store may be written to."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.read()
                if may_write():
                    await self.copy()
            except Exception as error:  # who read no more would never hear that a key was revoked
                if not self._trouble:
                    log.exception("the API keys cannot be read")
                await self._do_without(f"{type(error).__name__}: {error}")

    def shown(self) -> dict[str, Any]:
        """What /readyz says of them."""
        return {"count": len(self._keys), "needed": self.needed, "state": self._trouble or "ok"}
