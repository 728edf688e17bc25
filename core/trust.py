"""Whether a store has all that it had: held against what a worker has seen of it, and against the
ledger. An empty store is never an empty warehouse, and one that went back in time is found out.
"""

from __future__ import annotations

import asyncio
import logging

from core.errors import LedgerUnavailable
from core.ledger.journal import Journal, Mark
from core.store import scripts
from core.store.shard import Meta, Shard

ASK_SECONDS = 2.0  # for the ledger to answer, while callers wait

log = logging.getLogger("stockade.service")


def lost(epoch: int, seq: int, rebuilding: str, mark: Mark) -> str:
    """Why a store at this place must be rebuilt from a ledger at ``mark``; "" if it need not be.

    ``epoch`` is 0 for an empty store. Read the mark first, then the store: it moves on.
    """
    if not epoch:
        return f"the store is empty, and the ledger has event {mark.epoch}-{mark.seq}"
    if rebuilding:
        return f"the store is not whole until it is rebuilt: {rebuilding}"
    if epoch < mark.epoch:
        return f"the store has the old epoch {epoch}, the ledger {mark.epoch}"
    if epoch == mark.epoch and seq < mark.seq:
        return f"the store went back in time: it is at event {seq}, the ledger at {mark.seq}"
    return ""


def ahead(epoch: int, mark: Mark) -> str:
    """Why a ledger at ``mark`` is not the one of a store of this epoch; "" if it is."""
    if epoch <= mark.epoch:
        return ""
    return (
        f"the store has epoch {epoch}, the ledger the older {mark.epoch}: restore the ledger that "
        "belongs to it, or make the store what this one has with `stockade rebuild --force`"
    )


class Trust:
    """Answers for one worker whether the store may be written to."""

    def __init__(self, shard: Shard, journal: Journal | None, private: bool) -> None:
        """``private``: both servers are ours alone, and the store is rebuilt without anybody being
        asked."""
        self._shard = shard
        self._journal = journal
        self._private = private
        self._remedy = "; it is rebuilt now" if private else "; run `stockade rebuild`"
        self.run_id = ""  # of the server, when the store was last found to be whole

    async def look(self, epoch: str, seq: int) -> tuple[Meta, str]:
        """What the shard is, and why it may not be written to; "" if it has all that it had.

        ``epoch``, ``seq``: the last that the worker has seen; empty if it has seen nothing yet. A
        shard of another epoch than that is one that was rebuilt. Raises StockUnavailable.
        """
        meta = await self._shard.start(create=False)
        if meta.format not in ("", scripts.FORMAT):
            return meta, (
                f"the store has format {meta.format}, this version knows {scripts.FORMAT}; run a "
                "version of Stockade that knows it"
            )
        if meta.epoch and meta.epoch == epoch and meta.seq < seq:
            why = f"the store went back from seq {seq} to {meta.seq}: acknowledged changes are lost"
            if self._journal is not None:  # other workers may not have seen as much
                await self._shard.must_be_rebuilt(epoch, why)
            return meta, why + self._remedy
        if meta.epoch == epoch and meta.run_id == self.run_id and not meta.rebuilding:
            return meta, ""
        meta, why = await self._compare(meta, epoch)
        if not why:
            if self.run_id not in ("", meta.run_id):
                log.warning("the store was restarted (run id %s)", meta.run_id)
            self.run_id = meta.run_id
        return meta, why

    async def _compare(self, meta: Meta, epoch: str) -> tuple[Meta, str]:
        """Holds the store against the ledger, which is not asked for every look."""
        if self._journal is None:
            return await self._without_ledger(meta, epoch)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                mark = await self._journal.mark()
        except (LedgerUnavailable, TimeoutError) as error:
            if meta.epoch and not meta.rebuilding and (
                meta.epoch == epoch or meta.checked == meta.run_id
            ):  # fmt: skip
                return meta, ""  # its server runs since it was held against the ledger
            told = str(error) or "the ledger does not answer"
            return meta, f"{told}: it is not known whether the store has all that it had"
        if mark is None:
            return await self._without_ledger(meta, epoch)
        meta = await self._shard.start(create=False)
        found = int(meta.epoch or 0)
        why = lost(found, meta.seq, meta.rebuilding, mark)
        if why:
            return meta, why if self._private and meta.rebuilding else why + self._remedy
        why = ahead(found, mark)
        if not why:
            await self._shard.checked(meta.epoch, meta.run_id)
        return meta, why

    async def _without_ledger(self, meta: Meta, epoch: str) -> tuple[Meta, str]:
        """There is no ledger that would know, or it has seen nothing yet."""
        if meta.rebuilding:
            return meta, f"the store is not whole until it is rebuilt: {meta.rebuilding}"
        if not epoch:
            return (meta if meta.epoch else await self._shard.start(create=True)), ""
        if meta.epoch == epoch:
            return meta, ""
        return meta, (
            f"the store has epoch {meta.epoch or 'none'}, this worker knows {epoch}; restore it, "
            "or start the service anew on it"
        )
