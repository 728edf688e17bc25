"""Everything at once: two or three engines on one real store against a plain model.

After every step the whole store is audited. A step that is alone is predicted exactly: what the
caller is told, every pool and every record, field by field. Of steps that run at once the order is
not known: the audit explains each event, and the model goes on from what is there.

A run with ``--seed`` draws the same; the blob that Hypothesis prints repeats a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from core.errors import Expired, StockadeError
from core.model import (
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Key,
    Line,
    PartLine,
    Receive,
    Release,
    Reserve,
)
from core.ops import Receipt
from core.service import Service
from core.stock import StockResult
from tests.model import ALREADY, DONE, Answer
from tests.property.draws import (
    MAX_HOLD_SECONDS,
    SKUS,
    TTLS,
    channel_specs,
    channels,
    demands,
    engines,
    keyings,
    parts,
    picks,
    receipts,
    sku_specs,
    targets,
)
from tests.property.driven import NOBODY, SEEN, SLACK_MS, count_refusal
from tests.property.stocked import Stocked


class Machine(Stocked):
    """What callers may do in a warehouse."""

    # --- reservations, one after the other -----------------------------------------------------

    @rule(engine=engines, request=demands(), keyed=keyings)
    def reserve(self, engine: int, request: Reserve, keyed: bool) -> None:
        service, key = self.service(engine), self.key() if keyed else None
        current = self.is_current(service, {line.sku for line in request.lines})
        result = self.ask(self.shop.reserve(service, request, key))
        granted = isinstance(result, Receipt)

        def apply() -> Answer | None:
            if granted and not current and not result.shortfalls:
                return None  # a plan on rows that had moved on, made good by the store
            return self.model.reserve(
                result.id if granted else None, request.channel, request.lines, request.partial,
                request.split, request.customer, request.reference,
            )  # fmt: skip

        self.step(result, apply)
        if granted:
            self._granted(request, result, key)
        else:
            count_refusal(result)

    def _granted(self, request: Reserve, receipt: Receipt, key: Key | None) -> None:
        held = self.found.records[receipt.id]
        self.ids.append(receipt.id)
        assert (held.state, held.version, receipt.version) == ("R", 1, 1)
        ttl_ms = 1000 * (request.ttl_seconds or 900)
        assert held.deadline_ms is not None
        assert abs(held.deadline_ms - int(self.found.events[-1].fields["t"]) - ttl_ms) < SLACK_MS
        shown = receipt.reservation()
        assert (shown.state, shown.customer, shown.reference) == (
            "reserved", request.customer, request.reference,
        )  # fmt: skip
        wanted = Counter[str]()
        for line in request.lines:
            wanted[line.sku] += line.quantity
        for taken in shown.lines:
            wanted[taken.sku] -= taken.quantity
        for refused in shown.refused or ():
            wanted[refused.sku] -= refused.requested - refused.granted
        assert not any(wanted.values()), (request, shown)
        if key is not None:
            self.journal.append((lambda s, k: s.engine.reserve(request, k), key, receipt.id))

    @rule(
        engine=engines, pick=picks, late=st.sampled_from([None, None, "reacquire", "refuse"]),
        keyed=keyings, reference=st.sampled_from([None, "paid 1"]),
        version=st.sampled_from([None, None, 0, -1]), tardy=st.booleans(),
    )  # fmt: skip
    def commit(
        self,
        engine: int,
        pick: int,
        tardy: bool,
        late: Any,
        keyed: bool,
        reference: str | None,
        version: int | None,
    ) -> None:
        id = self.pick_late(pick) if tardy else self.pick(pick)
        service = self.service(engine)
        if id == NOBODY:
            return
        before = self.model.records[id]
        was, due = before.state, id in self.due
        current = self.is_current(service, {line.place[0] for line in before.lines})
        request = Commit(late, reference)

        def work(s: Service, k: Key | None) -> Awaitable[Receipt]:
            return s.engine.commit(id, request, k, wanted)

        wanted = self._wanted(id, version)
        key = self.key() if keyed else None
        result = self.ask(self.shop.again(lambda: work(service, key)))

        def apply() -> Answer | None:
            if version == -1 and self.model.records[id].state not in "CF":
                return Answer("stale_version")
            anew = self.model.records[id].state in "LX"
            if anew and isinstance(result, Receipt) and not current:
                return None
            return self.model.commit(id, late, id in self.due, reference)

        self.step(result, apply)
        if isinstance(result, Receipt):
            assert result.reservation().state in ("committed", "fulfilled")
            assert result.reacquired is (was in "XL" or due)
            if key is not None:
                self.journal.append((work, key, id))
        if was in "XL" or due:
            SEEN["late commit won"] += isinstance(result, Receipt)
            SEEN["late commit lost"] += isinstance(result, Expired) and bool(result.lines)

    def _wanted(self, id: str, version: int | None) -> int | None:
        """The version for If-Match: none, the right one, or a stale one."""
        if version is None or (version == 0 and id in self.due):
            return None  # expiring is a change, and may come first
        return self.model.records[id].version + version

    def settle(
        self,
        verb: str,
        pick: int,
        engine: int,
        keyed: bool,
        version: int | None,
        work: Callable[[Service, str, Key | None, int | None], Awaitable[Receipt]],
        apply: Callable[[str, bool], Answer],
    ) -> None:
        """A verb that the store decides alone."""
        id = self.pick(pick)
        if id == NOBODY:
            return
        key = self.key() if keyed else None
        wanted = self._wanted(id, version)
        result = self.ask(work(self.service(engine), id, key, wanted))

        def applied() -> Answer:
            answer = apply(id, id in self.due) if version != -1 else self.rehearse(apply, id)
            if version == -1 and answer is not ALREADY:
                return Answer("stale_version")
            return answer

        self.step(result, applied)
        if isinstance(result, Receipt) and key is not None:
            self.journal.append((lambda s, k: work(s, id, k, wanted), key, id))

    def rehearse(self, apply: Callable[[str, bool], Answer], id: str) -> Answer:
        """What a verb would answer, with nothing done."""
        model, self.model = self.model, self.model.copy()
        try:
            return apply(id, id in self.due)
        finally:
            self.model = model

    @rule(engine=engines, pick=picks, keyed=keyings, version=st.sampled_from([None, 0, -1]))
    def release(self, engine: int, pick: int, keyed: bool, version: int | None) -> None:
        self.settle(
            "release", pick, engine, keyed, version,
            lambda s, id, k, v: s.engine.release(id, Release(), k, v),
            lambda id, due: self.model.release(id, due),
        )  # fmt: skip

    @rule(engine=engines, pick=picks, keyed=keyings, some=parts)
    def fulfil(self, engine: int, pick: int, keyed: bool, some: list[PartLine] | None) -> None:
        self.settle(
            "fulfil", pick, engine, keyed or some is not None, None,
            lambda s, id, k, v: s.engine.fulfil(id, Fulfil(some, "parcel 1"), k, v),
            lambda id, due: self.model.fulfil(id, targets(some), due),
        )  # fmt: skip

    @rule(engine=engines, pick=picks, keyed=keyings, some=parts)
    def cancel(self, engine: int, pick: int, keyed: bool, some: list[PartLine] | None) -> None:
        self.settle(
            "cancel", pick, engine, keyed or some is not None, None,
            lambda s, id, k, v: s.engine.cancel(id, Cancel(some, "too late"), k, v),
            lambda id, due: self.model.cancel(id, targets(some), due),
        )  # fmt: skip

    @rule(engine=engines, pick=picks, ttl_seconds=st.sampled_from([*TTLS, MAX_HOLD_SECONDS]))
    def extend(self, engine: int, pick: int, ttl_seconds: int) -> None:
        id = self.pick(pick)
        if id == NOBODY:
            return
        before = self.found.records[id]
        request = Extend(ttl_seconds)
        result = self.ask(self.service(engine).engine.extend(id, request))

        def apply() -> Answer:
            now = self.found.records[id]
            if self.model.records[id].state != "R" or id in self.due:
                return self.model.extend(id, id in self.due)
            assert before.deadline_ms is not None
            assert now.deadline_ms is not None
            if isinstance(result, StockadeError):
                assert result.code == "hold_limit"
                assert ttl_seconds == MAX_HOLD_SECONDS, "far from the limit"
                return Answer("hold_limit")
            assert now.deadline_ms >= before.deadline_ms, "an earlier deadline"
            if now.version == before.version:
                assert ttl_seconds < MAX_HOLD_SECONDS
                return ALREADY
            heard_ms = int(self.found.events[-1].fields["t"])
            assert abs(now.deadline_ms - heard_ms - 1000 * ttl_seconds) < SLACK_MS
            return self.model.extend(id)

        self.step(result, apply)

    # --- retries -------------------------------------------------------------------------------

    @rule(engine=engines, pick=st.integers(0, 5), same=st.sampled_from([True, True, False]))
    def repeat(self, engine: int, pick: int, same: bool) -> None:
        """The same key again, at any engine: the same id and no effect, or refused."""
        if not self.journal:
            return
        work, key, resource = self.journal[-1 - pick % len(self.journal)]
        if not same:
            key = Key(key.field, b"x" * 22)
        result = self.ask(work(self.service(engine), key))
        if isinstance(result, list):
            result = result[0].error or result[0]
        if isinstance(result, StockResult):
            assert result.replayed
            assert result.pool is not None
            assert f"{result.pool.sku}@{result.pool.location}" == resource
        elif isinstance(result, Receipt):
            assert result.replayed
            assert result.id == resource
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

    @rule(channel=channels, sku=st.sampled_from(SKUS), buyers=st.integers(2, 12))
    def rush(self, channel: str, sku: str, buyers: int) -> None:
        """One unit each, all at once from all engines: as many get one as there are."""
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
        some = ["reserve", "reserve", "receive", "channel", "sku"]
        verb = draw(st.sampled_from([*some, *["settle"] * 6]))
        key = self.key()
        if verb == "reserve":
            request, keyed = draw(demands()), draw(st.booleans())
            return lambda: s.engine.reserve(request, key if keyed else None)
        if verb == "receive":
            receipt = draw(receipts)
            return lambda: s.stock.receive(Receive(receipt), [None] * len(receipt))
        if verb == "channel":
            name, spec = draw(channels), draw(channel_specs())
            return lambda: s.catalogue.put_channel(name, spec)
        if verb == "sku":
            sku, sku_spec = draw(st.sampled_from(SKUS)), draw(sku_specs())
            return lambda: s.catalogue.put_sku(sku, sku_spec)
        id, some = self.pick(draw(st.integers(0, 3))), draw(parts)
        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "commit": lambda: s.engine.commit(id, Commit("reacquire")),
            "release": lambda: s.engine.release(id, Release()),
            "cancel": lambda: s.engine.cancel(id, Cancel()),
            "fulfil": lambda: s.engine.fulfil(id, Fulfil(some), key),
            "extend": lambda: s.engine.extend(id, Extend(1_800)),
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
    "applied", "rebased", "conflict", "known", "policy", "last unit contended", "floor met",
    "ceiling met", "late commit won", "late commit lost", "expire racing commit", "replayed",
    "deficit",
)  # fmt: skip


def test_many_engines_do_what_one_would(valkey: str, tmp_path: Path) -> None:
    Machine.url, Machine.directory = valkey, tmp_path
    SEEN.clear()
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=2 * settings().max_examples,
            stateful_step_count=25,
            print_blob=True,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print({name: SEEN[name] for name in WANTED})
    missing = [name for name in WANTED if not SEEN[name]]
    assert not missing, f"never happened: {missing}; {dict(SEEN)}"
