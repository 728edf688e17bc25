"""How the store's texts are read and written: records, rows, entries of policy.

The formats are described in ``lua/parts/records.lua`` and ``lua/parts/rows.lua``; the kernel and
the scripts read and write them on the hot path, this module for people and answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from core.model import Key, Pool, PoolChannel
from core.policy_model import (
    Channel,
    ChannelEntry,
    ChannelSpec,
    LocationSpec,
    LocationView,
    Mode,
    SkuEntry,
    SkuSpec,
    SkuView,
)

STATES = {
    "R": "reserved", "C": "committed", "F": "fulfilled", "T": "returned", "L": "released",
    "X": "expired", "K": "cancelled",
}  # fmt: skip

MASK = b"***"  # for who may not see it: whose it is, and not even whether it is the same one's

_PLAIN = re.compile(r"[A-Za-z0-9._~][A-Za-z0-9._~-]*")
_SAFE = "!#$&'()*+,./:;<=>?[]^_|~-"


def encode_text(text: str | None) -> bytes:
    """Free text as one word that can never be taken for structure; ``-`` for none."""
    if text is None:
        return b"-"
    if _PLAIN.fullmatch(text):
        return text.encode()
    return b"%2D" if text == "-" else quote(text, safe=_SAFE).encode()


def decode_text(word: str) -> str | None:
    """The text that ``encode_text`` wrote."""
    return None if word == "-" else unquote(word)


class RecordLine(Struct, frozen=True, gc=False):
    """What a record took of a pool, and what became of it.

    ``ceiling``: the number of the one that it spent; ``short``: units that were not there.
    """

    pool: str
    own: int
    borrowed: int
    fulfilled: int = 0
    cancelled: int = 0
    returned: int = 0
    ceiling: int = 0
    short: int = 0

    @property
    def sku(self) -> str:
        return self.pool.partition("@")[0]

    @property
    def location(self) -> str:
        return self.pool.partition("@")[2]

    @property
    def open_parts(self) -> tuple[int, int]:
        """(own, borrowed) units neither shipped nor given back: own units ship first, borrowed ones
        go back first. ``give_back`` in ``lua/parts/records.lua`` says the same."""
        lent = max(0, self.borrowed - max(0, self.fulfilled - self.own))
        back = min(self.cancelled, lent)
        own = self.own - min(self.fulfilled, self.own) - (self.cancelled - back)
        return own, lent - back

    def __str__(self) -> str:
        counters = [self.fulfilled, self.cancelled, self.returned, self.ceiling]
        counters += [self.short] if self.short else []
        numbers = [self.own, self.borrowed, *(counters if any(counters) else ())]
        return f"{self.pool}@{','.join(map(str, numbers))}"


class Record(Struct, frozen=True):
    """A reservation as the store keeps it; free text is encoded. ``seq``: see ``records.lua``."""

    state: str
    version: int
    updated_ms: int | None
    deadline_ms: int | None
    committed_ms: int | None
    seq: str
    channel: str
    customer: str
    reference: str
    lines: Sequence[RecordLine]

    @property
    def tail(self) -> bytes:
        """The words of a demand's record behind those that a plan prints."""
        return f"{self.channel} {self.customer} {self.reference}".encode()

    def encode(self) -> bytes:
        """The text that ``parse_record`` reads."""
        times = [
            "-" if each is None else str(each)
            for each in (self.updated_ms, self.deadline_ms, self.committed_ms)
        ]
        words = [
            self.state, str(self.version), *times, self.seq, self.channel, self.customer,
            self.reference, *map(str, self.lines),
        ]  # fmt: skip
        return " ".join(words).encode()


def parse_record(record: bytes) -> Record:
    """A record's text as values."""
    words = record.decode().split(" ")
    updated, deadline, committed = (None if x == "-" else int(x) for x in words[2:5])
    lines = []
    for word in words[9:]:
        pool, _, body = word.rpartition("@")
        lines.append(RecordLine(pool, *map(int, body.split(","))))
    return Record(
        words[0], int(words[1]), updated, deadline, committed, words[5], words[6], words[7],
        words[8], lines,
    )  # fmt: skip


