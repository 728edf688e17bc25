"""What happens between a basket and its payment."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

from tests.stories.storefront import Answer, Storefront, refused, together

HOUR_SECONDS = 3_600


@pytest.fixture
async def shop(storefront: Storefront) -> Storefront:
    """A web shop with half of every delivery set aside, and an app that pays within two hours."""
    await storefront.channel("web", floor_share=0.5)
    await storefront.channel("app", late_window_seconds=2 * HOUR_SECONDS)
    return storefront


def seconds_of(answer: Answer) -> float:
    """When it expires, in seconds since 1970."""
    return datetime.fromisoformat(answer.body["expires_at"]).timestamp()


# --- double click ------------------------------------------------------------------------------


async def test_a_double_click_makes_one_basket(shop: Storefront) -> None:
    """A customer clicks "buy" again and again. Each click carries the cart's key: one basket."""
    await shop.stocks("tee", 3)
    clicks = await together(*(shop.reserve({"tee": 1}, key="cart-81-v1") for _ in range(8)))
    assert {click.status for click in clicks} == {201}
    assert len({click.id for click in clicks}) == 1
    assert [click.replayed for click in clicks].count(False) == 1
    assert await shop.left("tee") == 2

    # Then the "pay" button, twice as well.
    paid = await together(*(shop.commit(clicks[0], key="order-17-paid") for _ in range(2)))
    assert [order.state for order in paid] == ["committed", "committed"]
    assert paid[0].body["version"] == paid[1].body["version"]

    # A cart that has changed is another request: its old key would hide the change.
    assert (await refused(
        shop.reserve({"tee": 2}, key="cart-81-v1"), "idempotency_key_reused"
    )).status == 422  # fmt: skip
    assert await shop.left("tee") == 2


# --- slow redirect -----------------------------------------------------------------------------


async def test_a_slow_redirect_is_waited_for(shop: Storefront) -> None:
    """The bank's page takes longer than the basket was held. The shop had extended it first, so
    the rival who asks for the last unit all the while never gets it."""
    await shop.stocks("socks", 1)
    basket = await shop.reserve({"socks": 1}, ttl_seconds=4)
    extended = await shop.extend(basket, 900)
    assert seconds_of(extended) > seconds_of(basket)
    asked_after = 0
    while asked_after < 3:
        no = await refused(shop.reserve({"socks": 1}), "insufficient_stock")
        assert no.lines[0]["available"] == 0
        asked_after += time.time() > seconds_of(basket)
    order = await shop.commit(basket)
    assert (order.state, "reacquired" in order.body) == ("committed", False)

    # Nobody holds a basket for ever: the channel allows an hour after it was made.
    await shop.stocks("scarf", 1)
    forgotten = await shop.reserve({"scarf": 1})
    assert (await refused(shop.extend(forgotten, HOUR_SECONDS), "hold_limit")).status == 409
    assert (await shop.look(forgotten)).body == forgotten.body


# --- paid late ---------------------------------------------------------------------------------


async def test_paid_20_seconds_late_and_the_goods_are_still_there(shop: Storefront) -> None:
    """The deadline passed while the bank was busy; nobody wanted the units meanwhile."""
    await shop.stocks("hoodie", 2)
    basket = await shop.reserve({"hoodie": 2})
    shop.was_due(basket, 20)
    assert (await shop.look(basket)).state == "expired"
    order = await shop.commit(basket, key="order-18-paid")
    assert (order.state, order.body["reacquired"]) == ("committed", True)
    assert order.goods == {"hoodie@main": 2}
    assert await shop.stock("hoodie") == {"on_hand": 2, "committed:web": 2}

    # The payment provider calls twice, as it does when our answer was slow.
    again = await shop.commit(basket, key="order-18-paid")
    assert (again.status, again.id, again.replayed) == (200, basket.id, True)
    assert again.body == order.body
    # And once more when the parcel has left. A call that is not that one took nothing anew.
    await shop.fulfil(order)
    again = await shop.commit(basket, key="order-18-paid")
    assert (again.state, again.body["reacquired"]) == ("fulfilled", True)
    for key in (None, "order-18-seen"):
        assert "reacquired" not in (await shop.commit(basket, key=key)).body


async def test_paid_20_seconds_late_and_the_goods_are_gone(shop: Storefront) -> None:
    """Somebody else bought the last one. The shop is told to give the money back, and of what."""
    await shop.stocks("mug", 1)
    basket = await shop.reserve({"mug": 1})
    shop.was_due(basket, 20)
    quick = await shop.commit(await shop.reserve({"mug": 1}))
    for _ in range(2):  # however often the provider calls
        no = await refused(shop.commit(basket, key="order-19-paid"), "expired")
        assert [(line["sku"], line["available"]) for line in no.lines] == [("mug", 0)]
    assert (await shop.look(basket)).state == "expired"
    assert (await shop.look(quick)).state == "committed"
    assert await shop.stock("mug") == {"on_hand": 1, "committed:web": 1}


