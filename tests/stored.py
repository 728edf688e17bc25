"""What lies in a shard, read and understood a second time, apart from ``core``.

``read(url)`` takes everything at one instant; the parsers turn its texts into plain values. What
core writes and what this page understands must agree.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from urllib.parse import unquote

import redis.asyncio as redis

TAG = "{s0}:"

NAMES_VERBS = {"stock", "import", "repair"}  # events whose movements say each its own verb

ALIVE = {"R": "reserved", "C": "committed"}  # the account that holds its open units

KINDS = {
    "meta": "hash", "pools": "hash", "channels": "hash", "locations": "hash", "skus": "hash",
    "catalog": "zset", "events": "stream", "rsv": "hash", "due": "list", "done": "list",
    "idem": "hash", "imports": "hash", "modes": "hash",
    "limits": "hash", "customers": "hash", "live": "zset",
}  # fmt: skip

_ROW = re.compile(r"(\d+) (\d+) (\d+) (\d+),(\d+),(\d+),(\d+),(\d+),(-?\d+)((?: \S+)*)")
_QUOTA = re.compile(
    r"([a-z0-9._-]+)@(\d+),(\d+),(\d+),(-?\d+)(?:,(\d+),(-|[us]\d+),(\d+),(\d+))?"
)
_RECORD = re.compile(
    r"([RCFTLXK]) (\d+) (\d+|-) (\d+|-) (\d+|-) (\d+|-|~[0-9a-f]{16}) (\S+) (\S+) (\S+)((?: \S+)+)"
)
_LINE = re.compile(r"([^@ ]+@[^@ ]+)@(\d+),(\d+)(?:,(\d+),(\d+),(\d+),(\d+)(?:,(\d+))?)?")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


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
    short: int = 0

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
    """Units of a pool from one account to another; one of stock says its own verb."""

    pool: str
    source: str
    target: str
    units: int
    note: str
    verb: str = ""


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
    gone: set[str] = field(default_factory=set)  # channels that were deleted

    @property
    def trimmed(self) -> bool:
        """True if the stream does not reach back to the first event, or a rebuild began it."""
        if "rebuilt" in self.meta:
            return True
        return self.events[0].seq != 1 if self.events else self.meta.get("seq", "0") != "0"

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
    head = [int(found[i]) for i in range(1, 10)]
    return Row(
        head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8], quotas
    )


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
        lines.append(Line(part[1], *(int(part[i] or 0) for i in range(2, 9))))
    updated, deadline, committed, seq = (
        int(found[i]) if found[i].isdigit() else None for i in range(3, 7)
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
            verb, text = text.split(" ", 1) if fields["v"] in NAMES_VERBS else ("", text)
            pool, source, target, units, note = text.split(" ", 4)
            moves.append(Move(pool, source, target, int(units), note, verb))
    return Event(
        int(epoch), int(seq), fields["v"], fields,
        {pool: parse_row(row) for pool, row in _pairs(fields.get("p", "")).items()},
        {id: parse_record(record) for id, record in _pairs(fields.get("r", "")).items()},
        tuple(moves),
    )  # fmt: skip


def spelled_out(window: dict[str, str]) -> dict[str, str]:
    """What each key of a window stands for: those of one script share an entry, which they name."""
    found = {}
    for key, value in window.items():
        if key.startswith("="):
            continue
        lines = dict(line.split(" ", 1) for line in window.get(value, "").split("\n") if line)
        found[key] = lines.get(key, value)
    return found


def decoded(word: str) -> str | None:
    """Free text as it was before it was encoded; ``-`` stands for none."""
    return None if word == "-" else unquote(word)


def created_ms(id: str) -> int:
    """When a reservation was made, by its id."""
    return int(id[:8] + id[9:13], 16)


# --- reading -----------------------------------------------------------------------------------


async def read(source: str | redis.Redis) -> Store:
    """All keys of the shard at one instant: in one transaction, again if keys came or went.

    ``source``: a URL, or a client that decodes responses.
    """
    if isinstance(source, str):
        client: redis.Redis = redis.Redis.from_url(source, decode_responses=True)
        try:
            return await read(client)
        finally:
            await client.aclose()
    names = sorted(map(str, await source.keys(TAG + "*")))
    while True:
        async with source.pipeline(transaction=True) as pipe:
            pipe.keys(TAG + "*")
            for name in names:
                _ask(pipe, name)
            present, *values = await pipe.execute()
        if sorted(present) == names:
            return _store(names, values)
        names = sorted(map(str, present))


def kind_of(name: str) -> str | None:
    """The type that a key of this name has; None for a name that no key has."""
    return KINDS.get(name.removeprefix(TAG).partition(":")[0])


def _ask(pipe: redis.client.Pipeline, name: str) -> None:
    pipe.type(name)
    calls: dict[str | None, Callable[[], object]] = {
        "hash": lambda: pipe.hgetall(name),
        "list": lambda: pipe.lrange(name, 0, -1),
        "zset": lambda: pipe.zrange(name, 0, -1),
        "stream": lambda: pipe.xrange(name),
    }
    calls.get(kind_of(name), lambda: pipe.exists(name))()


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


def may_be_purged(found: Audit, id: str) -> bool:
    """True if the record is there, or ended so long ago that it may have been removed, or ended
    before a rebuild, which leaves it in the ledger; or a test made it so."""
    known = id in found.edited or id in found.records or "rebuilt" in found.meta
    return known or int(found.meta["purged"]) >= created_ms(id) // 3_600_000
