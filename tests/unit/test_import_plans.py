"""What rows of a file do to rows of the store, without a store."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.importing.plans import Plan, Unfit, plan_stock
from core.importing.rows import StockRow
from core.kernel._plan import Batch
from core.kernel._policy import Policy
from core.policy_model import ChannelSpec, SkuEntry
from core.store import wording
from tests.stored import Quota, Row, parse_row

POLICY = Policy(
    2,
    {"store": ChannelSpec(floor_units=3), "web": ChannelSpec(floor_share=0.7, ceiling_share=0.5)},
    {"main": (True, True)},
)
ACCOUNT_MAX = 2**53 - 1


def planned(quantity: int, free: dict[str, int] | None, safety: int, before: Row | None) -> Plan:
    """One row of a file on a SKU as the store has it."""
    entry = wording.sku_entry(1, ("main",) if before else (), SkuEntry(safety_stock=safety))
    row = StockRow(0, 2, "tee", "main", quantity, None, free)
    text = text_of(before) if before else None
    return plan_stock(Batch(), POLICY, [row], {"tee": entry}, {"tee@main": text}, "stock.csv")


def text_of(row: Row) -> bytes:
    """A row with nothing but these accounts, as the store writes it."""
    head = (row.shared, row.safety, row.damaged, row.quarantine, row.deficit, row.credit)
    words = [f"{row.version} {row.sku_number} {row.policy_number} {','.join(map(str, head))}"]
    for name, quota in row.quotas.items():
        words.append(f"{name}@{quota.free},{quota.reserved},{quota.committed},{quota.credit}")
    return " ".join(words).encode()


def there(shared: int, safety: int, web: int, promised: int, deficit: int) -> Row:
    """A lawful row: nothing is sellable beside a deficit, and a deficit is of what is promised."""
    if deficit:
        shared = safety = web = 0
        promised = max(promised, deficit)
    quotas = {"web": Quota(web, 0, promised), "store": Quota()}
    return Row(7, 1, 2, shared, safety, 0, 0, deficit, 0, quotas)


few = st.integers(0, 30)
rows = st.builds(there, few, few, few, few, few) | st.none()


@given(quantity=few, web=few, store=few, safety=few, before=rows)
def test_what_columns_name_is_set_aside_and_nothing_else_moves(
    quantity: int, web: int, store: int, safety: int, before: Row | None
) -> None:
    free = {"web": min(web, quantity), "store": 0}
    free["store"] = min(store, quantity - free["web"])
    plan = planned(quantity, free, safety, before)
    was = before or Row()
    if not quantity and before:
        assert plan.stage.new == []
        assert plan.moves == []
        return
    (text,) = plan.stage.new
    now = parse_row(text.decode())
    gained = now.accounts()
    gained.subtract(was.accounts())
    paid = min(was.deficit, quantity)
    left = quantity - paid
    wanted = {"deficit": -paid}
    for channel in ("web", "store"):
        wanted[f"free:{channel}"] = min(free[channel], left)
        left -= wanted[f"free:{channel}"]
    wanted["safety"] = min(left, max(0, safety - was.safety))
    wanted["shared"] = left - wanted["safety"]
    assert {name: gained[name] for name in wanted} == wanted
    assert now.on_hand == was.on_hand + quantity
    moved: Counter[str] = Counter()
    for move in plan.moves:
        verb, pool, source, target, units, *note = move.split(" ")
        assert (verb, pool, source, note) == (
            "import",
            "tee@main",
            "outside",
            ["stock.csv", "-", "-"],
        )
        moved[target] += int(units)
    assert moved == +Counter({name: abs(units) for name, units in wanted.items()})


@given(quantity=few, safety=few, before=rows)
def test_without_columns_units_arrive_as_a_receipt(
    quantity: int, safety: int, before: Row | None
) -> None:
    plan = planned(quantity, None, safety, before)
    if not quantity and before:
        assert plan.stage.new == []
        return
    now = parse_row(plan.stage.new[0].decode())
    assert now.on_hand == (before.on_hand if before else 0) + quantity
    assert sum(int(move.split(" ")[4]) for move in plan.moves) == quantity
    # Receipts may be added to a row that changed; what was set aside by hand may not.
    assert bool(plan.stage.deltas[0]) == bool(before and quantity)


def test_an_account_that_would_not_hold_it_is_a_row_that_does_not_fit() -> None:
    full = Row(7, 1, 2, ACCOUNT_MAX - 5, 0, quotas={"web": Quota(), "store": Quota()})
    assert planned(5, {"web": 0}, 0, full).units == 5
    with pytest.raises(Unfit, match=r"2\^53 - 1"):
        planned(6, {"web": 0}, 0, full)


def test_a_new_sku_gets_its_entry_and_its_place() -> None:
    row = StockRow(0, 2, "tee", "main", 5, 2, None)
    plan = plan_stock(Batch(), POLICY, [row], {"tee": None}, {"tee@main": None}, "f")
    sku, old, new = plan.entries
    assert (sku, old) == (b"tee", b"")
    assert wording.parse_sku(new) == (1, ("main",), SkuEntry(safety_stock=2))
    assert (plan.new_skus, parse_row(plan.stage.new[0].decode()).safety) == (1, 2)
