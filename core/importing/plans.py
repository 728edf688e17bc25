"""Rows become one script: what the kernel makes of them, on the store's rows as they were read.

Pure: the same rows on the same store give the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from core.customers import Entries, units_of
from core.importing.rows import Item, Order, StockRow, selling
from core.kernel._plan import ADDED, COMMITTED, FULFILLED, Batch, Demand, Stage
from core.kernel._policy import Policy, Row, Sku
from core.policy_model import SkuEntry
from core.store import keys, wording

Texts = Mapping[str, bytes | None]  # what the store has under a name


class Unfit(Exception):
    """A row that passed the check cannot be applied after all."""

    def __init__(self, item: Item, why: str) -> None:
        super().__init__(why)
        self.item = item
        self.why = why


class Plan(Struct):
    """What one script writes."""

    stage: Stage
    entries: list[bytes]  # sku, old entry, new entry, …
    moves: list[str]
    records: list[Any] = []  # id, record, …
    ended: list[str] = []
    customers: Entries | None = None
    new_skus: int = 0
    units: int = 0

    def arguments(self, position: Sequence[Any], names: list[bytes]) -> list[Any]:
        """What comes behind the head; ``position`` is the five words about the file, ``names`` are
        KEYS, which get the days of customers."""
        stage = self.stage
        counted = self.customers.words(names) if self.customers is not None else []
        return [
            len(stage.pools), len(self.entries) // 3, len(self.records) // 2, len(self.ended),
            *position, "\n".join(self.moves), len(self.customers or ()),
            *stage.pools, *stage.old, *stage.new, *stage.deltas, *self.entries, *self.records,
            *self.ended, *counted,
        ]  # fmt: skip


class _Skus:
    """The SKUs of a plan: each with its entry as it is, and as the plan leaves it."""

    def __init__(self, entries: Texts) -> None:
        self._entries = entries
        self._parsed: dict[str, tuple[int, list[str], SkuEntry]] = {}
        self._old_places: dict[str, int] = {}

    def see(self, name: str, location: str | None = None, safety_stock: int | None = None) -> None:
        """Notes a SKU, made if it is new, and a location where it is to have a pool."""
        known = self._parsed.get(name)
        if known is None:
            entry = self._entries[name]
            number, places, spec = (
                wording.parse_sku(entry)
                if entry is not None
                else (1, (), SkuEntry(safety_stock=safety_stock or 0))
            )
            known = self._parsed[name] = number, list(places), spec
            self._old_places[name] = len(places)
        if location is not None and location not in known[1]:
            known[1].append(location)

    def made(self) -> dict[str, Sku]:
        """As the kernel plans with them."""
        return {
            name: Sku(name, number, b"", spec, places, {})
            for name, (number, places, spec) in self._parsed.items()
        }

    def changes(self) -> list[bytes]:
        """(sku, old entry, new entry) of those that the plan makes or gives a pool, flat."""
        found: list[bytes] = []
        for name, (number, places, spec) in self._parsed.items():
            old = self._entries[name]
            if old is None or len(places) > self._old_places[name]:
                new = wording.sku_entry(number, tuple(places), spec)
                found += (name.encode(), old or b"", new)
        return found


def _row(sku: Sku, location: str, texts: Texts) -> Row:
    """A pool's row as it was read."""
    row = sku.rows[location] = Row(sku.name, location)
    row.text = texts[f"{sku.name}@{location}"] or b""
    return row


def plan_stock(
    batch: Batch,
    policy: Policy,
    rows: Sequence[StockRow],
    entries: Texts,
    texts: Texts,
    reference: str,
) -> Plan:
    """Every row as a receipt; with free columns set aside as they say.

    Raises Unfit for the first row that cannot be, ChannelUnknown if the policy is out of date,
    RowCorrupt.
    """
    seen = _Skus(entries)
    for row in rows:
        seen.see(row.sku, row.location, row.safety_stock)
    skus = seen.made()
    batch.begin(policy, skus)
    moves: list[str] = []
    for row in rows:
        sku = skus[row.sku]
        pool = _row(sku, row.location, texts)
        try:
            for account, units in _arrived(batch, pool, sku, row).items():
                moves.append(
                    f"import {pool.pool.decode()} outside {account} {units} {reference} - -"
                )
        except OverflowError:
            raise Unfit(row, "an account would pass 2^53 - 1 units") from None
    changed = seen.changes()
    return Plan(
        batch.pack(), changed, moves,
        new_skus=sum(not old for old in changed[1::3]), units=sum(row.quantity for row in rows),
    )  # fmt: skip


