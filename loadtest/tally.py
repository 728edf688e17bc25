"""What happened to a crowd, counted."""

from __future__ import annotations

from collections import Counter

import msgspec


class Tally(msgspec.Struct):
    """What happened, in reservations unless the name says otherwise.

    ``amends``: calls by the state they met and where they went, ``"reserved up"``. ``cancels``:
    calls, each about a part; ``cancelled``: nothing was left. ``returns``: calls by disposition.
    ``too_late``: what was wanted of a reservation that had expired. ``hasty``: gone before the
    answer, and back under the same key.
    """

    baskets: int = 0
    units_granted: int = 0
    granted: int = 0
    refused: int = 0
    refused_lines: Counter[str] = msgspec.field(default_factory=Counter)
    released: int = 0
    left_to_expire: int = 0
    paid: int = 0
    fulfilled: int = 0
    amends: Counter[str] = msgspec.field(default_factory=Counter)
    amends_refused: int = 0
    cancels: int = 0
    cancelled: int = 0
    units_cancelled: int = 0
    returns: Counter[str] = msgspec.field(default_factory=Counter)
    units_returned: int = 0
    repeated_calls: int = 0
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    unanswered: int = 0
    pressed_twice: int = 0
    hasty: int = 0
    too_late: int = 0
    extended: int = 0
    elapsed_s: float = 0.0

    def merge(self, other: Tally) -> None:
        """What another process saw at the same time, too."""
        for name in self.__struct_fields__:
            mine, others = getattr(self, name), getattr(other, name)
            if name == "elapsed_s":
                self.elapsed_s = max(mine, others)
            else:
                setattr(self, name, mine + others)
