"""Rates as callers see them: RateLimit headers (draft-ietf-httpapi-ratelimit-headers-10), and 429
with the seconds to wait."""

from __future__ import annotations

from api.problems import RateLimited
from core.access import Caller
from core.rates import Rates, Spent

KEY_SECONDS = 1.0  # what a key's rate is counted in
CUSTOMER_SECONDS = 60.0


class Limits:
    """What one worker lets in, with all others of its service."""

    def __init__(self, rates: Rates, customer_rates: Rates, customer_rate: int | None) -> None:
        """``rates``: of keys; ``customer_rate``: new reservations a minute of one customer; None
        for any number."""
        self._rates = rates
        self._customer_rates = customer_rates
        self.customer_rate = customer_rate

    def of_key(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """The headers that say how it stands with a key's rate. Raises RateLimited."""
        if caller.rate is None:
            return []
        spent = self._rates.spend(caller.id.encode(), caller.rate, KEY_SECONDS)
        return _headers(b"key", caller.rate, KEY_SECONDS, spent)

    def owed(self, caller: Caller, cost: int) -> list[tuple[bytes, bytes]]:
        """The same for what a request that was let in costs beyond one."""
        assert caller.rate is not None
        spent = self._rates.owe(caller.id.encode(), caller.rate, KEY_SECONDS, cost)
        return _headers(b"key", caller.rate, KEY_SECONDS, spent)

    def of_customer(self, customer: str | None) -> None:
        """Somebody reserves for a customer. Raises RateLimited."""
        quota = self.customer_rate
        if quota is None or customer is None:
            return
        spent = self._customer_rates.spend(customer.encode(), quota, CUSTOMER_SECONDS)
        _headers(b"customer", quota, CUSTOMER_SECONDS, spent)


def _headers(
    name: bytes, quota: int, window_seconds: float, spent: Spent
) -> list[tuple[bytes, bytes]]:
    """How it stands, as headers; with RateLimited if there was no room."""
    headers = [
        (b"ratelimit-policy", b'"%b";q=%d;w=%d' % (name, quota, window_seconds)),
        (b"ratelimit", b'"%b";r=%d;t=%d' % (name, spent.left, spent.reset_seconds)),
    ]
    if spent.wait_seconds:
        raise RateLimited(name.decode(), spent.wait_seconds, headers)
    return headers