async def test_paid_3_hours_late(shop: Storefront) -> None:
    """A transfer that clears in the evening: web waits for a day, the app for two hours."""
    await shop.stocks("lamp", 2)
    patient = await shop.reserve({"lamp": 1})
    strict = await shop.reserve({"lamp": 1}, channel="app")
    for basket in (patient, strict):
        shop.expired(basket, 3 * HOUR_SECONDS)
    assert (await shop.commit(patient)).body["reacquired"] is True
    no = await refused(shop.commit(strict), "expired")
    assert "lines" not in no.body, "it is too late, whatever lies there"
    assert await shop.left("lamp") == 1

    # A shop that has told its customer "too late" already says so itself.
    third = await shop.reserve({"lamp": 1})
    shop.was_due(third, 20)
    await refused(shop.commit(third, late="refuse"), "expired")
    assert (await shop.reserve({"lamp": 1}, channel="app")).status == 201


# --- back button then payment ------------------------------------------------------------------


async def test_back_button_and_then_the_payment_arrives(shop: Storefront) -> None:
    """The customer pays in one tab and goes back to the cart in another, which gives the basket up.
    Then the payment arrives: the shop asks for the same goods once more, on purpose."""
    await shop.stocks("poster", 1)
    basket = await shop.reserve({"poster": 1})
    await shop.release(basket)
    no = await refused(shop.commit(basket, key="order-20-paid"), "invalid_state")
    assert no.state == "released"
    order = await shop.commit(basket, key="order-20-paid-late", late="reacquire")
    assert (order.state, order.body["reacquired"]) == ("committed", True)

    # The same, but another customer was faster: the money goes back.
    await shop.stocks("frame", 1)
    basket = await shop.reserve({"frame": 1})
    await shop.release(basket)
    faster = await shop.reserve({"frame": 1})
    no = await refused(shop.commit(basket, late="reacquire"), "expired")
    assert no.lines[0]["available"] == 0
    assert (await shop.look(faster)).state == "reserved"


async def test_payment_and_back_button_at_once(shop: Storefront) -> None:
    """Of a commit and a release that race exactly one wins, and the loser is told which."""
    await shop.stocks("card", 12)
    baskets = [await shop.reserve({"card": 1}) for _ in range(12)]
    sold = 0
    for basket in baskets:
        paid, given_up = await together(shop.commit(basket), shop.release(basket))
        winner, loser = (paid, given_up) if paid.status == 200 else (given_up, paid)
        assert (winner.status, loser.code) == (200, "invalid_state")
        assert loser.state == winner.state == (await shop.look(basket)).state
        sold += winner is paid
    assert await shop.left("card") == 12 - sold


# --- the basket changes ------------------------------------------------------------------------


async def test_a_basket_goes_up_and_down(shop: Storefront) -> None:
    """Two more, then three fewer; it stays the same basket, until the same deadline."""
    await shop.stocks("towel", 5)
    basket = await shop.reserve({"towel": 2}, key="cart-82-v1")
    more = await shop.amend(basket, {"towel": 4}, key="cart-82-v2")
    assert (more.id, more.goods) == (basket.id, {"towel@main": 4})
    assert more.body["expires_at"] == basket.body["expires_at"]
    assert await shop.left("towel") == 1
    fewer = await shop.amend(basket, {"towel": 1}, key="cart-82-v3")
    assert fewer.goods == {"towel@main": 1}
    assert fewer.body["version"] > more.body["version"] > basket.body["version"]
    assert await shop.left("towel") == 4

    # The same click again changes nothing; it shows the basket as it is.
    again = await shop.amend(basket, {"towel": 4}, key="cart-82-v2")
    assert (again.replayed, again.goods) == (True, {"towel@main": 1})


async def test_a_basket_is_not_in_its_own_way(shop: Storefront) -> None:
    """It holds all there is. What it has counts for what it wants, and a new deadline comes too."""
    await shop.stocks("rug", 3)
    basket = await shop.reserve({"rug": 3}, ttl_seconds=60)
    same = await shop.amend(basket, {"rug": 3}, ttl_seconds=900)
    assert same.goods == {"rug@main": 3}
    assert seconds_of(same) > seconds_of(basket)
    assert (await shop.amend(basket, {"rug": 2})).goods == {"rug@main": 2}
    assert (await shop.amend(basket, {"rug": 3})).goods == {"rug@main": 3}
    assert (await shop.commit(basket)).goods == {"rug@main": 3}


