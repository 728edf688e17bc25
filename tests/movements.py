"""What moved in an event: the units that it says moved, and those that follow from its records; and
who may take from where (law 3).
"""

from __future__ import annotations

from collections.abc import Iterable

from tests.stored import ALIVE, Event, Move

# Which accounts a verb moves units between, without the channels' names. A movement of stock says
# its own verb.
RECEIPT = ("deficit", "safety", "free", "shared")
UNSOLD = ("free", "shared", "safety", "damaged", "quarantine")
LOST = (*UNSOLD, "deficit")


def _pairs(sources: Iterable[str], targets: Iterable[str]) -> frozenset[tuple[str, str]]:
    return frozenset((one, other) for one in sources for other in targets)


ARRIVES = _pairs(["outside"], RECEIPT)
SHIPS = frozenset({("committed", "outside"), ("outside", "deficit")})
BACK = _pairs(["reserved", "committed"], ["deficit", "shared", "free"])
TAKEN = _pairs(["free", "shared"], ["reserved", "committed"])
EVERYWHERE = (*LOST, "reserved", "committed", "outside")
MAY = {
    # A fact takes what it must, and what it misses is a deficit.
    "reserve": TAKEN | SHIPS | _pairs(["safety", "deficit"], ["committed"]),
    "commit": TAKEN | {("reserved", "committed")},
    "fulfil": SHIPS,
    "giveback": BACK,
    "amend": TAKEN | BACK,
    "return": ARRIVES | _pairs(["outside"], ["damaged", "quarantine"]),
    "drop": frozenset({("free", "shared")}),
    "stock:receive": ARRIVES,
    "stock:adjust": ARRIVES | _pairs(["outside"], ["damaged", "quarantine"])
    | _pairs(LOST, ["outside"]),
    "stock:count": ARRIVES | _pairs(LOST, ["outside"]),
    "stock:transfer": ARRIVES | _pairs(["free", "shared"], ["outside"]),
    "stock:reallocate": _pairs(UNSOLD, LOST),
    "stock:open": frozenset(),
    "repair": _pairs(EVERYWHERE, EVERYWHERE),  # whatever something else did, and back
    "import": ARRIVES | _pairs(UNSOLD, LOST) | TAKEN | SHIPS
    | _pairs(["safety", "deficit"], ["committed"]),
}  # fmt: skip

# Verbs of reservations: what is a channel's goes to and comes from that channel's alone.
OF_ONE_CHANNEL = {"commit", "fulfil", "giveback", "amend"}


def all_moves(event: Event) -> list[Move]:
    """Every movement of an event. What a new reservation, or one that was committed late, took
    follows from its record, unless the event says it."""
    moves = list(event.moves)
    if event.verb not in ("reserve", "import") and "late" not in event.fields:
        return moves
    told = {word for move in event.moves for word in move.note.split(" ")}
    for id, record in event.records.items():
        account = ALIVE.get(record.state)
        if id in told or account is None:
            continue
        for line in record.lines:
            for source, units in (("shared", line.borrowed), (f"free:{record.channel}", line.own)):
                if units:
                    target = f"{account}:{record.channel}"
                    moves.append(Move(line.pool, source, target, units, id))
    return moves


def kind_of(account: str) -> str:
    """An account without the name of its channel."""
    return account.partition(":")[0]


def may_move(event: Event, move: Move) -> bool:
    """True if this verb moves units between these accounts (law 3)."""
    verb = f"stock:{move.verb}" if event.verb == "stock" else event.verb
    if (kind_of(move.source), kind_of(move.target)) not in MAY.get(verb, ()):
        return False
    if verb not in OF_ONE_CHANNEL:
        return True
    record = event.records.get(move.note)
    accounts = (move.source, move.target)
    return record is not None and all(
        account.partition(":")[2] in ("", record.channel) for account in accounts
    )


def inflow(moves: Iterable[Move], pool: str) -> int:
    """What movements add to on_hand. Paying a deficit from an account leaves it as it is."""
    return sum(
        move.units * ((move.source == "outside") - (move.target == "outside"))
        for move in moves
        if move.pool == pool
    )
