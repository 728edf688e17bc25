"""What a worker last saw: bounded, the least used goes first, and nothing is known halfway."""

from __future__ import annotations

import pytest

from core import snapshot
from core.kernel._plan import Batch
from core.kernel._policy import Policy
from core.model import Line
from core.ops import ReserveOp
from core.policy_model import ChannelSpec, SkuSpec
from core.snapshot import Snapshot
from core.store import wording


def entry(number: int = 1, *places: str) -> bytes:
    """A SKU's entry in the store."""
    return wording.sku_entry(number, places or ("main",), SkuSpec())


def row_text(units: int) -> bytes:
    return b"3 1 1 %d,0,0,0,0,0" % units


@pytest.fixture
def seen() -> Snapshot:
    """A worker that has seen ``tee`` with 5 units at main, in its first round."""
    known = Snapshot()
    known.policy = Policy(1, {"web": ChannelSpec()}, {"main": (True, True)})
    known.see_sku("tee", entry(), 1, 10.0)
    known.see_row("tee", "main", row_text(5), 1, 10.0)
    return known


def consistent(known: Snapshot) -> bool:
    """Every row is found by its SKU and by its pool, and it is the same one."""
    by_sku = {row.pool: row for sku in known.skus.values() for row in sku.rows.values()}
    return by_sku.keys() == known.rows.keys() and all(
        by_sku[pool] is row for pool, row in known.rows.items()
    )


def test_what_was_read_is_known_with_its_round(seen: Snapshot) -> None:
    row = seen.rows[b"tee@main"]
    assert (row.text, row.round, row.seen_at) == (row_text(5), 1, 10.0)
    assert seen.skus["tee"].rows == {"main": row}
    assert consistent(seen)


def test_older_news_does_not_touch_what_was_planned_since(seen: Snapshot) -> None:
    """A pipeline that lands tells what was before the plan of the one behind it."""
    row = seen.rows[b"tee@main"]
    row.planned, row.text = 3, row_text(2)
    seen.see_row("tee", "main", row_text(4), 2, 11.0)
    row.void(row_text(5), 2, False)
    assert (row.text, row.round) == (row_text(2), 1)
    seen.see_row("tee", "main", row_text(2), 3, 12.0)
    assert (row.text, row.round) == (row_text(2), 3)


@pytest.mark.parametrize(("guessed", "round"), [(False, 1), (True, -1)])
def test_a_void_plan_leaves_what_it_was_made_on(seen: Snapshot, guessed: bool, round: int) -> None:
    """If that was only expected itself, no refusal may rest on it."""
    row = seen.rows[b"tee@main"]
    row.planned, row.text = 3, row_text(2)
    row.void(row_text(5), 3, guessed)
    assert (row.text, row.round) == (row_text(5), round)


def test_the_same_entry_again_keeps_the_sku_and_renews_its_round(seen: Snapshot) -> None:
    sku = seen.skus["tee"]
    seen.see_sku("tee", entry(), 4, 12.0)
    assert seen.skus["tee"] is sku
    assert (sku.round, sku.seen_at) == (4, 12.0)


def test_a_changed_entry_is_a_new_sku_with_the_rows_of_the_old(seen: Snapshot) -> None:
    row = seen.rows[b"tee@main"]
    seen.see_sku("tee", entry(2, "main", "north"), 4, 12.0)
    sku = seen.skus["tee"]
    assert (sku.number, sku.locations, sku.rows) == (2, ("main", "north"), {"main": row})
    assert consistent(seen)


def test_a_sku_that_is_not_there_is_known_not_to_be(seen: Snapshot) -> None:
    seen.see_sku("mug", b"", 3, 11.0)
    assert (seen.skus["mug"].number, seen.skus["mug"].locations) == (0, ())
    seen.see_sku("mug", entry(), 4, 12.0)
    assert seen.skus["mug"].number == 1


