"""The verbs of stock, one line at a time: where units come from and where they go."""

from __future__ import annotations

import pytest

from core.errors import InsufficientStock, StaleVersion
from core.model import Commit, Line, Release, Reserve
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.service import Service
from core.store import keys
from tests.stocking import adjust, by_policy, count, held, reallocate, transfer
from tests.workers import Store, demand, furnish, key, make_due, receive

HALVES = {"web": ChannelSpec(floor_share=0.5), "store": ChannelSpec(floor_share=0.3)}


@pytest.fixture
async def shop(worker: Service) -> Service:
    """Twelve units at ``main``: two of safety, five web's, three the store's, two shared."""
    await worker.catalogue.put_location("annex", LocationSpec())
    await furnish(worker, {"tee": 0}, **HALVES)
    await worker.catalogue.put_sku("tee", SkuSpec(safety_stock=2))
    await receive(worker, {"tee": 12})
    return worker


def movements(store: Store) -> list[str]:
    """The movements of the last event."""
    (_, fields), *_ = store.xrevrange(keys.EVENTS, count=1)
    assert fields[b"v"] == b"stock"
    return [line for line in fields[b"m"].decode().split("\n") if line]


# --- adjust ------------------------------------------------------------------------------------


async def test_what_was_found_is_a_receipt(shop: Service) -> None:
    """In the order of a receipt, with the credits that the last one left."""
    found = await adjust(shop, 10)
    assert held(found) == {"safety": 2, "free:web": 10, "free:store": 6, "shared": 4}


async def test_what_was_lost_is_taken_where_nobody_waits_for_it(
    shop: Service, store: Store
) -> None:
    """``shared``, then ``safety``, then ``free`` in proportion."""
    left = await adjust(shop, -3)
    assert held(left) == {"safety": 1, "free:web": 5, "free:store": 3}
    left = await adjust(shop, -5)
    assert held(left) == {"free:web": 3, "free:store": 1}
    assert movements(store) == [
        "adjust tee@main safety outside 1 - - -",
        "adjust tee@main free:store outside 2 - - -",
        "adjust tee@main free:web outside 2 - - -",
    ]


async def test_damaged_and_quarantine_are_adjusted_apart(shop: Service) -> None:
    """Plus lies there and is not sold; minus takes from there first, then as any loss."""
    assert held(await adjust(shop, 4, "damaged"))["damaged"] == 4
    pool = await adjust(shop, 1, "quarantine")
    assert (pool.quarantine, pool.on_hand) == (1, 17)
    assert pool.channels["web"].available == 7
    pool = await adjust(shop, -3, "damaged")
    assert (pool.damaged, pool.shared, pool.on_hand) == (1, 2, 14)
    pool = await adjust(shop, -2, "damaged")
    assert (pool.damaged, pool.quarantine, pool.shared, pool.on_hand) == (0, 1, 1, 12)


async def test_no_more_can_be_lost_than_lies_there(shop: Service) -> None:
    """Who knows better counts."""
    with pytest.raises(InsufficientStock) as refused:
        await adjust(shop, -13)
    assert refused.value.lines == [
        {"sku": "tee", "location": "main", "requested": 13, "available": 12,
         "limited_by": "on_hand"}
    ]  # fmt: skip
    with pytest.raises(InsufficientStock):
        await adjust(shop, -1, location="annex")
    assert (await adjust(shop, -12)).on_hand == 0


# --- count -------------------------------------------------------------------------------------


async def test_a_count_below_what_is_promised_opens_a_deficit(shop: Service, store: Store) -> None:
    """Nothing is for sale beside it; receipts and what is given back pay it first."""
    held_units = (await shop.engine.reserve(demand(quantity=6))).id
    paid = (await shop.engine.reserve(demand(quantity=1, channel="store"))).id
    await shop.engine.commit(paid, Commit())
    await adjust(shop, 1, "damaged")
    short = await count(shop, 3)
    assert held(short) == {"reserved:web": 6, "committed:store": 1, "deficit": 4}
    assert short.on_hand == 3
    assert {each.available for each in short.channels.values()} == {0}
    assert movements(store)[-1] == "count tee@main deficit outside 4 - - -"
    with pytest.raises(InsufficientStock):
        await shop.engine.reserve(demand())
    await receive(shop, {"tee": 1})
    assert movements(store) == ["receive tee@main outside deficit 1 - - -"]
    await shop.engine.release(held_units, Release())
    pool = (await shop.stock.read(["tee"]))[0].pools[0]
    assert held(pool) == {"committed:store": 1, "free:web": 3}
    assert pool.on_hand == 4


