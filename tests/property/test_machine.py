"""Everything at once: two or three engines on one real store against a plain model.

After every step the whole store is audited. A step that is alone is predicted exactly: what the
caller is told, every pool and every record, field by field. Of steps that run at once the order is
not known: the audit explains each event, and the model goes on from what is there.

A run with ``--seed`` draws the same; the blob that Hypothesis prints repeats a failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from core.model import Amend, Cancel, Commit, Extend, Fulfil, Key, Line, Release, Reserve, Return
from core.ops import Receipt
from core.service import Service
from core.stock import StockResult
from core.stock_model import (
    Adjust,
    AdjustLine,
    Count,
    CountLine,
    Reallocate,
    Receive,
    Transfer,
    TransferLine,
)
from tests.property.changed import Changed
from tests.property.draws import (
    amendments,
    channel_specs,
    channels,
    demands,
    engines,
    locations,
    parts,
    picks,
    reallocations,
    receipts,
    returns,
    sales,
    sku_specs,
    skus,
)
from tests.property.driven import NOBODY, SEEN
from tests.shelves import DONE, Answer


class Machine(Changed):
    """All of it, again, and at the same time."""

    # --- retries -------------------------------------------------------------------------------

    @rule(engine=engines, pick=st.integers(0, 5), same=st.sampled_from([True, True, False]))
    def repeat(self, engine: int, pick: int, same: bool) -> None:
        """The same key again, at any engine: the same id and no effect, or refused."""
        if not self.journal:
            return
        work, key, resource = self.journal[-1 - pick % len(self.journal)]
        again = Key(key.field, key.fingerprint if same else b"x" * 22)
        result = self.ask(work(self.service(engine), again))
        if isinstance(result, list):
            result = result[0].error or result[0]
        if isinstance(result, StockResult):
            assert result.replayed
            assert result.pool is not None
            assert f"{result.pool.sku}@{result.pool.location}" == resource
        elif isinstance(result, Receipt):
            assert result.replayed
            assert result.id == resource
            assert result.reacquired is (key.field in self.anew)
            SEEN["replayed"] += 1
        self.step(result, lambda: DONE if same else Answer("idempotency_key_reused"))

    # --- deadlines -----------------------------------------------------------------------------

    @rule(pick=picks, ago_ms=st.sampled_from([0, 400, 1_500, 70_000]))
    def pass_deadline(self, pick: int, ago_ms: int) -> None:
        id = self.pick_reserved(pick)
        if id == NOBODY:
            return
        if self.run(self.shop.pass_deadline(id, ago_ms)):
            self.due.add(id)
        self.step(None, lambda: DONE)

    @rule(engine=engines)
    def tidy(self, engine: int) -> None:
        """As a reaper does: afterwards nothing is due."""
        self.run(self.service(engine).lane.tidy())
        self.step(None, lambda: DONE)
        assert not self.due

    # --- at the same time ----------------------------------------------------------------------

    @rule(channel=channels, sku=skus, buyers=st.integers(2, 12))
    def rush(self, channel: str, sku: str, buyers: int) -> None:
        """One unit each, all at once from all engines: as many get one as there are."""
        if channel not in self.model.channels:
            return
        after = self.model.copy()
        after.expire(sorted(self.due))
        room = after.room(channel, sku)
        request = Reserve(channel, [Line(sku, 1)], ttl_seconds=900)
        results = self.run(self.shop.all([
            self.shop.reserve(self.service(number), request) for number in range(buyers)
        ]))  # fmt: skip
        granted = sum(isinstance(result, Receipt) for result in results)
        self.at_once(results)
        assert granted == min(room, buyers), f"{granted} of {room} to {buyers} buyers"
        SEEN["last unit contended"] += 0 < room < buyers

    @rule(engine=engines, request=demands(), copies=st.integers(2, 4))
    def twins(self, engine: int, request: Reserve, copies: int) -> None:
        """One request under one key, at several engines at once: it happens once."""
        key = self.key()
        results = self.run(self.shop.all([
            self.shop.reserve(self.service(engine + number), request, key)
            for number in range(copies)
        ]))  # fmt: skip
        before = set(self.ids)
        self.at_once(results)
        made = set(self.ids) - before
        ids = {result.id for result in results if isinstance(result, Receipt)}
        assert ids == made
        assert len(made) <= 1
        if made:
            id = made.pop()
            self.journal.append((lambda s, k: s.engine.reserve(request, k), key, id))

    @rule(data=st.data(), count=st.integers(2, 8))
    def concurrently(self, data: st.DataObject, count: int) -> None:
        """Any verbs on the same few things, from any engine."""
        works = [self._any_work(data.draw, self.service(data.draw(engines))) for _ in range(count)]
        self.at_once(self.run(self.shop.all([work() for work in works])))

    def _any_work(self, draw: Any, s: Service) -> Callable[[], Awaitable[Any]]:
        kind = draw(st.sampled_from([*["ask"] * 3, *["stock"] * 2, "policy", *["settle"] * 4]))
        if kind == "ask":
            return self._any_demand(draw, s)
        if kind == "stock":
            return self._any_stock(draw, s)
        if kind == "policy":
            return self._any_policy(draw, s)
        key = self.key()
        id, some = self.pick(draw(st.integers(0, 3))), draw(parts)
        amended, back = Amend(draw(amendments)), Return(draw(returns))
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "amend": lambda: s.engine.amend(id, amended),
            "commit": lambda: s.engine.commit(id, Commit("reacquire")),
            "release": lambda: s.engine.release(id, Release()),
            "cancel": lambda: s.engine.cancel(id, Cancel(some), key),
            "fulfil": lambda: s.engine.fulfil(id, Fulfil(some), key),
            "return": lambda: s.engine.return_(id, back, key),
            "extend": lambda: s.engine.extend(id, Extend(1_800)),
        }
        return works[draw(st.sampled_from(sorted(works)))]

    def _any_demand(self, draw: Any, s: Service) -> Callable[[], Awaitable[Any]]:
        request = draw(demands() | demands() | sales())
        key = self.key() if draw(st.booleans()) else None
        if draw(st.integers(0, 7)) == 0:
            return lambda: s.engine.dry_run(request)
        return lambda: s.engine.reserve(request, key)

    def _any_stock(self, draw: Any, s: Service) -> Callable[[], Awaitable[Any]]:
        receipt, reallocation = draw(receipts), draw(reallocations())
        sku, location = draw(skus), draw(locations)
        other = "north" if location == "main" else "main"
        units = draw(st.integers(1, 6))
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "receive": lambda: s.stock.receive(Receive(receipt), [None] * len(receipt)),
            "adjust": lambda: s.stock.adjust(Adjust([AdjustLine(sku, location, -units)]), [None]),
            "count": lambda: s.stock.count(Count([CountLine(sku, location, units)]), [None]),
            "transfer": lambda: s.stock.transfer(
                Transfer([TransferLine(sku, location, other, units)]), [None]
            ),
            "reallocate": lambda: s.stock.reallocate(Reallocate([reallocation]), [None]),
            "availability": lambda: s.stock.availability("web", [sku]),
        }
        return works[draw(st.sampled_from(sorted(works)))]

    def _any_policy(self, draw: Any, s: Service) -> Callable[[], Awaitable[Any]]:
        name, spec = draw(channels), draw(channel_specs())
        sku, sku_spec = draw(skus), draw(sku_specs())
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "channel": lambda: s.catalogue.put_channel(name, spec),
            "delete": lambda: s.catalogue.delete_channel(name),
            "sku": lambda: s.catalogue.put_sku(sku, sku_spec),
        }
        return works[draw(st.sampled_from(sorted(works)))]

    @rule(
        pick=picks, engine=engines, others=st.integers(0, 3), ago_ms=st.sampled_from([0, 400]),
        first=st.booleans(), payments=st.integers(1, 2),
    )  # fmt: skip
    def commit_while_it_expires(
        self, pick: int, engine: int, others: int, ago_ms: int, first: bool, payments: int
    ) -> None:
        """A deadline passes; the buyer pays, a reaper comes, others want the units."""
        id = self.pick_reserved(pick)
        if id == NOBODY:
            return
        record = self.model.records[id]
        if self.run(self.shop.pass_deadline(id, ago_ms)):
            self.due.add(id)
        place, units = record.lines[0].place, record.lines[0].open
        rival = Reserve(record.channel, [Line(place[0], units, place[1])], ttl_seconds=900)
        payer = self.service(engine).engine
        rivals = [self.service(engine + n).engine.reserve(rival) for n in range(others)]
        works = [*rivals, self.service(engine + 1).lane.tidy()]
        for _ in range(payments):
            works.insert(0 if first else len(works), payer.commit(id, Commit()))
        results = self.run(self.shop.all(works))
        paid = [result for result in results if isinstance(result, Receipt) and result.id == id]
        assert len(paid) in (0, payments)
        assert sum(result.reacquired for result in paid) == (len(paid) > 0), "once, and taken anew"
        self.at_once(results)
        assert self.model.records[id].state == ("C" if paid else "X")
        SEEN["expire racing commit"] += 1
        SEEN["late commit won"] += len(paid) > 0
        SEEN["late commit lost"] += not paid


WANTED = (
    "applied", "rebased", "conflict", "known", "last unit contended", "floor met", "ceiling met",
    "late commit won", "late commit lost", "expire racing commit", "replayed", "deficit opened",
    "fact short", "dry run came true", "transfer", "stock:conflict", "channel deleted",
)  # fmt: skip
# Of those a run has about ten, and some runs none: they are wanted where the search is longer.
RARE = (
    "policy", "deficit paid by what went back", "deficit paid by a receipt", "amend",
    "amend moved location", "amend of what was shipped in part", "amend refused",
    "return restocked elsewhere", "reallocation by policy", "channel in use",
)  # fmt: skip


def test_many_engines_do_what_one_would(valkey: str, tmp_path: Path) -> None:
    Machine.url, Machine.directory = valkey, tmp_path
    SEEN.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            stateful_step_count=50,
            print_blob=True,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print({name: SEEN[name] for name in (*WANTED, *RARE)})
    long = settings.get_current_profile_name() == "proof"
    missing = [name for name in (*WANTED, *(RARE if long else ())) if not SEEN[name]]
    assert not missing, f"never happened: {missing}; {dict(SEEN)}"