def without_customer(record: bytes) -> bytes:
    """A record's text with its customer, if it has one, as ``***``. It may be any text."""
    words = record.split(b" ", 8)
    if words[7:8] not in ([], [b"-"]):
        words[7] = MASK
    return b" ".join(words)


def without_people(record: bytes) -> bytes:
    """The same, and so its reference."""
    words = without_customer(record).split(b" ", 9)
    if words[8:9] not in ([], [b"-"]):
        words[8] = MASK
    return b" ".join(words)


def parse_pool(
    pool: str, row: bytes, specs: dict[str, ChannelSpec], sells: bool
) -> tuple[Pool, dict[str, int]]:
    """A row as the resource it is, and per channel of ``specs`` what it can take here now.

    A channel that is not in ``specs`` (the open ones) takes nothing.
    """
    sku, location = pool.split("@")
    words = row.decode().split(" ")
    shared, safety, damaged, quarantine, deficit, _ = map(int, words[3].split(","))
    quotas: dict[str, tuple[int, int, int, int | None]] = {}
    for word in words[4:]:
        name, body = word.split("@")
        fields = body.split(",")
        capped = len(fields) > 4 and fields[5] != "-"
        quotas[name] = (
            int(fields[0]), int(fields[1]), int(fields[2]), int(fields[6]) if capped else None,
        )  # fmt: skip
    total = shared + safety + damaged + quarantine - deficit
    channels: dict[str, PoolChannel] = {}
    reach: dict[str, int] = {}
    for name in sorted({*specs, *quotas}):
        free, reserved, committed, left = quotas.get(name, (0, 0, 0, None))
        total += free + reserved + committed
        spec = specs.get(name)
        units = 0
        if sells and spec is not None:
            units = spec.reach(free, shared)
            units = units if left is None else min(units, left)
        if name in quotas or (spec is not None and location in spec.locations):
            channels[name] = PoolChannel(free, reserved, committed, units, left)
        if spec is not None and location in spec.locations:
            reach[name] = units
    return (
        Pool(
            sku, location, int(words[0]), total, safety, shared, damaged, quarantine, deficit,
            channels,
        ),
        reach,
    )  # fmt: skip


def quota(row: bytes, channel: str) -> tuple[int, int, int]:
    """(free, reserved, committed) of a channel in a row; all 0 if the row does not name it."""
    _, named, rest = row.partition(b" %s@" % channel.encode())
    if not named:
        return 0, 0, 0
    free, reserved, committed = map(int, rest.split(b",", 3)[:3])
    return free, reserved, committed


def changed_row(row: str, version: int, accounts: Mapping[str, int]) -> str:
    """A row of another version with these accounts, by the names that movements use; accounts that
    are not named stay, and so does everything else."""
    words = row.split(" ")
    words[0] = str(version)
    head = words[3].split(",")
    for place, name in enumerate(("shared", "safety", "damaged", "quarantine")):
        head[place] = str(accounts.get(name, head[place]))
    head[4] = str(-accounts["deficit"] if "deficit" in accounts else int(head[4]))
    words[3] = ",".join(head)
    for number, word in enumerate(words[4:], 4):
        name, _, body = word.partition("@")
        numbers = body.split(",")
        for place, kind in enumerate(("free", "reserved", "committed")):
            numbers[place] = str(accounts.get(f"{kind}:{name}", numbers[place]))
        words[number] = f"{name}@{','.join(numbers)}"
    return " ".join(words)


# --- policy entries: "version json", a SKU's "number location,location… json" -------------------


def _entry(version: int, spec: Any) -> bytes:
    return b"%d %s" % (version, msgspec.json.encode(spec))


def channel_entry(version: int, spec: ChannelSpec) -> bytes:
    return _entry(version, spec)