async def test_damaged_and_quarantine_are_missing_before_what_is_promised(
    shop: Service,
) -> None:
    await shop.engine.reserve(demand(quantity=7))
    await adjust(shop, 3, "damaged")
    await adjust(shop, 2, "quarantine")
    assert held(await count(shop, 11)) == {"reserved:web": 7, "damaged": 3, "quarantine": 1}
    assert held(await count(shop, 9)) == {"reserved:web": 7, "damaged": 2}
    assert held(await count(shop, 6)) == {"reserved:web": 7, "deficit": 1}
    assert held(await count(shop, 0)) == {"reserved:web": 7, "deficit": 7}
    assert held(await count(shop, 9)) == {"reserved:web": 7, "safety": 2}


async def test_a_count_that_was_right_moves_nothing(shop: Service, store: Store) -> None:
    """It is a count of the row that stands, all the same: its version moves on."""
    before = (await shop.stock.read(["tee"]))[0].pools[0]
    after = await count(shop, 12)
    assert held(after) == held(before)
    assert after.version == before.version + 1
    assert movements(store) == []


async def test_a_count_of_what_has_changed_is_refused(worker: Service, shop: Service) -> None:
    """``if_on_hand`` and ``if_version`` say what was seen; sold on meanwhile: count again."""
    seen = (await shop.stock.read(["tee"]))[0].pools[0]
    assert (await count(shop, 11, if_on_hand=12, if_version=seen.version)).on_hand == 11
    with pytest.raises(StaleVersion, match="On hand are 11, not 12"):
        await count(shop, 10, if_on_hand=12)
    with pytest.raises(StaleVersion, match=f"is {seen.version + 1}, not {seen.version}"):
        await count(shop, 10, if_version=seen.version)
    await shop.engine.reserve(demand())
    with pytest.raises(StaleVersion):
        await count(shop, 10, if_version=seen.version + 1)
    assert (await count(shop, 10, if_on_hand=11)).on_hand == 10
    with pytest.raises(StaleVersion):
        await count(shop, 1, location="annex", if_on_hand=1)
    assert (await count(shop, 1, location="annex", if_on_hand=0, if_version=0)).on_hand == 1


@pytest.mark.parametrize("counted", [0, 7, 2**53 - 1])
async def test_a_count_makes_the_pool_that_it_finds(shop: Service, counted: int) -> None:
    """Also of nothing: then it is known that nothing lies there."""
    pool = await count(shop, counted, location="annex")
    assert (pool.version, pool.on_hand) == (1, counted)
    places = [each.location for each in (await shop.stock.read(["tee"]))[0].pools]
    assert places == ["main", "annex"]


# --- transfer ----------------------------------------------------------------------------------


async def test_a_transfer_takes_shared_before_anybodys_own(shop: Service, store: Store) -> None:
    """At the target what is a channel's own stays so if it sells there; the rest is a receipt."""
    await shop.catalogue.put_channel(
        "web", ChannelSpec(floor_share=0.5, locations=["main", "annex"])
    )
    await shop.catalogue.put_sku("tee", SkuSpec(2, {"annex": 0}))
    here, there = await transfer(shop, 6)
    assert held(here) == {"safety": 2, "free:web": 3, "free:store": 1}
    # Four go as own: two web's stay web's; two of the store's and two shared ones are a receipt.
    assert held(there) == {"free:web": 4, "shared": 2}
    assert all(line.startswith("transfer tee@") for line in movements(store))
    with pytest.raises(InsufficientStock) as refused:
        await transfer(shop, 5)
    assert refused.value.lines[0]["available"] == 4  # safety stays
    assert held((await transfer(shop, 4))[0]) == {"safety": 2}


