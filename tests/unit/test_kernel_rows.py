"""What the kernel says to what is not there, not known, or not a row; and the ids that it makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from core import model, policy_model
from core.kernel import _plan as kernel
from core.kernel import _policy as known
from core.kernel import reference as rule
from core.kernel import reference_reserve as reserving
from core.kernel._pool import ChannelUnknown, LawBroken, RowCorrupt
from core.kernel.reference import Channel, Policy, Pool, SkuPolicy
from tests.property.kernel_world import TAIL, TTL_MS, Kernel, one_pool, pool_of, row_text
from tests.property.world import World

TEE = "tee"
MAIN = (TEE, "main")
WEB = Channel("web", ("main",))


# What is not there, and what is not known.


def asked(plan: Kernel, channel: str, *lines: model.Line) -> int:
    """What a batch says to a demand."""
    return plan.batch.add(kernel.Demand(channel, list(lines), TAIL, TTL_MS))


def test_what_is_not_known_is_told_apart() -> None:
    """A channel, a SKU, a location that is not there; a row or SKU that must be read first."""
    world = one_pool(WEB)
    world.receive(MAIN, 5)
    plan = Kernel(world)
    plan.skus["gone"] = known.Sku("gone", 0, b"", None, (), {})
    plan.skus["far"] = known.Sku("far", 1, b"", policy_model.SkuSpec(), ("main",), {})
    plan.skus["bare"] = known.Sku("bare", 1, b"", policy_model.SkuSpec(), (), {})
    line = model.Line(TEE, 1)
    assert asked(plan, "shop", line) == kernel.UNKNOWN_CHANNEL
    assert asked(plan, "web", model.Line("gone", 1)) == kernel.UNKNOWN_SKU
    assert asked(plan, "web", line, model.Line("gone", 1)) == kernel.UNKNOWN_SKU
    assert asked(plan, "web", model.Line(TEE, 1, "mars")) == kernel.UNKNOWN_LOCATION
    assert asked(plan, "web", model.Line(TEE, 1, None, ["main", "mars"])) == (
        kernel.UNKNOWN_LOCATION
    )
    assert plan.batch.misses == []
    assert asked(plan, "web", line, model.Line("new", 1), model.Line("far", 1)) == kernel.MISS
    assert plan.batch.misses == [("new", "main"), ("far", "main")]
    assert asked(plan, "web", model.Line("bare", 1)) == kernel.ADDED
    plan.batch.plan()
    assert plan.batch.demands[0].lines[0].sku == "bare"
    assert plan.batch.shortfalls(0) == [(0, "bare", None, 1, 0, 0, "on_hand")]
    assert plan.batch.reads(0) == [("bare", None)]
    assert plan.pack().rows == []


def test_a_row_of_a_newer_policy_is_not_planned_on() -> None:
    """The worker is out of date, not the row."""
    world = one_pool(WEB)
    world.receive(MAIN, 5)
    old = world.pools[MAIN]
    for newer in (replace(old, policy_number=2), replace(old, sku_number=2)):
        plan = Kernel(world)
        plan.rows[MAIN].text = row_text(newer)
        with pytest.raises(ChannelUnknown, match=TEE):
            asked(plan, "web", model.Line(TEE, 1))
        plan.rows[MAIN].text = row_text(old)
        assert asked(plan, "web", model.Line(TEE, 1)) == kernel.ADDED


def test_without_split_and_with_nothing_anywhere_all_locations_are_to_blame() -> None:
    """A closed or empty location that comes first does not hide why the others give nothing."""
    web = Channel("web", ("shut", "none", "main"), split=False, borrow=False)
    policy = Policy({"web": web}, {"shut": False, "none": True, "main": True})
    for place in ("shut", "none"):
        world = World(policy, {TEE: SkuPolicy(1)}, {MAIN: Pool(*MAIN, shared=5)})
        world.pools[TEE, place] = Pool(TEE, place)
        for partial in (False, True):
            demands = [reserving.Demand("web", (reserving.Line(TEE, 1),), partial)]
            answers, _ = Kernel(world).reserve(demands)
            (decision,) = world.reserve(demands)
            assert decision.shortfalls[0].limited_by == "channel_quota"
            assert [answer.decision for answer in answers] == [decision]


def test_more_than_is_held_is_not_given_back() -> None:
    """The laws are asserted on what is about to be printed."""
    world = one_pool(WEB)
    world.receive(MAIN, 5)
    plan = Kernel(world)
    plan.batch.give_back(plan.rows[MAIN], plan.skus[TEE], "web", 1, 0, 0, False)
    with pytest.raises(LawBroken, match="negative"):
        plan.batch.pack()


# Rows that nobody could have written.

GOOD = b"7 1 1 3,2,1,0,0,-5 store@1,2,3,4 web@4,5,6,1,2,s400000,7,8"
BAD = [
    b" ",
    b"7",
    b"7 1 1",
    b"7 1 1 3,2,1,0,0",
    b"7 1 1 3,2,1,0,0,0,0",
    b"7 1 1 3,2,1,0,0,x",
    b"7  1 1 3,2,1,0,0,0",
    b"7 1 1 3,2,1,0,0,0 web",
    b"7 1 1 3,2,1,0,0,0 web@",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,x5,1,0",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,u5,1",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,s1000001,1,0",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,s5,1,1000000",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,u5,-1,0",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0 web@1,2,3,0",
    b"7 1 1 3,2,1,0,0,0 w\xffb@1,2,3,0",
    b"7 1 1 3,2,1,0,0,0 @1,2,3,0",
    b"7 1 1 3,2,1,0,0,0 WEB@1,2,3,0",
    b"7 1 1 3,2,1,0,0,0\n",
    b"7 1 1 -3,2,1,0,0,0",
    b"7 1 1 3,2,1,0,1,0",
    b"7 1 1 0,0,0,0,1,0",
    b"7 1 1 3,2,1,0,0,1",
    b"7 1 1 9007199254740991,1,0,0,0,0",
    b"7 1 1 99999999999999999,0,0,0,0,0",
    b"7 1 1 3,2,1,0,0,0 web@1,2,3,0,1,u5,9007199254740992,0",
]


def reading(text: bytes) -> Kernel:
    """A kernel whose one row reads ``text``, with the channels ``store`` and ``web``."""
    plan = Kernel(one_pool(WEB, replace(WEB, name="store")))
    plan.row(MAIN).text = text
    return plan


@pytest.mark.parametrize("text", BAD)
def test_a_malformed_row_is_corrupt(text: bytes) -> None:
    """Whatever is to be done with it; and the batch goes on with the others."""
    plan = reading(text)
    row, sku = plan.rows[MAIN], plan.skus[TEE]
    verbs: list[Any] = [
        lambda: plan.batch.receive(row, sku, 1),
        lambda: plan.batch.meet(row, sku),
        lambda: plan.batch.give_back(row, sku, "web", 1, 0, 0, False),
        lambda: asked(plan, "web", model.Line(TEE, 1)),
    ]
    for verb in verbs:
        with pytest.raises(RowCorrupt):
            verb()
    assert row.text == text
    row.text = GOOD
    assert asked(plan, "web", model.Line(TEE, 1)) == kernel.ADDED


def test_a_channel_that_is_not_known_is_named_by_its_sku() -> None:
    with pytest.raises(ChannelUnknown, match=TEE):
        asked(reading(GOOD + b" zoo@1,0,0,0"), "web", model.Line(TEE, 1))


@given(
    st.binary(max_size=80)
    | st.text(" ,@-us0123456789webstor", max_size=80).map(str.encode)
    | st.builds(
        lambda at, cut, piece: GOOD[:at] + piece + GOOD[at + cut :],
        st.integers(0, len(GOOD)),
        st.integers(0, 4),
        st.binary(max_size=3) | st.text(" ,@-us0159", max_size=3).map(str.encode),
    )
)
def test_random_rows_are_refused_or_lawful(text: bytes) -> None:
    """Never a crash: what is not refused obeys the laws, and so does what is printed of it."""
    assume(text)
    plan = reading(text)
    try:
        plan.batch.receive(plan.rows[MAIN], plan.skus[TEE], 5)
    except (RowCorrupt, ChannelUnknown):
        return
    stage = plan.batch.pack()
    pool = pool_of(MAIN, stage.new[0])
    rule.check(pool)
    assert row_text(pool, pool.version) == stage.new[0]


# Ids.


@given(
    st.integers(0, 2**48 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 255),
)
def test_an_id_is_a_uuid_of_its_time_and_shard(now_ms: int, bits: bytes, shard: int) -> None:
    """Version 7, the time first, the shard last, and two in one batch differ by their counter."""
    world = one_pool(WEB)
    world.receive(MAIN, 5)
    plan = Kernel(world)
    plan.batch.begin_stage()
    for _ in range(2):
        asked(plan, "web", model.Line(TEE, 1))
    plan.batch.plan()
    granted, _ = plan.batch.pack_reservations(now_ms, bits, shard)
    for number, op in enumerate(granted):
        assert model.is_reservation_id(op.id)
        plain = op.id.replace("-", "")
        assert int(plain[:12], 16) == now_ms
        assert int(plain[13:16], 16) == number
        assert int(plain[-2:], 16) == shard
    assert granted[0].id < granted[1].id
