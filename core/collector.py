"""Python's cyclic garbage collector, told what it need not look at.

What a process has when it begins to serve it keeps: modules, routes, types, some 60,000 objects
that a full collection would walk through while callers wait. And nearly nothing of a request is
ever part of a cycle: reference counts free it, so a walk through what is young can wait until there
is much of it. docs/PERFORMANCE.md has what that was worth.
"""

from __future__ import annotations

import gc

YOUNG_MAX = 10_000  # objects that came and did not go, before those are looked at; Python's is 700


def settle() -> None:
    """What is there now stays. For a process of our own, once it is about to serve."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, *gc.get_threshold()[1:])
