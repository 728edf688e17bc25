"""A DELETE of a channel whose worker goes away: the channel is closed until somebody ends it."""

from __future__ import annotations

from typing import Any

import pytest

from core import channels
from core.errors import InsufficientStock, StaleVersion, UnknownChannel
from core.kernel._policy import Policy
from core.model import Release
from core.policy_model import Channel, ChannelSpec
from core.service import Service
from core.store import keys, scripts
from core.store.shard import Shard
from tests.workers import Store, Workers, demand, furnish, receive

SPLIT = {
    "web": ChannelSpec(floor_share=0.7, borrow=False, ceiling_units=100),
    "store": ChannelSpec(floor_share=0.3),
}


@pytest.fixture
async def pair(store_url: str, workers: Workers) -> tuple[Service, Service]:
    """Two workers without reapers on one empty store; every refusal asks."""
    one = await workers(store_url, reaper=False, staleness_ms=0)
    return one, await workers(store_url, reaper=False, staleness_ms=0)


def named(store: Store, channel: str) -> list[bytes]:
    """Pools whose rows name the channel."""
    rows = store.hgetall(keys.POOLS)
    return sorted(pool for pool, text in rows.items() if b" %s@" % channel.encode() in text)


class CutOff(Exception):
    """The worker went away."""


def cut_off(monkeypatch: pytest.MonkeyPatch, script: scripts.Script, after: int) -> None:
    """From the ``after``-th on, scripts of this kind do not arrive."""
    run = Shard.run
    seen = 0

    async def cut(shard: Shard, chosen: scripts.Script, names: Any, args: Any) -> Any:
        nonlocal seen
        seen += chosen is script
        if chosen is script and seen > after:
            raise CutOff
        return await run(shard, chosen, names, args)

    monkeypatch.setattr(Shard, "run", cut)


@pytest.mark.parametrize(("script", "after"), [(scripts.DROP, 1), (scripts.POLICY, 1)])
async def test_one_that_was_cut_off_goes_on(
    pair: tuple[Service, Service],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    script: scripts.Script,
    after: int,
) -> None:
    """The closed channel shows it, takes nothing and is given nothing; another worker ends it."""
    one, other = pair
    await furnish(one, {f"s{number}": 10 for number in range(6)}, **SPLIT)
    version = (await one.catalogue.channel("web")).version
    await other.engine.release((await other.engine.reserve(demand("s1"))).id, Release())
    monkeypatch.setattr(channels, "ROWS_A_SCRIPT", 2)
    with monkeypatch.context() as patch:
        cut_off(patch, script, after)
        with pytest.raises(CutOff):
            await one.catalogue.delete_channel("web")
    assert len(named(store, "web")) == (4 if script is scripts.DROP else 0)  # of six
    assert (await other.catalogue.channel("web")).spec.closed
    for refused in (
        other.engine.reserve(demand("s5")), other.stock.availability("web", ["s5"]),
        other.stock.read(["s5"], "web"),
    ):  # fmt: skip
        with pytest.raises(UnknownChannel):
            await refused
    (stock,) = await other.stock.read(["s5"])
    # What is web's is nobody's until it was swept.
    assert stock.available == {"store": 3 if script is scripts.DROP else 10}
    await receive(other, {"s0": 10, "s5": 10})
    (pool,) = (await one.stock.read(["s5"]))[0].pools
    quota = pool.channels.get("web")
    assert (quota.free if quota else 0) == (7 if script is scripts.DROP else 0)
    with pytest.raises(StaleVersion):
        await other.catalogue.delete_channel("web", version - 1)
    await other.catalogue.delete_channel("web", version)  # the version that was closed
    assert named(store, "web") == []
    with pytest.raises(UnknownChannel):
        await one.catalogue.channel("web")
    await one.engine.reserve(demand("s5", 20, "store"))


async def test_a_put_opens_one_that_was_cut_off(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    await furnish(one, {"tee": 10}, **SPLIT)
    with monkeypatch.context() as patch:
        cut_off(patch, scripts.DROP, 0)
        with pytest.raises(CutOff):
            await one.catalogue.delete_channel("web")
    put = await other.catalogue.put_channel("web", SPLIT["web"])
    assert (put.created, put.value.spec.closed) == (False, False)
    await one.engine.reserve(demand(quantity=7))
    with pytest.raises(InsufficientStock):
        await other.engine.reserve(demand())


async def test_one_that_was_cut_off_is_ended_by_any_worker(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody sends the DELETE again: who sees the channel closed at two turns goes on with it."""
    one, other = pair
    catalogue = other.catalogue
    await furnish(one, {"tee": 10, "cap": 10}, **SPLIT)
    monkeypatch.setattr(channels, "ROWS_A_SCRIPT", 1)
    with monkeypatch.context() as patch:
        cut_off(patch, scripts.DROP, 1)
        with pytest.raises(CutOff):
            await one.catalogue.delete_channel("web")
    sweeper = channels.CutOff(catalogue.channels, catalogue.delete_channel)
    await sweeper.turn()
    assert (await catalogue.channel("web")).spec.closed, "it may be under way"
    await sweeper.turn()
    with pytest.raises(UnknownChannel):
        await catalogue.channel("web")
    assert named(store, "web") == []
    await sweeper.turn()


async def test_what_was_opened_again_is_left_alone(
    pair: tuple[Service, Service], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a PUT, also just before its turn comes; or by units that are open in it."""
    one, other = pair
    await furnish(one, {"tee": 10}, **SPLIT)

    async def cut() -> None:
        with monkeypatch.context() as patch:
            cut_off(patch, scripts.DROP, 0)
            with pytest.raises(CutOff):
                await one.catalogue.delete_channel("web")

    async def channels_before_a_put() -> list[Channel]:
        found = await other.catalogue.channels()
        await one.catalogue.put_channel("web", SPLIT["web"])
        return found

    delete = other.catalogue.delete_channel
    await cut()
    sweeper = channels.CutOff(other.catalogue.channels, delete)
    await sweeper.turn()
    late = channels.CutOff(channels_before_a_put, delete)
    late._seen = sweeper._seen
    await late.turn()
    await sweeper.turn()
    await sweeper.turn()
    assert not (await one.catalogue.channel("web")).spec.closed
    await one.engine.reserve(demand(quantity=7))
    with monkeypatch.context() as patch:  # taken between the look and the closing

        async def nothing(sweep: channels.Sweep) -> None:
            pass

        async def gone(sweep: channels.Sweep, policy: Policy) -> bool:
            raise CutOff

        patch.setattr(channels.Sweep, "check", nothing)
        patch.setattr(channels.Sweep, "run", gone)
        with pytest.raises(CutOff):
            await one.catalogue.delete_channel("web")
    assert (await one.catalogue.channel("web")).spec.closed
    for _ in range(2):
        await sweeper.turn()
    assert not (await one.catalogue.channel("web")).spec.closed
