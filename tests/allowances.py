"""What channels may still take of a pool, folded from the stream: every ceiling begins with what it
allows, and what it has left changes by what each event's records and movements explain (law 3).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from tests.stored import Event, Line, Move, Quota, Record, Row

MILLION = 1_000_000
GROWS = {"receive", "adjust", "count", "import"}  # verbs under which what arrives lets one grow

Check = Callable[[bool, str], None]
Spent = tuple[str, str, int]  # (pool, channel, number of the ceiling)


def check_allowances(
    check: Check,
    event: Event,
    rows: Mapping[str, Row],
    records: Mapping[str, Record],
    moves: Iterable[Move],
) -> None:
    """Holds the ceilings of an event's rows to it; ``rows`` and ``records`` are as before it."""
    least, most, unspent = _spent(check, event, records)
    carried = _carried(event, rows)
    for pool, row in event.rows.items():
        arrived = _arrived(event, moves, pool)
        for name, quota in row.quotas.items():
            if quota.ceiling in ("", "-"):
                continue
            was = rows.get(pool, Row()).quotas.get(name, Quota())
            spent = least.pop((pool, name, quota.number), 0), most[pool, name, quota.number]
            same = (was.number, was.ceiling) == (quota.number, quota.ceiling)
            _check(
                check, f"ceiling of {name} at {pool}", was if same else None, quota, spent,
                arrived, carried[pool, name], (pool, name) in unspent,
            )  # fmt: skip
            check(same or quota.number == was.number + 1, f"{name} at {pool}: {was} → {quota}")
    for (pool, name, number), units in least.items():
        # What goes back to a ceiling that is gone is nobody's; the others have a row in the event.
        now = (event.rows.get(pool) or rows.get(pool, Row())).quotas.get(name, Quota())
        check(
            not units or now.number != number or now.ceiling in ("", "-"),
            f"ceiling {number} of {name} at {pool}: {units} spent of it, and it did not change",
        )


def _check(
    check: Check,
    what: str,
    was: Quota | None,
    now: Quota,
    spent: tuple[int, int],
    arrived: int,
    carried: int,
    unspent: bool,
) -> None:
    """One ceiling over one event; ``was`` is None where it began in this event."""
    kind, value = now.ceiling[0], int(now.ceiling[1:])
    left = now.left * MILLION + now.remainder
    grown = arrived * value if kind == "s" else 0
    if was is None and kind == "s":
        # It began with its share of what there was, and grew by its share of what came.
        begun = left + spent[0] * MILLION - carried
        exact = begun % value == 0 if value else begun == 0
        check(exact or spent[0] != spent[1] or bool(carried) or unspent, f"{what} began as {now}")
        return
    begun = value * MILLION if was is None else was.left * MILLION + was.remainder
    low, high = (begun + grown + carried - units * MILLION for units in reversed(spent))
    if unspent:  # a fact took more than it allowed
        check(now.left == 0 and left <= high, f"{what}: a fact spent it down to {now}")
    else:
        check(low <= left <= high, f"{what} is {now}, explained are {low} … {high} millionths")


def _spent(
    check: Check, event: Event, records: Mapping[str, Record]
) -> tuple[Counter[Spent], Counter[Spent], set[tuple[str, str]]]:
    """Per ceiling the least and the most that the event's records spent of it, and where a fact
    took without spending. Which line a restocked unit is of may be open, hence two."""
    least: Counter[Spent] = Counter()
    most: Counter[Spent] = Counter()
    unspent: set[tuple[str, str]] = set()
    for id, record in event.records.items():
        before = records.get(id)
        back = _returned(record, before)
        restocked, away = _came_back(event, id)
        check(
            sum(back.values()) == restocked + away or event.verb != "return",
            f"{id}: {sum(back.values())} returned, {restocked} + {away} came back",
        )
        for (pool, number), units in _taken(record).items():
            key = pool, record.channel, number
            least[key] += units - min(back[pool, number], restocked)
            most[key] += units - max(0, back[pool, number] - away)
            if not number and before is None:
                unspent.add((pool, record.channel))
        for (pool, number), units in _taken(before).items():
            least[pool, record.channel, number] -= units
            most[pool, record.channel, number] -= units
    return least, most, unspent


def _taken(record: Record | None) -> Counter[tuple[str, int]]:
    """Per pool and ceiling what a record has of it, apart from what came back after shipping."""
    if record is None or record.state in "LX":
        return Counter()
    return _summed(record.lines, lambda line: line.own + line.borrowed - line.cancelled)


def _returned(record: Record, before: Record | None) -> Counter[tuple[str, int]]:
    now = _summed(record.lines, lambda line: line.returned)
    now.subtract(_summed(before.lines if before else (), lambda line: line.returned))
    return now


def _summed(
    lines: Iterable[Line], units: Callable[[Line], int]
) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for line in lines:
        found[line.pool, line.ceiling] += units(line)
    return found


def _came_back(event: Event, id: str) -> tuple[int, int]:
    """(restocked, put away) units of a reservation."""
    if event.verb != "return":
        return 0, 0
    back = [move for move in event.moves if move.note == id]
    away = sum(move.units for move in back if move.target in ("damaged", "quarantine"))
    return sum(move.units for move in back) - away, away


def _arrived(event: Event, moves: Iterable[Move], pool: str) -> int:
    """Units of receipts under which ceilings by share grow."""
    return sum(
        move.units
        for move in moves
        if move.pool == pool and move.verb in GROWS and move.source == "outside"
        and move.target not in ("damaged", "quarantine")
        and event.records.keys().isdisjoint(move.note.split(" "))
    )  # fmt: skip


def _carried(event: Event, rows: Mapping[str, Row]) -> defaultdict[tuple[str, str], int]:
    """Millionths of allowances by share that came with transfers, less those that went: for each
    unit its share, and no more than was left."""
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    if not any(move.verb == "transfer" for move in event.moves):
        return found
    left: defaultdict[tuple[str, str], int] = defaultdict(int)
    for pool, row in rows.items():
        for name, quota in row.quotas.items():
            left[pool, name] = quota.left * MILLION + quota.remainder
    loads: dict[str, int] = {}
    for move in event.moves:
        shares = {
            name: int(quota.ceiling[1:])
            for name, quota in event.rows[move.pool].quotas.items()
            if quota.ceiling.startswith("s")
        }
        if move.verb == "transfer" and move.target == "outside":
            for name, share in shares.items():
                load = min(share * move.units, left[move.pool, name] + found[move.pool, name])
                found[move.pool, name] -= load
                loads[name] = loads.get(name, 0) + load
        elif move.verb == "transfer":
            for name, load in loads.items():
                found[move.pool, name] += load
            loads = {}
        elif (
            move.verb in GROWS and move.source == "outside"
            and move.target not in ("damaged", "quarantine")
        ):  # fmt: skip
            for name, share in shares.items():
                left[move.pool, name] += share * move.units
    return found
