"""What an event means: the movements, versions and balances that it adds to the ledger.

Pure: entries of the stream in, a page out. A row of a pool is held against the one before it: what
its accounts gained and lost must be what moved, unit by unit, or the event is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote

from core.errors import LedgerBroken, LedgerUnexplained
from core.ledger.books import Changed, Page
from core.store.events import Entry

NULL: Final = r"\N"
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
ALIVE: Final = {"R": "reserved", "C": "committed"}
# A give-back's verb is told by what the reservation has become.
GIVEN_BACK: Final = {"L": "release", "X": "expire"}
SAYS_VERB: Final = frozenset({"stock", "import", "repair"})  # each of their movements says its own
TAKES: Final = frozenset({"reserve", "import"})  # their takes follow from the records
POLICY_KINDS: Final = ("channel", "location", "mode")
ID_LENGTH: Final = 36


def check_order(epoch: int, seq: int, entries: Iterable[Entry]) -> None:
    """Raises LedgerBroken unless these follow (epoch, seq) without gap, repeat or change of epoch.
    """
    for entry in entries:
        if entry.epoch != epoch or entry.seq != seq + 1:
            raise LedgerBroken(
                f"event {epoch}-{seq + 1} is missing: the stream goes on with "
                f"{entry.epoch}-{entry.seq}"
            )
        seq = entry.seq


class Accounts:
    """A pool's row, by the names that movements use; ``deficit`` counts what is missing.

    ``on_hand``, ``promised`` (reserved and committed) and ``sellable`` (free, shared and safety)
    are sums of them.
    """

    __slots__ = (
        "deficit", "numbers", "on_hand", "promised", "sellable", "text", "units", "version",
    )  # fmt: skip

    def __init__(self, text: str) -> None:
        """``text``: as the store has it; empty for a pool that never was."""
        self.text = text
        self.version, self.numbers = 0, ("0", "0")
        self.units: dict[str, int] = {}
        self.on_hand = self.promised = self.sellable = self.deficit = 0
        if not text:
            return
        version, sku_number, policy_number, head, *quotas = text.split(" ")
        self.version, self.numbers = int(version), (sku_number, policy_number)
        shared, safety, damaged, quarantine, deficit, _ = map(int, head.split(","))
        units = self.units = {
            "shared": shared, "safety": safety, "damaged": damaged, "quarantine": quarantine,
            "deficit": -deficit,
        }  # fmt: skip
        promised, sellable = 0, shared + safety
        for word in quotas:
            name, _, body = word.partition("@")
            words = body.split(",", 3)
            free, reserved, committed = int(words[0]), int(words[1]), int(words[2])
            units["free:" + name] = free
            units["reserved:" + name] = reserved
            units["committed:" + name] = committed
            promised += reserved + committed
            sellable += free
        self.promised, self.sellable, self.deficit = promised, sellable, deficit
        self.on_hand = promised + sellable + damaged + quarantine - deficit


class Chronicle:
    """Makes pages of events. It knows each pool's row as of the last event that it was given."""

    def __init__(
        self, position: int, policy: int, accepted: Mapping[tuple[int, int, str], str] | None = None
    ) -> None:
        """``position``: of the last row in the ledger; ``policy``: the policy's number then;
        ``accepted``: epoch, seq and pool of changes that no event explains → reason."""
        self.position = position
        self.policy = policy
        self.accepted = accepted or {}
        self.pools: dict[str, Accounts] = {}

    def lacking(self, entries: Iterable[Entry]) -> list[str]:
        """The pools of these events whose row before them is not known here."""
        found: dict[str, None] = {}
        for entry in entries:
            for pool in _lines(entry, "p")[::2]:
                if pool not in self.pools:
                    found[pool] = None
        return list(found)

    def know(self, lacking: Iterable[str], rows: Mapping[str, str]) -> None:
        """Takes in the rows of pools that were lacking; one that is not in ``rows`` never was."""
        for pool in lacking:
            self.pools[pool] = Accounts(rows.get(pool, ""))

    def page(self, entries: Iterable[Entry]) -> Page:
        """What these events add. Raises LedgerBroken for one that cannot be believed."""
        page = Page()
        for entry in entries:
            try:
                _Event(self, page, entry).write()
            except (ValueError, KeyError, IndexError) as error:
                raise LedgerBroken(
                    f"event {entry.epoch}-{entry.seq} ({entry.fields.get('v')}) cannot be read: "
                    f"{type(error).__name__} {error}"
                ) from error
        for id, (channel, customer) in page.made.items():
            new = page.changed.pop(id)
            reference = NULL if new.reference is None else _escaped(new.reference)
            page.copied["reservation"].append(
                f"{id}\t{new.state}\t{new.version}\t{new.position}\t{channel}\t"
                f"{_text(customer)}\t{reference}\t{new.record}\n"
            )
        return page


