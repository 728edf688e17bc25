"""Reads a whole shard back and holds it to the laws of DESIGN §6, from outside.

Rows, records and events are parsed here a second time, apart from ``core``: what core writes and
what this page understands must agree. ``audit(url)`` looks at one instant of the store and raises
with every difference that it found, one a line.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import redis.asyncio as redis

TAG = "{s0}:"
MILLION = 1_000_000
BUCKET_MS = 1_000
DIFFERENCES_SHOWN = 40
ALIVE = {"R": "reserved", "C": "committed"}
FOLLOWS = {"R": "RCLX", "C": "CFK", "F": "FT", "T": "T", "K": "", "L": "C", "X": "C"}

KINDS = {
    "meta": "hash", "pools": "hash", "channels": "hash", "locations": "hash", "skus": "hash",
    "catalog": "zset", "events": "stream", "rsv": "hash", "due": "list", "done": "list",
    "idem": "hash",
}  # fmt: skip

_ROW = re.compile(r"(\d+) (\d+) (\d+) (\d+),(\d+),(\d+),(\d+),(\d+),(-?\d+)((?: \S+)*)")
_QUOTA = re.compile(
    r"([a-z0-9._-]+)@(\d+),(\d+),(\d+),(-?\d+)(?:,(\d+),(-|[us]\d+),(\d+),(\d+))?"
)
_RECORD = re.compile(
    r"([RCFTLXK]) (\d+) (\d+|-) (\d+|-) (\d+|-) (\d+|-) (\S+) (\S+) (\S+)((?: \S+)+)"
)
_LINE = re.compile(r"([^@ ]+@[^@ ]+)@(\d+),(\d+)(?:,(\d+),(\d+),(\d+),(\d+))?")
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_KEY = re.compile(r"\S{1,22} (200|201) (\S+)")


@dataclass(frozen=True)
class Quota:
    """One channel's part of a row; ``ceiling`` is ``-``, ``u`` units, ``s`` millionths or empty."""

    free: int = 0
    reserved: int = 0
    committed: int = 0
    credit: int = 0
    number: int = 0
    ceiling: str = ""
    left: int = 0
    remainder: int = 0


@dataclass(frozen=True)
class Row:
    """A pool."""

    version: int = 0
    sku_number: int = 0
    policy_number: int = 0
    shared: int = 0
    safety: int = 0
    damaged: int = 0
    quarantine: int = 0
    deficit: int = 0
    credit: int = 0
    quotas: dict[str, Quota] = field(default_factory=dict)

    @property
    def on_hand(self) -> int:
        """Σ accounts − deficit: what lies there."""
        accounts = self.accounts()
        return sum(units for name, units in accounts.items() if name != "deficit") - self.deficit

    def accounts(self) -> Counter[str]:
        """Every account by the name that movements use; ``deficit`` is what is missing."""
        found = Counter(
            shared=self.shared, safety=self.safety, damaged=self.damaged,
            quarantine=self.quarantine, deficit=self.deficit,
        )  # fmt: skip
        for name, quota in self.quotas.items():
            found[f"free:{name}"] = quota.free
            found[f"reserved:{name}"] = quota.reserved
            found[f"committed:{name}"] = quota.committed
        return found


@dataclass(frozen=True)
class Line:
    """What a record took at one pool, and what became of it."""

    pool: str
    own: int
    borrowed: int
    fulfilled: int = 0
    cancelled: int = 0
    returned: int = 0
    ceiling: int = 0

    @property
    def open(self) -> int:
        """Units neither shipped nor given back."""
        return self.own + self.borrowed - self.fulfilled - self.cancelled


@dataclass(frozen=True)
class Record:
    """A reservation; free text stands as it is encoded."""

    state: str
    version: int
    updated_ms: int | None
    deadline_ms: int | None
    committed_ms: int | None
    seq: int | None
    channel: str
    customer: str
    reference: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Move:
    """Units of a pool from one account to another."""

    pool: str
    source: str
    target: str
    units: int
    note: str


@dataclass(frozen=True)
class Event:
    """What one script changed."""

    epoch: int
    seq: int
    verb: str
    fields: dict[str, str]
    rows: dict[str, Row]
    records: dict[str, Record]
    moves: tuple[Move, ...]


@dataclass
class Store:
    """Everything in a shard at one instant, as text."""

    keys: dict[str, str] = field(default_factory=dict)  # name → type
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    catalog: list[str] = field(default_factory=list)
    stream: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def hash(self, name: str) -> dict[str, str]:
        """One of the shard's hashes; what is not there is empty."""
        return self.hashes.get(TAG + name, {})


