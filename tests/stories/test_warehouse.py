"""What happens to an order on its way out of the door, and back in."""

from __future__ import annotations

import pytest

from tests.stories.storefront import Storefront, refused, together

DAY_SECONDS = 86_400


@pytest.fixture
async def shop(storefront: Storefront) -> Storefront:
    """A web shop with two warehouses, and a branch in the high street with its own shelf.

    Customers of the web shop may collect in the branch, and may take two days for it. The office
    takes nothing back.
    """
    for name in ("annex", "high-street"):
        await storefront.location(name)
    await storefront.location("office", sells=False, returns=False)
    await storefront.channel("web", locations=["main", "annex"], max_hold_seconds=2 * DAY_SECONDS)
    await storefront.channel("store", locations=["high-street"])
    return storefront


# --- split shipment ----------------------------------------------------------------------------


async def test_an_order_leaves_in_two_parcels(shop: Storefront) -> None:
    """Neither warehouse has all three, so each sends what it has; a scanner that beeps twice
    ships nothing twice."""
    await shop.stocks("tee", 2)
    await shop.receive("tee", 2, "annex")
    order = await shop.commit(await shop.reserve({"tee": 3}))
    assert order.goods == {"tee@main": 2, "tee@annex": 1}

    for beep in (1, 2):
        sent = await shop.fulfil(order, {"tee@main": 2}, key="parcel-1", reference="DHL-1")
        assert (sent.state, sent.goods) == ("committed", {"tee@annex": 1})
        assert sent.replayed == (beep == 2)
    assert await shop.stock("tee") == {"on_hand": 0}
    assert await shop.stock("tee", "annex") == {"on_hand": 2, "committed:web": 1, "shared": 1}

    # The second parcel is of the annex; main has nothing more to send.
    no = await refused(shop.fulfil(order, {"tee@main": 1}, key="parcel-2"), "invalid_quantity")
    assert [(line["location"], line["available"]) for line in no.lines] == [("main", 0)]
    done = await shop.fulfil(order, {"tee@annex": 1}, key="parcel-2b", reference="DHL-2")
    assert (done.state, done.goods) == ("fulfilled", {})
    assert await shop.stock("tee", "annex") == {"on_hand": 1, "shared": 1}

    # All of it has left: to say so once more is harmless, to send one more is not possible.
    assert (await shop.fulfil(order)).body["version"] == done.body["version"]
    await refused(shop.fulfil(order, {"tee": 1}, key="parcel-3"), "invalid_state")


async def test_a_parcel_says_how_much_once_and_for_all(shop: Storefront) -> None:
    """Without a key nobody could tell a retry from a second parcel, so it is asked for."""
    await shop.stocks("ring", 2)
    order = await shop.commit(await shop.reserve({"ring": 2}))
    no = await refused(shop.fulfil(order, {"ring": 1}), "idempotency_key_required")
    assert no.status == 400
    assert (await shop.look(order)).goods == {"ring@main": 2}


# --- partial cancel against the packer ---------------------------------------------------------


async def test_a_partial_cancel_races_the_packer(shop: Storefront) -> None:
    """The customer cancels one of three while the packer closes the parcel of three. One of them
    is first; the other one is told what is left, and nobody ships what was cancelled."""
    orders_count = 12
    await shop.stocks("mug", 3 * orders_count)
    orders = [await shop.commit(await shop.reserve({"mug": 3})) for _ in range(orders_count)]
    shipped = 0
    for n, order in enumerate(orders):
        cancel = shop.cancel(order, {"mug": 1}, key=f"cancel-{n}")
        pack = shop.fulfil(order, {"mug": 3}, key=f"parcel-{n}")
        # Who is sent first takes turns, so that neither wins by habit.
        answers = await together(*((cancel, pack) if n % 2 else (pack, cancel)))
        cancelled, packed = answers if n % 2 else reversed(answers)
        assert sorted([cancelled.status, packed.status]) == [200, 409]
        if packed.status == 200:
            assert (cancelled.code, cancelled.state) == ("invalid_state", "fulfilled")
            assert [(line["requested"], line["available"]) for line in cancelled.lines] == [(1, 0)]
            shipped += 3
        else:
            assert packed.code == "invalid_quantity"
            assert [(line["requested"], line["available"]) for line in packed.lines] == [(3, 2)]
            rest = await shop.fulfil(order, {"mug": 2}, key=f"parcel-{n}-of-2")
            assert (rest.state, rest.total("cancelled")) == ("fulfilled", 1)
            shipped += 2
    left = 3 * orders_count - shipped
    assert await shop.stock("mug") == {"on_hand": left, "shared": left} if left else {"on_hand": 0}


