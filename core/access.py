"""Who asks, and what they may do."""

from __future__ import annotations

import getpass
from contextvars import ContextVar
from typing import Final, Protocol

from msgspec import Struct

SCOPES: Final = {
    "reserve": "reserve, amend, extend, commit, release and cancel; availability",
    "fulfil": "ship and take back",
    "stock:read": "stock, movements, policy as it is",
    "stock:write": "receive, adjust, count, transfer; record what was sold elsewhere",
    "quota:write": "channels, locations, SKUs; reallocate",
    "operate": "metrics, reconciliations, how the service is",
    "audit": "what was changed, and by whom",
    "pii:read": "see whose a reservation is",
}


class Caller(Struct, frozen=True):
    """Who asks. ``id`` is that of the key, or ``loopback`` where none is needed; ``channels`` are
    those that it is bound to, None for all; ``rate`` how many requests a second it may send."""

    id: str
    name: str
    scopes: frozenset[str]
    channels: frozenset[str] | None = None
    rate: int | None = None

    def may(self, scope: str) -> bool:
        """True if it has this scope."""
        return scope in self.scopes

    def sees(self, channel: str) -> bool:
        """True if this channel is one of its own."""
        return self.channels is None or channel in self.channels


class Asks(Protocol):
    """A request, as far as it says who asks: ``request_id`` is what it came with."""

    @property
    def caller(self) -> Caller: ...

    @property
    def request_id(self) -> str | None: ...


ASKS: ContextVar[Asks | None] = ContextVar("asks", default=None)  # None: nobody, a turn of ours

def actor() -> str:
    """Who asks, for the movements that come of it; empty for nobody, and where nobody need say."""
    asks = ASKS.get()
    if asks is None:
        return ""
    id = asks.caller.id
    return "" if id == LOOPBACK.id else id


class Operator:
    """Whoever types a command."""

    request_id: str | None = None

    @property
    def caller(self) -> Caller:
        """May everything, having the machine."""
        name = getpass.getuser()
        return Caller(f"cli:{name}", name, frozenset(SCOPES))


LOOPBACK: Final = Caller("loopback", "loopback", frozenset(SCOPES))