@dataclass
class Audit:
    """One look at a shard: what is in it, and what is wrong with it."""

    store: Store
    edited: Collection[str]
    meta: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def trimmed(self) -> bool:
        """True if the stream does not reach back to the first event."""
        return bool(self.events) and self.events[0].seq != 1

    def check(self, true: bool, difference: str) -> None:
        """Note a difference unless it is ``true`` that all is well."""
        if not true:
            self.differences.append(difference)


class Unreadable(ValueError):
    """A text that does not follow the format."""


# --- parsing -----------------------------------------------------------------------------------


def parse_row(text: str) -> Row:
    """A pool's row. Raises Unreadable."""
    found = _ROW.fullmatch(text)
    if found is None:
        raise Unreadable(f"row {text!r}")
    quotas: dict[str, Quota] = {}
    for word in found[10].split():
        part = _QUOTA.fullmatch(word)
        if part is None or part[1] in quotas:
            raise Unreadable(f"quota {word!r} of row {text!r}")
        free, reserved, committed, credit = (int(part[i]) for i in range(2, 6))
        if part[6] is None:
            quotas[part[1]] = Quota(free, reserved, committed, credit)
        else:
            quotas[part[1]] = Quota(
                free, reserved, committed, credit, int(part[6]), part[7], int(part[8]), int(part[9])
            )
    return Row(*(int(found[i]) for i in range(1, 10)), quotas)


def print_row(row: Row) -> str:
    """The text that ``parse_row`` reads."""
    head = (row.shared, row.safety, row.damaged, row.quarantine, row.deficit, row.credit)
    words = [f"{row.version} {row.sku_number} {row.policy_number} {','.join(map(str, head))}"]
    for name, quota in row.quotas.items():
        if quota != Quota():
            values = list(vars(quota).values())[: 8 if quota.ceiling else 4]
            words.append(f"{name}@{','.join(map(str, values))}")
    return " ".join(words)


def parse_record(text: str) -> Record:
    """A reservation's record. Raises Unreadable."""
    found = _RECORD.fullmatch(text)
    if found is None:
        raise Unreadable(f"record {text!r}")
    lines = []
    for word in found[10].split():
        part = _LINE.fullmatch(word)
        if part is None:
            raise Unreadable(f"line {word!r} of record {text!r}")
        lines.append(Line(part[1], *(int(part[i] or 0) for i in range(2, 8))))
    updated, deadline, committed, seq = (
        None if found[i] == "-" else int(found[i]) for i in range(3, 7)
    )
    return Record(
        found[1], int(found[2]), updated, deadline, committed, seq, found[7], found[8], found[9],
        tuple(lines),
    )  # fmt: skip


def _pairs(text: str) -> dict[str, str]:
    words = text.split("\n") if text else []
    return dict(zip(words[::2], words[1::2], strict=True))


def parse_event(name: str, fields: dict[str, str]) -> Event:
    """An entry of the stream. Raises Unreadable."""
    epoch, seq = name.split("-")
    moves = []
    for text in fields.get("m", "").split("\n"):
        if text and not text.startswith("# "):  # a note on a record, not a movement
            pool, source, target, units, note = text.split(" ", 4)
            moves.append(Move(pool, source, target, int(units), note))
    return Event(
        int(epoch), int(seq), fields["v"], fields,
        {pool: parse_row(row) for pool, row in _pairs(fields.get("p", "")).items()},
        {id: parse_record(record) for id, record in _pairs(fields.get("r", "")).items()},
        tuple(moves),
    )  # fmt: skip


def decoded(word: str) -> str | None:
    """Free text as it was before it was encoded; ``-`` stands for none."""
    return None if word == "-" else unquote(word)


def created_ms(id: str) -> int:
    """When a reservation was made, by its id."""
    return int(id[:8] + id[9:13], 16)


# --- reading -----------------------------------------------------------------------------------


async def read(url: str) -> Store:
    """All keys of the shard at one instant: in one transaction, again if keys came or went."""
    client: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
    try:
        names = sorted(await client.keys(TAG + "*"))
        while True:
            async with client.pipeline(transaction=True) as pipe:
                pipe.keys(TAG + "*")
                for name in names:
                    _ask(pipe, name)
                present, *values = await pipe.execute()
            if sorted(present) == names:
                return _store(names, values)
            names = sorted(present)
    finally:
        await client.aclose()


def _kind(name: str) -> str | None:
    return KINDS.get(name.removeprefix(TAG).partition(":")[0])


def _ask(pipe: redis.client.Pipeline, name: str) -> None:
    pipe.type(name)
    calls: dict[str | None, Callable[[], object]] = {
        "hash": lambda: pipe.hgetall(name),
        "list": lambda: pipe.lrange(name, 0, -1),
        "zset": lambda: pipe.zrange(name, 0, -1),
        "stream": lambda: pipe.xrange(name),
    }
    calls.get(_kind(name), lambda: pipe.exists(name))()


