"""What ``stockade rebuild`` says, and when a store must be rebuilt."""

from __future__ import annotations

import pytest

from api.rebuilding import document, lines
from core.ledger.journal import Mark
from core.ledger.rebuilding import Loss, Report
from core.trust import ahead, lost

MARK = Mark(epoch=50, seq=9, position=90, policy=2, time_ms=1_700_000_000_000, seen_ms=0)
TIMES = (1_700_000_000_000, 1_700_000_000_250)
LOSS = Loss(50, 9, 1_234, *TIMES, 3, False, "it is missing", ["a b c"])
REPORT = Report(60, LOSS, {"pools": 1_500, "imports": 0, "keys": 500}, 12, 640_200, 0.5)


@pytest.mark.parametrize(
    ("epoch", "seq", "rebuilding", "why"),
    [
        (0, 0, "", "the store is empty, and the ledger has event 50-9"),
        (50, 9, "pools 3 of 7", "not whole until it is rebuilt: pools 3 of 7"),
        (49, 99, "", "the old epoch 49, the ledger 50"),
        (50, 8, "", "went back in time: it is at event 8, the ledger at 9"),
        (50, 9, "", ""),
        (50, 10, "", ""),
        (51, 0, "", ""),
    ],
)
def test_when_a_store_must_be_rebuilt(epoch: int, seq: int, rebuilding: str, why: str) -> None:
    told = lost(epoch, seq, rebuilding, MARK)
    assert why in told
    assert bool(why) is bool(told)


def test_a_ledger_that_was_put_back_is_no_reason() -> None:
    """The store knows more than it."""
    assert (ahead(50, MARK), ahead(0, MARK)) == ("", "")
    assert "restore the ledger" in ahead(51, MARK)


def test_what_it_says() -> None:
    assert lines(REPORT) == [
        "the store is rebuilt, as epoch 60: 1,500 pools, 500 keys in 0.5 s (4,000 rows/s)",
        "12 deadlines that passed meanwhile were moved by 640.2 s",
        "3 events were still in the store: the ledger has them now",
        "not known: what was acknowledged after event 50-9, position 1,234, "
        "2023-11-14T22:13:20.250Z",
        "no more could be carried: it is missing",
        "not known: what became of reservation a b c",
    ]
    assert document(REPORT) == {
        "rebuilt": True, "by_another": False, "epoch": 60, "seconds": 0.5,
        "rows": {"pools": 1_500, "imports": 0, "keys": 500}, "rows_per_second": 4_000,
        "deadlines_moved": 12, "outage_seconds": 640.2, "carried": 3,
        "lost": {
            "unknown_after": {
                "epoch": 50, "seq": 9, "position": 1_234, "time": "2023-11-14T22:13:20.000Z",
                "seen": "2023-11-14T22:13:20.250Z",
            },
            "reason": "it is missing",
            "reservations": [{"id": "a", "reference": "b c"}],
        },
    }  # fmt: skip


def test_what_it_says_when_nothing_is_lost() -> None:
    whole = Loss(50, 9, 1_234, 0, 0, 0, True, "", [])
    report = Report(60, whole, {"pools": 2}, 0, 0, 1.0, by_another=True)
    assert lines(report) == [
        "another process rebuilt the store, as epoch 60: 2 pools in 1.0 s (2 rows/s)",
        "nothing is lost: the ledger has all that the store had",
    ]
    assert document(report)["lost"] is None
    assert lines(None) == ["the store has all that the ledger has: nothing was done"]
    assert document(None) == {"rebuilt": False}
