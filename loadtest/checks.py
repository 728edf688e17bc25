"""What an audit found: for each thing that must hold, of how much it was checked and where not."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from loadtest.book import Book, Differences


class About(StrEnum):
    """What a difference is about: one check of the audit each."""

    OVERSELL = "no oversell"
    STOCK = "stock as acknowledged"
    QUOTAS = "quotas kept"
    FOUND = "reservations found"
    KEYS = "keys answered once"
    ANSWERS = "answers as they should be"
    LEDGER = "ledger = store"


@dataclass(slots=True)
class Check:
    """One thing that must hold: of how much it was checked, and where it does not."""

    checked: int = 0
    differences: Differences = field(default_factory=Differences)


class Audit:
    """All checks, by what they are about."""

    def __init__(self, book: Book) -> None:
        self.acknowledged = book.acknowledged
        self.oversold = 0
        self.checks = {about: Check() for about in About}
        self.checks[About.ANSWERS] = Check(self.acknowledged, book.surprises)
        self.checks[About.KEYS] = Check(book.keys_repeated, book.keys)

    @property
    def passed(self) -> bool:
        """Whether all of them hold."""
        return not self.count

    @property
    def count(self) -> int:
        """How many differences there are."""
        return sum(check.differences.count for check in self.checks.values())

    @property
    def listed(self) -> list[str]:
        """The differences that are described."""
        return [text for check in self.checks.values() for text in check.differences.listed]

    def add(self, about: About, text: str) -> None:
        """One more difference."""
        self.checks[about].differences.add(text)
