"""What happens to the stock while it is being sold."""

from __future__ import annotations

import asyncio

import pytest

from tests.stories.storefront import Storefront, refused, together


@pytest.fixture
async def shop(storefront: Storefront) -> Storefront:
    """A web shop, and a marketplace that has 20 % of every delivery behind a wall of its own."""
    await storefront.location("annex")
    await storefront.channel("web", locations=["main", "annex"])
    await storefront.channel("marketplace", floor_share=0.2, borrow=False)
    return storefront


# --- short count during the sale ---------------------------------------------------------------


async def test_a_short_count_stops_the_sale_until_a_delivery(shop: Storefront) -> None:
    """Ten should lie there, somebody counts five. Six are promised: one of these is missing, and
    nothing is for sale until a delivery has made up for it."""
    await shop.stocks("tee", 10)
    paid = await shop.commit(await shop.reserve({"tee": 4}))
    unpaid = await shop.reserve({"tee": 2})
    assert await shop.left("tee") == 2
    counted = await shop.count("tee", 5, if_on_hand=10)
    assert (counted.body["on_hand"], counted.body["deficit"]) == (5, 1)
    assert await shop.stock("tee") == {
        "on_hand": 5, "committed:web": 4, "reserved:web": 2, "deficit": 1,
    }  # fmt: skip
    for channel in ("web", "marketplace"):
        no = await refused(shop.reserve({"tee": 1}, channel=channel), "insufficient_stock")
        assert no.lines[0]["available"] == 0
    # Nobody is disturbed who was promised something: the parcels go on.
    assert (await shop.fulfil(paid)).state == "fulfilled"

    await shop.receive("tee", 3)  # one for the basket that lacked it, two to sell
    stock = await shop.stock("tee")
    assert "deficit" not in stock
    assert stock["on_hand"] == 4
    assert sum(units for name, units in stock.items() if name.startswith(("free", "shared"))) == 2
    assert (await shop.commit(unpaid)).state == "committed"


async def test_a_basket_that_is_given_up_pays_for_what_is_missing(shop: Storefront) -> None:
    """The unit that comes back is the one that the count did not find."""
    await shop.stocks("hoodie", 2)
    first, second = [await shop.reserve({"hoodie": 1}, channel="web") for _ in range(2)]
    await shop.count("hoodie", 1)
    assert (await shop.stock("hoodie"))["deficit"] == 1
    await shop.release(first)
    assert await shop.stock("hoodie") == {"on_hand": 1, "reserved:web": 1}
    assert (await shop.commit(second)).state == "committed"


async def test_a_short_count_in_the_middle_of_the_rush(shop: Storefront) -> None:
    """Twenty customers want one each of eight while the count says four. Whoever was first, what is
    promised beyond the four is a deficit, and nothing is left to sell."""
    await shop.stocks("mug", 10)  # two of them are the marketplace's
    crowd = [shop.reserve({"mug": 1}) for _ in range(20)]
    count = shop.count("mug", 4)
    answers = await together(*crowd[:10], count, *crowd[10:])
    assert answers[10].status == 200
    granted = [answer for answer in answers[:10] + answers[11:] if answer.status == 201]
    promised = len(granted)
    stock = await shop.stock("mug")
    assert stock["on_hand"] == 4
    assert stock["reserved:web"] == promised
    assert stock.get("deficit", 0) == max(0, promised - 4)
    assert await shop.left("mug") == 0

    # A count that was made before is not entered over the new one.
    no = await refused(shop.count("mug", 10, if_on_hand=10), "stale_version")
    assert no.status == 412
    assert await shop.stock("mug") == stock


# --- a marketplace order that is paid already --------------------------------------------------


async def test_a_marketplace_order_arrives_paid(shop: Storefront) -> None:
    """It was sold elsewhere: three, and one lies there. That is a fact and is written down; what
    is missing is a deficit that the next delivery pays before anybody can buy."""
    await shop.stocks("vase", 1)
    sale = {"state": "committed", "shortage": "record", "reference": "mp-5512"}
    order = await shop.reserve({"vase": 3}, channel="marketplace", key="mp-5512", **sale)
    assert (order.status, order.state) == (201, "committed")
    assert order.body["expires_at"] is None
    assert order.body["committed_at"] is not None
    assert [line["short"] for line in order.lines] == [2]
    assert await shop.stock("vase") == {"on_hand": 1, "committed:marketplace": 3, "deficit": 2}
    await refused(shop.reserve({"vase": 1}), "insufficient_stock")

    # The marketplace sends it again, because our answer took too long.
    again = await shop.reserve({"vase": 3}, channel="marketplace", key="mp-5512", **sale)
    assert (again.id, again.replayed) == (order.id, True)
    assert (await shop.stock("vase"))["deficit"] == 2

    await shop.receive("vase", 5)
    assert "deficit" not in await shop.stock("vase")
    assert (await shop.fulfil(order)).state == "fulfilled"
    assert (await shop.stock("vase"))["on_hand"] == 3


