"""How the store's texts are read and written: records, rows, entries of policy.

The formats are described in ``lua/parts/records.lua`` and ``lua/parts/rows.lua``; the kernel and
the scripts read and write them on the hot path, this module for people and answers.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from core.model import (
    Channel,
    ChannelSpec,
    LocationSpec,
    LocationView,
    Pool,
    PoolChannel,
    ReservationLine,
    SkuSpec,
    SkuView,
)

STATES = {
    "R": "reserved", "C": "committed", "F": "fulfilled", "T": "returned", "L": "released",
    "X": "expired", "K": "cancelled",
}  # fmt: skip

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


def _line(word: str) -> ReservationLine:
    sku, location, body = word.split("@")
    own, borrowed, *rest = map(int, body.split(","))
    fulfilled, cancelled, returned = rest[:3] if rest else (0, 0, 0)
    return ReservationLine(
        sku, location, own + borrowed, own, borrowed, fulfilled, cancelled, returned
    )


def record_lines(record: bytes) -> list[ReservationLine]:
    """The lines of a record."""
    return [_line(word) for word in record.decode().split(" ")[9:]]


def record_head(record: bytes) -> tuple[str, int, int, int | None, bytes, str]:
    """(state letter, version, updated ms or 0, deadline ms or None, tail as in a plan, channel)."""
    words = record.split(b" ", 9)
    return (
        words[0].decode(),
        int(words[1]),
        0 if words[2] == b"-" else int(words[2]),
        None if words[3] == b"-" else int(words[3]),
        b" ".join(words[6:9]),
        words[6].decode(),
    )


def parse_pool(
    pool: str, row: bytes, specs: dict[str, ChannelSpec], sells: bool
) -> tuple[Pool, dict[str, int]]:
    """A row as the resource it is, and per channel what it can take here now."""
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
        units = free + (shared if spec is not None and spec.borrow else 0)
        units = (units if left is None else min(units, left)) if sells else 0
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


# --- policy entries: "version json", a SKU's "number location,location… json" -------------------


def _entry(version: int, spec: Any) -> bytes:
    return b"%d %s" % (version, msgspec.json.encode(spec))


def channel_entry(version: int, spec: ChannelSpec) -> bytes:
    return _entry(version, spec)


def parse_channel(name: str, entry: bytes) -> Channel:
    version, _, body = entry.partition(b" ")
    return Channel(name, int(version), msgspec.json.decode(body, type=ChannelSpec))


def location_entry(version: int, spec: LocationSpec) -> bytes:
    return _entry(version, spec)


def parse_location(name: str, entry: bytes) -> LocationView:
    version, _, body = entry.partition(b" ")
    spec = msgspec.json.decode(body, type=LocationSpec)
    return LocationView(name, int(version), spec.sells, spec.returns)


def sku_entry(number: int, locations: tuple[str, ...], spec: SkuSpec) -> bytes:
    return b"%d %s %s" % (number, ",".join(locations).encode() or b"-", msgspec.json.encode(spec))


def parse_sku(entry: bytes) -> tuple[int, tuple[str, ...], SkuSpec]:
    """(policy number, locations where it has a pool, policy)."""
    number, locations, body = entry.split(b" ", 2)
    places = () if locations == b"-" else tuple(locations.decode().split(","))
    return int(number), places, msgspec.json.decode(body, type=SkuSpec)


def sku_view(name: str, entry: bytes) -> SkuView:
    number, _, spec = parse_sku(entry)
    return SkuView(name, number, spec.safety_stock, spec.safety_by_location, spec.channels)


def pack_key(field: bytes, fingerprint: bytes, status: int, resource: str) -> tuple[bytes, bytes]:
    """Field and value of an idempotency key."""
    return field, b"%s %d %s" % (fingerprint, status, resource.encode())


def parse_key(value: bytes) -> tuple[bytes, int, str]:
    """(fingerprint, first status, resource)."""
    fingerprint, status, resource = value.split(b" ", 2)
    return fingerprint, int(status), resource.decode()