async def test_a_transfer_pays_the_targets_deficit_first(shop: Service, store: Store) -> None:
    await shop.catalogue.put_channel("web", ChannelSpec(locations=["main", "annex"]))
    await shop.catalogue.put_sku("tee", SkuSpec(2, {"annex": 0}))
    await count(shop, 3, location="annex")
    await shop.engine.reserve(Reserve("web", [Line("tee", 3, "annex")]))
    await count(shop, 0, location="annex")
    assert held((await transfer(shop, 2))[1]) == {"reserved:web": 3, "deficit": 1}
    _, there = await transfer(shop, 3)
    assert there.on_hand == 5
    # Two web's and one of the store's: web's pays, the store does not sell there.
    assert held(there) == {"reserved:web": 3, "free:web": 1, "shared": 1}
    assert movements(store) == [
        "transfer tee@main free:store outside 1 - - -",
        "transfer tee@main free:web outside 2 - - -",
        "transfer tee@annex outside deficit 1 - - -",
        "transfer tee@annex outside free:web 1 - - -",
        "transfer tee@annex outside shared 1 - - -",
    ]


async def test_an_allowance_by_share_travels_along(worker: Service) -> None:
    """40 % of what lies here is 40 % of what lies there afterwards."""
    await worker.catalogue.put_location("annex", LocationSpec())
    capped = ChannelSpec(ceiling_share=0.4, locations=["main", "annex"])
    await furnish(worker, {"tee": 100}, web=capped)
    here, there = await transfer(worker, 50)
    assert here.channels["web"].ceiling_left == 20
    assert there.channels["web"].ceiling_left == 20
    here, there = await transfer(worker, 1, source="annex", target="main")
    assert (here.on_hand, there.on_hand) == (49, 51)
    assert here.channels["web"].ceiling_left == 19
    assert there.channels["web"].ceiling_left == 20


async def test_seventy_thirty_holds_however_units_arrive(worker: Service) -> None:
    """One by one: by receipt, adjustment, count and transfer in turn."""
    await worker.catalogue.put_location("annex", LocationSpec())
    own = {"web": ChannelSpec(floor_share=0.7), "store": ChannelSpec(floor_share=0.3)}
    await furnish(worker, {"tee": 0}, **own)
    await count(worker, 50, location="annex")
    for number in range(0, 100, 4):
        await receive(worker, {"tee": 1})
        await adjust(worker, 1)
        await count(worker, number + 3)
        await transfer(worker, 1, source="annex", target="main")
    annex, main = (await worker.stock.read(["tee"]))[0].pools
    assert held(annex) == {"shared": 25}
    assert held(main) == {"free:web": 70, "free:store": 30}


# --- reallocate --------------------------------------------------------------------------------


async def test_unsold_units_go_where_they_are_told(shop: Service, store: Store) -> None:
    pool = await reallocate(shop, "shared", "store", 1)
    assert held(pool) == {"safety": 2, "free:web": 5, "free:store": 4, "shared": 1}
    assert movements(store) == ["reallocate tee@main shared free:store 1 - - -"]
    pool = await reallocate(shop, "web", "quarantine", "all")
    assert held(pool) == {"safety": 2, "free:store": 4, "shared": 1, "quarantine": 5}
    pool = await reallocate(shop, "quarantine", "damaged", 2)
    pool = await reallocate(shop, "safety", "web", 2)
    pool = await reallocate(shop, "damaged", "safety", "all")
    assert held(pool) == {
        "safety": 2, "free:web": 2, "free:store": 4, "shared": 1, "quarantine": 3
    }  # fmt: skip
    assert pool.on_hand == 12


async def test_no_more_can_be_moved_than_the_account_holds(shop: Service) -> None:
    """Units that are reserved are not there to be moved."""
    await shop.engine.reserve(demand(quantity=5))
    for source, available in (("web", 0), ("shared", 2), ("damaged", 0), ("store", 3)):
        with pytest.raises(InsufficientStock) as refused:
            await reallocate(shop, source, "safety", available + 1)
        (line,) = refused.value.lines
        assert (line["requested"], line["available"]) == (available + 1, available)
        assert line["limited_by"] == "on_hand"
    with pytest.raises(InsufficientStock):
        await reallocate(shop, "shared", "safety", 1, location="annex")


