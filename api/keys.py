"""``stockade keys``: make, list, rotate and revoke API keys, in the ledger of the service."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from api.noted import note
from api.servers import open_ledger
from core.access import SCOPES
from core.errors import StartRefused
from core.keyring import hash_of, is_key_id, new_id, new_secret
from core.ledger.keys import KEYS_MAX, KeyRow, KeyTable
from core.model import NAME_RULE, is_name, is_printable
from core.opening import open_key_table
from core.settings import Settings

CHANNELS_MAX = 64
# What no channel has a part of its own of: a key for it sees, or changes, what is of all of them.
OF_ALL_CHANNELS = frozenset({"quota:write", "operate", "audit"})

T = TypeVar("T")


def run(settings: Settings, chosen: argparse.Namespace) -> int:
    """Do one of the commands and return the exit status. Raises StockadeError with one line."""
    # A whole key would be noted with its secret, and stay in the audit log.
    if "id" in chosen and not is_key_id(chosen.id):
        raise StartRefused("ID: expected what stands before the point of a key, without its secret")
    match chosen.command:
        case "keys create":
            _create(settings, chosen)
        case "keys rotate":
            _rotate(settings, chosen)
        case "keys revoke":
            _revoke(settings, chosen)
        case _:
            _list(settings, chosen)
    return 0


def _create(settings: Settings, chosen: argparse.Namespace) -> None:
    scopes = sorted(set(chosen.scope))
    channels = sorted(set(chosen.channel or ())) or None
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise StartRefused(f"--scope {unknown[0]}: there are {', '.join(SCOPES)}")
    if not is_printable(chosen.name):
        raise StartRefused("--name: expected 1 to 128 printable characters")
    for channel in channels or ():
        if not is_name(channel):
            raise StartRefused(f"--channel {channel}: {NAME_RULE}")
    if channels is not None and len(channels) > CHANNELS_MAX:
        raise StartRefused(f"--channel: expected at most {CHANNELS_MAX}")
    if channels is not None and (whole := sorted(OF_ALL_CHANNELS.intersection(scopes))):
        raise StartRefused(
            f"--scope {whole[0]} is about all channels: make a key of its own for it, without "
            "--channel"
        )
    id, secret = new_id(), new_secret()

    async def make(table: KeyTable) -> bool:
        return await table.make(id, chosen.name, scopes, channels, chosen.rate, hash_of(secret))

    wanted = {"name": chosen.name, "scopes": scopes, "channels": channels}
    asyncio.run(note(settings, "create", f"key/{id}", wanted))
    if not _with(settings, make):
        raise StartRefused(f"there are {KEYS_MAX} keys that count; revoke one first")
    _tell(chosen.json, id, secret, f"This is shown once. {_WHERE}")


def _rotate(settings: Settings, chosen: argparse.Namespace) -> None:
    secret = new_secret()

    async def rotate(table: KeyTable) -> bool:
        return await table.rotate(chosen.id, hash_of(secret), chosen.overlap)

    asyncio.run(note(settings, "rotate", f"key/{chosen.id}", {"overlap": chosen.overlap}))
    if not _with(settings, rotate):
        raise StartRefused(f"no key {chosen.id}, or it was revoked; see stockade keys list")
    until = f"for {chosen.overlap} s more" if chosen.overlap else "no more"
    _tell(chosen.json, chosen.id, secret, f"This is shown once; the one before counts {until}.")


def _revoke(settings: Settings, chosen: argparse.Namespace) -> None:
    async def revoke(table: KeyTable) -> bool:
        return await table.revoke(chosen.id)

    if not _with(settings, revoke):
        raise StartRefused(f"no key {chosen.id}; see stockade keys list")
    # Noted behind it: who is to be shut out is shut out, also while nothing can be noted.
    asyncio.run(note(settings, "revoke", f"key/{chosen.id}"))
    if chosen.json:
        print(json.dumps({"id": chosen.id, "revoked": True}))
    else:
        print(f"{chosen.id} is revoked; every worker knows within seconds")


def _list(settings: Settings, chosen: argparse.Namespace) -> None:
    async def read(table: KeyTable) -> list[KeyRow]:
        return await table.all()

    rows = _with(settings, read)
    if chosen.json:
        print(json.dumps([_shown(row) for row in rows], indent=2))
        return
    table = [("ID", "NAME", "SCOPES", "CHANNELS", "RATE", "MADE", "STATE"), *map(_line, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(map(str.ljust, line, widths)).rstrip())


_WHERE = "Send it as Authorization: Bearer, followed by it."


def _tell(as_json: bool, id: str, secret: str, note: str) -> None:
    """The key alone on standard output, so that a shell can take it."""
    if as_json:
        print(json.dumps({"id": id, "key": f"{id}.{secret}"}))
    else:
        print(f"{id}.{secret}")
        print(note, file=sys.stderr)


def _line(row: KeyRow) -> tuple[str, ...]:
    state = "revoked" if row.revoked_at else "rotating" if row.former_until else "counts"
    return (
        row.id, row.name, " ".join(row.scopes), " ".join(row.channels or ["all"]),
        "-" if row.rate is None else str(row.rate), _at(row.created_at) or "", state,
    )  # fmt: skip


def _shown(row: KeyRow) -> dict[str, Any]:
    return {
        "id": row.id, "name": row.name, "scopes": row.scopes, "channels": row.channels,
        "rate": row.rate, "created_at": _at(row.created_at), "rotated_at": _at(row.rotated_at),
        "former_until": _at(row.former_until), "revoked_at": _at(row.revoked_at),
    }  # fmt: skip


def _at(time: datetime | None) -> str | None:
    return None if time is None else f"{time.replace(tzinfo=None).isoformat('T', 'seconds')}Z"


def _with(settings: Settings, work: Callable[[KeyTable], Awaitable[T]]) -> T:
    """Work on the table of the ledger that is named, that runs on data, or is started for it."""

    async def do() -> T:
        async with open_ledger(settings) as opened, open_key_table(opened) as table:
            return await work(table)

    return asyncio.run(do())
