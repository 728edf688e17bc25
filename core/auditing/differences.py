"""What a difference is, how many units it is about, and what probably caused it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from core.chronicle import Accounts
from core.ledger.audit import Difference, Kind
from core.store import wording

TEXT_CHARS_MAX = 1_000  # of a row or record that is quoted in a case
_SEQ_WORD = 5  # of a record: which event wrote it; one that came back from the ledger has another

# Probable cause → what it means, for whoever is called.
CAUSES = {
    "store_edited": "the store's row was changed by something other than Stockade: the ledger's "
    "movements explain the ledger's row, nothing explains the store's",
    "store_behind": "the store went back to an older version: it was restored from a copy, or lost "
    "its last writes",
    "store_row_lost": "the store has no row for a pool that the ledger knows: it was deleted",
    "store_row_unknown": "the store has a row that no event tells of: it was written by something "
    "other than Stockade",
    "ledger_lags": "the ledger has not reached this version in time: the scribe is slow, stopped, "
    "or waits",
    "ledger_gap": "the ledger's movements do not add up to its own accounts: a movement is missing "
    "or was changed in PostgreSQL",
    "hold_stranded": "the pool promises units that no live reservation holds: they cannot be sold",
    "hold_uncovered": "live reservations hold units that the pool does not promise: they may be "
    "sold twice",
    "record_lost": "the store has no record of a reservation that is alive: it was deleted",
    "record_edited": "the store's record was changed by something other than Stockade",
    "record_behind": "the store's record went back to an older version",
    "record_ended": "the store still holds a reservation that has ended in the ledger",
    "record_unknown": "the store has a record that no event tells of",
    "customers_off": "the store's books of what customers have of this SKU were changed by "
    "something other than Stockade",
    "customers_half": "what customers had of this SKU before it got a limit is not counted: the "
    "request that set it was broken off",
    "live_stale": "reservations that are paid or have ended are still counted as held by their "
    "customers: a worker of an older version ended them, or something other than Stockade",
    "shrinkage": "less is there than is booked: lost, stolen, or shipped and not booked",
    "surplus": "more is there than is booked: received and not booked, or booked as shipped and "
    "still there",
}


def accounts_of(row: str) -> dict[str, int] | None:
    """The accounts of a row that are not 0; None for a text that is no row."""
    try:
        units = Accounts(row).units
    except (ValueError, IndexError):
        return None
    return {name: number for name, number in units.items() if number}


def named_accounts(row: str) -> set[str]:
    """The accounts that a row has a place for, be they empty."""
    return set(Accounts(row).units)


def promised(accounts: Mapping[str, int]) -> dict[str, int]:
    """Those of the accounts that reservations hold."""
    return {
        name: units
        for name, units in accounts.items()
        if name.startswith(("reserved:", "committed:"))
    }


def units_between(expected: Mapping[str, int], found: Mapping[str, int]) -> int:
    """How many units lie elsewhere than expected; what is too much in one account and too little in
    another counts once."""
    deltas = [found.get(name, 0) - expected.get(name, 0) for name in expected.keys() | found.keys()]
    more = sum(delta for delta in deltas if delta > 0)
    return max(more, more - sum(deltas))


def of_rows(cause: str, pool: str, expected: str, found: str) -> Difference:
    """The store's row of a pool is not the ledger's; one of them may be missing."""
    ours, theirs = accounts_of(expected), accounts_of(found)
    units = sum(map(abs, (ours or {}).values()))
    if ours is not None and theirs is not None:
        units = units_between(ours, theirs)
    return Difference("row", pool, cause, quoted(expected), quoted(found), units)


def of_accounts(
    kind: Kind, cause: str, pool: str, expected: Mapping[str, int], found: Mapping[str, int]
) -> Difference:
    """Accounts of a pool are not what they should be; those that agree are left out."""
    names = sorted(
        name
        for name in expected.keys() | found.keys()
        if expected.get(name, 0) != found.get(name, 0)
    )
    ours, theirs = (
        ", ".join(f"{name} {accounts.get(name, 0)}" for name in names)
        for accounts in (expected, found)
    )
    units = units_between(expected, found)
    return Difference(kind, pool, cause, quoted(ours), quoted(theirs), units)


def of_records(cause: str, id: str, expected: str, found: str) -> Difference:
    """The store's record of a reservation is not the ledger's; one of them may be missing."""
    units = abs(open_units(expected) - open_units(found))
    return Difference("record", id, cause, quoted_record(expected), quoted_record(found), units)


def of_lag(subject: str, version: int, known: int, trouble: str) -> Difference:
    """The ledger did not come to a version in time; ``trouble``: what the scribe says of it."""
    ours = f"version {known}" if known else "nothing"
    ours = quoted(f"{ours}; the scribe waits: {trouble}" if trouble else ours)
    return Difference("lag", subject, "ledger_lags", f"version {version}", ours, 0)


def of_count(pool: str, booked: int, counted: int) -> Difference:
    """What was counted is not what is booked."""
    cause = "shrinkage" if counted < booked else "surplus"
    return Difference("count", pool, cause, str(booked), str(counted), abs(counted - booked))


def of_live(stale: int) -> Difference:
    """So many are counted as live reservations of their customers that are not live."""
    found = f"{stale} that are not reserved"
    return Difference("live", "live reservations", "live_stale", "none", found, 0)


def same_record(one: str, other: str) -> bool:
    """True if two records say the same, whichever event wrote them."""
    if one == other:
        return True
    ours, theirs = one.split(" "), other.split(" ")
    if len(ours) > _SEQ_WORD:
        ours[_SEQ_WORD : _SEQ_WORD + 1] = theirs[_SEQ_WORD : _SEQ_WORD + 1]
    return ours == theirs


def version_of(text: str, word: int) -> int:
    """The version that a row (word 0) or a record (word 1) names; 0 if it names none."""
    words = text.split(" ", word + 1)
    return int(words[word]) if len(words) > word and words[word].isdecimal() else 0


def is_live(record: str) -> bool:
    """True for a reservation that holds units."""
    return record[:2] in ("R ", "C ")


def open_units(record: str) -> int:
    """The units that a record holds; 0 for one that has ended, or cannot be read."""
    if not is_live(record):
        return 0
    total = 0
    for word in record.split(" ")[9:]:
        numbers = word.rpartition("@")[2].split(",")
        if not all(number.isdecimal() for number in numbers):
            return 0
        own, borrowed, fulfilled, cancelled = (*map(int, numbers[:4]), 0, 0, 0)[:4]
        total += own + borrowed - fulfilled - cancelled
    return total


def quoted_record(record: str) -> str:
    """A record as a case may hold it: whose it is, cases do not keep."""
    return quoted(wording.without_people(record.encode()).decode())


def quoted(text: str) -> str:
    """A text as a case may hold it."""
    text = text.replace("\0", "�")
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[: TEXT_CHARS_MAX - 1]}…"
