"""Every key name of the store, and nowhere else. Scripts get whole names and build none.

All keys of a shard carry its hash tag ``{s0}`` and so share a slot: a basket is one script.
"""

from __future__ import annotations

SHARD = 0
_TAG = f"{{s{SHARD}}}"

META = f"{_TAG}:meta".encode()
POOLS = f"{_TAG}:pools".encode()
CHANNELS = f"{_TAG}:channels".encode()
LOCATIONS = f"{_TAG}:locations".encode()
MODES = f"{_TAG}:modes".encode()
SKUS = f"{_TAG}:skus".encode()
CATALOG = f"{_TAG}:catalog".encode()
IMPORTS = f"{_TAG}:imports".encode()
LIMITS = f"{_TAG}:limits".encode()
LIVE = f"{_TAG}:live".encode()
EVENTS = f"{_TAG}:events".encode()
API_KEYS = b"stockade:api_keys"  # a copy; of no shard, so that a rebuilt one still has it
PROTECT = b"protect"  # the field of the one mode that there is beside the normal one
EVERY = f"{_TAG}:*"  # of the shard, as a pattern

BUCKET_MS = 1_000  # reservations of one second share a hash: small ones stay in the cache
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
CUSTOMER_DAYS = 31  # that are kept of what customers have; parts/customers.lua says the same

_BUCKET = f"{_TAG}:rsv:".encode()
_DUE = f"{_TAG}:due:".encode()
_DONE = f"{_TAG}:done:".encode()
_CUSTOMERS = f"{_TAG}:customers:".encode()
_WINDOW = f"{_TAG}:idem:".encode()
_KEYS_SHORT = _WINDOW + b"h"
_KEYS_LONG = _WINDOW + b"w"
_OLD = b"old:"

BUCKETS = _BUCKET.replace(b"{", b"[{]").replace(b"}", b"[}]") + b"*"  # a pattern for all of them


def created_ms(reservation_id: str) -> int:
    """When a reservation was created: the first 48 bits of its UUIDv7, in ms."""
    return int(reservation_id[:8] + reservation_id[9:13], 16)


def lowest_id(time_ms: int) -> str:
    """The lowest id that a reservation created at ``time_ms`` or later may have."""
    digits = f"{max(0, time_ms):012x}"
    return f"{digits[:8]}-{digits[8:]}-0000-0000-000000000000"


def bucket_at(time_ms: int) -> bytes:
    """The hash of the reservations created at ``time_ms``."""
    return b"%s%d" % (_BUCKET, time_ms // BUCKET_MS)


def bucket_of(reservation_id: str) -> bytes:
    """The hash that holds a reservation's record."""
    return bucket_at(created_ms(reservation_id))


def due_at(second: int) -> bytes:
    """The list of ids whose deadline falls into this second; an entry may hold many."""
    return b"%s%d" % (_DUE, second)


def done_at(hour: int) -> bytes:
    """The list of ids that ended in this hour."""
    return b"%s%d" % (_DONE, hour)


def customers_on(day: int) -> bytes:
    """The hash of what customers have of limited SKUs by the reservations of one day (UTC)."""
    return b"%s%d" % (_CUSTOMERS, day)


def short_keys(window_ms: str) -> bytes:
    """Idempotency keys of the window of (by default) one hour that starts at ``window_ms``."""
    return _KEYS_SHORT + window_ms.encode()


def long_keys(window_ms: str) -> bytes:
    """The same for what moves goods: a window of (by default) seven days."""
    return _KEYS_LONG + window_ms.encode()


def old_window(field: bytes) -> bytes | None:
    """The window that a field of meta says is out of use; None for any other field."""
    return _WINDOW + field.removeprefix(_OLD) if field.startswith(_OLD) else None


def shard_of(reservation_id: str) -> int:
    """The shard that a reservation's id carries in its last byte."""
    return int(reservation_id[-2:], 16)


def rolled(windows: tuple[str, str], now_ms: int, length_ms: int) -> tuple[str, str]:
    """(this window, the one before) of idempotency keys, moved on if ``now_ms`` lies in a later."""
    own = now_ms - now_ms % length_ms
    current, _ = windows
    if own <= int(current):
        return windows
    return str(own), current if int(current) else str(own)
