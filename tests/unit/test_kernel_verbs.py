"""What the kernel says to verbs that cannot be: unknown names, no room, too much; and new pools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core import model, policy_model
from core.kernel import _plan as kernel
from core.kernel import _policy as known
from core.kernel import reference as rule
from core.kernel._pool import ChannelInUse, RowCorrupt, Shortage
from core.kernel.reference import ACCOUNT_MAX, Ceiling, Channel, Policy, Pool, Quota, SkuPolicy
from tests.property.kernel_world import NOW_MS, TAIL, TTL_MS, Kernel, one_pool, pool_of, row_text
from tests.property.world import World

TEE = "tee"
MAIN, NORTH = (TEE, "main"), (TEE, "north")
WEB = Channel("web", ("main", "north"), ceiling=Ceiling(share=500_000))
SHARED: Any = "shared"  # where it may not stand
Verb = Callable[[kernel.Batch, known.Row, known.Row, known.Sku], Any]


def two_places(main: Pool, north: Pool | None = None, **web: Any) -> Kernel:
    """A kernel of one SKU in two places."""
    policy = Policy({"web": replace(WEB, **web)}, {"main": True, "north": True})
    world = World(policy, {TEE: SkuPolicy(1)}, {MAIN: main})
    if north is not None:
        world.pools[NORTH] = north
    return Kernel(world)


def run(plan: Kernel, verb: Verb) -> Any:
    """What a verb answers."""
    return verb(plan.batch, plan.row(MAIN), plan.row(NORTH), plan.skus[TEE])


WRONG: dict[str, Verb] = {
    "put away as shared": lambda b, r, t, s: b.put_away(r, s, 1, SHARED),
    "adjusted as shared": lambda b, r, t, s: b.adjust(r, s, 1, SHARED),
    "counted below nothing": lambda b, r, t, s: b.count(r, s, -1),
    "onto itself": lambda b, r, t, s: b.transfer(r, r, s, 1),
    "shared onto itself": lambda b, r, t, s: b.reallocate(r, s, "shared", "shared", 1),
    "from nowhere": lambda b, r, t, s: b.reallocate(r, s, "shop", "shared", 1),
    "into a deficit": lambda b, r, t, s: b.reallocate(r, s, "shared", "deficit", 1),
    "allowance of nobody": lambda b, r, t, s: b.give_allowance(r, s, "shop", 1, 1),
    "nobody dropped": lambda b, r, t, s: b.drop_channel(r, s, "shop"),
    "nobody's available": lambda b, r, t, s: b.available(r, s, "shop"),
    "given back by nobody": lambda b, r, t, s: b.give_back(r, s, "shop", 1, 0, 0, False),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_account_is_said_so(name: str) -> None:
    plan = two_places(Pool(*MAIN, shared=5))
    with pytest.raises(ValueError, match=r"\w"):
        run(plan, WRONG[name])
    assert plan.pack().rows == plan.pack().rows == []


def test_nothing_is_moved_to_a_closed_channel() -> None:
    plan = two_places(Pool(*MAIN, shared=5), closed=True)
    with pytest.raises(ValueError, match="closed"):
        run(plan, lambda b, r, t, s: b.reallocate(r, s, "shared", "web", 1))
    assert run(plan, lambda b, r, t, s: b.available(r, s, "web")) == 0


SHORT: dict[str, tuple[Verb, int]] = {
    "adjust": (lambda b, r, t, s: b.adjust(r, s, -10, "damaged"), 9),
    "transfer": (lambda b, r, t, s: b.transfer(r, t, s, 4), 3),
    "reallocate": (lambda b, r, t, s: b.reallocate(r, s, "damaged", "shared", 3), 2),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_shortage_says_what_there_is(name: str) -> None:
    """And nothing is planned: the row is not even printed."""
    quotas = {"web": Quota(2, 3, 0)}
    plan = two_places(Pool(*MAIN, shared=1, damaged=2, quarantine=1, quotas=quotas))
    verb, available = SHORT[name]
    text = plan.rows[MAIN].text
    with pytest.raises(Shortage) as short:
        run(plan, verb)
    assert short.value.available == available
    assert plan.pack().rows == []
    assert plan.rows[MAIN].text == text


@pytest.mark.parametrize("target", ["quarantine", "shared", "safety", "web"])
def test_only_what_becomes_sellable_pays_what_is_missing(target: str) -> None:
    """3 damaged units beside a deficit of 2: looked at again they pay nothing."""
    quotas = {"web": Quota(0, 0, 5)}
    plan = two_places(Pool(*MAIN, damaged=3, deficit=2, quotas=quotas), ceiling=None)
    moves = run(plan, lambda b, r, t, s: b.reallocate(r, s, "damaged", target, None))
    into = "free:web" if target == "web" else target
    if target == "quarantine":
        assert moves == [("damaged", into, 3)]
    else:
        assert moves == [("damaged", "deficit", 2), ("damaged", into, 1)]
    pool = pool_of(MAIN, plan.pack().new[0])
    assert (pool.on_hand, pool.deficit) == (6, 2 if target == "quarantine" else 0)


def test_a_channel_with_open_units_stays() -> None:
    for quota in (Quota(1, 1, 0), Quota(0, 0, 1)):
        plan = two_places(Pool(*MAIN, quotas={"web": quota}))
        with pytest.raises(ChannelInUse, match="web"):
            run(plan, lambda b, r, t, s: b.drop_channel(r, s, "web"))
        assert plan.pack().rows == []


FULL = Pool(*MAIN, shared=ACCOUNT_MAX)
LARGE: dict[str, Verb] = {
    "receive": lambda b, r, t, s: b.receive(r, s, 1),
    "restock": lambda b, r, t, s: b.restock(r, s, 1),
    "put away": lambda b, r, t, s: b.put_away(r, s, 1, "damaged"),
    "adjust": lambda b, r, t, s: b.adjust(r, s, 1, "quarantine"),
    "count": lambda b, r, t, s: b.count(r, s, ACCOUNT_MAX + 1),
    "count at once": lambda b, r, t, s: b.count(r, s, 2**63),
    "transfer": lambda b, r, t, s: b.transfer(t, r, s, 1),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_cannot_be_counted_is_refused_whole(name: str) -> None:
    plan = two_places(FULL, Pool(*NORTH, shared=5), ceiling=None)
    with pytest.raises(OverflowError):
        run(plan, LARGE[name])
    assert plan.pack().rows == []


def test_allowances_that_cannot_be_counted_are_refused_whole() -> None:
    full = {"web": Quota(0, 0, 0, 0, 1, Ceiling(share=500_000), ACCOUNT_MAX)}
    some = {"web": Quota(0, 0, 0, 0, 1, Ceiling(share=500_000), 5)}
    main = Pool(*MAIN, sku_number=1, policy_number=1, quotas=full)
    north = replace(main, location="north", shared=5, quotas=some)
    plan = two_places(main, north)
    with pytest.raises(OverflowError, match="tee@main"):
        run(plan, lambda b, r, t, s: b.transfer(t, r, s, 2))
    with pytest.raises(OverflowError):
        run(plan, lambda b, r, t, s: b.give_allowance(r, s, "web", 1, 1))
    assert plan.pack().rows == []


def test_large_stocks_are_moved_exactly() -> None:
    """Products of units and shares pass 2^63; counts, proportions and allowances are exact."""
    half = (ACCOUNT_MAX - 1) // 2
    web = replace(WEB, ceiling=Ceiling(share=333_334), floor_share=333_333)
    store = Channel("store", ("main",), floor_share=666_666)
    policy = Policy({"web": web, "store": store}, {"main": True, "north": True})
    world = World(policy, {TEE: SkuPolicy(1)})
    world.pools[MAIN] = Pool(*MAIN, quotas={"web": Quota(half - 3), "store": Quota(half)})
    plan = Kernel(world)
    assert plan.transfer(MAIN, "north", half + 1) == world.transfer(MAIN, "north", half + 1)
    for key, counted in ((NORTH, ACCOUNT_MAX), (MAIN, 3), (MAIN, ACCOUNT_MAX - 9)):
        assert plan.verb("count", key, counted) == world.verb("count", key, counted)
    plan.pack()
    for key, pool in world.pools.items():
        text = plan.rows[key].text
        assert text == row_text(pool, pool_of(key, text).version)


def test_a_full_batch_has_no_room_for_another_pool() -> None:
    """Every verb says so, and a transfer that has room for one end only moves nothing."""
    policy = Policy({"web": WEB}, {"main": True, "north": True})
    skus = {f"s{number}": SkuPolicy(1) for number in range(2_000)}
    world = World(policy, skus, {(sku, "main"): Pool(sku, "main", shared=1) for sku in skus})
    plan = Kernel(world)
    for name in list(skus)[:1_999]:
        assert plan.verb("receive", (name, "main"), 1) is not None
    row, sku = plan.row(("s1999", "main")), plan.skus["s1999"]
    batch = plan.batch
    assert batch.transfer(row, plan.row(("s1999", "north")), sku, 1) is None
    assert batch.transfer(plan.row(("s0", "main")), row, plan.skus["s0"], 1) is None
    new = known.Row("s1999", "south")
    answers = [
        batch.receive(new, sku, 1), batch.restock(new, sku, 1), batch.count(new, sku, 1),
        batch.put_away(new, sku, 1, "damaged"), batch.adjust(new, sku, 1, "sellable"),
        batch.adjust(new, sku, -1, "damaged"), batch.reallocate(new, sku, "shared", "web", None),
        batch.reallocate_by_policy(new, sku), batch.give_back(new, sku, "web", 1, 0, 0, False),
        batch.give_allowance(new, sku, "web", 1, 1), batch.open_pool(new, sku),
        batch.drop_channel(new, sku, "web"), batch.as_met(new, sku), batch.on_hand(new, sku),
        batch.available(new, sku, "web"),
    ]  # fmt: skip
    assert answers == [None] * len(answers)
    assert not batch.meet(new, sku)
    assert len(batch.pack().rows) == 1_999


# Pools that are not there yet, and counts that change nothing.


def test_a_new_pool_is_opened_once() -> None:
    """A row of nothing, met; where there is one already nothing is printed."""
    plan = two_places(Pool(*MAIN, shared=1))
    plan.pack()
    assert run(plan, lambda b, r, t, s: b.open_pool(t, s)) == []
    stage = plan.pack()
    assert (stage.pools, stage.old, stage.deltas) == ([b"tee@north"], [b""], [b""])
    assert stage.new == [b"1 1 1 0,0,0,0,0,0 web@0,0,0,0,1,s500000,0,0"]
    assert run(plan, lambda b, r, t, s: b.open_pool(t, s)) == []
    assert plan.pack().rows == []


def test_a_right_count_is_a_count_of_this_very_row() -> None:
    """So that a row that changed meanwhile is counted again."""
    plan = two_places(Pool(*MAIN, shared=4, quotas={"web": Quota(0, 1)}), ceiling=None)
    run(plan, lambda b, r, t, s: b.meet(r, s))
    plan.pack()
    plan.begin()
    assert run(plan, lambda b, r, t, s: b.count(r, s, 5)) == []
    stage = plan.pack()
    assert stage.deltas == [b""]
    assert stage.new[0].split(b" ", 1)[1] == stage.old[0].split(b" ", 1)[1]


def test_all_of_nothing_changes_nothing() -> None:
    plan = two_places(Pool(*MAIN, shared=4))
    assert run(plan, lambda b, r, t, s: b.reallocate(r, s, "damaged", "shared", None)) == []
    assert run(plan, lambda b, r, t, s: b.reallocate_by_policy(t, s)) == []
    assert plan.pack().rows == []


# Facts and holdings.


def demand(*lines: model.Line, **how: Any) -> kernel.Demand:
    """A demand of ``web``."""
    made = kernel.Demand("web", list(lines), TAIL, TTL_MS)
    for name, value in how.items():
        setattr(made, name, value)
    return made


def test_a_fact_without_a_pool_says_so_after_what_is_unknown() -> None:
    """What must be read comes first, then names that are not there, then the pool."""
    plan = two_places(Pool(*MAIN, shared=4))
    plan.skus["bare"] = known.Sku("bare", 1, b"", policy_model.SkuSpec(), (), {})
    plan.skus["gone"] = known.Sku("gone", 0, b"", None, (), {})
    bare, gone, new = model.Line("bare", 1), model.Line("gone", 1), model.Line("new", 1)
    there = model.Line(TEE, 1)
    assert plan.batch.add(demand(there, bare, fact=True)) == kernel.NO_POOL
    assert plan.batch.add(demand(bare, there, fact=True)) == kernel.NO_POOL
    assert plan.batch.add(demand(bare, gone, fact=True)) == kernel.UNKNOWN_SKU
    assert plan.batch.add(demand(bare, new, gone, fact=True)) == kernel.MISS
    assert plan.batch.add(demand(bare, there)) == kernel.ADDED
    assert [row.location for row in plan.batch.rows] == ["main"]


def test_what_a_record_holds_is_read_first() -> None:
    """A row or a SKU that this worker does not know, or knew before the pool was there."""
    plan = two_places(Pool(*MAIN, shared=4, quotas={"web": Quota(0, 2)}))
    line = model.Line(TEE, 1)
    for pool in ((TEE, "north"), ("new", "main")):
        plan.batch.begin_stage()
        held = [(TEE, "main", 0, 1, 0), (*pool, 0, 1, 0)]
        assert plan.batch.add(demand(line, id="x", held=held)) == kernel.MISS
        assert plan.batch.misses == [pool]
    plan.batch.begin_stage()
    held = [("new", "main", 0, 1, 0)]
    assert plan.batch.add(demand(model.Line("new", 1), id="x", held=held)) == kernel.MISS
    plan.skus["gone"] = known.Sku("gone", 0, b"", None, (), {})
    held = [("gone", "main", 0, 1, 0)]
    assert plan.batch.add(demand(line, id="x", held=held)) == kernel.UNKNOWN_SKU
    plan.row(NORTH).text = b"no row"
    with pytest.raises(RowCorrupt):
        plan.batch.add(demand(line, id="x", held=[(TEE, "north", 0, 1, 0)]))
    plan.batch.begin_stage()
    line = model.Line(TEE, 1, "main")
    assert plan.batch.add(demand(line, id="x", held=[(TEE, "main", 0, 1, 0)])) == kernel.ADDED
    assert plan.batch.plan() == 1


def planned(plan: Kernel, op: kernel.Demand) -> kernel.Stage:
    """The stage of one demand on a pool that has met its policy."""
    plan.batch.meet(plan.rows[MAIN], plan.skus[TEE])
    plan.pack()
    plan.begin()
    assert plan.batch.add(op) == kernel.ADDED
    plan.batch.plan()
    plan.batch.pack_reservations(NOW_MS, bytes(8), 0)
    return plan.pack()


def test_what_a_fact_may_not_take_fits_no_other_row() -> None:
    """Shared units fit any row that has them; safety does not, for there may be shared ones."""
    for quantity, fits in ((3, True), (4, False)):
        plan = two_places(Pool(*MAIN, shared=3, safety=2), ceiling=None)
        plan.skus[TEE] = known.Sku(
            TEE, 1, b"", policy_model.SkuSpec(2), ("main",), {"main": plan.rows[MAIN]}
        )
        plan.begin()
        op = demand(model.Line(TEE, quantity), fact=True, state=kernel.COMMITTED)
        stage = planned(plan, op)
        assert bool(stage.deltas[0]) == fits, stage.new


def test_an_own_hold_spends_no_allowance_of_its_own_basket() -> None:
    """5 of 5 are spent: the same 5 may be held again, and a sixth may not."""
    quota = Quota(9, 5, 0, 0, 1, Ceiling(units=5), 0)
    for quantity, left in ((5, 0), (4, 1), (6, None)):
        main = Pool(*MAIN, sku_number=1, policy_number=1, quotas={"web": quota})
        plan = two_places(main, ceiling=Ceiling(units=5))
        op = demand(model.Line(TEE, quantity), id="x", held=[(TEE, "main", 5, 0, 1)])
        stage = planned(plan, op)
        if left is None:
            assert plan.batch.shortfalls(0) == [(0, TEE, None, 6, 5, 0, "channel_ceiling")]
            assert stage.rows == []
        else:
            found = pool_of(MAIN, stage.new[0]).quota("web")
            assert (found.free, found.reserved, found.ceiling_left) == (
                14 - quantity,
                quantity,
                left,
            )


def test_a_transfer_pays_a_deficit_out_of_shared_and_then_of_each_ones_own() -> None:
    """7 are missing there: 2 shared ones and 5 of the 8 free ones pay, by largest remainder."""
    policy = Policy(
        {name: Channel(name, ("main", "north")) for name in ("store", "web")},
        {"main": True, "north": True},
    )
    world = World(policy, {TEE: SkuPolicy(1)})
    world.pools[MAIN] = Pool(*MAIN, shared=2, quotas={"web": Quota(5), "store": Quota(3)})
    world.pools[NORTH] = Pool(*NORTH, deficit=7, quotas={"web": Quota(0, 0, 9)})
    plan = Kernel(world)
    expected = world.transfer(MAIN, "north", 10)
    assert expected[1] == [
        ("outside", "deficit", 7), ("outside", "free:store", 1), ("outside", "free:web", 2),
    ]  # fmt: skip
    assert plan.transfer(MAIN, "north", 10) == expected
    plan.pack()
    for key, pool in world.pools.items():
        assert plan.rows[key].text == row_text(pool, 8)


def test_all_that_a_record_holds_may_be_let_go() -> None:
    """An amendment to nothing of one SKU: its pool is printed though nothing is taken of it."""
    plan = two_places(Pool(*MAIN, shared=4, quotas={"web": Quota(0, 2)}), ceiling=None)
    op = demand(id="x", held=[(TEE, "main", 1, 1, 0)])
    assert plan.batch.add(op) == kernel.ADDED
    assert plan.batch.plan() == 1
    assert plan.batch.pack_reservations(NOW_MS, bytes(8), 0) == ([op], {})
    assert (op.takes, op.record) == ([], None)
    pool = pool_of(MAIN, plan.pack().new[0])
    assert (pool.shared, pool.quota("web").free, pool.quota("web").reserved) == (5, 1, 0)


def test_a_refusal_of_an_old_record_rests_on_new_rows_only() -> None:
    """A row that does not hold what the record does is older than it, however lately it was
    seen."""
    plan = two_places(Pool(*MAIN, quotas={"web": Quota(0, 1)}), ceiling=None)
    for units, stands in ((1, True), (2, False)):
        plan.begin()
        op = demand(model.Line(TEE, 9), id="x", held=[(TEE, "main", 0, units, 0)])
        assert plan.batch.add(op) == kernel.ADDED
        assert plan.batch.plan() == 0
        plan.rows[MAIN].round, plan.rows[MAIN].seen_at = 4, 100.0
        plan.skus[TEE].round, plan.skus[TEE].seen_at = 4, 100.0
        assert plan.batch.confirmed(0, 3, float("inf"))
        assert plan.batch.confirmed(0, 4, 100.0) == stands


def test_a_sale_that_cannot_be_counted_is_refused_whole() -> None:
    """2^53 sold already and more: the pool stays as it is, and so do the others of the basket."""
    plan = two_places(
        Pool(*MAIN, deficit=ACCOUNT_MAX - 5, quotas={"web": Quota(0, 0, ACCOUNT_MAX)}),
        Pool(*NORTH, shared=3),
    )
    lines = [model.Line(TEE, 2, "north"), model.Line(TEE, 1, "main")]
    op = demand(*lines, fact=True, state=kernel.COMMITTED)
    assert plan.batch.add(op) == kernel.ADDED
    assert plan.batch.plan() == 0
    assert plan.batch.shortfalls(0) == [(1, TEE, "main", 1, 0, 0, "on_hand")]
    assert plan.batch.pack_reservations(NOW_MS, bytes(8), 0) == ([], {})
    assert plan.pack().rows == []


def test_more_than_is_held_is_not_laid_open() -> None:
    """Whatever the record says, no account falls below nothing."""
    plan = two_places(Pool(*MAIN, quotas={"web": Quota(0, 1)}), ceiling=None)
    plan.batch.meet(plan.rows[MAIN], plan.skus[TEE])
    plan.pack()
    plan.begin()
    op = demand(model.Line(TEE, 1), id="x", held=[(TEE, "main", 3, 3, 0)])
    plan.batch.add(op)
    assert plan.batch.plan() == 1
    assert plan.pack().deltas == [b""]


def test_a_rule_of_one_pool_says_so() -> None:
    """The simplest fact: what is there is sold, and the rest is short."""
    world = one_pool(Channel("web", ("main",)))
    world.receive(MAIN, 2)
    plan = Kernel(world)
    op = demand(model.Line(TEE, 3), fact=True, state=kernel.COMMITTED)
    plan.batch.add(op)
    plan.batch.plan()
    plan.batch.pack_reservations(NOW_MS, bytes(8), 0)
    assert op.record == b"C 1 - - %d - %s tee@main@0,3,0,0,0,0,1" % (NOW_MS, TAIL)
    assert op.takes == [(b"tee@main", 0, 3, 0, 1)]
    assert op.moves == [
        (b"tee@main", "shared", "committed:web", 2),
        (b"tee@main", "deficit", "committed:web", 1),
    ]
    stage = plan.pack()
    assert stage.new == [b"8 1 1 0,0,0,0,1,0 web@0,0,3,0"]
    rule.check(pool_of(MAIN, stage.new[0]))
