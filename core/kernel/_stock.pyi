from collections.abc import Mapping
from typing import Literal

from typing_extensions import disjoint_base

from core.kernel._policy import Policy, Row, Sku

@disjoint_base
class Stock:
    """The pools of a round, and what happens to stock in them.

    Every verb plans on what the ones before leave. It returns its moves, (from, to, units) in the
    order done, or None if the round has no room for another pool. Accounts are called ``outside``,
    ``shared``, ``safety``, ``damaged``, ``quarantine``, ``deficit``, ``free:web``. Where something
    is raised nothing was planned: RowCorrupt, ChannelUnknown (naming the SKU), OverflowError where
    an account or allowance would pass 2^53 - 1, ValueError for what is no account.
    """

    @property
    def policy(self) -> Policy: ...
    @property
    def rows(self) -> list[Row]: ...
    def begin(self, policy: Policy, skus: Mapping[str, Sku]) -> None:
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""

    def receive(self, row: Row, sku: Sku, quantity: int) -> list[tuple[str, str, int]] | None:
        """A receipt: deficit, safety, unit floors, shares with credit; ceilings by share grow."""

    def restock(self, row: Row, sku: Sku, quantity: int) -> list[tuple[str, str, int]] | None:
        """What came back is sold again: a receipt under which no ceiling grows."""

    def put_away(
        self, row: Row, sku: Sku, quantity: int, account: Literal["damaged", "quarantine"]
    ) -> list[tuple[str, str, int]] | None:
        """What came back is not sold: outside → ``damaged`` or ``quarantine``."""

    def adjust(
        self,
        row: Row,
        sku: Sku,
        delta: int,
        account: Literal["sellable", "damaged", "quarantine"],
    ) -> list[tuple[str, str, int]] | None:
        """Units were found (a receipt, or onto the account) or lost (the account, then a fact).

        Raises Shortage if more are lost than lie there.
        """

    def count(self, row: Row, sku: Sku, counted: int) -> list[tuple[str, str, int]] | None:
        """All that lies there was counted: more is a receipt, less a fact. The row is printed even
        if the count was right, so that it is a count of the row that stands."""

    def transfer(
        self, row: Row, target: Row, sku: Sku, quantity: int
    ) -> list[tuple[bytes, str, str, int]] | None:
        """Unsold units move to another location: (pool, from, to, units) each.

        Allowances by share travel along. Raises Shortage if fewer lie unsold, ValueError for a
        transfer onto itself.
        """

    def reallocate(
        self, row: Row, sku: Sku, source: str, target: str, quantity: int | None
    ) -> list[tuple[str, str, int]] | None:
        """Moves unsold units by hand, None = all; what becomes sellable pays the deficit first.

        ``source``, ``target``: shared, safety, damaged, quarantine or a channel. All of nothing
        changes nothing. Raises Shortage.
        """

    def reallocate_by_policy(self, row: Row, sku: Sku) -> list[tuple[str, str, int]] | None:
        """Apportions ``shared`` as if it had just arrived; no ceiling grows."""

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

    def give_allowance(
        self, row: Row, sku: Sku, channel: str, units: int, ceiling_number: int
    ) -> bool | None:
        """Gives spent allowance back; False if the ceiling that it was spent of is gone."""

    def open_pool(self, row: Row, sku: Sku) -> list[tuple[str, str, int]] | None:
        """Prints a row where none is yet, with nothing in it: facts need a pool."""

    def drop_channel(self, row: Row, sku: Sku, channel: str) -> list[tuple[str, str, int]] | None:
        """A channel goes: free → shared, its credit too, and the row names it no more.

        Raises ChannelInUse while it has units reserved or committed here.
        """

    def meet(self, row: Row, sku: Sku) -> bool:
        """Brings a row under its SKU's policy; `pack` then prints it. False if no room."""

    def as_met(self, row: Row, sku: Sku) -> bytes | None:
        """The row as its policy makes it, for reading; nothing is planned. None if no room."""

    def on_hand(self, row: Row, sku: Sku) -> int | None:
        """All that lies there, damaged and quarantine included; nothing is planned. None if no
        room."""

    def available(self, row: Row, sku: Sku, channel: str) -> int | None:
        """What the channel can take of this pool now: 0 where nothing is sold and of a channel
        that is closed. Nothing is planned. None if no room."""