class _Event:
    """One event on its way into a page."""

    def __init__(self, chronicle: Chronicle, page: Page, entry: Entry) -> None:
        self.chronicle = chronicle
        self.page = page
        self.entry = entry
        at = EPOCH + timedelta(milliseconds=entry.time_ms)
        self.time = at.isoformat(" ", "milliseconds")
        page.months.add(at.date().replace(day=1))
        rows = _lines(entry, "p")
        self.rows = dict(zip(rows[::2], map(Accounts, rows[1::2]), strict=True))
        records = _lines(entry, "r")
        self.records = dict(zip(records[::2], records[1::2], strict=True))
        self.moved: dict[str, dict[str, int]] = {pool: {} for pool in self.rows}
        self._take_actors()

    def _take_actors(self) -> None:
        """Who asked for all of it, and in which request; or who for which id."""
        told = self.entry.fields.get("a", "- -")
        self.actors: dict[str, str] = {}
        self.actor = self.request = NULL
        if told.startswith("\n"):
            pairs = (line.split(" ") for line in told[1:].split("\n"))
            self.actors = {id: _text(actor) for id, actor in pairs}
        else:
            actor, request = told.split(" ")
            self.actor, self.request = _text(actor), _text(request)

    def write(self) -> None:
        self._write_movements()
        for pool, after in self.rows.items():
            self._write_pool(pool, self.chronicle.pools[pool], after)
        for id, record in self.records.items():
            self._write_reservation(id, record)
        self._write_policy()
        for name, long in (("h", "f"), ("w", "t")):
            if self.entry.fields.get(name):
                keys = self.entry.fields[name].replace("\n", r"\n")
                self.page.copied["idempotency_keys"].append(
                    f"{self._next()}\t{self.entry.time_ms}\t{long}\t{keys}\n"
                )
        self._write_audit()
        imports = _lines(self.entry, "i")
        self.page.imports.update(zip(imports[::2], imports[1::2], strict=True))

    def _next(self) -> int:
        self.chronicle.position += 1
        return self.chronicle.position

    # --- movements -------------------------------------------------------------------------------

    def _write_movements(self) -> None:
        entry, verb = self.entry, self.entry.verb
        notes: dict[str, str] = {}
        told: set[str] = set()
        moves: list[list[str]] = []
        for line in _lines(entry, "m"):
            words = line.split(" ")
            if words[0] == "#":
                notes[words[1]] = words[2]
            else:
                moves.append(words)
        for words in moves:
            if verb in SAYS_VERB:
                pool, source, target, units, note, reason, occurred, *by = words[1:]
                told.add(note)
                if len(note) == ID_LENGTH and note in self.records:
                    self._move(words[0], pool, source, target, units, note, notes)
                else:
                    self._write_movement(
                        words[0], pool, source, target, units, _channel(source, target), NULL,
                        _text(note), _text(reason), _time(occurred), *map(_text, by),
                    )  # fmt: skip
            elif verb == "drop":
                pool, source, target, units, channel = words
                self._write_movement(
                    verb, pool, source, target, units, channel, NULL, NULL, NULL, NULL
                )
            else:
                pool, source, target, units, id = words
                told.add(id)
                self._move(verb, pool, source, target, units, id, notes)
        if verb in TAKES or "late" in entry.fields:
            for id, record in self.records.items():
                if id not in told:
                    self._write_takes(verb, id, record, notes)

    def _write_takes(self, verb: str, id: str, record: str, notes: dict[str, str]) -> None:
        """What a new reservation, or one that was committed late, took follows from its record."""
        words = record.split(" ")
        channel, reference = words[6], words[8] if id not in notes else notes[id]
        target, told = f"{ALIVE[words[0]]}:{channel}", _text(reference)
        for word in words[9:]:
            pool, _, body = word.rpartition("@")
            own, borrowed = body.split(",", 2)[:2]
            for source, units in (("shared", borrowed), (f"free:{channel}", own)):
                if units != "0":
                    self._write_movement(
                        verb, pool, source, target, units, channel, id, told, NULL, NULL
                    )

    def _move(
        self, verb: str, pool: str, source: str, target: str, units: str, id: str,
        notes: dict[str, str],
    ) -> None:  # fmt: skip
        """A movement of a reservation's units; a note is a cancel's reason, else a reference."""
        state, _, _, _, _, _, channel, _, reference = self.records[id].split(" ", 9)[:9]
        note, reason = notes.get(id, "-"), "-"
        if verb == "giveback":
            verb, reason = GIVEN_BACK.get(state, "cancel"), note
        elif note != "-":
            reference = note
        self._write_movement(
            verb, pool, source, target, units, channel, id, _text(reference), _text(reason), NULL
        )

    def _write_movement(
        self, verb: str, pool: str, source: str, target: str, units: str, channel: str, id: str,
        reference: str, reason: str, occurred: str, by: str = "",
    ) -> None:  # fmt: skip
        by = by or self.actors.get(id, self.actor)
        moved, count = self.moved[pool], int(units)
        moved[source] = moved.get(source, 0) - count
        moved[target] = moved.get(target, 0) + count
        sku, _, location = pool.partition("@")
        self.page.copied["movement"].append(
            f"{self._next()}\t{self.time}\t{occurred}\t{verb}\t{sku}\t{location}\t{source}\t"
            f"{target}\t{units}\t{self.rows[pool].version}\t{channel}\t{id}\t{reference}\t"
            f"{reason}\t{by}\n"
        )

    # --- what is, after it -----------------------------------------------------------------------

    def _write_pool(self, pool: str, before: Accounts, after: Accounts) -> None:
        self._believe(pool, before, after)
        sku, _, location = pool.partition("@")
        position = self._next()
        numbers = (after.on_hand, after.promised, after.sellable, after.deficit)
        self.page.copied["balance"].append(
            f"{position}\t{self.time}\t{sku}\t{location}\t{after.version}\t{after.text}\t"
            f"{after.on_hand}\t{after.promised}\t{after.sellable}\t{after.deficit}\t"
            f"{before.sellable}\t{before.deficit}\n"
        )
        self.page.pools[pool] = (after.version, position, after.text, numbers)
        self.chronicle.pools[pool] = after

    def _believe(self, pool: str, before: Accounts, after: Accounts) -> None:
        """Law 1, prefix by prefix: the row changed by what moved, and by nothing else."""
        if self.entry.verb == "repair":
            self._believe_repair(pool, before, after)
        elif after.version <= before.version:
            raise LedgerBroken(
                f"event {self.entry.epoch}-{self.entry.seq}: {pool} goes from version "
                f"{before.version} to {after.version}"
            )
        was, now, moved = before.units, after.units, self.moved[pool]
        if after.numbers != before.numbers and before.text:
            # A row that meets a changed policy has its safety stock filled or given up.
            units = now["safety"] - was["safety"] - moved.get("safety", 0)
            if units and units == moved.get("shared", 0) - now["shared"] + was["shared"]:
                ends = ("shared", "safety") if units > 0 else ("safety", "shared")
                self._write_movement(
                    "policy", pool, *ends, str(abs(units)), NULL, NULL, NULL, NULL, NULL
                )
        for name in moved.keys() | now.keys() | was.keys():
            if (
                now.get(name, 0) - was.get(name, 0) != moved.get(name, 0)
                and name != "outside"
            ):
                self._write_drift(pool, before, after)
                return
        if after.version != before.version + 1 and self.entry.verb != "repair":
            self._write_drift(pool, before, after)

    def _write_drift(self, pool: str, before: Accounts, after: Accounts) -> None:
        """What something other than Stockade did to a row is told as it is, if that was accepted;
        else it is not believed."""
        entry, moved = self.entry, self.moved[pool]
        names = sorted({*moved, *after.units, *before.units} - {"outside"})
        drift = {
            name: after.units.get(name, 0) - before.units.get(name, 0) - moved.get(name, 0)
            for name in names
        }
        reason = self.chronicle.accepted.get((entry.epoch, entry.seq, pool))
        if reason is None:
            told = f"goes from version {before.version} to {after.version}"
            if any(drift.values()):
                told = f"changed from {before.text!r} to {after.text!r}, which is not what moved: "
                told += str(moved)
            told = f"event {entry.epoch}-{entry.seq}: {pool} {told}"
            raise LedgerUnexplained(told, entry.seq, pool, drift)
        for source, target, units in pairs(drift):
            self._write_movement(
                "drift", pool, source, target, str(units), NULL, NULL, NULL, _escaped(reason), NULL
            )

    def _believe_repair(self, pool: str, before: Accounts, after: Accounts) -> None:
        """The store's row was not what the ledger has. The event says which row of the ledger it
        was made again from, and that must be the last one; its version passes both."""
        if self.entry.fields["b"] != before.text or after.version <= before.version:
            raise LedgerBroken(
                f"event {self.entry.epoch}-{self.entry.seq} repairs {pool} from "
                f"{self.entry.fields['b']!r} to {after.text!r}, the ledger has {before.text!r}"
            )

    def _write_reservation(self, id: str, record: str) -> None:
        state, version, _, _, _, _, channel, customer, reference = record.split(" ", 9)[:9]
        verb = self.entry.verb
        if verb == "giveback":
            verb = GIVEN_BACK.get(state, "cancel")
        position = self._next()
        self.page.copied["reservation_version"].append(
            f"{position}\t{self.time}\t{id}\t{version}\t{verb}\t{_escaped(record)}\t"
            f"{self.actors.get(id, self.actor)}\n"
        )
        known = self.page.changed.get(id)
        was = known.was if known is not None else int(version) - 1
        change = Changed(was, state, int(version), position, _decoded(reference), record)
        if known is not None and int(version) != known.version + 1:
            raise LedgerBroken(f"{id} goes from version {known.version} to {version}")
        self.page.changed[id] = change
        if was == 0:
            self.page.made[id] = (channel, customer)

    def _write_policy(self) -> None:
        skus = _lines(self.entry, "s")
        entries = [("sku", *pair) for pair in zip(skus[::2], skus[1::2], strict=True)]
        for kind in POLICY_KINDS:
            if kind in self.entry.fields:
                name, entry = self.entry.fields[kind].split("\n")
                entries.append((kind, name, entry))
                self.chronicle.policy += 1
        for kind, name, entry in entries:
            self.page.policy[kind, name] = entry
            text = _escaped(entry) if entry else NULL
            self.page.copied["policy_version"].append(
                f"{self._next()}\t{self.time}\t{kind}\t{name}\t{text}\n"
            )

    def _write_audit(self) -> None:
        """What people change of policy, and what they noted."""
        fields = self.entry.fields
        if "n" in fields:
            verb, target, before, after = fields["n"].split("\n")
        elif self.entry.verb == "repair":
            ((target, row),) = self.rows.items()
            verb, before, after = "repair", f'"{fields["b"]}"', f'"{row.text}"'
        elif self.entry.verb == "policy":
            kind, (name, entry) = next(
                (kind, fields[field].split("\n"))
                for field, kind in (("s", "sku"), *((each, each) for each in POLICY_KINDS))
                if field in fields
            )
            verb, target = "put" if entry else "delete", f"{kind}/{name}"
            before, after = (_spec(kind, each) for each in (fields.get("b", ""), entry))
        else:
            return
        self.page.copied["audit"].append(
            f"{self._next()}\t{self.time}\t{self.actor}\t{self.request}\t{verb}\t"
            f"{_escaped(target)}\t{_escaped(before) or NULL}\t{_escaped(after) or NULL}\n"
        )


