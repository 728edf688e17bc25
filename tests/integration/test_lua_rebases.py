"""Plans on rows that changed since: a script makes of them what the plan would have been."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from core.kernel import reference as rule
from core.kernel.reference import Pool, Quota
from tests.lua import PARTS
from tests.property import strategies as drawn
from tests.property.kernel_world import Kernel, pool_of, row_text
from tests.property.world import World
from tests.workers import Store

# The event loop's guard of this folder is no part of these examples; the store is theirs alone.
examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

REBASE = PARTS + "return rebase(ARGV[1], ARGV[2], ARGV[3]) or false"


def rebased(server: Store, fresh: bytes, old: bytes, deltas: bytes) -> bytes | None:
    """What a script makes of a plan's deltas on a row that has changed since."""
    found: bytes | None = server.eval(REBASE, 0, fresh, old, deltas)
    return found


@st.composite
def met_worlds(draw: st.DrawFn) -> World:
    """A world whose rows all have met the policy, so that plans on them have deltas."""
    world = draw(drawn.worlds())
    assume(
        all(name in world.policy.channels for pool in world.pools.values() for name in pool.quotas)
    )
    return world.met()


def meanwhile(data: st.DataObject, world: World) -> World:
    """The world after others did this and that, now and then under another policy."""
    fresh = world.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(drawn.steps(fresh))
    if data.draw(st.integers(0, 9)) == 9:
        fresh = data.draw(drawn.changes(fresh)).met()
    return fresh


def same_numbers(a: Pool, b: Pool) -> bool:
    """True if both have met the same policies."""
    return (a.sku_number, a.policy_number) == (b.sku_number, b.policy_number)


def lowest(pool: Pool) -> int:
    """The smallest of all that may not be negative."""
    numbers = [pool.shared, pool.safety, pool.deficit]
    for quota in pool.quotas.values():
        numbers += [quota.free, quota.reserved, quota.committed, quota.ceiling_left]
    return min(numbers)


