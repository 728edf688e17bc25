"""The shop changes its rules while baskets are open. What is in a basket stays in it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stories.storefront import Answer, Goods, Storefront, refused


@pytest.fixture
async def shop(storefront: Storefront) -> Storefront:
    """A web shop that sells from two places."""
    await storefront.location("main", sells=True)
    await storefront.location("annex", sells=True)
    await storefront.channel("web", locations=["main", "annex"])
    await storefront.channel("store", locations=["main"])
    return storefront


async def too_much(shop: Storefront, basket: Answer, goods: Goods, **line: Any) -> None:
    """The basket cannot become that, for this reason, and stays as it was."""
    before = await shop.look(basket)
    no = await refused(shop.amend(basket, goods), "insufficient_stock")
    (told,) = no.lines
    assert line.items() <= told.items(), told
    assert (await shop.look(basket)).body == before.body


async def the_same(shop: Storefront, basket: Answer, goods: Goods) -> None:
    """The basket is sent once more as it is: that is granted, and not one unit moves."""
    sku, _, location = next(iter(goods)).partition("@")
    before = await shop.stock(sku, location or "main"), await shop.left(sku)
    again = await shop.amend(basket, goods)
    assert again.goods == basket.goods
    assert (await shop.stock(sku, location or "main"), await shop.left(sku)) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ceiling_units": 8}, {"ceiling_units": 2}),
        ({}, {"ceiling_units": 2}),
        ({"ceiling_share": 0.4}, {"ceiling_share": 0.15}),  # of the 14 that are not in baskets
        ({"ceiling_units": 8}, {"override": {"ceiling_units": 2}}),
    ],
    ids=["units", "none before", "share", "of the article"],
)
async def test_a_ceiling_is_lowered_below_what_a_basket_holds(
    shop: Storefront, request: pytest.FixtureRequest, before: Any, after: Any
) -> None:
    """Six are in the basket when two become the most. They stay, may become fewer, and take nothing
    of the new two: those are all that this basket, or another, may have on top."""
    sku = f"jacket-{request.node.callspec.id.replace(' ', '-')}"
    places = ["main", "annex"]
    await shop.channel("web", locations=places, **before)
    await shop.stocks(sku, 20)
    basket = await shop.reserve({sku: 6})
    if "override" in after:
        await shop.ask("PUT", f"/v1/skus/{sku}", {"channels": {"web": after["override"]}})
    else:
        await shop.channel("web", locations=places, **after)
    await the_same(shop, basket, {sku: 6})
    fewer = await shop.amend(basket, {sku: 5})
    assert fewer.goods == {f"{sku}@main": 5}
    assert await shop.left(sku) == 2, "what went back had spent the old ceiling"
    await too_much(shop, fewer, {sku: 8}, available=7, limited_by="channel_ceiling")
    other = await shop.reserve({sku: 1})
    await too_much(shop, fewer, {sku: 7}, available=6, limited_by="channel_ceiling")
    more = await shop.amend(fewer, {sku: 6})
    assert more.goods == {f"{sku}@main": 6}
    assert await shop.left(sku) == 0
    # A paid order is edited by the same rule; what it gives back is the new ceiling's one first.
    order = await shop.commit(more)
    assert (await shop.amend(order, {sku: 4})).goods == {f"{sku}@main": 4}
    assert await shop.left(sku) == 1
    await shop.release(other)
    assert await shop.left(sku) == 2


async def test_a_location_stops_selling(shop: Storefront) -> None:
    """What is in the basket may stay there, also by name; the rest comes from elsewhere."""
    await shop.stocks("scarf", 10)
    basket = await shop.reserve({"scarf": 4})
    await shop.location("main", sells=False)
    await the_same(shop, basket, {"scarf": 4})
    await the_same(shop, basket, {"scarf@main": 4})
    fewer = await shop.amend(basket, {"scarf": 3})
    assert fewer.goods == {"scarf@main": 3}
    await too_much(shop, basket, {"scarf@main": 4}, available=3, limited_by="on_hand")
    await too_much(shop, basket, {"scarf": 4}, available=3, limited_by="on_hand")
    await shop.receive("scarf", 2, "annex")
    more = await shop.amend(basket, {"scarf": 5})
    assert more.goods == {"scarf@main": 3, "scarf@annex": 2}
    order = await shop.commit(more)
    assert (await shop.amend(order, {"scarf@main": 2})).goods == {"scarf@main": 2}
    assert (await shop.fulfil(order)).state == "fulfilled"


async def test_a_location_leaves_the_channel(shop: Storefront) -> None:
    """The web shop does not sell from the annex any more; what is promised there stays so."""
    await shop.stocks("glove", 1)
    await shop.receive("glove", 4, "annex")
    basket = await shop.reserve({"glove@annex": 3})
    await shop.channel("web", locations=["main"])
    await the_same(shop, basket, {"glove@annex": 3})
    assert (await shop.amend(basket, {"glove": 2})).goods == {"glove@annex": 2}
    await shop.location("annex", sells=False)
    assert (await shop.amend(basket, {"glove": 3})).goods == {"glove@annex": 2, "glove@main": 1}


async def test_a_channel_may_not_borrow_any_more(shop: Storefront) -> None:
    """Two of its own, two borrowed: they stay, and what it lets go first is what it borrowed."""
    await shop.channel("web", locations=["main", "annex"], floor_share=0.2)
    await shop.stocks("cap", 10)
    basket = await shop.reserve({"cap": 4})
    assert [(line["own"], line["borrowed"]) for line in basket.lines] == [(2, 2)]
    await shop.channel("web", locations=["main", "annex"], floor_share=0.2, borrow=False)
    await the_same(shop, basket, {"cap": 4})
    await too_much(shop, basket, {"cap": 5}, available=4, limited_by="channel_quota")
    fewer = await shop.amend(basket, {"cap": 3})
    assert [(line["own"], line["borrowed"]) for line in fewer.lines] == [(2, 1)]
    await too_much(shop, basket, {"cap": 4}, available=3, limited_by="channel_quota")


async def test_a_channel_may_not_split_any_more(shop: Storefront) -> None:
    """A basket of two parcels stays one of two parcels, and grows only in one."""
    await shop.stocks("sock", 2)
    await shop.receive("sock", 1, "annex")
    basket = await shop.reserve({"sock": 3})
    assert basket.goods == {"sock@main": 2, "sock@annex": 1}
    await shop.channel("web", locations=["main", "annex"], split=False)
    again = await shop.amend(basket, {"sock": 3})
    assert again.goods == basket.goods
    await shop.receive("sock", 1, "annex")
    await too_much(shop, basket, {"sock": 4}, available=2)
    await shop.receive("sock", 2, "annex")
    assert (await shop.amend(basket, {"sock": 4})).goods == {"sock@annex": 4}


async def test_floors_and_safety_stock_are_for_what_is_not_in_baskets(shop: Storefront) -> None:
    """The last units are in the basket; whoever is given more of what arrives, they stay."""
    await shop.stocks("belt", 3)
    basket = await shop.reserve({"belt": 3})
    await shop.channel("web", locations=["main", "annex"], floor_share=0.1, borrow=False)
    await shop.channel("store", locations=["main"], floor_share=0.9)
    await shop.ask("PUT", "/v1/skus/belt", {"safety_stock": 5})
    await the_same(shop, basket, {"belt": 3})
    await shop.receive("belt", 4)
    assert (await shop.stock("belt"))["safety"] == 4
    await too_much(shop, basket, {"belt": 4}, available=3, limited_by="safety_stock")
    assert (await shop.amend(basket, {"belt": 1})).goods == {"belt@main": 1}
