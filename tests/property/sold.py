"""The machine's counter: what is asked for, what was sold elsewhere, what could be had."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import rule

from core.errors import StockadeError
from core.model import DryRun, Key, Reserve
from core.ops import Receipt
from tests.model import Model
from tests.property.draws import SKUS, channels, demands, engines, keyings, sales
from tests.property.driven import NOBODY, SEEN, SLACK_MS, count_refusal
from tests.property.stocked import Stocked
from tests.shelves import DONE, Answer


class Sold(Stocked):
    """What becomes of units that somebody wants."""

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

    @rule(engine=engines, request=sales(), keyed=keyings)
    def sell(self, engine: int, request: Reserve, keyed: bool) -> None:
        """Something was sold elsewhere; as a fact it is written down whatever there is."""
        service, key = self.service(engine), self.key() if keyed else None
        current = self.is_current(service, {line.sku for line in request.lines})
        result = self.ask(self.shop.reserve(service, request, key))
        granted = isinstance(result, Receipt)

        def apply() -> Answer | None:
            if granted and not current and not result.shortfalls:
                return None
            return self._sold(request, result.id if granted else None)

        self.step(result, apply)
        if granted:
            self.ids.append(result.id)
            shown = result.reservation()
            assert (shown.state, shown.expires_at) == (request.state, None)
            assert shown.committed_at is not None
            assert sum(line.fulfilled for line in shown.lines) == (
                sum(line.quantity for line in shown.lines) * (request.state == "fulfilled")
            )
            if key is not None:
                self.journal.append((lambda s, k: s.engine.reserve(request, k), key, result.id))

    def _sold(self, request: Reserve, id: str | None) -> Answer:
        """What the model says of a sale; ``id`` None: it was refused."""
        if request.shortage == "record" and request.state != "reserved":
            return self.model.record_sale(
                id or NOBODY, request.channel, request.lines, request.state, request.customer,
                request.reference,
            )  # fmt: skip
        return self.model.reserve(
            id, request.channel, request.lines, request.partial, request.split, request.customer,
            request.reference, request.state,
        )  # fmt: skip

    @rule(engine=engines, request=demands() | sales(), then=st.booleans())
    def dry_run(self, engine: int, request: Reserve, then: bool) -> None:
        """What would be granted is what the next one gets, and asking changes nothing."""
        service = self.service(engine)
        result = self.ask(self.shop.again(lambda: service.engine.dry_run(request)))
        current = self.is_current(service, {line.sku for line in request.lines})
        before = len(self.found.events)

        draft = self.model.copy()  # with the sale in it

        def apply() -> Answer | None:
            nonlocal draft
            draft = self.model.copy()
            model, self.model = self.model, draft
            answer = self._sold(request, NOBODY)
            self.model = model
            if not current:
                return None
            if isinstance(result, DryRun):
                self._foretold(result, draft)
            return answer

        self.step(result, apply, last=True)
        states = {r.state for e in self.found.events[before:] for r in e.records.values()}
        assert states <= {"X"}, "asking changed something"
        opens = draft.pools.keys() != self.model.pools.keys()
        if not (then and isinstance(result, DryRun)) or opens or self.due:
            return
        granted = self.ask(self.shop.reserve(service, request))
        self.step(granted, lambda: self._sold(request, granted.id) if current else None)
        self.ids.append(granted.id)
        assert [
            (line.sku, line.location, line.own, line.borrowed)
            for line in granted.reservation().lines
        ] == [(line.sku, line.location, line.own, line.borrowed) for line in result.lines]
        SEEN["dry run came true"] += 1

    def _foretold(self, result: DryRun, draft: Model) -> None:
        """What it would take is what the model takes; if pools had to be made first, where is not
        told so well."""
        lines = draft.records[NOBODY].lines
        if draft.pools.keys() == self.model.pools.keys():
            told = [
                (line.sku, line.location, line.own, line.borrowed, line.short or 0)
                for line in result.lines
            ]
            assert told == [(*line.place, line.own, line.borrowed, line.short) for line in lines]
            return
        units: Counter[str] = Counter()
        for line in result.lines:
            units[line.sku] += line.quantity
        for held in lines:
            units[held.place[0]] -= held.own + held.borrowed
        assert not any(units.values())

    @rule(engine=engines, channel=channels)
    def availability(self, engine: int, channel: str) -> None:
        """What a product page shows is what can be reserved, if the worker has seen the last of
        it."""
        service, before = self.service(engine), self.model.copy()
        policy = service.lane.snapshot.policy
        seen = policy is not None and policy.number == self.model.policy_number
        current = seen and self.is_current(service, set(SKUS))
        result = self.ask(service.stock.availability(channel, list(SKUS), True))

        def apply() -> Answer | None:
            if channel in self.model.channels:
                return DONE if current else None
            return Answer("unknown_channel") if current else None

        self.step(result, apply)
        if not current or isinstance(result, StockadeError):
            return
        for item in result.items:
            options = [model.available(channel, item.sku) for model in (before, self.model)]
            assert item.by_location in options
            assert item.available == sum(item.by_location.values())
            if self.model.channels[channel].split:
                rooms = [model.room(channel, item.sku) for model in (before, self.model)]
                assert item.available in rooms