@examples
@given(met_worlds(), st.data())
def test_a_rebased_take_is_the_take_done_on_the_fresh_row(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Or it is refused: exactly if an account would go below zero, or below what a channel leaves
    there, or the policy is another."""
    fresh = meanwhile(data, world)
    before = world.copy()
    demands = data.draw(drawn.batches(world))
    decisions = world.reserve(demands)
    _, stage = Kernel(before).reserve(demands)
    for row, old, deltas in zip(stage.rows, stage.old, stage.deltas, strict=True):
        key = row.sku, row.location
        expected = fresh.pools[key].copy()
        last = False  # was taken, of what a channel leaves
        for asked, decision in zip(demands, decisions, strict=True):
            for taken in decision.takes:
                if (taken.sku, taken.location) == key:
                    quota = expected.quotas.setdefault(asked.channel, Quota())
                    quota.free -= taken.own
                    expected.shared -= taken.borrowed
                    quota.reserved += taken.own + taken.borrowed
                    if taken.ceiling_number:
                        quota.ceiling_left -= taken.own + taken.borrowed
                    channel = world.policy.channels[asked.channel]
                    leaves = channel.keeps if taken.own and not channel.borrow else 0
                    last = last or quota.free < leaves
        found = rebased(server, row_text(fresh.pools[key], 9), old, deltas)
        if not same_numbers(expected, before.pools[key]) or lowest(expected) < 0 or last:
            assert found is None
        else:
            assert found is not None
            assert row_text(pool_of(key, found), 10) == row_text(expected, 10)


@examples
@given(met_worlds(), st.data())
def test_a_rebased_receipt_is_the_receipt_on_the_fresh_row(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Or it is refused: exactly if what decided where its units went has changed."""
    key = data.draw(st.sampled_from(sorted(world.pools)))
    quantity = data.draw(drawn.quantities)
    fresh = meanwhile(data, world).pools[key]
    plan = Kernel(world)
    plan.batch.receive(plan.rows[key], plan.skus[key[0]], quantity)
    stage = plan.pack()
    found = rebased(server, row_text(fresh, 9), stage.old[0], stage.deltas[0])
    if rests_on(world, fresh) != rests_on(world, world.pools[key]):
        assert found is None
    else:
        rule.receive(world.policy, world.skus[key[0]], fresh, quantity)
        assert found is not None
        assert row_text(pool_of(key, found), 10) == row_text(fresh, 10)


def test_units_may_leave_by_a_rebase(server: Store) -> None:
    """What is recorded as sold and gone: the inflow is negative, and must add up all the same."""
    old, fresh = b"4 1 1 5,0,0,0,0,0", b"9 1 1 7,0,0,0,0,0"
    assert rebased(server, fresh, old, b"-3 @1:-3") == b"10 1 1 4,0,0,0,0,0"
    assert rebased(server, fresh, old, b"-2 @1:-3") is None
    assert rebased(server, fresh, old, b"-8 @1:-8") is None


def test_a_rebase_reads_the_quotas_that_it_moves(server: Store) -> None:
    """And leaves the others' text as it is, wherever it stands."""
    old, deltas = b"4 1 1 5,0,0,0,0,0 web@9,0,0,0", b"0 web@1:-1 web@2:1"
    head = b"9 1 1 5,0,0,0,0,0"
    assert rebased(server, head + b" app@1,0,0,7 web@2,0,0,0 xweb@3,0,0,0", old, deltas) == (
        b"10 1 1 5,0,0,0,0,0 app@1,0,0,7 web@1,1,0,0 xweb@3,0,0,0"
    )
    assert rebased(server, head + b" xweb@3,0,0,0", old, b"1 web@2:1") == (
        b"10 1 1 5,0,0,0,0,0 xweb@3,0,0,0 web@0,1,0,0"
    )


@pytest.mark.parametrize(
    "row",
    [
        b"5,0,0,0,0,0 app@torn web@2,0,0,0",  # what does not move would go into the event as it is
        b"5,0,0,0,0,0 app@-3,0,0,0 web@2,0,0,0",
        b"5,0,0,0,0,0 app@1,2 web@2,0,0,0",
        b"5,0,0,0,0,0 app web@2,0,0,0",
        b"5,0,0,0,0,0 web@2,0,0,0 ",
        b"5,0,0,0,0,0 web@2,0,0,0 web@7,0,0,0",
        b"5,0,0,0,0,0 web@2,0,0,0,torn",
        b"5,0 web@2,0,0,0",
    ],
)
def test_a_torn_row_is_left_alone(server: Store, row: bytes) -> None:
    old = b"4 1 1 5,0,0,0,0,0 web@9,0,0,0"
    for deltas in (b"0 web@1:-1 web@2:1", b"0 web@1=2", b"0 web@1>0"):
        assert rebased(server, b"9 1 1 " + row, old, deltas) is None


def test_a_quota_that_does_not_move_is_sellable_beside_a_deficit(server: Store) -> None:
    """Law 2 is of the whole row: what a rebase does not read otherwise, it reads for this."""
    old = b"4 1 1 0,0,0,0,0,0"
    for deficit, app, inflow, after in (
        (b"0", b"1", b"-1 @5:1", None),
        (b"0", b"0", b"-1 @5:1", b"10 1 1 0,0,0,0,1,0 app@0,2,0,0"),
        (b"1", b"1", b"1 @3:1", None),
        (b"1", b"0", b"1 @3:1", b"10 1 1 0,0,1,0,1,0 app@0,2,0,0"),
    ):
        fresh = b"9 1 1 0,0,0,0,%b,0 app@%b,2,0,0" % (deficit, app)
        assert rebased(server, fresh, old, inflow) == after
    assert rebased(server, b"9 1 1 0,0,0,0,1,0 app@torn", old, b"1 @3:1") is None


@examples
@given(met_worlds(), st.data())
def test_what_is_found_damaged_is_added_to_the_fresh_row(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Nothing decides where it goes, so nothing but another policy stops it."""
    key = data.draw(st.sampled_from(sorted(world.pools)))
    units = data.draw(drawn.quantities)
    account: Any = data.draw(st.sampled_from(("damaged", "quarantine")))
    fresh = meanwhile(data, world).pools[key]
    plan = Kernel(world)
    assert plan.batch.adjust(plan.rows[key], plan.skus[key[0]], units, account) == [
        ("outside", account, units)
    ]
    stage = plan.pack()
    found = rebased(server, row_text(fresh, 9), stage.old[0], stage.deltas[0])
    if same_numbers(fresh, world.pools[key]):
        setattr(fresh, account, getattr(fresh, account) + units)
        assert found is not None
        assert row_text(pool_of(key, found), 10) == row_text(fresh, 10)
    else:
        assert found is None


@examples
@given(met_worlds(), st.data())
def test_what_was_decided_on_a_row_is_swapped_alone(
    server: Store, world: World, data: st.DataObject
) -> None:
    """Counts, losses and what is moved by hand fit the row that they were planned on, no other."""
    key = data.draw(st.sampled_from(sorted(world.pools)))
    plan = Kernel(world)
    row, sku = plan.rows[key], plan.skus[key[0]]
    lies_there = plan.batch.on_hand(row, sku)
    assert lies_there is not None
    verb = data.draw(st.sampled_from(("count", "adjust", "reallocate", "by policy")))
    if verb == "count":
        plan.batch.count(row, sku, data.draw(st.integers(0, 2 * lies_there)))
    elif verb == "adjust" and lies_there:
        plan.batch.adjust(row, sku, -data.draw(st.integers(1, lies_there)), "sellable")
    elif verb == "by policy":
        plan.batch.reallocate_by_policy(row, sku)
    else:
        plan.batch.reallocate(row, sku, "shared", "safety", None)
    stage = plan.pack()
    for old, deltas in zip(stage.old, stage.deltas, strict=True):
        assert deltas == b""
        assert rebased(server, old, old, deltas) is None


def rests_on(world: World, pool: Pool) -> list[object]:
    """All that decides where a receipt's units go, by DESIGN's list of `same` conditions."""
    seen: list[object] = [pool.sku_number, pool.policy_number]
    seen += [pool.deficit, pool.safety, pool.shared_credit]
    for name in sorted(world.policy.channels):
        quota = pool.quota(name)
        seen += [quota.credit, quota.ceiling_remainder]
    for party in rule.parties(world.policy, world.skus[pool.sku], pool.location):
        seen.append(party.floor_units and pool.quota(party.name).free)
    return seen


@pytest.mark.parametrize(
    ("fresh", "old", "deltas"),
    [
        (b"9 1 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b""),
        (b"", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:1"),
        (b"9 1 1 5,0,0,0,0,0", b"", b"5 @1:5"),
        (b"9 2 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:1"),
        (b"9 1 2 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:1"),
        (b"9 1 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:1 web@7:-1"),
        (b"9 1 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:2"),
        (b"9 1 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"1 @1:1 @2=1"),
        (b"9 1 1 5,0,0,0,0,0", b"8 1 1 5,0,0,0,0,0", b"1 @1:1 web@1=1"),
        (b"9 1 1 0,0,0,0,2,0 web@0,3,0,0", b"8 1 1 0,0,0,0,0,0 web@0,1,0,0", b"1 @1:1"),
        (b"no row at all", b"8 1 1 5,0,0,0,0,0", b"0 @1:-1 web@2:1"),
    ],
    ids=[
        "met a policy", "row is gone", "row was new", "another SKU policy", "another policy",
        "no such ceiling", "not conserved", "same of the head", "same of a quota",
        "sellable beside a deficit", "corrupt",
    ],
)  # fmt: skip
def test_what_is_never_rebased(server: Store, fresh: bytes, old: bytes, deltas: bytes) -> None:
    assert rebased(server, fresh, old, deltas) is None
