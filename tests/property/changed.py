"""What becomes of reservations, one verb after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from core.errors import Expired, InsufficientStock, StockadeError
from core.model import (
    Amend,
    AmendLine,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Key,
    PartLine,
    Release,
    Return,
    ReturnLine,
)
from core.ops import Receipt
from core.service import Service
from tests.property.draws import (
    MAX_HOLD_SECONDS,
    TTLS,
    amendments,
    engines,
    keyings,
    parts,
    picks,
    returns,
    targets,
)
from tests.property.driven import NOBODY, SEEN, SLACK_MS
from tests.property.sold import Sold
from tests.shelves import ALREADY, Answer
from tests.stored import Record

versions = st.sampled_from([None, None, 0, -1])


class Changed(Sold):
    """What buyers and packers do with what they have."""

    @rule(
        engine=engines, pick=picks, late=st.sampled_from([None, None, "reacquire", "refuse"]),
        keyed=keyings, reference=st.sampled_from([None, "paid 1"]),
        version=versions, tardy=st.booleans(),
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
            if version == -1 and self.model.records[id].state not in "CFT":
                return Answer("stale_version")
            anew = self.model.records[id].state in "LX"
            if anew and isinstance(result, Receipt) and not current:
                return None
            return self.model.commit(id, late, id in self.due, reference)

        self.step(result, apply)
        if isinstance(result, Receipt):
            assert result.reservation().state in ("committed", "fulfilled", "returned")
            assert result.reacquired is (was in "XL" or due)
            if key is not None:
                self.journal.append((work, key, id))
                if result.reacquired:
                    self.anew.add(key.field)
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
        choose: Callable[[int], str] | None = None,
    ) -> None:
        """A verb that the store decides alone."""
        id = (choose or self.pick)(pick)
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

    @rule(engine=engines, pick=picks, keyed=keyings, version=versions)
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
            lambda id, due: self.model.fulfil(id, targets(some), due), self.pick_paid,
        )  # fmt: skip

    @rule(engine=engines, pick=picks, keyed=keyings, some=parts)
    def cancel(self, engine: int, pick: int, keyed: bool, some: list[PartLine] | None) -> None:
        self.settle(
            "cancel", pick, engine, keyed or some is not None, None,
            lambda s, id, k, v: s.engine.cancel(id, Cancel(some, "too late"), k, v),
            lambda id, due: self.model.cancel(id, targets(some), due), self.pick_paid,
        )  # fmt: skip

    @rule(
        engine=engines, pick=picks, lines=amendments, keyed=keyings, version=versions,
        ttl_seconds=st.sampled_from([None, None, None, *TTLS, MAX_HOLD_SECONDS]),
        reference=st.sampled_from([None, "cart 3"]),
        which=st.sampled_from(["own", "open", "partly", "any"]),
    )  # fmt: skip
    def amend(
        self,
        engine: int,
        pick: int,
        lines: list[AmendLine],
        keyed: bool,
        version: int | None,
        ttl_seconds: int | None,
        reference: str | None,
        which: str,
    ) -> None:
        choose = {"any": self.pick, "partly": self.pick_partly}.get(which, self.pick_open)
        id = choose(pick)
        if id == NOBODY:
            return
        if which in ("own", "partly"):
            lines = self._own(id, lines)
        service, key, wanted = self.service(engine), self.key() if keyed else None, None
        wanted = self._wanted(id, version)
        before = self.found.records[id]
        skus = {line.sku for line in lines} | {line.pool.split("@")[0] for line in before.lines}
        current = self.is_current(service, skus)
        request = Amend(lines, ttl_seconds, reference)

        def work(s: Service, k: Key | None) -> Awaitable[Receipt]:
            return s.engine.amend(id, request, k, wanted)

        result = self.ask(self.shop.again(lambda: work(service, key)))

        def apply() -> Answer | None:
            record = self.model.records[id]
            if record.state == "C" and ttl_seconds is not None:
                return Answer("validation_failed")
            if version == -1:
                return Answer("stale_version")
            alive = record.state == "R" and id not in self.due
            if alive and ttl_seconds == MAX_HOLD_SECONDS:
                return Answer("hold_limit")
            if isinstance(result, Receipt) and not current:
                return None
            return self.model.amend(id, lines, reference, id in self.due)

        self.step(result, apply)
        SEEN["amend refused"] += isinstance(result, InsufficientStock)
        now = self.found.records[id]
        if not isinstance(result, Receipt):
            assert now == before or now.state == "X", "a refused amend leaves all"
            return
        if key is not None:
            self.journal.append((work, key, id))
        self._amended(lines, before.deadline_ms, now, ttl_seconds)

    def _amended(
        self, lines: list[AmendLine], was_ms: int | None, now: Record, ttl_seconds: int | None
    ) -> None:
        """The open units are those that were asked for, and the deadline is no earlier one."""
        opened, asked = Counter[str](), Counter[str]()
        for line in now.lines:
            opened[line.pool.split("@")[0]] += line.open
        for each in lines:
            asked[each.sku] += each.quantity
        assert +opened == asked
        if was_ms is None or now.deadline_ms is None or ttl_seconds is None:
            assert now.deadline_ms == was_ms
            return
        longer_ms = int(self.found.events[-1].fields["t"]) + 1000 * ttl_seconds
        assert abs(now.deadline_ms - max(was_ms, longer_ms)) < SLACK_MS

    @rule(
        engine=engines, pick=picks, lines=returns, keyed=st.sampled_from([True] * 7 + [False]),
        version=versions, shipped=st.sampled_from([True, True, False]),
    )  # fmt: skip
    def bring_back(
        self,
        engine: int,
        pick: int,
        lines: list[ReturnLine],
        keyed: bool,
        version: int | None,
        shipped: bool,
    ) -> None:
        if shipped:
            lines = self._shipped(self.pick_shipped(pick), lines)
        request = Return(lines, "parcel 1, opened")

        def apply(id: str, due: bool) -> Answer:
            return self.model.return_(id, lines, due)

        refused = any(each.to and not self.model.locations[each.to].returns for each in lines)
        if not keyed or refused:
            work = self.service(engine).engine.return_
            result = self.ask(work(self.pick(pick), request, self.key() if keyed else None))
            if keyed:  # who has not heard of the location yet looks at the rest first
                self.refused(result)
            else:
                self.step(result, lambda: Answer("idempotency_key_required"))
            return
        self.settle(
            "return", pick, engine, True, version,
            lambda s, id, k, v: s.engine.return_(id, request, k, v), apply,
            self.pick_shipped if shipped else self.pick,
        )  # fmt: skip

    def _shipped(self, id: str, lines: list[ReturnLine]) -> list[ReturnLine]:
        """The first line as one of what a reservation shipped, if it shipped something; it comes
        back where it left, or elsewhere."""
        out = [
            line.pool.split("@")
            for line in (self.found.records[id].lines if id != NOBODY else ())
            if line.fulfilled > line.returned
        ]
        if not out:
            return lines
        (sku, left), first = out[0], lines[0]
        elsewhere = "north" if left == "main" else "main"
        return [ReturnLine(sku, 1, None, elsewhere if first.to else None, first.disposition)]

    def _own(self, id: str, lines: list[AmendLine]) -> list[AmendLine]:
        """The first line as one of what a reservation has open, if it has."""
        open_skus = [line.place[0] for line in self.model.records[id].lines if line.open]
        first = lines[0]
        return [AmendLine(open_skus[0], first.quantity, first.location)] if open_skus else lines

    @rule(engine=engines, pick=picks, ttl_seconds=st.sampled_from([*TTLS, MAX_HOLD_SECONDS]))
    def extend(self, engine: int, pick: int, ttl_seconds: int) -> None:
        id = self.pick(pick)
        if id == NOBODY:
            return
        before = self.found.records[id]
        request = Extend(ttl_seconds)
        result = self.ask(self.service(engine).engine.extend(id, request))
        if self.model.records[id].channel not in self.model.channels:
            self.refused(result)  # with which word depends on who has heard of it
            return

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

