"""What one worker last saw of the shard: policy, SKUs, rows. Bounded; never the truth.

A plan made on an old row meets the fresh one in the script, so being out of date costs a conflict
and never a wrong answer.
"""

from __future__ import annotations

from collections import OrderedDict

from core.kernel._plan import Batch
from core.kernel._policy import Policy, Row, Sku
from core.kernel._pool import ChannelUnknown
from core.store import wording

ROWS_MAX = 100_000  # about 60 MB; a promotion's SKUs fit many times over
SKUS_MAX = 100_000


def as_met(policy: Policy, name: str, entry: bytes, location: str, text: bytes) -> bytes:
    """A row as its policies make it when it is next planned on, so that a reader sees what a demand
    would meet. A row that has met newer ones than these is as it is."""
    number, locations, spec = wording.parse_sku(entry)
    if text.split(b" ", 3)[1:3] == [b"%d" % number, b"%d" % policy.number]:
        return text
    row = Row(name, location)
    row.text = text
    sku = Sku(name, number, entry, spec, locations, {location: row})
    batch = Batch()
    batch.begin(policy, {name: sku})
    try:
        return batch.as_met(row, sku) or text
    except ChannelUnknown:
        return text


class Snapshot:
    """Rows and SKUs by name, least recently used ones go first (second chance)."""

    def __init__(self) -> None:
        self.policy: Policy | None = None
        # Ordered dicts: a plain one scans its deleted entries for the oldest each time.
        self.skus: OrderedDict[str, Sku] = OrderedDict()
        self.rows: OrderedDict[bytes, Row] = OrderedDict()

    def clear(self) -> None:
        """Knows nothing: the shard is another one."""
        self.policy = None
        self.skus.clear()
        self.rows.clear()

    def see_sku(self, name: str, entry: bytes, round: int, seen_at: float) -> None:
        """Takes in a SKU's entry; empty: there is no such SKU."""
        sku = self.skus.get(name)
        if sku is None or sku.text != entry:
            self.doubt(name)  # who still holds the old one shall see that it is
            rows: dict[str, Row] = {}
            for location, row in sku.rows.items() if sku is not None else ():
                if row.text:
                    rows[location] = row
                else:  # the new entry may bring this pool: it is read again
                    self.rows.pop(row.pool, None)
            if entry:
                number, locations, spec = wording.parse_sku(entry)
                sku = Sku(name, number, entry, spec, locations, rows)
            else:
                sku = Sku(name, 0, b"", None, (), rows)
            self.skus[name] = sku
            if len(self.skus) > SKUS_MAX:
                self._drop_sku()
        sku.round, sku.seen_at = round, seen_at

    def doubt(self, name: str) -> None:
        """A SKU was changed past the lane: who reads it looks first."""
        sku = self.skus.get(name)
        if sku is not None:
            sku.round, sku.seen_at = -1, -1e9

    def row(self, sku: Sku, location: str) -> Row:
        """The row of a pool, made if this worker does not know it yet."""
        row = sku.rows.get(location)
        if row is None:
            if len(self.rows) >= ROWS_MAX:  # before, so that it never drops the new one itself
                self._drop_row()
            row = Row(sku.name, location)
            sku.rows[location] = self.rows[row.pool] = row
        return row

    def see_row(self, sku: str, location: str, text: bytes, round: int, seen_at: float) -> None:
        """Takes in a row that was read."""
        known = self.skus.get(sku)
        if known is not None:
            row = self.row(known, location)
            row.saw(text, round, seen_at)

    def see_written(self, pool: bytes, text: bytes, round: int, seen_at: float) -> None:
        """Takes in a row that a script wrote, if this worker keeps it."""
        row = self.rows.get(pool)
        if row is not None:
            row.saw(text, round, seen_at)

    def _drop_row(self) -> None:
        """Second chance: a row used since it was last looked at goes to the back once."""
        while True:
            pool, row = self.rows.popitem(last=False)
            if row.used:
                row.used = False
                self.rows[pool] = row
                continue
            sku = self.skus.get(row.sku)
            if sku is not None:
                sku.rows.pop(row.location, None)
            return

    def _drop_sku(self) -> None:
        _, sku = self.skus.popitem(last=False)
        for row in sku.rows.values():
            self.rows.pop(row.pool, None)
