"""Everything at once: two or three engines on one real store against a plain model.

After every step the whole store is audited. A step that is alone is predicted exactly: what the
caller is told, every pool and every record, field by field. Of steps that run at once the order is
not known: the audit explains each event, and the model goes on from what is there.

A run with ``--seed`` draws the same; the blob that Hypothesis prints repeats a failure.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from core.engine import StockResult
from core.errors import Expired, InsufficientStock, StockadeError
from core.model import (
    Cancel,
    ChannelSpec,
    Commit,
    Extend,
    Fulfil,
    Key,
    Line,
    LocationSpec,
    PartLine,
    Receive,
    ReceiveLine,
    Release,
    Reserve,
    SkuChannel,
    SkuSpec,
)
from core.ops import Receipt
from core.service import Service
from tests.audit import Audit
from tests.model import ALREADY, DONE, Answer, Model
from tests.shop import Shop, key_of

SKUS = ("cup", "tee")
LOCATIONS = ("main", "north")
CHANNELS = ("market", "store", "web")
TTLS = (600, 900, 1800)  # none passes while an example runs: deadlines are moved by hand
MAX_HOLD_SECONDS = 7_200
SLACK_MS = 1_500
PATIENCE_SECONDS = 20.0  # of one step: whoever waits longer waits for ever
SEEN: Counter[str] = Counter()  # interesting events of the whole run

# What a caller may be told when others do things at the same time.
TOLD = frozenset({
    "insufficient_stock", "invalid_state", "invalid_quantity", "expired", "unknown_reservation",
})  # fmt: skip
NOBODY = "00000000-0000-7000-8000-000000000000"  # an id that no reservation has

channels = st.sampled_from(CHANNELS)
engines = st.integers(0, 2)
picks = st.integers(0, 63)
keyings = st.sampled_from([True, True, False])
quantities = st.sampled_from([1, 1, 1, 2, 2, 3, 5])
floors: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {}, {}, {"floor_share": 0.3}, {"floor_share": 0.333333}, {"floor_units": 1}, {"floor_units": 2},
])  # fmt: skip
ceilings: st.SearchStrategy[dict[str, Any]] = st.sampled_from([
    {}, {}, {"ceiling_units": 2}, {"ceiling_units": 4}, {"ceiling_share": 0.4},
])  # fmt: skip


@st.composite
def channel_specs(draw: st.DrawFn) -> ChannelSpec:
    """A channel; no three of them have more than all of a location."""
    return ChannelSpec(
        **draw(floors), **draw(ceilings), borrow=draw(st.sampled_from([True, True, False])),
        split=draw(st.booleans()), max_hold_seconds=MAX_HOLD_SECONDS,
        locations=draw(st.sampled_from([["main"], ["main", "north"], ["north", "main"]])),
    )  # fmt: skip


@st.composite
def sku_specs(draw: st.DrawFn) -> SkuSpec:
    """A SKU's policy: safety stock, and sometimes floors and ceilings of its own."""
    named = draw(st.lists(channels, unique=True, max_size=2))
    return SkuSpec(
        draw(st.sampled_from([0, 0, 1, 3])),
        draw(st.sampled_from([{}, {}, {"north": 2}])),
        {name: SkuChannel(**draw(floors), **draw(ceilings)) for name in named},
    )


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """A line that is free, pinned, or has an order of its own."""
    order = draw(st.sampled_from([None, None, ["north"], ["north", "main"]]))
    pin = None if order else draw(st.sampled_from([None, None, *LOCATIONS]))
    return Line(draw(st.sampled_from(SKUS)), draw(quantities), pin, order)


@st.composite
def demands(draw: st.DrawFn) -> Reserve:
    """A reserve request."""
    return Reserve(
        draw(channels), draw(st.lists(lines(), min_size=1, max_size=3)),
        ttl_seconds=draw(st.sampled_from([None, *TTLS])),
        reference=draw(st.sampled_from([None, "order-7", "größe 42 @ -"])),
        customer=draw(st.sampled_from([None, "c-9"])),
        partial=draw(st.sampled_from([False, False, True])), split=draw(st.booleans()),
    )  # fmt: skip