def _store(names: list[str], values: list[object]) -> Store:
    store = Store()
    for name, kind, value in zip(names, values[::2], values[1::2], strict=True):
        store.keys[name] = str(kind)
        if isinstance(value, dict):
            store.hashes[name] = value
        elif name == TAG + "events":
            assert isinstance(value, list)
            store.stream = value
        elif name == TAG + "catalog":
            assert isinstance(value, list)
            store.catalog = value
        elif isinstance(value, list):
            store.lists[name] = value
    return store


# --- the laws ----------------------------------------------------------------------------------


async def audit(url: str, edited: Collection[str] = ()) -> Audit:
    """Reads the shard and holds it to the laws; raises AssertionError with all differences.

    ``edited`` names the reservations whose deadline a test moved without an event: their record
    may differ from the stream in its deadline, and their id may be gone from the list of the
    deadline that they had.
    """
    found = inspect(await read(url), edited)
    if found.differences:
        shown = "\n  ".join(found.differences[:DIFFERENCES_SHOWN])
        raise AssertionError(f"{len(found.differences)} differences in the store:\n  {shown}")
    return found


def inspect(store: Store, edited: Collection[str] = ()) -> Audit:
    """The same on what was read already, without raising."""
    found = Audit(store, edited, store.hash("meta"))
    for name, kind in store.keys.items():
        found.check(_kind(name) == kind, f"key {name} is a {kind}, should be {_kind(name)}")
    _parse(found)
    for pool, row in found.rows.items():
        _check_row(found, pool, row)
    for id, record in found.records.items():
        _check_record(found, id, record)
    _check_recount(found)
    _check_ceilings(found)
    _check_due(found)
    _check_catalogue(found)
    _check_keys(found)
    Fold(found).run()
    return found


