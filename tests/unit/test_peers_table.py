"""The table of what shops write themselves: medians, ratios round by round, and none of nothing."""

from __future__ import annotations

from bench.contest import Condition, Result
from bench.peers_table import markdown


def test_ratios_are_of_the_same_round_and_never_of_nothing() -> None:
    rates = {"Stockade": [200.0, 300.0, 400.0], "A": [100.0, 100.0, 400.0], "B": [0.0, 2.0, 3.0]}
    told = markdown([
        Result(Condition(1, 256, True), rates, {"A": 16}),
        Result(Condition(10_000, 1, False), rates, {}),
    ])  # fmt: skip
    assert told.splitlines() == [
        "| granted | Stockade | A | B |",
        "| --- | --- | --- | --- |",
        "| one hot SKU, 256 callers | 300/s | 100/s: 2 × (1–3) | 2/s: – |",
        "",
        "| refused | Stockade | A | B |",
        "| --- | --- | --- | --- |",
        "| uniform over 10,000 SKUs, 1 caller | 300/s | 100/s: 2 × (1–3) | 2/s: – |",
        "",
        "| connections that did best | A |",
        "| --- | --- |",
        "| one hot SKU, 256 callers, granted | 16 |",
    ]
