"""What customers have of limited SKUs: the store's books against the ledger's reservations.

The books change all the time and carry no version. What differs is looked at again: the store, then
the ledger once it has come so far, then the store. Only what the store showed twice and the ledger
does not say, time after time, is a difference. A case names the SKU alone, no customer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from core.auditing.comparing import Comparison
from core.customers import field_of
from core.ledger.audit import Difference, Files
from core.store import keys, wording
from core.store.survey import Survey

LOOKS: Final = 5  # at what differs, before it is believed

Place = tuple[int, str]  # (day, field)


class CustomerBooks:
    """Compares all of them, turn by turn."""

    def __init__(self, survey: Survey, files: Files, compare: Comparison, now_ms: int) -> None:
        self._survey = survey
        self._files = files
        self._compare = compare
        today = now_ms // keys.DAY_MS
        self._days = range(today - keys.CUSTOMER_DAYS + 1, today + 2)
        self._low = keys.lowest_id(self._days[0] * keys.DAY_MS)
        self._off: dict[str, dict[Place, tuple[int, int]]] = defaultdict(dict)

    async def differences(self) -> AsyncIterator[Difference]:
        """One for each SKU of which customers have more or less than the ledger says."""
        begun = await self._survey.limits()
        limits = {sku: int(number) for sku, number in begun.items() if number.isdecimal()}
        for sku, counting in limits.items():
            async for rows in self._files.customers(sku, self._low):
                expected = {
                    (day, field_of(sku, counting, customer)): units
                    for day, customer, units in rows
                    if day in self._days
                }
                look = await self._survey.customers(expected)
                await self._note(
                    place for place, units in expected.items() if look.units[place] != units
                )
        for day in self._days:
            async for fields in self._survey.all_customers(day):
                mine = [(day, field) for field in fields if _is_of(field, limits)]
                expected = await self._expected(mine)
                await self._note(x for x in mine if int(fields[x[1]]) != expected.get(x, 0))
        for sku, found in self._off.items():
            ours, theirs = (sum(pair[n] for pair in found.values()) for n in (0, 1))
            units = sum(abs(mine - other) for mine, other in found.values())
            yield Difference(
                "customers", sku, "customers_off", f"{ours} units in {len(found)} places",
                f"{theirs} units", units,
            )  # fmt: skip
        after = await self._survey.limits()
        for sku in begun.keys() - limits.keys():
            if after.get(sku) == begun[sku]:  # nobody has been adding it, or only for very long
                yield Difference("customers", sku, "customers_half", "the past", "a part of it", 0)

    async def _note(self, places: Iterable[Place]) -> None:
        """Notes those of them that stay wrong."""
        left = list(places)
        wrong: dict[Place, tuple[int, int]] = {}
        for _ in range(LOOKS):
            if not left:
                return
            before = await self._survey.customers(left)
            if not await self._compare.reach(before.look):
                return  # the ledger lags, which is a difference of its own
            expected = await self._expected(left)
            after = await self._survey.customers(left)
            wrong = {
                x: (expected.get(x, 0), before.units[x])
                for x in left
                if before.units[x] == after.units[x] != expected.get(x, 0)
            }
            left = [x for x in left if x in wrong or before.units[x] != after.units[x]]
        for (day, field), pair in wrong.items():
            self._off[field.partition("@")[0]][day, field] = pair

    async def _expected(self, places: Iterable[Place]) -> dict[Place, int]:
        """What the ledger says of these."""
        named: dict[tuple[str, str], str] = {}
        for _, field in places:
            sku, counting, customer = field.split("@")
            named[sku, customer] = counting
        rows = await self._files.units_of(
            [(sku, wording.decode_text(customer) or "") for sku, customer in named], self._low
        )
        return {
            (day, f"{sku}@{named[sku, customer]}@{customer}"): units
            for sku, customer, day, units in rows
            if (sku, customer) in named
        }


def _is_of(field: str, limits: Mapping[str, int]) -> bool:
    """True for the books of a counting that is not over."""
    sku, _, rest = field.partition("@")
    return rest.partition("@")[0] == str(limits.get(sku))
