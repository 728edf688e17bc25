from typing_extensions import disjoint_base

from core.kernel._stock import Stock

@disjoint_base
class Decisions(Stock):
    """The demands of a stage in flat arrays, and how they are decided."""

    def plan(self) -> int:
        """Decides every demand in order. How many were granted something."""

    def granted(self, number: int) -> bool:
        """True if the demand got something."""