receipts = st.lists(
    st.builds(
        ReceiveLine, st.sampled_from(SKUS), st.sampled_from(LOCATIONS), st.integers(1, 9)
    ),
    min_size=1, max_size=2, unique_by=lambda line: (line.sku, line.location),
)  # fmt: skip

parts = st.none() | st.lists(
    st.builds(PartLine, st.sampled_from(SKUS), quantities, st.sampled_from([None, *LOCATIONS])),
    min_size=1, max_size=2, unique_by=lambda line: line.sku,
)  # fmt: skip


def targets(part_lines: Sequence[PartLine] | None) -> list[tuple[str, int]] | None:
    """Parts as the model takes them."""
    if part_lines is None:
        return None
    return [
        (f"{line.sku}@{line.location}" if line.location else line.sku, line.quantity)
        for line in part_lines
    ]


def told(result: Any) -> Answer:
    """What a caller was told, as the model says it."""
    if isinstance(result, InsufficientStock | Expired):
        return Answer(result.code, lines=tuple(map(_shortfall, result.lines)))
    if isinstance(result, StockadeError):
        return Answer(result.code, getattr(result, "state", ""))
    return DONE


def _shortfall(line: dict[str, Any]) -> Any:
    return (
        line["sku"], line.get("location"), line["requested"], line["available"], line["limited_by"],
    )  # fmt: skip


def expected(answer: Answer) -> Answer:
    """The same of the model: whether something was done already shows in the store alone."""
    if answer in (DONE, ALREADY) or answer.code == "done":
        return DONE
    found = tuple(
        (each.sku, each.location, each.requested, each.available, each.limited_by)
        for each in answer.lines
    )
    return Answer(answer.code, answer.state, found)  # type: ignore[arg-type]