# --- one of three damaged, and returned elsewhere ----------------------------------------------


async def test_one_of_three_is_damaged_and_comes_back_elsewhere(shop: Storefront) -> None:
    """Shipped from main, brought to the branch: one broken, one fine, one to be looked at."""
    await shop.stocks("vase", 3)
    order = await shop.commit(await shop.reserve({"vase": 3}))
    await shop.fulfil(order)

    broken = await shop.take_back(order, {"vase": 1}, "damaged", key="return-1", to="high-street")
    assert (broken.state, broken.total("returned")) == ("fulfilled", 1)
    assert await shop.stock("vase", "high-street") == {"on_hand": 1, "damaged": 1}
    assert await shop.left("vase", "store") == 0, "nobody is sold a broken one"

    fine = await shop.take_back(order, {"vase": 1}, "restock", key="return-2", to="high-street")
    assert fine.state == "fulfilled"
    assert await shop.left("vase", "store") == 1
    # The clerk was not sure that it worked and sends it again.
    again = await shop.take_back(order, {"vase": 1}, "restock", key="return-2", to="high-street")
    assert (again.replayed, again.total("returned")) == (True, 2)

    # The last one comes by mail, to where it left.
    last = await shop.take_back(order, {"vase": 1}, "quarantine", key="return-3")
    assert (last.state, last.total("returned")) == ("returned", 3)
    assert await shop.stock("vase") == {"on_hand": 1, "quarantine": 1}
    assert await shop.stock("vase", "high-street") == {"on_hand": 2, "damaged": 1, "shared": 1}
    no = await refused(
        shop.take_back(order, {"vase": 1}, "restock", key="return-4"), "invalid_quantity"
    )
    assert no.lines[0]["available"] == 0


async def test_only_what_was_shipped_comes_back_and_only_where_it_is_taken(
    shop: Storefront,
) -> None:
    """Two of three were sent. The office has no shelf for returns."""
    await shop.stocks("clock", 3)
    order = await shop.commit(await shop.reserve({"clock": 3}))
    no = await refused(
        shop.take_back(order, {"clock": 1}, "restock", key="r-1"), "invalid_quantity"
    )
    assert no.lines[0]["available"] == 0
    await shop.fulfil(order, {"clock": 2}, key="parcel-clock")
    no = await refused(
        shop.take_back(order, {"clock": 3}, "restock", key="r-2"), "invalid_quantity"
    )
    assert no.lines[0]["available"] == 2
    no = await refused(
        shop.take_back(order, {"clock": 1}, "restock", key="r-3", to="office"), "validation_failed"
    )
    assert no.body["errors"][0]["pointer"] == "/lines/0/to"
    assert await shop.stock("clock") == {"on_hand": 1, "committed:web": 1}


# --- pickup ------------------------------------------------------------------------------------


async def test_click_and_collect(shop: Storefront) -> None:
    """A web customer collects in the branch: held on its shelf, for longer when she is late, paid
    at the till, handed over."""
    await shop.stocks("kettle", 5)
    await shop.receive("kettle", 1, "high-street")
    kept = await shop.reserve({"kettle@high-street": 1}, ttl_seconds=1800, reference="pickup-7")
    assert kept.goods == {"kettle@high-street": 1}
    no = await refused(shop.reserve({"kettle": 1}, channel="store"), "insufficient_stock")
    assert no.lines[0]["limited_by"] == "on_hand"
    longer = await shop.extend(kept, DAY_SECONDS)
    assert longer.body["expires_at"] > kept.body["expires_at"]
    await shop.commit(kept)
    handed_over = await shop.fulfil(kept, reference="till-2")
    assert (handed_over.state, handed_over.goods) == ("fulfilled", {})
    assert await shop.stock("kettle", "high-street") == {"on_hand": 0}
    assert await shop.stock("kettle") == {"on_hand": 5, "shared": 5}


async def test_what_nobody_collects_is_back_on_the_shelf(shop: Storefront) -> None:
    """She never came. From the deadline on the next customer in the branch can have it."""
    await shop.stocks("pan", 0)
    await shop.receive("pan", 1, "high-street")
    kept = await shop.reserve({"pan@high-street": 1})
    await refused(shop.reserve({"pan": 1}, channel="store"), "insufficient_stock")
    shop.was_due(kept)
    sold = await shop.commit(await shop.reserve({"pan": 1}, channel="store"))
    assert (await shop.fulfil(sold)).state == "fulfilled"
    no = await refused(shop.fulfil(kept), "invalid_state")
    assert no.state == "expired"
