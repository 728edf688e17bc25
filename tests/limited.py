"""What the store says that customers have, held against its records."""

from __future__ import annotations

import json
from collections import Counter

from tests.stored import TAG, Audit, created_ms

DAY_MS = 86_400_000


def check_live(found: Audit) -> None:
    """What is counted as a live reservation of a customer is one."""
    for member in found.store.lists.get(TAG + "live", []):
        customer, _, id = member.partition("@")
        record = found.records.get(id)
        found.check(
            record is not None and (record.state, record.customer) == ("R", customer),
            f"live: {member} is counted, the record says {record}",
        )


def check_customers(found: Audit) -> None:
    """Every limited SKU is counted, and the counts are what the records say: on the day of each
    reservation, what was taken and neither given back nor returned."""
    limits = found.store.hash("limits")
    for sku, entry in found.store.hash("skus").items():
        spec = json.loads(entry.split(" ", 2)[2])
        counting = str(spec["counting"]) if spec.get("customer_limit") else None
        found.check(
            limits.get(sku, "").split(" ")[0] == (counting or ""),
            f"limits: {sku} is counted as {limits.get(sku)}, its entry says {counting}",
        )
    expected: Counter[tuple[str, str]] = Counter()
    for id, record in found.records.items():
        if record.customer == "-" or record.state in "LX":
            continue
        for line in record.lines:
            sku = line.pool.partition("@")[0]
            if sku in limits:
                day = f"{TAG}customers:{created_ms(id) // DAY_MS}"
                field = f"{sku}@{limits[sku].split(' ')[0]}@{record.customer}"
                units = line.own + line.borrowed - line.cancelled - line.returned
                expected[day, field] += units
    booked: Counter[tuple[str, str]] = Counter()
    for name, fields in found.store.hashes.items():
        if name.startswith(TAG + "customers:"):
            for field, has in fields.items():
                sku, counting, _ = field.split("@")
                if limits.get(sku, "").split(" ")[0] == counting:
                    booked[name, field] = int(has)
    # What was bought before a rebuild is counted, and its record is in the ledger alone.
    partly = "rebuilt" in found.meta
    for where in booked.keys() | expected.keys():
        fits = booked[where] >= expected[where] if partly else booked[where] == expected[where]
        found.check(fits, f"{where}: booked {booked[where]}, records say {expected[where]}")
