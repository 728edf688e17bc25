"""Whether what was found is usual, against the thresholds that the field uses. Pure.

An inventory whose daily variance (units off ÷ units on hand) stays below 0.5 % is well kept; above
1 % on two days running something is broken. A unit that was promised and is not there is one too
many, and three orders a day that wait for such are an alarm.
"""

from __future__ import annotations

from typing import Literal

from core.ledger.audit import Totals

RATE_NORMAL = 0.005  # below it
RATE_ALARM = 0.01  # above it, two days running
ORDERS_ALARM = 3  # orders with short units, or in a pool with a deficit, as of that day

Status = Literal["normal", "watch", "alarm"]


def judge(
    rate: float, rate_before: float | None, totals: Totals
) -> tuple[Status, list[str]]:
    """The status and its reasons; ``rate_before``: of the day before, None if it is not known."""
    found: list[tuple[Status, str]] = []
    if rate > RATE_ALARM and (rate_before or 0) > RATE_ALARM:
        found.append(("alarm", f"variance is {rate:.2%}, and was {rate_before:.2%} the day before"))
    elif rate >= RATE_NORMAL:
        found.append(("watch", f"variance is {rate:.2%}; below {RATE_NORMAL:.1%} is normal"))
    if totals.oversold_units or totals.oversold_orders:
        status: Status = "alarm" if totals.oversold_orders >= ORDERS_ALARM else "watch"
        found.append((
            status,
            f"{totals.oversold_units} units are promised and not there, and "
            f"{totals.oversold_orders} orders wait for such",
        ))
    order: tuple[Status, ...] = ("normal", "watch", "alarm")
    worst = max((order.index(status) for status, _ in found), default=0)
    return order[worst], [reason for _, reason in found]
