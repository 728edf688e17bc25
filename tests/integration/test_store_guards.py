"""Every script stops at its guards, before any write.

A saboteur stands between a worker and the store: each command that the worker is about to send is
tried first with something wrong in it. The store must answer as promised and stay as it was; then
the true command goes through, so the whole scenario must still come out right.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis

from core.backing import Backing
from core.ledger.journal import Journal
from core.model import Amend, AmendLine, Cancel, Commit, Extend, Fulfil, Release, Return, ReturnLine
from core.ops import Receipt
from core.policy_model import ChannelSpec, LocationSpec
from core.reaper import Reaper
from core.service import Service
from core.store import keys, scripts
from core.store.link import Link
from core.store.shard import Shard
from tests.workers import Store, demand, furnish, key, make_due, picture, receive, server_ms

HEAD = 10
PLANNED = {"reserve", "replan"}  # what says which policy it was planned on, and when


class Ledger(Journal):
    """One that has one record."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__("postgresql://nobody@nowhere/none", 1.0)
        self._receipt = receipt

    async def record(self, reservation_id: str) -> bytes | None:
        return self._receipt.record if reservation_id == self._receipt.id else None


class Command:
    """One EVALSHA, taken apart."""

    def __init__(self, script: scripts.Script, names: Sequence[Any], args: Sequence[Any]) -> None:
        self.script = script
        self.names = list(names)
        self.args = [each if isinstance(each, bytes) else str(each).encode() for each in args]

    def run(self, store: Store, **changed: bytes) -> Any:
        """Runs it with other arguments of the head: ``a2=b"…"`` is ARGV[2]."""
        args = list(self.args)
        for number, value in changed.items():
            args[int(number[1:]) - 1] = value
        return store.evalsha(self.script.sha.decode(), len(self.names), *self.names, *args)


Trial = Callable[[Command], None]


@pytest.fixture
def before_each(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Trial]]:
    """Trials put into this list see every command before the store does."""
    trials: list[Trial] = []
    send, run, by_sha = Link.send, Shard.run, {script.sha: script for script in scripts.ALL}

    def try_first(
        link: Link, payload: bytes, count: int, done: Any, crowd: bool = False
    ) -> None:
        reader = hiredis.Reader()
        reader.feed(payload)
        for _ in range(count):
            verb, *words = reader.gets()
            if verb == b"EVALSHA":
                names = int(words[1])
                command = Command(by_sha[words[0]], words[2 : 2 + names], words[2 + names :])
                for trial in trials:
                    trial(command)
        send(link, payload, count, done, crowd)

    async def try_first_too(
        shard: Shard, script: scripts.Script, names: Sequence[bytes], args: Sequence[Any]
    ) -> Any:
        for trial in trials:
            trial(Command(script, names, args))
        return await run(shard, script, names, args)

    monkeypatch.setattr(Link, "send", try_first)
    monkeypatch.setattr(Shard, "run", try_first_too)
    yield trials
    trials.clear()


def files(directory: Path) -> list[Path]:
    """A stock file and one of open orders."""
    stock, orders = directory / "stock.csv", directory / "orders.csv"
    stock.write_text("sku,quantity\ntee,2\ncap,1\n")
    orders.write_text("order,channel,sku,quantity,state\nA,web,tee,1,\nB,web,cap,2,fulfilled\n")
    return [stock, orders]