async def test_all_of_nothing_is_done_at_once(shop: Service) -> None:
    """Its key is kept: when there are units, a repeat must not move them after all."""
    before = (await shop.stock.read(["tee"]))[0].pools[0]
    assert await reallocate(shop, "damaged", "shared", "all", key=key("all")) == before
    await adjust(shop, 2, "damaged")
    assert (await reallocate(shop, "damaged", "shared", "all", key=key("all"))).damaged == 2
    empty = await reallocate(shop, "shared", "safety", "all", location="annex")
    assert (empty.version, empty.on_hand) == (1, 0)


async def test_what_becomes_sellable_pays_the_deficit_first(shop: Service) -> None:
    await shop.engine.reserve(demand(quantity=7))
    await count(shop, 5)
    await adjust(shop, 4, "damaged")
    pool = await reallocate(shop, "damaged", "shared", 1)
    assert held(pool) == {"reserved:web": 7, "deficit": 1, "damaged": 3}
    pool = await reallocate(shop, "damaged", "web", "all")
    assert held(pool) == {"reserved:web": 7, "free:web": 2}


async def test_by_policy_deals_out_what_is_shared(shop: Service) -> None:
    await reallocate(shop, "web", "shared", "all")
    await reallocate(shop, "store", "shared", "all")
    await reallocate(shop, "safety", "shared", "all")
    assert held(await by_policy(shop)) == {
        "safety": 2, "free:web": 5, "free:store": 3, "shared": 2
    }  # fmt: skip


# --- what is due -------------------------------------------------------------------------------


async def test_a_due_basket_keeps_no_unit_from_being_moved(shop: Service, store: Store) -> None:
    """No reaper runs: what is due expires before a transfer or a reallocation is refused, or finds
    nothing to do. What is not due stays, and the refusal says what lies there then."""

    async def due(units: int = 7) -> None:
        id = (await shop.engine.reserve(demand(quantity=units))).id
        await reserved(units)
        make_due(store, id)

    async def reserved(units: int) -> None:
        (pool,) = [
            each for each in (await shop.stock.read(["tee"]))[0].pools if each.location == "main"
        ]
        assert pool.channels["web"].reserved == units

    await due()
    with pytest.raises(InsufficientStock) as refused:
        await transfer(shop, 11)
    assert refused.value.lines[0]["available"] == 10
    await reserved(0)
    await due()
    assert held(await reallocate(shop, "web", "damaged", 5))["damaged"] == 5
    await reallocate(shop, "damaged", "web", "all")
    await due()
    assert held(await reallocate(shop, "web", "damaged", "all"))["damaged"] == 5
    await reallocate(shop, "damaged", "web", "all")
    await due()  # nothing is shared until then
    assert held(await by_policy(shop)) == {
        "safety": 2, "free:web": 6, "free:store": 4
    }  # fmt: skip
    await due(6)
    here, _ = await transfer(shop, 10)
    assert held(here) == {"safety": 2}


# --- safety ------------------------------------------------------------------------------------


async def test_safety_is_raised_and_lowered_by_policy(shop: Service) -> None:
    """From what is shared, as far as it goes, and back to it; never beside a deficit."""

    async def pool_with(safety: int) -> dict[str, int]:
        await shop.catalogue.put_sku("tee", SkuSpec(safety_stock=safety))
        return held((await shop.stock.read(["tee"]))[0].pools[0])

    own = {"free:web": 5, "free:store": 3}
    assert await pool_with(9) == own | {"safety": 4}
    assert await pool_with(1) == own | {"safety": 1, "shared": 3}
    await shop.engine.reserve(demand(quantity=8))
    await count(shop, 7)
    assert await pool_with(5) == {"reserved:web": 8, "deficit": 1}
    await receive(shop, {"tee": 4})
    assert await pool_with(5) == {"reserved:web": 8, "safety": 3}
