"""The event stream, folded from its first entry on: each event is explained by its own records and
movements, and together they make what the store has.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.allowances import MILLION, check_allowances
from tests.movements import all_moves, inflow, may_move
from tests.stored import Audit, Event, Move, Record, Row, may_be_purged

FOLLOWS = {"R": "RCLX", "C": "CFTK", "F": "FT", "T": "", "K": "", "L": "C", "X": "C"}
PLANNED = {"reserve", "amend", "return", "stock", "import", "drop"}  # beside late commits


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
        seq = found.events[0].seq - 1 if found.events else int(found.meta.get("seq", 0))
        for event in found.events:
            self.here = f"{event.seq} {event.verb}"
            self.check(event.seq == seq + 1, f"follows {seq}")
            self.check(str(event.epoch) == found.meta.get("epoch"), f"is of epoch {event.epoch}")
            seq = event.seq
            self._policy(event)
            moves = all_moves(event)
            self._lawful(event, moves)
            self._explain(event, moves)
            if self.whole:
                check_allowances(self.check, event, self.rows, self.records, moves)
            for pool, row in event.rows.items():
                self._row(event, pool, row, moves)
            for id, record in event.records.items():
                self._record(id, record)
        self.here = "last"
        self.check(str(seq) == found.meta.get("seq", "0"), f"meta is at {found.meta.get('seq')}")
        self._compare()

    def _policy(self, event: Event) -> None:
        self.policy_number += "mode" in event.fields
        for kind, into in (("channel", self.channels), ("location", self.locations)):
            if kind in event.fields:
                name, entry = event.fields[kind].split("\n")
                if entry:
                    into[name] = json.loads(entry.split(" ", 1)[1])
                else:
                    del into[name]
                    self.found.gone.add(name)
                self.policy_number += 1

    def _row(self, event: Event, pool: str, row: Row, moves: Sequence[Move]) -> None:
        before = self.rows.get(pool)
        if self.whole or before is not None:
            was = before or Row()
            follows = row.version == was.version + 1
            if event.verb == "repair":  # its version passes the one that was found, too
                follows = row.version > was.version
            self.check(follows, f"{pool} goes {was.version} → {row.version}")
            self.on_hand[pool] += inflow(moves, pool)
            self.check(
                row.on_hand == self.on_hand[pool],
                f"{pool} has {row.on_hand} on hand, movements make {self.on_hand[pool]}",
            )
        else:
            self.on_hand[pool] = row.on_hand
        if (event.verb in PLANNED or "late" in event.fields) and self.whole:
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
            self._goes_on(id, before, record)
        elif self.whole:
            self.check(record.version == 1, f"{id} begins with version {record.version}")
            self.check(record.state in "RCF", f"{id} begins as {record.state}")
        self.records[id] = record

    def _goes_on(self, id: str, before: Record, record: Record) -> None:
        """What became of units stays; a deadline never comes nearer."""
        self.check(
            (record.channel, record.customer) == (before.channel, before.customer),
            f"{id} is another one's now: {record}",
        )
        for name in ("fulfilled", "cancelled", "returned"):
            was, now = _counted(before, name), _counted(record, name)
            self.check(not was - now, f"{id}: {was - now} are no longer {name}")
        if before.state == record.state == "R" and id not in self.found.edited:
            assert before.deadline_ms is not None
            assert record.deadline_ms is not None
            self.check(record.deadline_ms >= before.deadline_ms, f"{id} is due earlier")

    def _lawful(self, event: Event, moves: Sequence[Move]) -> None:
        """Units leave a quota or a wall only as law 3 has it."""
        for move in moves:
            self.check(may_move(event, move), f"{move} is not what this verb does")
            record = event.records.get(move.note)
            fact = event.verb == "reserve" and move in event.moves  # it takes what it must
            if not self.whole or record is None or fact:
                continue
            if move.source != "shared" and not move.source.startswith("free:"):
                continue
            spec = self.channels.get(record.channel)
            self.check(
                spec is not None and not spec.get("closed"),
                f"{move.note} took units for {record.channel}: unknown or closed",
            )
            self.check(
                move.source != "shared" or (spec or {}).get("borrow", True) is True,
                f"{move.note} borrowed {move.units} of {move.pool}: {record.channel} may not",
            )
            place = self.locations.get(move.pool.split("@")[1], {"sells": True})
            self.check(place.get("sells", True) is True, f"{move}: nothing is sold there")

    def _explain(self, event: Event, moves: Sequence[Move]) -> None:
        """Every unit that an account of a row gained or lost is in the records or movements."""
        wanted: dict[str, Counter[str]] = defaultdict(Counter)
        for move in moves:
            for account, units in ((move.source, -move.units), (move.target, move.units)):
                if account != "outside":  # and a deficit grows by what comes out of it
                    wanted[move.pool][account] += -units if account == "deficit" else units
        for pool in wanted.keys() - event.rows.keys():
            self.check(not +wanted[pool] and not -wanted[pool], f"{pool} moved but has no row")
        for pool, row in event.rows.items():
            if self.whole or pool in self.rows:
                self._compare_accounts(pool, self.rows.get(pool, Row()), row, wanted[pool])

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


def _counted(record: Record, name: str) -> Counter[str]:
    """Units of a record that are ``name``, by pool."""
    found: Counter[str] = Counter()
    for line in record.lines:
        found[line.pool] += getattr(line, name)
    return found