def _arrived(batch: Batch, pool: Row, sku: Sku, row: StockRow) -> Counter[str]:
    """Plans one row: units by the account that they end in."""
    found: Counter[str] = Counter()
    if row.quantity == 0:
        if not pool.text:
            batch.open_pool(pool, sku)
        return found

    def note(moves: Iterable[tuple[str, str, int]] | None) -> None:
        assert moves is not None, "a part has fewer rows than a batch has room for"
        for source, target, units in moves:
            found[source] -= units
            found[target] += units

    note(batch.receive(pool, sku, row.quantity))
    if row.free is not None:
        # What is promised already comes first: a deficit leaves less to set aside.
        room = row.quantity - found["deficit"]
        for account, units in list(found.items()):
            if account.startswith("free:"):
                note(batch.reallocate(pool, sku, account.removeprefix("free:"), "shared", units))
        for channel, named in row.free.items():
            units = min(named, room)
            room -= units
            lacking = units - found["shared"]
            if lacking > 0:  # of this row's own units: safety stock gets what is left
                note(batch.reallocate(pool, sku, "safety", "shared", lacking))
            if units:
                note(batch.reallocate(pool, sku, "shared", channel, units))
    del found["outside"]
    return +found


def pools_of(order: Order, policy: Policy, entries: Texts) -> tuple[set[str], list[str]]:
    """The pools that an order is planned with, and those that must be opened first: where a line
    has none to take of, one at its first location."""
    wanted: set[str] = set()
    lacking: list[str] = []
    for line in order.lines:
        entry = entries[line.sku]
        known = wording.parse_sku(entry)[1] if entry is not None else ()
        places = [line.location] if line.location else policy.specs[order.channel].locations
        wanted.update(f"{line.sku}@{place}" for place in places if place in known)
        takes_from = selling(policy, order.channel, line.location)
        if not any(place in known for place in takes_from):
            lacking.append(f"{line.sku}@{takes_from[0]}")
    return wanted, lacking


def plan_pools(
    batch: Batch, policy: Policy, pools: Iterable[str], entries: Texts, texts: Texts
) -> Plan:
    """Opens pools, so that an order can take of them."""
    seen = _Skus(entries)
    places = [tuple(pool.split("@")) for pool in dict.fromkeys(pools)]
    for sku, location in places:
        seen.see(sku, location)
    skus = seen.made()
    batch.begin(policy, skus)
    for sku, location in places:
        row = _row(skus[sku], location, texts)
        if not row.text:
            batch.open_pool(row, skus[sku])
    return Plan(batch.pack(), seen.changes(), [])


def plan_orders(
    batch: Batch,
    policy: Policy,
    orders: Sequence[Order],
    entries: Texts,
    texts: Texts,
    now_ms: int,
    randomness: bytes,
) -> Plan:
    """Every order as a reservation that is a fact; ``randomness``: 8 bytes per order.

    Raises Unfit, ChannelUnknown, RowCorrupt as `plan_stock` does.
    """
    seen = _Skus(entries)
    for order in orders:
        for line in order.lines:
            seen.see(line.sku)
    skus = seen.made()
    for pool in texts:
        sku, location = pool.split("@")
        _row(skus[sku], location, texts)
    batch.begin(policy, skus)
    for order in orders:
        tail = b" ".join((
            order.channel.encode(), wording.encode_text(order.customer),
            wording.encode_text(order.reference),
        ))  # fmt: skip
        demand = Demand(order.channel, order.lines, tail, 0)
        demand.state = COMMITTED if order.state == "committed" else FULFILLED
        demand.fact = True
        code = batch.add(demand)
        if code != ADDED:
            raise Unfit(order, f"the order cannot be planned (code {code})")
    batch.plan()
    stage = batch.pack()
    demands, _ = batch.pack_reservations(now_ms, randomness, keys.SHARD)
    counted = Entries(now_ms)
    plan = Plan(stage, [], [], customers=counted)
    for order, demand in zip(orders, demands, strict=True):
        plan.records += (demand.id, demand.record)
        if demand.limits is not None:
            record = wording.parse_record(demand.record)
            units = units_of(record)
            counted.add(0, demand.id, record.customer, demand.limits, {}, units, fact=True)
        if demand.state == FULFILLED:
            plan.ended.append(demand.id)
        for pool, source, target, units in demand.moves:
            plan.moves.append(f"import {pool.decode()} {source} {target} {units} {demand.id} - -")
        plan.units += sum(line.quantity for line in order.lines)
    return plan
