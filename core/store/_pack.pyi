from collections.abc import Iterable

def pack_command(command: Iterable[bytes | str | int]) -> bytes:
    """A command: its words are bytes, texts, or numbers."""

def record_lines(ids: list[str], records: list[bytes]) -> bytes:
    """Reservations as an event has them: a line with the id, a line with the record, …"""

def key_lines(
    fields: list[bytes], fingerprints: list[bytes], status: bytes, ids: list[str]
) -> bytes:
    """What keys stand for, a line each: field, fingerprint, status, id."""