class Machine(RuleBasedStateMachine):
    """One warehouse, its engines, and the model of it."""

    url: str
    directory: Path
    examples = 0

    def __init__(self) -> None:
        super().__init__()
        Machine.examples += 1
        self.runner = asyncio.Runner()
        self.model = Model()
        self.found: Audit
        self.ids: list[str] = []  # in order of creation
        self.due: set[str] = set()
        self.seq = 0
        self.made = 0  # keys
        self.journal: list[tuple[Callable[[Service, Key], Awaitable[Any]], Key, str]] = []
        self.shop = Shop(self.url, self.directory / str(Machine.examples))

    # --- how -----------------------------------------------------------------------------------

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await work

        return self.runner.run(wait())

    def service(self, number: int) -> Service:
        return self.shop.services[number % len(self.shop.services)]

    def key(self) -> Key:
        self.made += 1
        return key_of(self.made)

    def pick(self, number: int) -> str:
        """A reservation, counted from the youngest; there may be none yet."""
        return self.ids[-1 - number % len(self.ids)] if self.ids else NOBODY

    def pick_reserved(self, number: int) -> str:
        """The same of those that wait for a commit."""
        alive = [id for id in self.ids if self.model.records[id].state == "R"]
        return alive[-1 - number % len(alive)] if alive else NOBODY

    def ask(self, work: Awaitable[Any]) -> Any:
        """The result, or the error as a value. Errors that no caller should see are raised."""

        async def wait() -> Any:
            try:
                return await work
            except StockadeError as error:
                assert not error.retryable, error
                return error

        return self.run(wait())

    def look(self) -> None:
        """Reads and audits the store."""
        self.found = self.run(self.shop.audit())

    def step(self, result: Any, apply: Callable[[], Answer | None]) -> None:
        """Audits, and holds the model to what happened: ``apply`` does the same to it.

        Whose deadline passed may expire before or after; the stream says which. ``apply`` answers
        what the caller should have been told, or None if that cannot be foretold: then the model
        goes on from the store.
        """
        self.look()
        news = [event for event in self.found.events if event.seq > self.seq]
        self.seq = self.found.events[-1].seq
        answer: Answer | None = None
        applied = mixed = False
        for event in news:
            ended = [id for id, record in event.records.items() if record.state == "X"]
            if ended:
                mixed = mixed or len(ended) < len(event.records)
                assert self.due >= set(ended), "expired before the deadline"
                self.model.expire(ended)
                self.due -= set(ended)
            elif not applied:
                applied, answer = True, apply()
        if not applied:
            answer = apply()
        if answer is None or mixed:
            self.model.resync(self.found)
            return
        assert told(result) == expected(answer), (result, answer)
        differences = self.model.differences(self.found)
        assert not differences, "\n".join(differences)

    def at_once(self, results: Sequence[Any]) -> None:
        """Audits what several callers did at the same time, and goes on from what is there."""
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, StockadeError), repr(result)
                assert result.code in TOLD, repr(result)
        self.look()
        self.seq = self.found.events[-1].seq
        self.model.resync(self.found)
        self.due = {id for id in self.due if self.model.records[id].state == "R"}
        self.ids += sorted(self.model.records.keys() - set(self.ids))

    def is_current(self, service: Service, skus: set[str]) -> bool:
        """True if the engine plans on what is there: then its plan can be foretold.

        A worker that has not seen a pool yet may pass it over for the next in order.
        """
        rows, entries = self.found.store.hash("pools"), self.found.store.hash("skus")
        seen = service.lane.snapshot
        return all(
            known.text.decode() in ("", rows.get(pool.decode(), ""))
            for pool, known in seen.rows.items()
            if known.sku in skus
        ) and all(sku not in seen.skus or seen.skus[sku].text.decode() == entries[sku] for sku in skus)

    # --- opening -------------------------------------------------------------------------------

    @initialize(
        count=st.integers(2, 3), staleness_ms=st.sampled_from([0, 0, 3]), reaping=st.booleans(),
        specs=st.tuples(channel_specs(), channel_specs(), channel_specs()),
        skus=st.tuples(sku_specs(), sku_specs()), stock=st.lists(receipts, min_size=1, max_size=4),
    )  # fmt: skip
    def open(
        self,
        count: int,
        staleness_ms: int,
        reaping: bool,
        specs: tuple[ChannelSpec, ...],
        skus: tuple[SkuSpec, ...],
        stock: list[list[ReceiveLine]],
    ) -> None:
        self.run(self.shop.open(count, staleness_ms))
        if not reaping:
            self.run(self.shop.stop_reapers())
        self.set_location(0, "north", True)
        for name, spec in zip(CHANNELS, specs, strict=True):
            self.set_channel(0, name, spec)
        for sku, sku_spec in zip(SKUS, skus, strict=True):
            self.set_sku(1, sku, sku_spec)
        for number, each in enumerate(stock):
            self.receive(number, each, False)

    def teardown(self) -> None:
        try:
            for service in self.shop.services:
                for name, count in service.lane.counts.items():
                    SEEN[name.replace("ReserveStep:", "")] += count
            self.run(self.shop.close())
        finally:
            self.runner.close()

    # --- policy and stock ----------------------------------------------------------------------

    @rule(engine=engines, name=channels, spec=channel_specs())
    def set_channel(self, engine: int, name: str, spec: ChannelSpec) -> None:
        before = self.model.copy()
        result = self.ask(self.service(engine).catalogue.put_channel(name, spec))

        def apply() -> Answer:
            self.model.put_channel(name, spec)
            return DONE

        self.step(result, apply)
        assert result.created is (name not in before.channels)

    @rule(engine=engines, name=st.just("north"), sells=st.sampled_from([True, True, False]))
    def set_location(self, engine: int, name: str, sells: bool) -> None:
        work = self.service(engine).catalogue.put_location(name, LocationSpec(sells))

        def apply() -> Answer:
            self.model.put_location(name, sells)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, sku=st.sampled_from(SKUS), spec=sku_specs())
    def set_sku(self, engine: int, sku: str, spec: SkuSpec) -> None:
        work = self.service(engine).catalogue.put_sku(sku, spec)

        def apply() -> Answer:
            self.model.put_sku(sku, spec)
            return DONE

        self.step(self.ask(work), apply)

    @rule(engine=engines, receipt=receipts, keyed=keyings)
    def receive(self, engine: int, receipt: list[ReceiveLine], keyed: bool) -> None:
        keys = [self.key() if keyed else None for _ in receipt]
        results = self.ask(self.service(engine).engine.receive(Receive(receipt), keys))

        def apply() -> Answer:
            for line in receipt:
                self.model.receive(line.sku, line.location, line.quantity)
            return DONE

        self.step(results, apply)
        for line, key, result in zip(receipt, keys, results, strict=True):
            assert result.error is None
            assert not result.replayed
            if key is not None:
                one = Receive([line])
                pool = f"{line.sku}@{line.location}"
                self.journal.append(
                    (lambda s, k, one=one: s.engine.receive(one, [k]), key, pool)  # type: ignore[misc]
                )

    @rule(pick=picks, share=st.sampled_from([0, 1, 3]))
    def lose(self, pick: int, share: int) -> None:
        """A pool is found empty, and some of what it has promised missing."""
        if not self.found.rows:
            return
        name = sorted(self.found.rows)[pick % len(self.found.rows)]
        row = self.found.rows[name]
        promised = sum(quota.reserved + quota.committed for quota in row.quotas.values())
        units = min(share, promised - row.deficit)
        lost = self.run(self.shop.lose(name, row, units))

        def apply() -> Answer:
            if lost:
                sku, location = name.split("@")
                self.model.lose((sku, location), units)
            return DONE

        self.step(None, apply)
        SEEN["deficit"] += units > 0 and lost

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
            self._refused(result)

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

    @staticmethod
    def _refused(error: InsufficientStock) -> None:
        for line in error.lines:
            SEEN["ceiling met"] += line["limited_by"] == "channel_ceiling"
            SEEN["floor met"] += line["limited_by"] == "channel_quota"

    @rule(
        engine=engines, pick=picks, late=st.sampled_from([None, None, "reacquire", "refuse"]),
        keyed=keyings, reference=st.sampled_from([None, "paid 1"]),
        version=st.sampled_from([None, None, 0, -1]),
    )  # fmt: skip
    def commit(
        self,
        engine: int,
        pick: int,
        late: Any,
        keyed: bool,
        reference: str | None,
        version: int | None,
    ) -> None:
        id, service = self.pick(pick), self.service(engine)
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
            if key is not None:
                self.journal.append((work, key, id))
        if was in "XL" or due:
            assert isinstance(result, Receipt) or not getattr(result, "reacquired", False)
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
            return lambda: s.engine.receive(Receive(receipt), [None] * len(receipt))
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

    @rule(pick=picks, engine=engines, others=st.integers(0, 3), ago_ms=st.sampled_from([0, 400]))
    def commit_while_it_expires(self, pick: int, engine: int, others: int, ago_ms: int) -> None:
        """A deadline passes; the buyer pays, a reaper comes, others want the units."""
        id = self.pick_reserved(pick)
        if id == NOBODY:
            return
        record = self.model.records[id]
        if self.run(self.shop.pass_deadline(id, ago_ms)):
            self.due.add(id)
        place, units = record.lines[0].place, record.lines[0].open
        rival = Reserve(record.channel, [Line(place[0], units, place[1])], ttl_seconds=900)
        results = self.run(self.shop.all([
            self.service(engine + 1).lane.tidy(),
            *(self.service(engine + n).engine.reserve(rival) for n in range(others)),
            self.service(engine).engine.commit(id, Commit()),
        ]))  # fmt: skip
        self.at_once(results)
        paid = isinstance(results[-1], Receipt)
        assert self.model.records[id].state == ("C" if paid else "X")
        SEEN["expire racing commit"] += 1
        SEEN["late commit won"] += paid
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
