"""The event stream, folded from its first entry on: each event is explained by its own records and
movements, and together they make what the store has.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable

from tests.stored import ALIVE, Audit, Event, Move, Record, Row, may_be_purged

FOLLOWS = {"R": "RCLX", "C": "CFK", "F": "FT", "T": "T", "K": "", "L": "C", "X": "C"}
MILLION = 1_000_000


def check_row(found: Audit, pool: str, row: Row) -> None:
    """Laws 1 and 2 of one pool."""
    for account, units in row.accounts().items():
        found.check(0 <= units < 2**53, f"pool {pool}: {account} is {units}")
    sellable = row.shared + row.safety + sum(q.free for q in row.quotas.values())
    promised = sum(q.reserved + q.committed for q in row.quotas.values())
    found.check(row.on_hand >= 0, f"pool {pool}: on_hand is {row.on_hand}")
    found.check(
        not (row.deficit and sellable), f"pool {pool}: {sellable} to sell beside a deficit"
    )
    found.check(
        promised <= row.on_hand + row.deficit,
        f"pool {pool}: {promised} promised of {row.on_hand} + {row.deficit}: oversold",
    )
    credits = row.credit + sum(q.credit for q in row.quotas.values())
    found.check(credits == 0, f"pool {pool}: credits add up to {credits}")
    for name, quota in row.quotas.items():
        found.check(
            quota.left >= 0 and 0 <= quota.remainder < MILLION
            and (quota.ceiling not in ("", "-") or quota.left == quota.remainder == 0),
            f"pool {pool}: ceiling of {name} is {quota}",
        )  # fmt: skip


class Fold:
    """The stream from its first event on: each is explained, together they make the store."""

    def __init__(self, found: Audit) -> None:
        self.found = found
        self.rows: dict[str, Row] = {}
        self.records: dict[str, Record] = {}
        self.on_hand: Counter[str] = Counter()
        self.channels: dict[str, dict[str, object]] = {}
        self.locations: dict[str, dict[str, object]] = {}
        self.policy_number = 1
        self.whole = not found.trimmed  # else accounts before the first event are not known
        self.here = ""

    def check(self, true: bool, difference: str) -> None:
        self.found.check(true, f"event {self.here}: {difference}")

    def run(self) -> None:
        found = self.found
        seq = found.events[0].seq - 1 if found.events else 0
        for event in found.events:
            self.here = f"{event.seq} {event.verb}"
            self.check(event.seq == seq + 1, f"follows {seq}")
            self.check(str(event.epoch) == found.meta.get("epoch"), f"is of epoch {event.epoch}")
            seq = event.seq
            self._policy(event)
            self._explain(event)
            for pool, row in event.rows.items():
                self._row(event, pool, row)
            for id, record in event.records.items():
                self._record(id, record)
        self.here = "last"
        self.check(str(seq) == found.meta.get("seq", "0"), f"meta is at {found.meta.get('seq')}")
        self._compare()

    def _policy(self, event: Event) -> None:
        for kind, into in (("channel", self.channels), ("location", self.locations)):
            if kind in event.fields:
                name, entry = event.fields[kind].split("\n")
                into[name] = json.loads(entry.split(" ", 1)[1])
                self.policy_number += 1

    def _row(self, event: Event, pool: str, row: Row) -> None:
        before = self.rows.get(pool)
        if self.whole or before is not None:
            was = before or Row()
            self.check(row.version == was.version + 1, f"{pool} goes {was.version} → {row.version}")
            self.on_hand[pool] += _inflow(event.moves, pool)
            self.check(
                row.on_hand == self.on_hand[pool],
                f"{pool} has {row.on_hand} on hand, movements make {self.on_hand[pool]}",
            )
        else:
            self.on_hand[pool] = row.on_hand
        if event.verb in ("reserve", "receive") and self.whole:
            self.check(
                row.policy_number == self.policy_number,
                f"{pool} was planned on policy {row.policy_number}, now is {self.policy_number}",
            )
        check_row(self.found, f"{pool} in event {self.here}", row)
        self.rows[pool] = row

    def _record(self, id: str, record: Record) -> None:
        before = self.records.get(id)
        if before is not None:
            self.check(
                record.version == before.version + 1,
                f"{id} goes {before.version} → {record.version}",
            )
            self.check(
                record.state in FOLLOWS[before.state],
                f"{id} cannot go {before.state} → {record.state}",
            )
        elif self.whole:
            self.check(record.version == 1, f"{id} begins with version {record.version}")
        self.records[id] = record

    def _explain(self, event: Event) -> None:
        """Every unit that an account of a row gained or lost is in the records or movements."""
        wanted: dict[str, Counter[str]] = defaultdict(Counter)
        for move in event.moves:
            for account, units in ((move.source, -move.units), (move.target, move.units)):
                if account != "outside":  # and a deficit grows by what comes out of it
                    wanted[move.pool][account] += -units if account == "deficit" else units
        if event.verb == "reserve" or "late" in event.fields:
            for id, record in event.records.items():
                self._taken(id, record, wanted)
        for pool in wanted.keys() - event.rows.keys():
            self.check(not +wanted[pool] and not -wanted[pool], f"{pool} moved but has no row")
        for pool, row in event.rows.items():
            if self.whole or pool in self.rows:
                self._compare_accounts(pool, self.rows.get(pool, Row()), row, wanted[pool])

    def _taken(self, id: str, record: Record, wanted: dict[str, Counter[str]]) -> None:
        """What a new reservation takes; nothing borrowed from behind a wall (law 3)."""
        spec = self.channels.get(record.channel)
        for line in record.lines:
            deltas = wanted[line.pool]
            deltas[f"free:{record.channel}"] -= line.own
            deltas["shared"] -= line.borrowed
            deltas[f"{ALIVE[record.state]}:{record.channel}"] += line.own + line.borrowed
            if not self.whole:
                continue
            self.check(spec is not None, f"{id} is of channel {record.channel}: unknown")
            self.check(
                not line.borrowed or (spec or {}).get("borrow", True) is True,
                f"{id} borrowed {line.borrowed} of {line.pool}: {record.channel} may not",
            )
            place = self.locations.get(line.pool.split("@")[1], {"sells": True})
            self.check(place.get("sells", True) is True, f"{id} took of {line.pool}: sells nothing")

    def _compare_accounts(self, pool: str, was: Row, row: Row, wanted: Counter[str]) -> None:
        found = row.accounts()
        found.subtract(was.accounts())
        if (was.sku_number, was.policy_number) != (row.sku_number, row.policy_number):
            for deltas in (found, wanted):  # meeting a policy moves units between these two
                deltas["shared"] += deltas.pop("safety", 0)
        for account in found.keys() | wanted.keys():
            self.check(
                found[account] == wanted[account],
                f"{pool}: {account} changed by {found[account]}, explained are {wanted[account]}",
            )

    def _compare(self) -> None:
        """What the stream makes is what the store has."""
        found = self.found
        for what, made, there in (
            ("pool", self.rows, found.rows), ("record", self.records, found.records),
        ):  # fmt: skip
            for name in sorted(made.keys() | there.keys()):
                one, other = made.get(name), there.get(name)
                if one == other or (one is None and not self.whole):
                    continue
                if name in found.edited and _without_deadline(one) == _without_deadline(other):
                    continue
                if what == "record" and other is None and may_be_purged(found, name):
                    continue
                found.check(False, f"{what} {name}: the stream makes {one}, the store has {other}")


def _without_deadline(record: object) -> object:
    if not isinstance(record, Record):
        return record
    return {name: value for name, value in vars(record).items() if name != "deadline_ms"}


def _inflow(moves: Iterable[Move], pool: str) -> int:
    """What movements add to on_hand. Paying a deficit from an account leaves it as it is."""
    return sum(
        move.units * ((move.source == "outside") - (move.target == "outside"))
        for move in moves
        if move.pool == pool
    )
