"""What the ledger does for a worker's reservations: it keeps those that left the store, and tells
when it has what was just done."""

from __future__ import annotations

from core.backlog import Backlog
from core.errors import StockUnavailable
from core.lane import Lane
from core.ledger.journal import Journal
from core.store import keys, scripts
from core.store.shard import Shard

TRIES_MAX = 3  # of a script whose key windows or clock moved on


class Backing:
    """The ledger behind one worker's store, if there is one."""

    def __init__(
        self, lane: Lane, shard: Shard, backlog: Backlog, journal: Journal | None, commits: bool
    ) -> None:
        """``commits``: whether every commit waits until the ledger has it."""
        self._lane = lane
        self._shard = shard
        self._backlog = backlog
        self._journal = journal
        self.commits = commits

    @property
    def there(self) -> bool:
        """True if there is a ledger."""
        return self._journal is not None

    async def has_all(self, reservation: str) -> None:
        """Returns when the ledger has all that this worker has seen done.

        Raises LedgerUnavailable, outcome unknown.
        """
        await self._backlog.passed(reservation)

    async def record(self, reservation: str) -> bytes | None:
        """A reservation as the ledger has it. Raises LedgerUnavailable."""
        if self._journal is None:
            return None
        return await self._journal.record(reservation)

    async def restored(self, reservation: str) -> bool:
        """Brings a reservation that ended long ago back into the store, whoever else does so at the
        same time; False if there never was one. Raises LedgerUnavailable, StockUnavailable.

        Its record left the store only after the ledger had it, so the ledger's is the last one; if
        it came back and changed meanwhile, that stands.
        """
        record = await self.record(reservation)
        if record is None or record[:1] in (b"R", b"C"):  # those never leave the store
            return False
        words = record.split(b" ")
        words[5] = b"-"  # the event that wrote it may be one of an epoch before
        names = [keys.META, keys.bucket_of(reservation), b""]
        for _ in range(TRIES_MAX):
            names[2] = self._lane.done_list
            args = [*self._lane.head(None), reservation, b" ".join(words)]
            reply = await self._shard.run(scripts.RESTORE, names, args)
            if reply[0] == b"applied":
                return True
            if reply[0] != b"clock":
                raise StockUnavailable("the store is not the one that this worker knows")
            self._lane.told_windows(reply)
        raise StockUnavailable("the store's clock and this worker's estimate do not agree")
