from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import disjoint_base

from core.kernel._decide import Decisions
from core.kernel._policy import Policy, Row, Sku

# What `add` answers.
ADDED: Final = 0
MISS: Final = 1  # something must be read first: see `misses`
FULL: Final = 2  # the batch is full: this demand waits for the next one
UNKNOWN_CHANNEL: Final = 3
UNKNOWN_SKU: Final = 4
UNKNOWN_LOCATION: Final = 5
NO_POOL: Final = 6  # a fact needs a pool to be told of: open one, then come again
NO_CUSTOMER: Final = 7  # one may have only so many, and nobody says who asks

# What a demand's units become: `state`.
RESERVED: Final = 0
COMMITTED: Final = 1
FULFILLED: Final = 2

LIMITS: Final[tuple[str, ...]]

@disjoint_base
class Demand:
    """One reserve request, and after planning what it got.

    ``state`` says what its units become. A ``fact`` is never refused. ``held`` is what a record
    that is planned again holds open: (sku, location, own, borrowed, ceiling number) each. With
    an ``id`` given the record exists already: it is not printed, only planned for.

    ``id`` and ``record`` are set when it is granted, ``shortfalls`` (list of (line, sku, location,
    requested, available, granted, limited_by)) when it is refused in whole or in part. With an
    ``id`` given or a ``fact``, ``takes`` is what it took in order: (pool, own, borrowed, ceiling
    number, short); of a fact, ``moves`` says from where to where: (pool, from, to, units).

    ``limits``, set when it is taken in: name → spec of SKUs of which a customer may have only so
    many, or None. The script counts. It needs a customer then, unless a fact or ``unnamed``.
    """

    channel: str
    lines: list[Any]
    partial: bool
    split: bool
    fact: bool
    state: int
    ttl_ms: int
    tail: bytes
    held: list[tuple[str, str, int, int, int]] | None
    id: str | None
    record: bytes | None
    shortfalls: list[tuple[Any, ...]] | None
    takes: list[tuple[bytes, int, int, int, int]] | None
    moves: list[tuple[bytes, str, str, int]] | None
    limits: dict[str, Any] | None
    unnamed: bool
    def __init__(
        self,
        channel: str,
        lines: list[Any],
        tail: bytes,
        ttl_ms: int,
        partial: bool = False,
        split: bool = True,
    ) -> None: ...

class Stage:
    """What one script is to write: rows in parallel lists, and the Row objects they belong to.

    ``guessed``: an old row among them is what an earlier stage of the same round makes of it.
    """

    __slots__ = ("deltas", "guessed", "new", "old", "pools", "rows")
    guessed: bool
    rows: list[Row]
    pools: list[bytes]
    old: list[bytes]
    new: list[bytes]
    deltas: list[bytes]
    def __init__(self) -> None: ...

@disjoint_base
class Batch(Decisions):
    """The demands of one round and the pools that they touch. Reused from round to round."""

    @property
    def misses(self) -> list[tuple[str, str]]: ...
    @property
    def demands(self) -> list[Any]: ...
    @property
    def limited(self) -> bool: ...
    def begin(self, policy: Policy, skus: Mapping[str, Sku]) -> None:
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""

    def begin_stage(self) -> None:
        """Forgets demands, not pools: what comes is planned on what the last stage leaves."""

    def add(self, demand: Demand) -> int:
        """Takes a demand in: ADDED, or why not. A refused intake leaves nothing behind.

        Raises RowCorrupt and ChannelUnknown (naming the SKU) for a row that it needs.
        """

    def shortfalls(self, number: int) -> list[tuple[int, str, str | None, int, int, int, str]]:
        """Per failing line (line, sku, location, requested, available, granted, limited_by)."""

    def confirmed(self, number: int, after_round: int, since: float) -> bool:
        """True if a refusal may stand: all it rests on was seen after `after_round` was sent, or
        not before `since`, and nothing of it was planned since and has not landed yet."""

    def reads(self, number: int) -> list[tuple[str, str | None]]:
        """The (sku, location) pairs that a demand rests on, to be read again."""

    def pack(self) -> Stage:
        """Prints every pool that this stage changed and checks the laws on it: a Stage."""

    def pack_reservations(
        self, now_ms: int, randomness: bytes, shard: int
    ) -> tuple[list[Any], dict[int, list[str]]]:
        """Makes id and record of every granted demand: ([demand…], {due second: [id…]}).

        ``randomness``: 8 bytes per demand. A demand that has an id keeps it, and its record is
        its own affair. What is reserved is due at now + ttl.
        """
