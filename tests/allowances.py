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
    least, most = _spent(check, event, records)
    begun = _begun(event, rows)
    carried = _carried(event, begun)
    for pool, row in event.rows.items():
        arrived = _arrived(event, moves, pool)
        for name, quota in row.quotas.items():
            if quota.ceiling in ("", "-"):
                continue
            what = f"ceiling of {name} at {pool}"
            before = rows.get(pool, Row())
            was = before.quotas.get(name, Quota())
            goes_on = (was.number, was.ceiling) == (quota.number, quota.ceiling)
            fresh = (was.number or before.version) + 1  # used by no channel of this name before
            check(goes_on or quota.number == fresh, f"{what}: {was} → {quota}")
            key = pool, name, quota.number
            explained = begun[pool, name] + carried[pool, name]
            if quota.ceiling[0] == "s":
                explained += arrived * int(quota.ceiling[1:])
            low, high = (explained - MILLION * units for units in (most[key], least.pop(key, 0)))
            left = _left(quota)
            check(low <= left <= high, f"{what} is {quota}, explained are {low} … {high}")
    for (pool, name, number), units in least.items():
        # What goes back to a ceiling that is gone is nobody's; the others have a row in the event.
        now = (event.rows.get(pool) or rows.get(pool, Row())).quotas.get(name, Quota())
        check(
            not units or now.number != number or now.ceiling in ("", "-"),
            f"ceiling {number} of {name} at {pool}: {units} spent of it, and it did not change",
        )


def _left(quota: Quota) -> int:
    """What is left of an allowance, in millionths of a unit."""
    return quota.left * MILLION + quota.remainder


def _begun(event: Event, rows: Mapping[str, Row]) -> dict[tuple[str, str], int]:
    """What the ceilings of an event's rows began with: what was left of them, or, where a row met
    a new one, its units, or its share of what there was to sell."""
    found = {}
    for pool, row in event.rows.items():
        before = rows.get(pool, Row())
        sellable = before.shared + before.safety + sum(q.free for q in before.quotas.values())
        for name, quota in row.quotas.items():
            was = before.quotas.get(name, Quota())
            if quota.ceiling in ("", "-"):
                continue
            if (was.number, was.ceiling) == (quota.number, quota.ceiling):
                found[pool, name] = _left(was)
            else:
                share = quota.ceiling[0] == "s"
                found[pool, name] = int(quota.ceiling[1:]) * (sellable if share else MILLION)
    return found


def _spent(
    check: Check, event: Event, records: Mapping[str, Record]
) -> tuple[Counter[Spent], Counter[Spent]]:
    """Per ceiling the least and the most that the event's records spent of it: which line a
    restocked unit is of may be open."""
    least: Counter[Spent] = Counter()
    most: Counter[Spent] = Counter()
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
        for (pool, number), units in _taken(before).items():
            least[pool, record.channel, number] -= units
            most[pool, record.channel, number] -= units
    return least, most


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
        if move.pool == pool and _grows(move)
        and event.records.keys().isdisjoint(move.note.split(" "))
    )  # fmt: skip


def _grows(move: Move) -> bool:
    """True for a receipt under which ceilings by share grow."""
    return (
        move.verb in GROWS and move.source == "outside"
        and move.target not in ("damaged", "quarantine")
    )  # fmt: skip


def _carried(
    event: Event, begun: Mapping[tuple[str, str], int]
) -> defaultdict[tuple[str, str], int]:
    """Millionths of allowances by share that came with transfers, less those that went: for each
    unit its share, and no more than was left."""
    found: defaultdict[tuple[str, str], int] = defaultdict(int)
    left = Counter(begun)
    loads: dict[str, int] = {}
    for move in event.moves:
        shares = {
            name: int(quota.ceiling[1:])
            for name, quota in event.rows[move.pool].quotas.items()
            if quota.ceiling.startswith("s")
        }
        for name, share in shares.items():
            here = move.pool, name
            if move.verb == "transfer" and move.target == "outside":
                load = min(share * move.units, left[here])
                loads[name] = loads.get(name, 0) + load
            elif move.verb == "transfer":
                load = -loads.pop(name, 0)
            elif _grows(move):
                left[here] += share * move.units
                continue
            else:
                continue
            left[here] -= load
            found[here] -= load
    return found