def parse_channel(name: str, entry: bytes) -> Channel:
    version, _, body = entry.partition(b" ")
    return Channel(name, int(version), msgspec.json.decode(body, type=ChannelEntry))


def mode_entry(mode: Mode) -> bytes:
    return _entry(mode.version, mode)


def parse_mode(entry: bytes | None) -> Mode:
    return Mode() if entry is None else msgspec.json.decode(entry.partition(b" ")[2], type=Mode)


def location_entry(version: int, spec: LocationSpec) -> bytes:
    return _entry(version, spec)


def parse_location(name: str, entry: bytes) -> LocationView:
    version, _, body = entry.partition(b" ")
    spec = msgspec.json.decode(body, type=LocationSpec)
    return LocationView(name, int(version), spec.sells, spec.returns)


def sku_entry(number: int, locations: tuple[str, ...], spec: SkuSpec) -> bytes:
    return b"%d %s %s" % (number, ",".join(locations).encode() or b"-", msgspec.json.encode(spec))


def parse_sku(entry: bytes) -> tuple[int, tuple[str, ...], SkuEntry]:
    """(policy number, locations where it has a pool, policy)."""
    number, locations, body = entry.split(b" ", 2)
    places = () if locations == b"-" else tuple(locations.decode().split(","))
    return int(number), places, msgspec.json.decode(body, type=SkuEntry)


def sku_view(name: str, entry: bytes) -> SkuView:
    number, _, spec = parse_sku(entry)
    return SkuView(
        name, number, spec.safety_stock, spec.safety_by_location, spec.channels,
        spec.customer_limit, spec.customer_limit_days,
    )  # fmt: skip


def pack_key(key: Key, status: int, resource: str) -> tuple[bytes, bytes]:
    """Field and value of an idempotency key. Keys that were used in one reserve script share an
    entry: a line for each, field and value without the mark and a blank between them; their own
    values name that entry."""
    return key.field, b"%s %d %s %s" % (key.fingerprint, status, resource.encode(), key.mark)


def names_entry(value: bytes) -> bool:
    """True for the value of a key that only names the entry which says what it stands for."""
    return value.startswith(b"=")


def value_in_entry(entry: bytes, field: bytes) -> bytes:
    """What the entry that a key shares says of it."""
    return dict(line.split(b" ", 1) for line in entry.split(b"\n"))[field]


def parse_key(value: bytes) -> tuple[bytes, int, str]:
    """(fingerprint, first status, resource)."""
    fingerprint, status, resource = value.split(b" ")[:3]
    return fingerprint, int(status), resource.decode()


def is_of(value: bytes, mark: bytes) -> bool:
    """True if it was written for the request that has this mark."""
    return mark in value.split(b" ")[3:4]


def is_anew(value: bytes) -> bool:
    """True for the key of a late commit, which took its units anew: a fifth word says so."""
    return value.endswith(b" anew")


# --- imports: how far a file is, and which file was the last of its name -------------------------


class Imported(msgspec.Struct, frozen=True):
    """How far an import is: ``rows`` of ``total`` were read, ``left_out`` of them not applied.

    ``run``: a word of the run that wrote it, by which that knows its own writing.
    """

    rows: int
    total: int
    left_out: int
    time_ms: int
    name: str
    run: str


def import_entry(imported: Imported) -> bytes:
    return b"%d %d %d %d %s %s" % (
        imported.rows, imported.total, imported.left_out, imported.time_ms,
        encode_text(imported.name), imported.run.encode(),
    )  # fmt: skip


def parse_import(entry: bytes) -> Imported:
    rows, total, left_out, time_ms, name, run = entry.decode().split(" ")
    return Imported(
        int(rows), int(total), int(left_out), int(time_ms), decode_text(name) or "", run
    )


def import_name(name: str) -> bytes:
    """The field that remembers the last file of this name; a hash has no colon."""
    return b"name:" + encode_text(name)
