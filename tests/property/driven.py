"""What drives the machine: one loop, several engines, the model beside them, the audit after each
step.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from core.errors import Expired, InsufficientStock, InvalidQuantity, StockadeError
from core.kernel.reference_reserve import Shortfall
from core.model import Key
from core.service import Service
from core.stock import StockResult
from tests.model import Model
from tests.property.tally import Tally
from tests.resemblance import differences, model_of
from tests.shelves import ALREADY, DONE, Answer
from tests.shop import Shop, key_of
from tests.stored import Audit

PATIENCE_SECONDS = 20.0  # of one step: whoever waits longer waits for ever
SLACK_MS = 1_500  # between a time that was foretold and the store's own
SEEN: Counter[str] = Counter()  # interesting events of the whole run

# What a caller may be told when others do things at the same time.
TOLD = frozenset({
    "insufficient_stock", "invalid_state", "invalid_quantity", "expired", "unknown_reservation",
    "unknown_channel", "stale_version", "channel_in_use", "validation_failed",
})  # fmt: skip
NOBODY = "00000000-0000-7000-8000-000000000000"  # an id that no reservation has


def told(result: Any) -> Answer:
    """What a caller was told, as the model says it."""
    if isinstance(result, StockResult):
        result = result.error
    if isinstance(result, InsufficientStock | Expired | InvalidQuantity):
        return Answer(result.code, lines=tuple(map(_shortfall, result.lines)))
    if isinstance(result, StockadeError):
        return Answer(result.code, getattr(result, "state", ""))
    return DONE


def _shortfall(line: dict[str, Any]) -> Any:
    return (
        line["sku"], line.get("location"), line["requested"], line["available"],
        line.get("limited_by", "on_hand"),
    )  # fmt: skip


def _lines(error: StockadeError) -> tuple[Any, ...]:
    """The lines of an error as the model would say them."""
    if not isinstance(error, InsufficientStock | Expired | InvalidQuantity):
        return ()
    return tuple(Shortfall(*_shortfall(line)) for line in error.lines)


def expected(answer: Answer) -> Answer:
    """The same of the model: whether something was done already shows in the store alone."""
    if answer in (DONE, ALREADY) or answer.code == "done":
        return DONE
    found = tuple(
        (each.sku, each.location, each.requested, each.available, each.limited_by)
        for each in answer.lines
    )
    return Answer(answer.code, answer.state, found)  # type: ignore[arg-type]


def told_all(results: Sequence[Any]) -> list[Any]:
    """What callers were told, lines of stock each by itself."""
    found: list[Any] = []
    for result in results:
        lines = result if isinstance(result, list) else [result]
        found += [
            line.error if isinstance(line, StockResult) and line.error else line for line in lines
        ]
    return found


def count_refusal(result: Any) -> None:
    """Notes a floor or a ceiling that was met."""
    if isinstance(result, InsufficientStock):
        for line in result.lines:
            SEEN["ceiling met"] += line["limited_by"] == "channel_ceiling"
            SEEN["floor met"] += line["limited_by"] == "channel_quota"


class Driven(RuleBasedStateMachine):
    """One warehouse, its engines, and the model of it."""

    url: str
    directory: Path
    examples = 0

    def __init__(self) -> None:
        super().__init__()
        Driven.examples += 1
        self.runner = asyncio.Runner()
        self.model = Model()
        self.found: Audit
        self.ids: list[str] = []  # in order of creation
        self.due: set[str] = set()
        self.seq = 0
        self.tally = Tally(SEEN)
        self.made = 0  # keys
        self.journal: list[tuple[Callable[[Service, Key], Awaitable[Any]], Key, str]] = []
        self.anew: set[bytes] = set()  # keys of late commits
        self.shop = Shop(self.url, self.directory / str(Driven.examples))

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

    def pick_late(self, number: int) -> str:
        """The same of those that only a late commit can bring back."""
        late = [id for id in self.ids if id in self.due or self.model.records[id].state in "LX"]
        return late[-1 - number % len(late)] if late else NOBODY

    def pick_reserved(self, number: int) -> str:
        """The same of those that wait for a commit."""
        alive = [id for id in self.ids if self.model.records[id].state == "R"]
        return alive[-1 - number % len(alive)] if alive else NOBODY

    def pick_open(self, number: int) -> str:
        """The same of those that have open units; of all if none has."""
        alive = [id for id in self.ids if self.model.records[id].state in "RC"]
        return alive[-1 - number % len(alive)] if alive else self.pick(number)

    def pick_paid(self, number: int) -> str:
        """The same of those that wait to be shipped; of all if none does."""
        paid = [id for id in self.ids if self.model.records[id].state == "C"]
        return paid[-1 - number % len(paid)] if paid else self.pick(number)

    def pick_partly(self, number: int) -> str:
        """The same of those of which something was shipped and something waits."""
        paid = [id for id in self.ids if self.model.records[id].state == "C"]
        partly = [id for id in paid if self.model.records[id].total("fulfilled")]
        return partly[-1 - number % len(partly)] if partly else self.pick_open(number)

    def pick_shipped(self, number: int) -> str:
        """The same of those of which something was shipped."""
        shipped = [id for id in self.ids if self.model.records[id].total("fulfilled")]
        return shipped[-1 - number % len(shipped)] if shipped else self.pick(number)

    def ask(self, work: Awaitable[Any]) -> Any:
        """The result, or the error as a value. Errors that no caller should see are raised."""

        async def wait() -> Any:
            try:
                return await work
            except StockadeError as error:
                if error.retryable:
                    raise
                return error

        return self.run(wait())

    def look(self) -> None:
        """Reads and audits the store."""
        self.found = self.run(self.shop.audit())
        self.tally.count(self.found.events)

    def step(self, result: Any, apply: Callable[[], Answer | None], last: bool = False) -> None:
        """Audits, and holds the model to what happened: ``apply`` does the same to it.

        Whose deadline passed may expire before or after; the stream says which. ``apply`` answers
        what the caller should have been told, or None if that cannot be foretold: then the model
        goes on from the store. ``last``: whatever expired did so before.
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
            elif not applied and not last:
                applied, answer = True, apply()
        if not applied:
            answer = apply()
        if isinstance(result, InsufficientStock) or (isinstance(result, Expired) and result.lines):
            assert not self.due, "refused while units were due to come back"
        if answer is None or mixed:
            self.model = model_of(self.found)
            return
        assert told(result) == expected(answer), (result, told(result), answer)
        wrong = differences(self.model, self.found)
        assert not wrong, "\n".join(wrong)

    def refused(self, result: Any) -> None:
        """Audits after what was refused in one of several ways: nothing has changed."""
        assert isinstance(result, StockadeError), result
        self.step(result, lambda: Answer(result.code, getattr(result, "state", ""), _lines(result)))

    def at_once(self, results: Sequence[Any]) -> None:
        """Audits what several callers did at the same time, and goes on from what is there."""
        for result in told_all(results):
            if isinstance(result, BaseException):
                assert isinstance(result, StockadeError), repr(result)
                assert result.code in TOLD, repr(result)
            count_refusal(result)
        self.look()
        self.seq = self.found.events[-1].seq
        self.model = model_of(self.found)
        self.due = {id for id in self.due if self.model.records[id].state == "R"}
        self.ids += sorted(self.model.records.keys() - set(self.ids))

    def is_current(self, service: Service, skus: set[str]) -> bool:
        """True if the engine plans on what is there: then its plan can be foretold.

        A worker that has not seen a pool yet may pass it over for the next in order.
        """
        rows, entries = self.found.store.hash("pools"), self.found.store.hash("skus")
        seen = service.lane.snapshot
        known = [row for row in seen.rows.values() if row.sku in skus]
        return all(
            row.text.decode() in ("", rows.get(row.pool.decode(), "")) for row in known
        ) and all(seen.skus[sku].text.decode() == entries[sku] for sku in skus & seen.skus.keys())
