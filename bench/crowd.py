"""A crowd that comes at its own rate: ``crowd.c``, compiled where it is wanted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

SOURCE = Path(__file__).with_name("crowd.c")


class Seen(msgspec.Struct, frozen=True):
    """What became of a crowd. ``absent``: who found no free connection, and went away."""

    came: int
    absent: int
    failed: int
    reserved: int
    committed: int
    reserves_refused: int
    commits_refused: int
    committed_per_second: float
    reserve_p50_ms: float
    reserve_p99_ms: float
    commit_p50_ms: float
    commit_p99_ms: float


class Crowd:
    """The program; what it is compiled to lies in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._program = directory / "crowd"
        subprocess.run(
            ["cc", "-O2", "-Wall", "-Werror", "-o", self._program, SOURCE], check=True
        )

    def comes(
        self, port: int, connections: int, rate: float, seconds: float, *, skus: int, buys: bool
    ) -> Seen:
        """Lets it come to a port of this machine, for one unit of ``tee-0`` and so on each; who
        ``buys`` commits as well. Raises RuntimeError for an answer that it does not understand."""
        words = ["127.0.0.1", port, connections, rate, seconds, skus, "buy" if buys else "hold"]
        done = subprocess.run(
            [self._program, *map(str, words)], capture_output=True, text=True, check=True
        )
        seen = msgspec.json.decode(done.stdout, type=Seen)
        if seen.failed:
            raise RuntimeError(f"{seen.failed} answers were not understood: {done.stderr}")
        return seen