async def test_a_marketplace_order_of_what_is_not_there_may_be_refused(shop: Storefront) -> None:
    """A marketplace that still can say no does not record: it asks, and is refused like others."""
    await shop.stocks("lamp", 5)
    no = await refused(
        shop.reserve({"lamp": 2}, channel="marketplace", state="committed"), "insufficient_stock"
    )
    assert [(line["available"], line["limited_by"]) for line in no.lines] == [(1, "channel_quota")]
    sold = await shop.reserve({"lamp": 1}, channel="marketplace", state="committed")
    assert (sold.state, sold.body["expires_at"]) == ("committed", None)
    assert "short" not in sold.lines[0]


async def test_what_was_sold_over_the_counter_has_left(shop: Storefront) -> None:
    """The till was offline. Its sales are entered in the evening, and the shelf had them after
    all: nothing is missing."""
    await shop.stocks("bag", 4)
    sale = {"state": "fulfilled", "shortage": "record"}
    sold = await shop.reserve({"bag": 3}, key="till-1-0091", **sale)
    assert (sold.state, sold.total("fulfilled")) == ("fulfilled", 3)
    assert (await shop.stock("bag"))["on_hand"] == 1


# --- restock during the sale -------------------------------------------------------------------


async def test_a_delivery_during_the_sale_is_sold_to_the_last_unit(shop: Storefront) -> None:
    """Sold out, and forty customers keep asking. A lorry brings twenty-five, pallet by pallet: the
    web shop's twenty go to twenty of them, and the marketplace's five stay where they are."""
    await shop.stocks("boots", 0)
    unloaded = asyncio.Event()

    async def insist() -> bool:
        while True:
            last = unloaded.is_set()
            (answer,) = await together(shop.reserve({"boots": 1}))
            if answer.status == 201:
                await shop.commit(answer)
                return True
            assert answer.code == "insufficient_stock", answer.body
            if last:
                return False

    customers = [asyncio.create_task(insist()) for _ in range(40)]
    for pallet in range(5):
        for _ in range(2):  # the scanner sends each pallet twice
            await shop.receive("boots", 5, key=f"pallet-{pallet}")
    unloaded.set()
    assert sum(await asyncio.gather(*customers)) == 20
    assert await shop.stock("boots") == {
        "on_hand": 25, "committed:web": 20, "free:marketplace": 5,
    }  # fmt: skip


# --- customer service moves units --------------------------------------------------------------


async def test_customer_service_moves_unsold_units_to_the_web_shop(shop: Storefront) -> None:
    """The web shop has sold out; the marketplace sits on two that nobody buys there."""
    await shop.stocks("coat", 10)
    await shop.reserve({"coat": 8})
    await shop.reserve({"coat": 1}, channel="marketplace")
    no = await refused(shop.reserve({"coat": 1}), "insufficient_stock")
    assert no.lines[0]["limited_by"] == "channel_quota"
    # What a customer of the marketplace has in the basket is not moved.
    no = await refused(shop.reallocate("coat", 2, "marketplace", "web"), "insufficient_stock")
    assert no.lines[0]["available"] == 1
    await shop.reallocate("coat", 1, "marketplace", "web")
    assert (await shop.reserve({"coat": 1})).status == 201
    assert (await shop.stock("coat"))["reserved:web"] == 9


async def test_customer_service_has_units_brought_over(shop: Storefront) -> None:
    """A customer wants three in one parcel; the annex has three that it can do without."""
    await shop.stocks("chair", 1)
    await shop.receive("chair", 4, "annex")
    kept = await shop.reserve({"chair@annex": 1})
    no = await refused(shop.transfer("chair", 4, "annex", "main"), "insufficient_stock")
    assert no.lines[0]["available"] == 3, "one is promised"
    no = await refused(shop.reserve({"chair@main": 3}), "insufficient_stock")
    assert no.lines[0]["available"] == 1
    await shop.transfer("chair", 3, "annex", "main")
    order = await shop.commit(await shop.reserve({"chair@main": 3}))
    assert order.goods == {"chair@main": 3}
    assert await shop.stock("chair", "annex") == {"on_hand": 1, "reserved:web": 1}
    assert (await shop.look(kept)).state == "reserved"


async def test_a_broken_one_is_taken_out_and_a_mended_one_put_back(shop: Storefront) -> None:
    """A clerk finds a scratch, the workshop removes it."""
    await shop.stocks("table", 2)
    before = await shop.stock("table")
    await shop.reallocate("table", 1, "shared", "damaged")
    assert (await shop.left("table"), (await shop.stock("table"))["damaged"]) == (1, 1)
    await shop.reallocate("table", "all", "damaged", "shared")
    assert await shop.stock("table") == before
