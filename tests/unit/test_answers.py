"""What the C that prints a reservation says, against the values that it stands for."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.store import keys
from core.store._answer import reservation_json

TIMES_MS = st.integers(0, 253_402_300_799_999)  # to the end of the year 9999
UNITS = st.integers(0, 2**53 - 1)
RANDOM = "7abc-8def-0123456789ab"


def told(time_ms: int) -> str:
    """A time as the API writes it."""
    text = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    year, _, rest = text.partition("-")  # not every strftime fills up a year
    return f"{int(year):04d}-{rest}.{time_ms % 1000:03d}Z"


@given(TIMES_MS, TIMES_MS, st.lists(st.tuples(*[UNITS] * 7), min_size=1, max_size=3))
def test_times_and_units_are_printed_as_they_are(
    created_ms: int, deadline_ms: int, lines: list[tuple[int, ...]]
) -> None:
    id = keys.lowest_id(created_ms)[:14] + RANDOM
    words = " ".join(f"tee@main@{','.join(map(str, line))}" for line in lines)
    record = f"R 7 - {deadline_ms} - - web - - {words}".encode()
    found = json.loads(reservation_json(id, record, "fsync", deadline_ms - 1, b""))
    assert (found["id"], found["version"], found["state"]) == (id, 7, "reserved")
    assert found["created_at"] == found["updated_at"] == told(created_ms)
    assert found["expires_at"] == told(deadline_ms)
    for line, (own, borrowed, fulfilled, cancelled, returned, _, short) in zip(
        found["lines"], lines, strict=True
    ):
        assert line["quantity"] == own + borrowed
        assert (line["own"], line["borrowed"]) == (own, borrowed)
        counters = (line["fulfilled"], line["cancelled"], line["returned"])
        assert counters == (fulfilled, cancelled, returned)
        assert line.get("short", 0) == short


@pytest.mark.parametrize("id", ["", "019ac3a5", "019ac3a5-12", "019ac3a5x1234", "019AC3A5-1234"])
def test_what_is_no_id_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="no id of a reservation"):
        reservation_json(id, b"R 1 - 5 - - web - - tee@main@1,0", "fsync", 0, b"")
