"""Holds a whole shard to the laws of DESIGN §6, from outside.

``audit(url)`` looks at one instant of the store and raises with every difference that it found, one
a line. ``tests.stored`` says what is there, ``tests.stream`` how it came about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import redis.asyncio as redis

from tests.chronicled import check_chronicle
from tests.limited import check_customers, check_live
from tests.stored import (
    ALIVE,
    ID,
    TAG,
    Audit,
    Record,
    Store,
    created_ms,
    kind_of,
    may_be_purged,
    parse_event,
    parse_record,
    parse_row,
    read,
    spelled_out,
)
from tests.stream import Fold, check_row

BUCKET_MS = 1_000
DIFFERENCES_SHOWN = 40
_KEY = re.compile(r"\S{1,22} (200|201) (\S+)( \S+)?( anew)?")


async def audit(source: str | redis.Redis, edited: Collection[str] = ()) -> Audit:
    """Reads the shard and holds it to the laws; raises AssertionError with all differences.

    ``source``: the store's URL, or a client of it that decodes responses.
    ``edited`` names the reservations whose deadline a test moved without an event: their record
    may differ from the stream in its deadline, and their id may be gone from the list of the
    deadline that they had.
    """
    found = inspect(await read(source), edited)
    if found.differences:
        shown = "\n  ".join(found.differences[:DIFFERENCES_SHOWN])
        raise AssertionError(f"{len(found.differences)} differences in the store:\n  {shown}")
    return found


def inspect(store: Store, edited: Collection[str] = ()) -> Audit:
    """The same on what was read already, without raising."""
    found = Audit(store, edited, store.hash("meta"))
    for name, kind in store.keys.items():
        found.check(kind_of(name) == kind, f"key {name} is a {kind}, should be {kind_of(name)}")
    _parse(found)
    for pool, row in found.rows.items():
        check_row(found, pool, row)
    for id, record in found.records.items():
        _check_record(found, id, record)
    _check_recount(found)
    _check_due(found)
    _check_catalogue(found)
    check_customers(found)
    check_live(found)
    Fold(found).run()
    check_chronicle(found)
    _check_keys(found)
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
            found.check(ID.fullmatch(id) is not None, f"record {id}: not an id")
            found.check(id.endswith("00"), f"record {id}: of another shard")
            found.check(
                str(created_ms(id) // BUCKET_MS) == second, f"record {id}: is in bucket {second}"
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


def _check_record(found: Audit, id: str, record: Record) -> None:
    """A record's state follows from its counters and its times."""
    left = sum(line.open for line in record.lines)
    shipped = sum(line.fulfilled for line in record.lines)
    cancelled = sum(line.cancelled for line in record.lines)
    returned = sum(line.returned for line in record.lines)
    wrong = [line for line in record.lines if line.open < 0 or line.returned > line.fulfilled]
    wrong += [line for line in record.lines if line.short > line.own + line.borrowed]
    takes = [(line.pool, line.ceiling) for line in record.lines]
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
    found.check(len(set(takes)) == len(takes), f"record {id}: a take stands there twice: {takes}")
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


def _check_due(found: Audit) -> None:
    """Every deadline is found by the reaper, and nothing waits where it never looks (law 6)."""
    cursor = int(found.meta.get("cursor", 0))
    lists = {
        int(name.removeprefix(TAG + "due:")): {id for entry in entries for id in entry.split(" ")}
        for name, entries in found.store.lists.items()
        if name.startswith(TAG + "due:")
    }
    for id, record in found.records.items():
        if record.state == "R" and record.deadline_ms is not None:
            second = record.deadline_ms // 1000
            found.check(second >= cursor, f"record {id}: due at {second}, cursor is at {cursor}")
            found.check(id in lists.get(second, ()), f"record {id}: not in the list of {second}")
    for second, ids in lists.items():
        found.check(second >= cursor, f"due {second}: {ids} are behind the cursor {cursor}")
        for id in ids - set(found.edited):
            found.check(
                ID.fullmatch(id) is not None and created_ms(id) // 1000 <= second,
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
    for pool, row in found.rows.items():
        number = entries.get(pool.split("@")[0], "0").partition(" ")[0]
        found.check(
            str(row.sku_number) == number,
            f"pool {pool}: has met policy {row.sku_number} of its SKU, now is {number}",
        )
    for pool in listed ^ found.rows.keys():
        where = "its SKU" if pool in listed else "the pools"
        found.check(False, f"pool {pool}: stands in {where} alone")


def _check_keys(found: Audit) -> None:
    """What an idempotency key stands for is there (law 5)."""
    for name, values in found.store.hashes.items():
        if not name.startswith(TAG + "idem:"):
            continue
        named = {value for value in values.values() if value.startswith("=")}
        entries = {key for key in values if key.startswith("=")}
        found.check(named == entries, f"{name} has the entries {entries}, its keys name {named}")
        for key, value in spelled_out(values).items():
            parsed = _KEY.fullmatch(value)
            if parsed is None:
                found.check(False, f"key {key} of {name}: {value!r}")
                continue
            resource = parsed[2]
            there = (
                resource in found.rows
                or resource in found.gone
                or (ID.fullmatch(resource) is not None and may_be_purged(found, resource))
                or any(resource in found.store.hash(h) for h in ("channels", "locations", "skus"))
            )
            found.check(there, f"key {key} of {name}: there is no {resource}")
