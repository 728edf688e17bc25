"""``python -m bench.compare BASE.json NEW.json [BASE.json NEW.json …]``: is anything slower?

Each file is one ``--benchmark-json``. A benchmark's time is its median divided by what the
calibration loop took beside it, so that a busier machine, or another one, is not taken for a slower
program. Of several pairs, measured in turns, the median of new ÷ base counts. The exit is 1 if that
is above the bound for any benchmark, 2 if nothing could be compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

# Chosen, not measured: what is slower by less is for the contests to see (``python -m bench``),
# which take their time. A machine with more busy processes than cores passes it with no change.
BOUND = 1.3
NO_LOOP = "measured without the calibration loop"


class Stats(msgspec.Struct):
    """What pytest-benchmark says of the rounds of one benchmark; seconds."""

    median: float


class Extra(msgspec.Struct):
    """What bench/conftest.py adds."""

    calibration_seconds: float | None = None


class Benchmark(msgspec.Struct):
    """One benchmark of a run."""

    fullname: str
    stats: Stats
    extra_info: Extra


class Run(msgspec.Struct):
    """One --benchmark-json, as far as it is read."""

    benchmarks: list[Benchmark]

    def loops(self) -> dict[str, float | None]:
        """Each benchmark's median in calibration loops; None where that was not measured."""
        return {
            each.fullname: each.stats.median / each.extra_info.calibration_seconds
            if each.extra_info.calibration_seconds
            else None
            for each in self.benchmarks
        }


class Comparison(NamedTuple):
    """One benchmark in both runs: calibration loops, and new ÷ base of every pair."""

    name: str
    base: float
    new: float
    quotients: list[float]

    @property
    def quotient(self) -> float:
        return median(self.quotients)

    def verdict(self, bound: float) -> str:
        """``slower`` beyond the bound, ``faster`` by as much, else ``same``."""
        if self.quotient > bound:
            return "slower"
        return "faster" if self.quotient < 1 / bound else "same"


def read(path: Path) -> Run:
    """A run's file. Exits with one line if it is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except (OSError, msgspec.DecodeError) as error:
        sys.exit(f"bench.compare: {path} is no file of --benchmark-json: {error}")


def compare(pairs: Sequence[tuple[Run, Run]]) -> tuple[list[Comparison], dict[str, str]]:
    """What is in all runs, and why each of the others is not compared."""
    sides = [(base.loops(), new.loops()) for base, new in pairs]
    names = list(dict.fromkeys(name for pair in sides for side in pair for name in side))
    found, left_out = [], {}
    for name in names:
        bases = [base.get(name) for base, _ in sides]
        news = [new.get(name) for _, new in sides]
        if not all(name in base for base, _ in sides):
            left_out[name] = "not in the base"
        elif not all(name in new for _, new in sides):
            left_out[name] = "only in the base"
        elif None in bases or None in news:
            left_out[name] = NO_LOOP
        else:
            before = [value for value in bases if value is not None]
            after = [value for value in news if value is not None]
            quotients = [b / a for a, b in zip(before, after, strict=True)]
            found.append(Comparison(name, median(before), median(after), quotients))
    return found, left_out


def table(found: Sequence[Comparison], left_out: dict[str, str], bound: float) -> str:
    """All of it, for a terminal."""
    width = max([len(name) for name in (*(each.name for each in found), *left_out)], default=9)
    lines = [f"{'benchmark':<{width}}  {'base':>10}  {'new':>10}  new/base (min-max)    verdict"]
    for each in found:
        span = f"{each.quotient:.2f} ({min(each.quotients):.2f}-{max(each.quotients):.2f})"
        lines.append(
            f"{each.name:<{width}}  {each.base:>10.4g}  {each.new:>10.4g}  {span:<20}  "
            f"{each.verdict(bound)}"
        )
    lines += [f"{name:<{width}}  {why}" for name, why in left_out.items()]
    lines.append(f"in calibration loops; slower: above {bound:g} times the base")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if something is slower."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="BASE.json NEW.json")
    parser.add_argument("--bound", type=float, default=BOUND, help=f"new ÷ base, {BOUND:g}")
    chosen = parser.parse_args(arguments)
    if len(chosen.files) % 2:
        parser.error("files come in pairs: BASE.json NEW.json")
    if chosen.bound < 1:
        parser.error("--bound must be 1 at least")
    runs = [read(path) for path in chosen.files]
    found, left_out = compare(list(zip(runs[::2], runs[1::2], strict=True)))
    print(table(found, left_out, chosen.bound))
    if not found:
        print("bench.compare: nothing is in both, with the calibration loop", file=sys.stderr)
        return 2
    return int(any(each.verdict(chosen.bound) == "slower" for each in found))


if __name__ == "__main__":
    sys.exit(main())