async def every_script(service: Service, store: Store) -> set[str]:
    """Uses every script of a worker that serves; returns the verbs' outcomes to be compared."""
    engine, lane = service.engine, service.lane
    await service.catalogue.put_location("annex", LocationSpec(), key("l"))
    await furnish(service, {"tee": 20}, web=ChannelSpec(floor_share=0.5, late_window_seconds=0))
    await service.catalogue.put_channel("store", ChannelSpec(late_window_seconds=7200))
    await service.catalogue.put_channel("web", ChannelSpec(late_window_seconds=7200))
    held = [await engine.reserve(demand(quantity=2), key(n)) for n in range(5)]
    first, second, third, fourth, fifth = (each.id for each in held)
    done = [
        await engine.extend(first, Extend(1800), key("e")),
        await engine.commit(first, Commit(reference="paid"), key("c")),
        await engine.fulfil(first, Fulfil(), key("f")),
        await engine.return_(first, Return([ReturnLine("tee", 2)]), key("b")),
        await engine.release(second, Release(), key("r")),
        await engine.commit(third, Commit()),
        await engine.cancel(third, Cancel(reason="dear"), key("k")),
    ]
    await service.catalogue.put_channel("kiosk", ChannelSpec(floor_share=0.5))
    await receive(service, {"tee": 2})
    await service.catalogue.delete_channel("kiosk")
    make_due(store, fourth)
    await lane.tidy()
    done.append(await engine.reservation(fourth))
    done.append(await engine.commit(fourth, Commit(), key("late")))
    done.append(await engine.amend(fifth, Amend([AmendLine("tee", 3)], 1700), key("a")))
    reaper = Reaper(lane, service._shard, service.backlog, lane.now_ms // keys.HOUR_MS - 6)
    await reaper._purge()
    ended = await engine.release((await engine.reserve(demand())).id, Release())
    assert await Backing(lane, service._shard, service.backlog, Ledger(ended), False).restored(
        ended.id
    )
    with tempfile.TemporaryDirectory() as directory:
        for orders, path in enumerate(files(Path(directory))):
            await service.importer.run(
                path, orders=bool(orders), again=False, skip_bad=False, tell=lambda *_: None
            )
    return {each.reservation().state for each in done}


ALL_STATES = {"reserved", "committed", "fulfilled", "released", "cancelled", "expired", "returned"}
USED = {script.name for script in scripts.ALL} - {
    "start", "mark", "rebuild_begin", "rebuild_put", "rebuild_end", "repair", "restate",
    "count", "sweep", "note",
}  # fmt: skip


async def test_a_wrong_head_stops_every_script(
    worker: Service, store: Store, before_each: list[Trial]
) -> None:
    """Epoch first, then clock, then policy; and the store stays as it was."""
    seen: dict[str, set[str]] = {name: set() for name in USED}

    def outcome(command: Command, **changed: bytes) -> str:
        before = picture(store)
        reply = command.run(store, **changed)
        assert picture(store) == before, (command.script.name, changed)
        return str(reply[0].decode())

    def trial(command: Command) -> None:
        name = command.script.name
        estimate, policy = command.args[1], command.args[2]
        assert outcome(command, a1=b"1", a2=b"1", a3=b"999", a4=b"0") == "epoch"
        seen[name].add("epoch")
        for window in ("a4", "a5", "a7", "a8"):
            assert outcome(command, a3=b"999", **{window: b"3600000"}) == "clock"
        seen[name].add("windows")
        if estimate:
            for off_ms in (-60_000, 60_000):
                assert outcome(command, a2=b"%d" % (server_ms(store) + off_ms)) == "clock"
            seen[name].add("estimate")
        if policy and name != "policy":  # there it is the number that the change was checked on
            assert outcome(command, a3=b"999") == "policy"
            seen[name].add("policy")
        store.hset(keys.META, "format", "0")
        assert outcome(command) == "epoch"
        store.hset(keys.META, "format", scripts.FORMAT)

    before_each.append(trial)
    assert await every_script(worker, store) == ALL_STATES
    assert all({"epoch", "windows"} <= each for each in seen.values()), seen
    judges = PLANNED | {"commit", "fulfil", "giveback", "extend"}
    assert {name for name, each in seen.items() if "estimate" in each} >= judges
    assert {name for name, each in seen.items() if "policy" in each} >= PLANNED | {"stock"}


async def test_a_wrong_type_in_any_key_stops_every_script(
    worker: Service, store: Store, before_each: list[Trial]
) -> None:
    """The error names the key, nothing is written, and a mended key is as good as before."""
    seen: dict[str, int] = dict.fromkeys(USED, 0)

    def trial(command: Command) -> None:
        for name in dict.fromkeys(command.names):
            was_there = store.exists(name)
            if was_there:
                store.rename(name, b"aside")
            store.set(name, "planted")
            before = picture(store)
            with pytest.raises(redis.ResponseError) as caught:
                command.run(store)
            assert str(caught.value).startswith(f"WRONGTYPE {name.decode()} is a string")
            assert picture(store) == before, (command.script.name, name)
            store.delete(name)
            if was_there:
                store.rename(b"aside", name)
            seen[command.script.name] += 1

    before_each.append(trial)
    assert await every_script(worker, store) == ALL_STATES
    assert all(seen.values()), seen


def timeless(store: Store) -> Any:
    """All that the store holds, but for how far deadlines were looked at: that goes with time."""
    found = picture(store)
    del found[keys.META][b"cursor"]
    return found


async def test_a_command_that_was_done_is_not_done_again(
    worker: Service, store: Store, before_each: list[Trial]
) -> None:
    """A batch sent again after a broken connection finds itself done, however late it comes."""
    sent: list[Command] = []
    before_each.append(sent.append)
    await every_script(worker, store)
    before = timeless(store)
    outcomes = {command.script.name: command.run(store)[:7] for command in sent}
    assert timeless(store) == before
    assert [bytes(word) for word in outcomes["reserve"][0:1]] == [b"known"]
    for command in sent:
        if command.script.name in PLANNED:
            # The policy and the clock may have moved on since: done is done all the same.
            reply = command.run(store, a2=b"%d" % (int(command.args[1]) - 60_000), a3=b"999")
            assert (reply[0], reply[5]) == (b"known", b"batch"), command.script.name
    assert timeless(store) == before
    assert {command.script.name for command in sent} == USED


async def test_a_deadline_that_does_not_lie_ahead_is_refused(
    worker: Service, store: Store, before_each: list[Trial]
) -> None:
    """The outcome is ``clock``: the lane proposes another deadline."""
    tried: list[bytes] = []

    def trial(command: Command) -> None:
        if command.script is scripts.RESERVE:
            before = picture(store)
            for behind_ms in (0, 1_000):
                earliest = b"%d" % (int(command.args[1]) - behind_ms)
                tried.append(command.run(store, a16=earliest)[0])
            assert picture(store) == before

    before_each.append(trial)
    await every_script(worker, store)
    assert set(tried) == {b"clock"}


async def test_a_store_is_made_once(store_url: str, store: Store) -> None:
    """``start`` leaves a shard that exists as it is, and names a key of the wrong type."""
    shard = Shard(store_url, 2.0)
    await shard.load_scripts()
    first = await shard.start(create=True)
    before = picture(store)
    assert (await shard.start(create=True)).epoch == first.epoch
    assert picture(store) == before
    for name in (keys.META, keys.LOCATIONS):
        store.flushall()
        store.set(name, "planted")
        before = picture(store)
        with pytest.raises(Exception, match=f"WRONGTYPE {name.decode()} is a string"):
            await shard.start(create=True)
        assert picture(store) == before
    await shard.close()
