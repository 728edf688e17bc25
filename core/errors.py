"""What can go wrong. One root; each leaf has a stable code and its docstring is its message.

The leaves stand in order of precedence: where two apply, the one further up is answered.
``core.errors`` knows nothing of HTTP: ``api.problems`` gives each code its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

Outcome = Literal["none", "unknown"]


class StockadeError(Exception):
    """Something went wrong inside Stockade."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").partition("\n")[0].removesuffix(".")
        super().__init__(self.detail)


class InvalidRequest(StockadeError):
    """The request is not valid; errors says where and why."""

    code = "validation_failed"

    def __init__(self, detail: str | None = None, errors: list[tuple[str, str]] | None = None):
        """``errors`` holds (JSON pointer, what is wrong there)."""
        super().__init__(detail)
        self.errors = errors or []


class KeyRequired(StockadeError):
    """This moves a quantity: send an Idempotency-Key, so that a retry cannot move it twice."""

    code = "idempotency_key_required"


class KeyReused(StockadeError):
    """This Idempotency-Key was used with another body; use a new key for a new request."""

    code = "idempotency_key_reused"


class LineError(StockadeError):
    """A refusal that names the lines it is about."""

    def __init__(self, detail: str | None = None, lines: list[dict[str, Any]] | None = None):
        """``lines`` holds {sku, location?, requested, available, limited_by?} per failing line."""
        super().__init__(detail)
        self.lines = lines or []


class CustomerRequired(LineError):
    """A customer may have only so many of this SKU: say who asks, as customer."""

    code = "customer_required"


class DurabilityUnavailable(StockadeError):
    """The store cannot give the durability that was asked for."""

    code = "durability_unavailable"


class UnknownSku(LineError):
    """No such SKU; create it with PUT /v1/skus/{sku}."""

    code = "unknown_sku"


class UnknownChannel(StockadeError):
    """No such channel; create it with PUT /v1/channels/{name}."""

    code = "unknown_channel"


class UnknownLocation(StockadeError):
    """No such location; create it with PUT /v1/locations/{name}."""

    code = "unknown_location"


class UnknownReservation(StockadeError):
    """No such reservation; its id is the one that reserving answered with."""

    code = "unknown_reservation"


class UnknownReconciliation(StockadeError):
    """Nothing has been reconciled yet; run stockade reconcile, or set reconcile_at."""

    code = "unknown_reconciliation"


class StaleVersion(StockadeError):
    """It was changed since the version that If-Match names; read it again."""

    code = "stale_version"


class InsufficientStock(LineError):
    """There is not enough for this channel; lines says of what, how much is left and why."""

    code = "insufficient_stock"


class CustomerLimit(LineError):
    """One customer may have only so many of this SKU; lines says how many are left for this one.

    Or only so many reservations that are not paid yet: then there are no lines.
    """

    code = "customer_limit"


class InvalidState(LineError):
    """The reservation's state does not allow this; state says which it is."""

    code = "invalid_state"

    def __init__(
        self,
        detail: str | None = None,
        state: str = "",
        lines: list[dict[str, Any]] | None = None,
    ):
        """``lines``: of a verb on parts, what is left of each."""
        super().__init__(detail, lines)
        self.state = state


class InvalidQuantity(LineError):
    """More was asked for than is left of the line; lines says what is left."""

    code = "invalid_quantity"


class Expired(LineError):
    """The deadline passed and the units could not be taken anew; give the money back."""

    code = "expired"


class HoldLimit(StockadeError):
    """A reservation is held for at most the channel's max_hold_seconds after its creation."""

    code = "hold_limit"


class ChannelInUse(LineError):
    """The channel has open units, so it is open again; lines says where, and requested how many."""

    code = "channel_in_use"


class Unavailable(StockadeError):
    """Not now; try again.

    ``outcome`` is ``none`` when nothing happened, and ``unknown`` when it may have: then look
    ``reservation`` up, or repeat the request with its Idempotency-Key.
    """

    code = "stock_unavailable"
    retryable = True
    retry_after_seconds: ClassVar[int] = 1

    def __init__(
        self, detail: str | None = None, outcome: Outcome = "none", reservation: str | None = None
    ) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.reservation = reservation


class Overloaded(Unavailable):
    """Too much is waiting or too many callers want the same units; try again in a moment."""

    code = "overloaded"


class StockUnavailable(Unavailable):
    """The store cannot be reached or cannot write; try again with the same Idempotency-Key."""

    code = "stock_unavailable"


class LedgerUnavailable(Unavailable):
    """The ledger cannot be reached or is too far behind; try again in a moment."""

    code = "ledger_unavailable"


class LedgerTooSlow(LedgerUnavailable):
    """This takes the ledger too long: narrow it, by a SKU, a reference or a shorter time."""


class Draining(Unavailable):
    """This worker is shutting down; another one will take the request."""

    code = "draining"


class LedgerBroken(StockadeError):
    """The stream and the ledger do not fit together: nothing is written until it is looked at."""

    code = "ledger_broken"


class RebuildRefused(StockadeError):
    """The store cannot be rebuilt from the ledger; the detail says why."""

    code = "rebuild_refused"


class LedgerUnexplained(LedgerBroken):
    """A pool changed by something that no event tells of; stockade reconcile can accept that."""

    def __init__(self, detail: str, seq: int, pool: str, drift: Mapping[str, int]) -> None:
        """``drift``: by account, what it has more than what moved makes of it."""
        super().__init__(detail)
        self.seq = seq
        self.pool = pool
        self.drift = drift


class ImportRefused(StockadeError):
    """The file cannot be imported; the detail says why, and bad names the rows it is about."""

    code = "import_refused"

    def __init__(
        self, detail: str | None = None, bad: list[tuple[int, str]] | None = None, count: int = 0
    ) -> None:
        """``bad`` holds the first (line of the file, what is wrong there) of ``count``."""
        super().__init__(detail)
        self.bad = bad or []
        self.count = count


class StartRefused(StockadeError):
    """The service cannot start; the detail is one line that says why and what to change."""

    code = "start_refused"