def _parse(found: Audit) -> None:
    for pool, text in found.store.hash("pools").items():
        with _noting(found, f"pool {pool}"):
            found.rows[pool] = parse_row(text)
    for name, bucket in found.store.hashes.items():
        if not name.startswith(TAG + "rsv:"):
            continue
        second = name.removeprefix(TAG + "rsv:")
        for id, text in bucket.items():
            found.check(_ID.fullmatch(id) is not None, f"record {id}: not an id")
            found.check(id.endswith("00"), f"record {id}: of another shard")
            found.check(
                str(created_ms(id) // BUCKET_MS) == second, f"record {id}: stands in bucket {second}"
            )
            with _noting(found, f"record {id}"):
                found.records[id] = parse_record(text)
    for entry, fields in found.store.stream:
        with _noting(found, f"event {entry}"):
            found.events.append(parse_event(entry, fields))


class _noting:
    """Turns what cannot be read into a difference."""

    def __init__(self, found: Audit, what: str) -> None:
        self.found, self.what = found, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        if kind is not None and issubclass(kind, ValueError):
            self.found.differences.append(f"{self.what}: {error}")
            return True
        return False


def _check_row(found: Audit, pool: str, row: Row) -> None:
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


def _check_record(found: Audit, id: str, record: Record) -> None:
    """A record's state follows from its counters and its times."""
    left = sum(line.open for line in record.lines)
    shipped = sum(line.fulfilled for line in record.lines)
    cancelled = sum(line.cancelled for line in record.lines)
    returned = sum(line.returned for line in record.lines)
    wrong = [line for line in record.lines if line.open < 0 or line.returned > line.fulfilled]
    pools = [line.pool for line in record.lines]
    fits = {
        "R": shipped == cancelled == 0 and record.deadline_ms is not None,
        "L": shipped == cancelled == 0,
        "X": shipped == cancelled == 0,
        "C": left > 0,
        "F": left == 0 and shipped > returned,
        "T": left == 0 and shipped == returned > 0,
        "K": left == shipped == 0 and cancelled > 0,
    }[record.state]
    found.check(fits and not wrong, f"record {id}: its state does not fit: {record}")
    found.check(len(set(pools)) == len(pools), f"record {id}: a pool stands there twice: {pools}")
    paid = record.state in "CFTK"
    found.check(
        (record.committed_ms is not None) == paid and (record.deadline_ms is None) == paid,
        f"record {id}: its times do not fit its state: {record}",
    )
    for line in record.lines:
        found.check(line.pool in found.rows, f"record {id}: there is no pool {line.pool}")
        found.check(line.own + line.borrowed > 0, f"record {id}: a line of nothing: {line}")


def _check_recount(found: Audit) -> None:
    """What the pools say is promised is what the records say is open."""
    open_units: Counter[tuple[str, str]] = Counter()
    for record in found.records.values():
        for line in record.lines:
            if record.state in ALIVE:
                open_units[line.pool, f"{ALIVE[record.state]}:{record.channel}"] += line.open
    for pool, row in found.rows.items():
        for account, units in row.accounts().items():
            if account.startswith(("reserved:", "committed:")):
                counted = open_units.pop((pool, account), 0)
                found.check(
                    units == counted, f"pool {pool}: {account} is {units}, records hold {counted}"
                )
    for (pool, account), units in open_units.items():
        found.check(units == 0, f"pool {pool}: {account} is not there, records hold {units}")


def _check_ceilings(found: Audit) -> None:
    """What is left of an allowance and what was taken of it make the allowance (law 3)."""
    taken: Counter[tuple[str, str, int]] = Counter()
    for record in found.records.values():
        for line in record.lines:
            if line.ceiling and record.state not in "LX":
                units = line.own + line.borrowed - line.cancelled
                taken[line.pool, record.channel, line.ceiling] += units
    for pool, row in found.rows.items():
        for name, quota in row.quotas.items():
            if quota.ceiling in ("", "-"):
                continue
            value, spent = int(quota.ceiling[1:]), taken[pool, name, quota.number]
            whole = (quota.left + spent) * MILLION + quota.remainder
            if quota.ceiling[0] == "u":
                fits = whole == value * MILLION
            else:
                fits = whole % value == 0 if value else whole == 0
            found.check(
                fits, f"pool {pool}: ceiling of {name}: {quota} left, {spent} taken under it"
            )


def _check_due(found: Audit) -> None:
    """Every deadline is found by the reaper, and nothing waits where it never looks (law 6)."""
    cursor = int(found.meta.get("cursor", 0))
    lists = {
        int(name.removeprefix(TAG + "due:")): set(ids)
        for name, ids in found.store.lists.items()
        if name.startswith(TAG + "due:")
    }
    for id, record in found.records.items():
        if record.state == "R" and record.deadline_ms is not None:
            second = record.deadline_ms // 1000
            found.check(second >= cursor, f"record {id}: due at {second}, the cursor is at {cursor}")
            found.check(id in lists.get(second, ()), f"record {id}: not in the list of {second}")
    for second, ids in lists.items():
        found.check(second >= cursor, f"due {second}: {ids} are behind the cursor {cursor}")
        for id in ids - set(found.edited):
            found.check(
                _ID.fullmatch(id) is not None and created_ms(id) // 1000 <= second,
                f"due {second}: {id} cannot be due then",
            )
            held = found.records.get(id)
            if held is not None and held.state == "R" and held.deadline_ms is not None:
                found.check(
                    held.deadline_ms // 1000 >= second,
                    f"due {second}: the deadline of {id} is before it: {held.deadline_ms}",
                )


def _check_catalogue(found: Audit) -> None:
    """Every pool is found by its SKU's entry, and every SKU by its page."""
    entries = found.store.hash("skus")
    found.check(
        sorted(entries) == found.store.catalog,
        f"the catalog has {found.store.catalog}, the SKUs are {sorted(entries)}",
    )
    listed = {
        f"{sku}@{location}"
        for sku, entry in entries.items()
        for location in entry.split(" ", 2)[1].split(",")
        if location != "-"
    }
    for pool in listed ^ found.rows.keys():
        found.check(False, f"pool {pool}: stands in {'its SKU' if pool in listed else 'pools'} alone")


def _check_keys(found: Audit) -> None:
    """What an idempotency key stands for is there (law 5)."""
    for name, values in found.store.hashes.items():
        if not name.startswith(TAG + "idem:"):
            continue
        for key, value in values.items():
            parsed = _KEY.fullmatch(value)
            if parsed is None:
                found.check(False, f"key {key} of {name}: {value!r}")
                continue
            resource = parsed[2]
            there = (
                resource in found.rows
                or (_ID.fullmatch(resource) is not None and _may_be_purged(found, resource))
                or any(resource in found.store.hash(h) for h in ("channels", "locations", "skus"))
            )
            found.check(there, f"key {key} of {name}: there is no {resource}")


def _may_be_purged(found: Audit, id: str) -> bool:
    return id in found.records or int(found.meta["purged"]) >= created_ms(id) // 3_600_000


# --- the stream --------------------------------------------------------------------------------


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
        _check_row(self.found, f"{pool} in event {self.here}", row)
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
                if what == "record" and other is None and _may_be_purged(found, name):
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


def expired(events: Iterable[Event]) -> Iterator[tuple[Event, list[str]]]:
    """The events that expired reservations, with the ids."""
    for event in events:
        ids = [id for id, record in event.records.items() if record.state == "X"]
        if ids:
            yield event, ids
