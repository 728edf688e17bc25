"""What a channel leaves that is closed, or gone: baskets, late commits, keys. All audited."""

from __future__ import annotations

import pytest

from core import channels
from core.errors import (
    ChannelInUse,
    DurabilityUnavailable,
    Expired,
    InvalidRequest,
    KeyReused,
    Overloaded,
    UnknownChannel,
)
from core.model import Amend, AmendLine, Commit, Key, Release
from core.ops import Receipt
from core.policy_model import ChannelSpec
from core.service import Service
from tests.workers import Store, Workers, demand, furnish, key, make_due

SPLIT = {
    "web": ChannelSpec(floor_share=0.7, borrow=False, ceiling_units=100),
    "store": ChannelSpec(floor_share=0.3),
}


async def test_a_refused_delete_disturbs_nobody(worker: Service) -> None:
    """A channel with open units is not closed for a moment."""
    await furnish(worker, {"tee": 10}, **SPLIT)
    version = (await worker.catalogue.channel("web")).version
    await worker.engine.reserve(demand())
    with pytest.raises(ChannelInUse):
        await worker.catalogue.delete_channel("web", version)
    assert (await worker.catalogue.channel("web")).version == version


async def test_while_it_is_closed_a_basket_is_not_gone(
    store_url: str, workers: Workers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units taken between the look and the closing open it again; until then an amend shall come
    again, and a late commit gives the money back."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    other = await workers(store_url, reaper=False, staleness_ms=0)
    await furnish(one, {"tee": 10}, **SPLIT)
    late = await other.engine.reserve(demand())
    make_due(store, late.id)
    check, looks = channels.Sweep.check, 0
    held: Receipt | None = None
    answers: list[type] = []

    async def checked(sweep: channels.Sweep) -> None:
        nonlocal held, looks
        looks += 1
        if looks == 2:
            assert held is not None
            assert (await other.catalogue.channel("web")).spec.closed
            for verb in (
                other.engine.amend(held.id, Amend([AmendLine("tee", 2)])),
                one.engine.amend(held.id, Amend([AmendLine("tee", 2)], ttl_seconds=2_000)),
                other.engine.commit(late.id, Commit()),
            ):
                with pytest.raises((Overloaded, Expired)) as refused:
                    await verb
                answers.append(type(refused.value))
        await check(sweep)
        if looks == 1:
            held = await other.engine.reserve(demand())

    monkeypatch.setattr(channels.Sweep, "check", checked)
    with pytest.raises(ChannelInUse):
        await one.catalogue.delete_channel("web")
    assert answers == [Overloaded, Overloaded, Expired]
    assert not (await one.catalogue.channel("web")).spec.closed
    assert held is not None
    now = await other.engine.amend(held.id, Amend([AmendLine("tee", 2)]))
    assert now.reservation().lines[0].quantity == 2


@pytest.mark.parametrize("of_batch", [b"", b"#"])
async def test_what_was_granted_before_is_a_replay(worker: Service, of_batch: bytes) -> None:
    """The channel went, or holds for a shorter time: a key still says what it stands for."""
    await furnish(worker, {"tee": 10}, **SPLIT)
    used = Key(of_batch + key("k").field, key("k", "a").fingerprint)
    wrong = Key(used.field, key("k", "b").fingerprint)
    first = await worker.engine.reserve(demand(ttl_seconds=900), used)
    await worker.engine.release(first.id, Release())
    shorter = ChannelSpec(ttl_seconds=60, max_hold_seconds=60)
    await worker.catalogue.put_channel("web", shorter)

    async def replayed() -> None:
        (again,) = await worker.engine.reserve_batch([demand(ttl_seconds=900)], [used])
        assert isinstance(again, Receipt)
        alone = await worker.engine.reserve(demand(ttl_seconds=900), used)
        for each in (again, alone):
            assert (each.id, each.replayed) == (first.id, True)
            assert each.reservation().state == "released"
        with pytest.raises(KeyReused):
            await worker.engine.reserve(demand(ttl_seconds=901), wrong)

    await replayed()
    with pytest.raises(InvalidRequest):
        await worker.engine.reserve(demand(ttl_seconds=900), key("new"))
    await worker.catalogue.delete_channel("web")
    await replayed()
    with pytest.raises(UnknownChannel):
        await worker.engine.reserve(demand(ttl_seconds=900), key("new"))


async def test_what_is_wrong_comes_before_a_channel_that_is_not_there(worker: Service) -> None:
    await furnish(worker, {"tee": 10})
    for wrong, error in (
        (demand(channel="nobody", durability="ledger"), DurabilityUnavailable),
        (demand(channel="nobody", shortage="record"), InvalidRequest),
        (demand("a b", channel="nobody"), InvalidRequest),
        (demand(channel="nobody"), UnknownChannel),
    ):
        with pytest.raises(error):
            await worker.engine.reserve(wrong)
        with pytest.raises(error):
            await worker.engine.dry_run(wrong)
        (result,) = await worker.engine.reserve_batch([wrong], [None])
        assert type(result) is error
