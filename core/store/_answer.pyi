def reservation_json(
    reservation_id: str,
    record: bytes,
    durability: str,
    created_ms: int,
    as_of_ms: int,
    more: bytes,
) -> bytes: ...
