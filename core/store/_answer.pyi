def reservation_json(
    reservation_id: str,
    record: bytes,
    durability: str,
    as_of_ms: int,
    more: bytes,
) -> bytes: ...
