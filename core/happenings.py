"""What happened, as other programs are told of it: one CloudEvent per row of the ledger, or a few.

Pure: rows of a range of positions in, happenings out, in order. The same rows make the same
happenings, whenever they are read, as long as the channels are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from core.ledger.reading import Happened
from core.model import Durability
from core.policy_model import ChannelEntry, Mode
from core.record_model import Movement
from core.records import movement, rfc3339
from core.store import keys, wording
from core.store._answer import reservation_json

SOURCE: Final = f"urn:stockade:shard:{keys.SHARD}"
BEGINS: Final = {"R": "reserved", "C": "committed"}  # a recorded sale may be fulfilled at once
BECAME: Final = {
    "amend": "amended", "extend": "extended", "commit": "committed", "release": "released",
    "expire": "expired", "cancel": "cancelled", "fulfil": "fulfilled", "return": "returned",
}  # fmt: skip
MOVED: Final = {
    "receive": "received", "import": "received", "adjust": "adjusted", "count": "counted",
    "transfer": "transferred", "reallocate": "reallocated", "policy": "reallocated",
    "drop": "reallocated", "drift": "adjusted", "repair": "adjusted",
}  # fmt: skip
TYPES: Final = frozenset({
    *(f"reservation.{each}" for each in (*BEGINS.values(), *BECAME.values())),
    *(f"stock.{each}" for each in (*MOVED.values(), "sold_out", "back")),
    "deficit.opened", "deficit.closed", "policy.changed",
})  # fmt: skip

_encode = msgspec.json.Encoder().encode


class Happening:
    """One event. ``number``: 0, or which of those that one row makes."""

    __slots__ = ("_data", "channels", "number", "position", "skus", "subject", "time", "type")

    def __init__(
        self,
        position: int,
        number: int,
        type: str,
        time: str,
        subject: str,
        channels: Iterable[str],
        skus: Iterable[str],
        data: Any,
    ) -> None:
        """``data``: anything that can be JSON, or a function that gives the JSON for who may, or
        may not, see whose a reservation is."""
        self.position = position
        self.number = number
        self.type = type
        self.time = time
        self.subject = subject
        self.channels = frozenset(channels)
        self.skus = frozenset(skus)
        self._data = data

    @property
    def id(self) -> str:
        """Its position, and behind a point its number."""
        return f"{self.position}.{self.number}" if self.number else str(self.position)

    def encode(self, seen: frozenset[str] | None = None, people: bool = False) -> bytes:
        """The CloudEvent, as JSON; of channels only those that may be ``seen``, None for all;
        ``people``: with the customer of a reservation."""
        data = self._data
        if seen is not None and isinstance(data, dict) and "available" in data:
            data = data | {
                "channels": [name for name in data["channels"] if name in seen],
                "available": {k: v for k, v in data["available"].items() if k in seen},
            }
        elif seen is not None and isinstance(data, Movement):
            data = data.seen_by(seen)
        data = data(people) if callable(data) else _encode(data)
        return _encode({
            "specversion": "1.0", "id": self.id, "source": SOURCE, "type": self.type,
            "time": self.time, "subject": self.subject, "datacontenttype": "application/json",
            "data": msgspec.Raw(data),
        })  # fmt: skip


class Places:
    """The channels and locations, as far as they say what a channel can take."""

    def __init__(self, entries: Iterable[Any]) -> None:
        """``entries``: (kind, name, entry) of channels, locations and the mode."""
        self._selling: dict[str, bool] = {}
        channels: dict[str, ChannelEntry] = {}
        mode = Mode()
        for kind, name, entry in entries:
            if kind == "location":
                self._selling[name] = wording.parse_location(name, entry.encode()).sells
            elif kind == "mode":
                mode = wording.parse_mode(entry.encode())
            else:
                spec = wording.parse_channel(name, entry.encode()).spec
                if not spec.closed:
                    channels[name] = spec
        self._channels = mode.over(channels)

    def available(self, location: str, row: str) -> dict[str, int]:
        """What each channel that sells here can take of a pool: the rule of ``available(c)``."""
        quotas: dict[str, list[str]] = {}
        words = row.split(" ")
        for word in words[4:]:
            name, _, body = word.partition("@")
            quotas[name] = body.split(",")
        shared = int(words[3].partition(",")[0]) if row else 0
        sells = self._selling.get(location, True)
        found = {}
        for name, spec in self._channels.items():
            if location not in spec.locations:
                continue
            quota = quotas.get(name, ["0"])
            units = spec.reach(int(quota[0]), shared)
            if len(quota) > 5 and quota[5] != "-":
                units = min(units, int(quota[6]))
            found[name] = units if sells else 0
        return found


def happenings(
    rows: Happened,
    before: Mapping[tuple[str, str, int], str],
    places: Places,
    durability: Durability,
) -> list[Happening]:
    """What these rows say, in order. ``before``: rows of pools by (SKU, location, version), with
    the one before each balance of ``rows`` among them, where there was one."""
    found = [_moved(row) for row in rows.movements]
    for row in rows.balances:
        found += _balanced(row, before, places)
    found += [_version(row, durability) for row in rows.versions]
    found += [_policy(row) for row in rows.policies]
    found.sort(key=lambda each: (each.position, each.number))
    return found


def _moved(row: Any) -> Happening:
    """Units of stock went somewhere: the movement, as it is listed."""
    pool = f"{row['sku']}@{row['location']}"
    channels = () if row["channel"] is None else (row["channel"],)
    return Happening(
        row["position"], 0, f"stock.{MOVED[row['verb']]}", rfc3339(row["time"]), pool, channels,
        (row["sku"],), movement(row),
    )  # fmt: skip


def _balanced(
    row: Any, before: Mapping[tuple[str, str, int], str], places: Places
) -> list[Happening]:
    """A pool came to a deficit or out of it; a channel can take nothing more of it, or again."""
    sku, location, version = row["sku"], row["location"], row["version"]
    place = {"sku": sku, "location": location, "version": version}
    told: list[tuple[str, list[str], dict[str, Any]]] = []
    if (row["deficit"] > 0) != (row["was_deficit"] > 0):
        kind = "deficit.opened" if row["deficit"] else "deficit.closed"
        told.append((kind, [], {"deficit": row["deficit"], "on_hand": row["on_hand"]}))
    is_ = places.available(location, row["row"])
    was = is_  # a repair passes versions, and its row is the one before: see ``core.auditing``
    if version == 1:
        was = places.available(location, "")
    elif (text := before.get((sku, location, version - 1))) is not None:
        was = places.available(location, text)
    for kind, some in (("stock.sold_out", was), ("stock.back", is_)):
        other = is_ if some is was else was
        names = sorted(name for name, units in some.items() if units > 0 and other[name] <= 0)
        if names:
            told.append((kind, names, {"channels": names, "available": is_}))
    return [
        Happening(
            row["position"], number, kind, rfc3339(row["time"]), f"{sku}@{location}", names,
            (sku,), place | more,
        )
        for number, (kind, names, more) in enumerate(told)
    ]  # fmt: skip


def _version(row: Any, durability: Durability) -> Happening:
    """A reservation came to a version: the reservation, as it was then."""
    id, record, verb = str(row["reservation"]), row["record"], row["verb"]
    words = record.split(" ")
    begins = verb in ("reserve", "import")
    became = BEGINS.get(words[0], "fulfilled") if begins else BECAME[verb]

    def data(people: bool) -> bytes:
        text = record.encode() if people else wording.without_customer(record.encode())
        return reservation_json(id, text, durability, 0, b"")

    return Happening(
        row["position"], 0, f"reservation.{became}", rfc3339(row["time"]), id, (words[6],),
        (word.partition("@")[0] for word in words[9:]), data,
    )  # fmt: skip


def _policy(row: Any) -> Happening:
    """A channel, a location, the mode or a SKU was made, changed or removed."""
    kind, name, entry = row["kind"], row["name"], row["entry"]
    data: dict[str, Any] = {"kind": kind, "name": name, "deleted": entry is None}
    if entry is not None:
        words = entry.split(" ", 2 if kind == "sku" else 1)
        data["version"] = int(words[0])
        if kind == "sku":
            data["locations"] = [] if words[1] == "-" else words[1].split(",")
        data["policy"] = msgspec.Raw(words[-1].encode())
    return Happening(
        row["position"], 0, "policy.changed", rfc3339(row["time"]), f"{kind}/{name}",
        (name,) if kind == "channel" else (), (name,) if kind == "sku" else (), data,
    )  # fmt: skip