def _spec(kind: str, entry: str) -> str:
    """What an entry of policy says, as JSON; empty for none."""
    return entry.split(" ", 2 if kind == "sku" else 1)[-1]


def pairs(gains: Mapping[str, int]) -> list[tuple[str, str, int]]:
    """(source, target, units) that make accounts gain and lose so many units; what they gain or
    lose together comes from outside, or goes there."""
    deltas = {**gains, "outside": -sum(gains.values())}
    wanted = {name: units for name, units in deltas.items() if units > 0}
    found = []
    for source, units in deltas.items():
        left = -units
        while left > 0:
            target = next(iter(wanted))
            part = min(left, wanted[target])
            found.append((source, target, part))
            left, wanted[target] = left - part, wanted[target] - part
            if not wanted[target]:
                del wanted[target]
    return found


def _lines(entry: Entry, name: str) -> list[str]:
    text = entry.fields.get(name)
    return text.split("\n") if text else []


def _channel(source: str, target: str) -> str:
    """The channel whose account units of stock went to, or came from."""
    return target.partition(":")[2] or source.partition(":")[2] or NULL


def _decoded(word: str) -> str | None:
    return None if word == "-" else unquote(word) if "%" in word else word


def _text(word: str) -> str:
    """Encoded free text as a column of COPY."""
    if word == "-":
        return NULL
    return _escaped(unquote(word)) if "%" in word else word


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\") if "\\" in text else text


def _time(word: str) -> str:
    """Milliseconds as a column of COPY."""
    if word == "-":
        return NULL
    return (EPOCH + timedelta(milliseconds=int(word))).isoformat(" ", "milliseconds")
