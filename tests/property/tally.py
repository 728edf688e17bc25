"""Which of the interesting things have happened in a stream of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from tests.stored import Event, Record


class Tally:
    """Counts what the events of one store say, each event once."""

    def __init__(self, seen: Counter[str]) -> None:
        self._seen = seen
        self._records: dict[str, Record] = {}
        self._seq = 0

    def count(self, events: Sequence[Event]) -> None:
        """Takes note of what is new."""
        for event in events:
            if event.seq <= self._seq:
                continue
            self._seq = event.seq
            for what in set(self._happened(event)):
                self._seen[what] += 1
            self._records |= event.records

    def _happened(self, event: Event) -> Iterator[str]:
        for move in event.moves:
            if move.source == "deficit":
                yield "deficit opened"
            if move.target == "deficit" and event.verb in ("giveback", "amend"):
                yield "deficit paid by what went back"
            if move.target == "deficit" and move.source == "outside" and event.verb == "stock":
                yield "deficit paid by a receipt"
            if move.verb == "transfer":
                yield "transfer"
        if event.fields.get("channel", "").endswith("\n"):
            yield "channel deleted"
        for id, record in event.records.items():
            pools = {line.pool for line in record.lines}
            if event.verb == "reserve" and any(line.short for line in record.lines):
                yield "fact short"
            if event.verb == "amend":
                was = {line.pool for line in self._records[id].lines}
                yield "amend moved location" if was - pools else "amend"
                if any(line.fulfilled for line in record.lines):
                    yield "amend of what was shipped in part"
            if event.verb == "return":
                yield "return"
            if event.verb == "return" and any(
                move.note == id and move.pool not in pools
                and move.target not in ("damaged", "quarantine")
                for move in event.moves
            ):  # fmt: skip
                yield "return restocked elsewhere"
