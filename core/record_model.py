"""What is asked of the ledger's records, and what they are.

As ``core.model``: answers are encoded from these structs, and the OpenAPI document is made of them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from core.model import Timestamp

VERBS: Final = (
    "reserve", "amend", "commit", "release", "expire", "cancel", "fulfil", "return",
    "receive", "adjust", "count", "transfer", "reallocate", "import", "policy", "drop", "drift",
    "repair",
)  # fmt: skip
STATES: Final = (
    "reserved", "committed", "fulfilled", "returned", "released", "expired", "cancelled",
)  # fmt: skip
LAST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"  # behind every reservation


class MovementFilter(Struct, frozen=True):
    """Which movements; what is None does not matter. ``since`` counts, ``until`` does not;
    ``channels``: those that may be seen at all."""

    sku: str | None = None
    location: str | None = None
    channel: str | None = None
    reservation: str | None = None
    reference: str | None = None
    verb: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    channels: frozenset[str] | None = None


class AuditFilter(Struct, frozen=True):
    """Which entries of the audit log; what is None does not matter."""

    actor: str | None = None
    target: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class ReservationFilter(Struct, frozen=True):
    """Which reservations; what is None does not matter. ``channels``: those that may be seen."""

    reference: str | None = None
    state: str | None = None
    channel: str | None = None
    sku: str | None = None
    location: str | None = None
    customer: str | None = None
    created_before_ms: int | None = None
    channels: frozenset[str] | None = None


class Movement(Struct, frozen=True, omit_defaults=True, gc=False):
    """Units that went ``from`` one account of a pool to another, or from and to ``outside``.

    ``position`` orders all that happened. ``version`` is the pool's after it. Accounts are
    ``shared``, ``safety``, ``damaged``, ``quarantine``, ``deficit`` and per channel ``free:``,
    ``reserved:``, ``committed:``. The verbs ``policy``, ``drop``, ``drift``, ``repair``: a changed
    safety stock, a channel that was deleted, a difference that a reconciliation found and mended.
    """

    position: int
    time: Timestamp
    verb: str
    sku: str
    location: str
    source: str = field(name="from")
    target: str = field(name="to")
    quantity: int
    version: int
    occurred_at: Timestamp | None = None
    channel: str | None = None
    reservation: str | None = None
    reference: str | None = None
    reason: str | None = None
    actor: str | None = None

    def seen_by(self, channels: frozenset[str]) -> Movement:
        """As who is bound to these channels sees it: an account of another's is ``free:***``."""
        return replace(
            self, source=_account(self.source, channels), target=_account(self.target, channels)
        )


def _account(name: str, channels: frozenset[str]) -> str:
    kind, _, channel = name.partition(":")
    return f"{kind}:***" if channel and channel not in channels else name


class AuditEntry(Struct, frozen=True, omit_defaults=True):
    """Something that was changed, or read, by whom. ``actor``: the id of an API key, ``loopback``
    where none is needed, ``cli:`` and a name for a command; absent for what the service does by
    itself. ``verb``: ``put`` or ``delete`` for policy, else what was done to ``target``."""

    position: int
    time: Timestamp
    verb: str
    target: str
    actor: str | None = None
    request_id: str | None = None
    before: Any = None
    after: Any = None
