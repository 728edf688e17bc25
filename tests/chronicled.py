"""What the ledger would make of a stream, held against what the store has, without a ledger.

``core.chronicle`` turns events into rows; here its rows are read back as the columns that COPY
takes, summed, and compared. What it writes and what ``tests.stored`` understands must agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from core.chronicle import Chronicle
from core.errors import LedgerBroken
from core.ledger.books import COLUMNS, Page
from core.store.events import Entry
from tests.stored import Audit, Row, Unreadable, parse_row, spelled_out


def columns(page: Page, table: str) -> list[dict[str, str | None]]:
    """The rows of a table as COPY would read them."""
    rows = []
    for line in page.copied[table]:
        assert line.endswith("\n"), line
        assert line.count("\n") == 1, line
        words = line[:-1].split("\t")
        assert len(words) == len(COLUMNS[table]), line
        rows.append({
            name: None if word == r"\N" else word.replace(r"\n", "\n").replace(r"\\", "\\")
            for name, word in zip(COLUMNS[table], words, strict=True)
        })  # fmt: skip
    return rows


def check_chronicle(found: Audit) -> None:
    """The stream, from its first event on, is one that the scribe believes; and the movements that
    it makes of it are what the store holds."""
    if found.trimmed or not found.events:
        return
    entries = []
    for name, fields in found.store.stream:
        epoch, _, seq = name.partition("-")
        entries.append(Entry(int(epoch), int(seq), fields))
    chronicle = Chronicle(0, 1)
    chronicle.know(chronicle.lacking(entries), {})
    try:
        page = chronicle.page(entries)
    except LedgerBroken as error:
        found.check(False, f"the scribe would stop: {error}")
        return
    _check_movements(found, page)
    _check_pools(found, page)
    _check_reservations(found, page)
    number = int(found.meta["policy"])
    found.check(chronicle.policy == number, f"policy {number} is {chronicle.policy} in the ledger")
    _check_keys(found, page)


def _check_movements(found: Audit, page: Page) -> None:
    """Σ movements is what lies there (law 1), account by account."""
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for row in columns(page, "movement"):
        pool, units = f"{row['sku']}@{row['location']}", int(row["quantity"] or 0)
        sums[pool][row["source"] or ""] -= units
        sums[pool][row["target"] or ""] += units
    for pool in found.rows.keys() | sums.keys():
        accounts = found.rows.get(pool, Row()).accounts()
        accounts["deficit"] = -accounts["deficit"]
        moved = sums[pool]
        on_hand = -moved.pop("outside", 0)
        here = found.rows[pool].on_hand if pool in found.rows else 0
        found.check(on_hand == here, f"{pool}: {here} on hand, movements make {on_hand}")
        for name in accounts.keys() | moved.keys():
            found.check(
                accounts[name] == moved[name],
                f"{pool}: {name} is {accounts[name]}, movements make {moved[name]}",
            )


def _check_pools(found: Audit, page: Page) -> None:
    made = {}
    for pool, (version, _, text, numbers) in page.pools.items():
        try:
            row = made[pool] = parse_row(text)
        except Unreadable as error:
            found.check(False, f"pool {pool} in the ledger: {error}")
            continue
        promised = sum(q.reserved + q.committed for q in row.quotas.values())
        sellable = row.shared + row.safety + sum(q.free for q in row.quotas.values())
        wanted = (row.version, (row.on_hand, promised, sellable, row.deficit))
        found.check((version, numbers) == wanted, f"{pool}: {version} {numbers}, not {wanted}")
    for pool in found.rows.keys() | made.keys():
        found.check(
            found.rows.get(pool) == made.get(pool),
            f"{pool}: the store has {found.rows.get(pool)}, the ledger {made.get(pool)}",
        )


def _check_reservations(found: Audit, page: Page) -> None:
    last = {row["reservation"]: row["record"] for row in columns(page, "reservation_version")}
    texts = {
        id: text
        for name, bucket in found.store.hashes.items()
        if name.startswith("{s0}:rsv:")
        for id, text in bucket.items()
    }
    for id, text in texts.items():
        if id not in found.edited:
            found.check(last.get(id) == text, f"{id}: {text!r} is {last.get(id)!r} in the ledger")
    now = {row["id"]: row["record"] for row in columns(page, "reservation")}
    found.check(now == last, "reservations are not their own last versions")


def _check_keys(found: Audit, page: Page) -> None:
    """Every key of a window in use is in the ledger too (law 5 across a loss of the store)."""
    kept: set[tuple[str, str]] = set()  # a key may have been used again after its windows
    for row in columns(page, "idempotency_keys"):
        for line in (row["keys"] or "").split("\n"):
            field, _, value = line.partition(" ")
            kept.add((field, value))
    for name, values in found.store.hashes.items():
        if name.startswith("{s0}:idem:"):
            for pair in spelled_out(values).items():
                found.check(pair in kept, f"key {pair}: not in the ledger")