async def test_one_thing_is_removed_and_one_is_swapped(shop: Storefront) -> None:
    """No cap after all; and the blue shirt instead of the red one, in one step or not at all."""
    await shop.stocks("cap", 1)
    await shop.stocks("shirt-red", 1)
    await shop.stocks("shirt-blue", 1)
    basket = await shop.reserve({"cap": 1, "shirt-red": 1})
    await shop.amend(basket, {"shirt-red": 1})
    assert await shop.left("cap") == 1
    swapped = await shop.amend(basket, {"shirt-blue": 1})
    assert swapped.goods == {"shirt-blue@main": 1}
    assert (await shop.left("shirt-red"), await shop.left("shirt-blue")) == (1, 0)

    # An empty basket is not an amended one; it is released.
    assert (await refused(shop.amend(basket, {}), "validation_failed")).status == 422
    assert (await shop.release(basket)).state == "released"
    assert await shop.left("shirt-blue") == 1


async def test_a_basket_that_cannot_grow_stays_as_it_was(shop: Storefront) -> None:
    """Four are not there. The three that the customer has are not lost by asking."""
    await shop.stocks("bowl", 3)
    await shop.stocks("spoon", 3)
    basket = await shop.reserve({"bowl": 2})
    rival = await shop.reserve({"bowl": 1})
    wish = {"bowl": 3, "spoon": 3}
    no = await refused(shop.amend(basket, wish, ttl_seconds=1800), "insufficient_stock")
    assert [(line["sku"], line["requested"], line["available"]) for line in no.lines] == [
        ("bowl", 3, 2)
    ]
    assert (await shop.look(basket)).body == basket.body
    assert await shop.left("spoon") == 3
    await shop.release(rival)
    assert (await shop.amend(basket, wish)).goods == {"bowl@main": 3, "spoon@main": 3}


# --- the order is edited after payment ---------------------------------------------------------


async def test_an_order_is_edited_after_payment(shop: Storefront) -> None:
    """The customer calls: one more, then two fewer. The shop charges or refunds the difference."""
    await shop.stocks("plate", 4)
    order = await shop.commit(await shop.reserve({"plate": 3}), key="order-21-paid")
    more = await shop.amend(order, {"plate": 4}, key="order-21-edit-1")
    assert (more.state, more.goods) == ("committed", {"plate@main": 4})
    assert await shop.left("plate") == 0
    no = await refused(shop.amend(order, {"plate": 5}, key="order-21-edit-2"), "insufficient_stock")
    assert no.lines[0]["available"] == 4
    assert (await shop.look(order)).body == more.body
    fewer = await shop.amend(order, {"plate": 2}, key="order-21-edit-3")
    assert fewer.goods == {"plate@main": 2}
    assert await shop.left("plate") == 2
    # It has no deadline any more, so none can be moved.
    no = await refused(shop.amend(order, {"plate": 2}, ttl_seconds=900), "validation_failed")
    assert no.status == 422


async def test_what_was_shipped_stays_out_of_an_edit(shop: Storefront) -> None:
    """One of three left already: an edit is about the two that did not."""
    await shop.stocks("glass", 5)
    order = await shop.commit(await shop.reserve({"glass": 3}))
    await shop.fulfil(order, {"glass": 1}, key="parcel-1")
    edited = await shop.amend(order, {"glass": 1})
    assert (edited.goods, edited.total("fulfilled")) == ({"glass@main": 1}, 1)
    assert await shop.left("glass") == 3
    done = await shop.fulfil(order)
    assert (done.state, done.total("fulfilled")) == ("fulfilled", 2)
    assert (await shop.stock("glass"))["on_hand"] == 3
    assert (await refused(shop.amend(order, {"glass": 1}), "invalid_state")).state == "fulfilled"


async def test_the_last_unit_goes_to_one_of_two_edits(shop: Storefront) -> None:
    """Two customers want the same last one at once; who loses keeps what there was."""
    await shop.stocks("chair", 5)
    orders = [await shop.commit(await shop.reserve({"chair": 2})) for _ in range(2)]
    answers = await together(*(shop.amend(order, {"chair": 3}) for order in orders))
    assert sorted(answer.status for answer in answers) == [200, 409]
    held = await asyncio.gather(*(shop.look(order) for order in orders))
    assert sorted(order.total("quantity") for order in held) == [2, 3]
    assert await shop.left("chair") == 0
