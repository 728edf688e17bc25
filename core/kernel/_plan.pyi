from collections.abc import Mapping
from typing import Any, Final

from typing_extensions import disjoint_base

from core.kernel._policy import Policy, Row, Sku

# What `add` answers.
ADDED: Final = 0
MISS: Final = 1  # something must be read first: see `misses`
FULL: Final = 2  # the batch is full: this demand waits for the next one
UNKNOWN_CHANNEL: Final = 3
UNKNOWN_SKU: Final = 4
UNKNOWN_LOCATION: Final = 5

LIMITS: Final[tuple[str, ...]]

@disjoint_base
class Demand:
    """One reserve request, and after planning what it got.

    ``id`` and ``record`` are set when it is granted, ``shortfalls`` (list of (line, sku, location,
    requested, available, granted, limited_by)) when it is refused in whole or in part.
    """

    channel: str
    lines: list[Any]
    partial: bool
    split: bool
    committed: bool
    ttl_ms: int
    tail: bytes
    version: int
    id: str | None
    record: bytes | None
    shortfalls: list[tuple[Any, ...]] | None
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
    """What one script is to write: rows in parallel lists, and the Row objects they belong to."""

    __slots__ = ("deltas", "new", "old", "pools", "rows")
    rows: list[Row]
    pools: list[bytes]
    old: list[bytes]
    new: list[bytes]
    deltas: list[bytes]
    def __init__(self) -> None: ...

@disjoint_base
class Batch:
    """The demands of one round and the pools that they touch. Reused from round to round."""

    @property
    def policy(self) -> Policy: ...
    @property
    def misses(self) -> list[tuple[str, str]]: ...
    @property
    def demands(self) -> list[Any]: ...
    @property
    def rows(self) -> list[Row]: ...
    def begin(self, policy: Policy, skus: Mapping[str, Sku]) -> None:
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""

    def begin_stage(self) -> None:
        """Forgets demands, not pools: what comes is planned on what the last stage leaves."""

    def add(self, demand: Demand) -> int:
        """Takes a demand in: ADDED, or why not. A refused intake leaves nothing behind."""

    def plan(self) -> int:
        """Decides every demand in order. How many were granted something."""

    def granted(self, number: int) -> bool:
        """True if the demand got something."""

    def shortfalls(self, number: int) -> list[tuple[int, str, str | None, int, int, int, str]]:
        """Per failing line (line, sku, location, requested, available, granted, limited_by)."""

    def confirmed(self, number: int, after_round: int, since: float) -> bool:
        """True if a refusal may stand: all it rests on was seen after `after_round` was sent, or
        not before `since`, and is not changed by this batch."""

    def reads(self, number: int) -> list[tuple[str, str | None]]:
        """The (sku, location) pairs that a demand rests on, to be read again."""

    def receive(self, row: Row, sku: Sku, quantity: int) -> list[tuple[str, int]] | None:
        """Plans a receipt. Per account (name, units) in the order filled; None if no room in the
        batch. Raises OverflowError if an account would pass 2^53."""

    def meet(self, row: Row, sku: Sku) -> bool:
        """Brings a row under its SKU's policy; `pack` then prints it. False if no room."""

    def as_met(self, row: Row, sku: Sku) -> bytes | None:
        """The row as its policy makes it, for reading; nothing is planned. None if no room."""

    def give_back(
        self,
        row: Row,
        sku: Sku,
        channel: str,
        own: int,
        borrowed: int,
        ceiling_number: int,
        committed: bool,
    ) -> int | None:
        """Plans the return of a reservation's units to a pool. The deficit that it paid."""

    def pack(self, receiving: bool = False) -> Stage:
        """Prints every pool that this stage changed and checks the laws on it: a Stage."""

    def pack_reservations(
        self, now_ms: int, randomness: bytes, shard: int
    ) -> tuple[list[Any], dict[int, list[str]]]:
        """Makes id and record of every granted demand: ([demand…], {due second: [id…]}).

        ``randomness``: 8 bytes per demand. A demand that has an id already keeps it and becomes
        committed at ``version`` (a late commit); the others are reserved until now + ttl.
        """
