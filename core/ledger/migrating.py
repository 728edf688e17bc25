"""The schema: numbered files, each applied once, in order, by a role that the service is not.

All that is missing is applied in one transaction under an advisory lock, so that many may start
at once and a failure leaves nothing behind. A file that was applied and has changed since stops.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources

import asyncpg
from msgspec import Struct

from core.errors import StartRefused
from core.ledger.answering import answering

_LOCK = 0x53_74_6F_63_6B_61_64_65  # "Stockade", so that no other program's lock is taken for it
_MONTH_LOCK = "SELECT pg_advisory_xact_lock(hashtext('stockade.open_month'))"  # as open_month has
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_ROLE = re.compile(r"[A-Za-z_][A-Za-z0-9_$-]*")

_SCHEMA = """
CREATE SCHEMA IF NOT EXISTS stockade;
CREATE TABLE IF NOT EXISTS stockade.migration (
  number integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""


class Migration(Struct, frozen=True):
    """One file of ``migrations/``."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """The SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All of them in order; their numbers have no gaps."""
    found = []
    for file in (resources.files("core.ledger") / "migrations").iterdir():
        named = _FILE.fullmatch(file.name)
        if named is not None:
            found.append(Migration(int(named[1]), named[2], file.read_text()))
    found.sort(key=lambda each: each.number)
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    return found


async def migrate(owner_dsn: str, service_role: str) -> int:
    """Brings the schema up to date and tells what ``service_role`` may do; the version it has.

    Raises StartRefused for a schema that this version does not know, for a migration that was
    changed after it was applied, and for a role that cannot be served.
    """
    if _ROLE.fullmatch(service_role) is None:
        raise StartRefused(f"postgres_dsn: the role {service_role!r} cannot be granted anything")
    known = migrations()
    with answering():
        connection = await asyncpg.connect(owner_dsn, statement_cache_size=0)
        try:
            async with connection.transaction():
                await _apply(connection, known)
                grants = (resources.files("core.ledger") / "grants.sql").read_text()
                # Months open beside us, and one object cannot be changed by two at a time.
                await connection.execute(_MONTH_LOCK)
                await connection.execute(grants.replace("{role}", f'"{service_role}"'))
        except asyncpg.InsufficientPrivilegeError as error:
            raise StartRefused(f"postgres_owner_dsn: its role may not migrate: {error}") from None
        except asyncpg.UndefinedObjectError as error:
            raise StartRefused(f"postgres_dsn: {error}; create the role first") from None
        finally:
            connection.terminate()
    return len(known)


async def _apply(connection: asyncpg.Connection, known: list[Migration]) -> None:
    """All that is missing, with the lock held until the end of the transaction."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    await connection.execute(_SCHEMA)
    applied = await connection.fetch(
        "SELECT number, name, checksum FROM stockade.migration ORDER BY number"
    )
    _check(known, applied)
    await connection.execute("SET LOCAL search_path TO stockade")
    for each in known[len(applied) :]:
        await connection.execute(each.text)
        await connection.execute(
            "INSERT INTO stockade.migration (number, name, checksum) VALUES ($1, $2, $3)",
            each.number, each.name, each.checksum,
        )  # fmt: skip


def _check(known: list[Migration], applied: list[asyncpg.Record]) -> None:
    if len(applied) > len(known):
        raise StartRefused(
            f"the ledger has schema {applied[-1]['number']}, this version knows {len(known)}; run "
            "a version of Stockade that knows it"
        )
    for ours, theirs in zip(known, applied, strict=False):
        if ours.checksum != theirs["checksum"]:
            raise StartRefused(
                f"migration {ours.number} ({ours.name}) was changed after it was applied: "
                "restore the file that the ledger was made with"
            )