def test_a_row_of_an_unknown_sku_is_not_kept(seen: Snapshot) -> None:
    """Without its SKU's policy nothing can be planned on it."""
    seen.see_row("mug", "main", row_text(1), 3, 11.0)
    assert b"mug@main" not in seen.rows


def test_what_others_wrote_is_taken_in_only_where_it_is_kept(seen: Snapshot) -> None:
    seen.see_written(b"tee@main", row_text(4), 2, 11.0)
    seen.see_written(b"tee@north", row_text(4), 2, 11.0)
    assert seen.rows[b"tee@main"].text == row_text(4)
    assert seen.rows[b"tee@main"].round == 2
    assert b"tee@north" not in seen.rows


# Bounds.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """A worker that keeps four rows and four SKUs, and has seen s0 … s3."""
    monkeypatch.setattr(snapshot, "ROWS_MAX", 4)
    monkeypatch.setattr(snapshot, "SKUS_MAX", 4)
    known = Snapshot()
    for number in range(4):
        known.see_sku(f"s{number}", entry(1, "main", "north"), 1, 10.0)
        known.see_row(f"s{number}", "main", row_text(number), 1, 10.0)
    return known


def names(known: Snapshot) -> list[str]:
    return [pool.decode() for pool in known.rows]


def test_the_oldest_row_that_nobody_used_goes(small: Snapshot) -> None:
    small.see_row("s3", "north", row_text(9), 2, 11.0)
    assert names(small) == ["s1@main", "s2@main", "s3@main", "s3@north"]
    assert "main" not in small.skus["s0"].rows
    assert consistent(small)


def test_a_row_that_was_used_gets_a_second_chance_and_not_a_third(small: Snapshot) -> None:
    small.rows[b"s0@main"].used = True
    small.see_row("s3", "north", row_text(9), 2, 11.0)
    assert names(small) == ["s2@main", "s3@main", "s0@main", "s3@north"]
    assert not small.rows[b"s0@main"].used
    for number in (0, 1, 2):
        small.see_row(f"s{number}", "north", row_text(9), 2, 11.0)
    assert "s0@main" not in names(small)
    assert consistent(small)


def test_planning_on_a_row_is_using_it(small: Snapshot) -> None:
    batch = Batch()
    policy = Policy(1, {"web": ChannelSpec()}, {"main": (True, True), "north": (True, True)})
    batch.begin(policy, small.skus)
    op = ReserveOp("web", [Line("s0", 1, "main")], b"web - -", None, False, True, None, None)
    batch.add(op)
    assert [row.used for row in small.rows.values()] == [True, False, False, False]


def test_where_all_were_used_the_new_one_stays_and_the_oldest_goes(small: Snapshot) -> None:
    """A new row that fell out at once would be made a second time in the same batch."""
    for row in small.rows.values():
        row.used = True
    new = small.row(small.skus["s3"], "north")
    assert small.rows[b"s3@north"] is new
    assert small.row(small.skus["s3"], "north") is new
    assert names(small) == ["s1@main", "s2@main", "s3@main", "s3@north"]
    assert consistent(small)


def test_a_sku_goes_with_its_rows(small: Snapshot) -> None:
    small.see_sku("s4", entry(), 2, 11.0)
    assert list(small.skus) == ["s1", "s2", "s3", "s4"]
    assert names(small) == ["s1@main", "s2@main", "s3@main"]
    assert consistent(small)


def test_it_stays_within_its_bounds_whatever_comes(small: Snapshot) -> None:
    for number in range(50):
        name = f"s{number % 7}"
        small.see_sku(name, entry(1 + number % 3, "main", "north"), number, 0.0)
        for place in ("main", "north"):
            small.see_row(name, place, row_text(number), number, 0.0)
            small.rows[f"{name}@{place}".encode()].used = number % 2 == 0
        assert len(small.skus) <= 4
        assert len(small.rows) <= 4
        assert consistent(small)
