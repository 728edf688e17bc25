"""The order log reader: what it takes, what it drops, what it reports."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from loadtest.completejourney import SAMPLE_LINES_MAX, Sold, row, sample
from loadtest.orders import REPORTED_MAX, Basket, Dirt, NotAnOrderLog, read

HEADER = "time,basket,channel,location,sku,quantity\n"
TIME = "2017-01-01T11:53:26Z"
SAMPLE = Path(__file__).parents[2] / "loadtest" / "data" / "orders-sample.csv"


def log(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "orders.csv"
    path.write_bytes(text.encode())
    return path


def rows(tmp_path: Path, text: str, limit: int | None = None) -> tuple[list[Basket], Dirt]:
    dirt = Dirt()
    return list(read(log(tmp_path, HEADER + text), dirt, limit)), dirt


def test_rows_of_a_basket_that_stand_together_are_one(tmp_path: Path) -> None:
    baskets, dirt = rows(
        tmp_path,
        f"{TIME},b1,north,store-1,tee,2\n{TIME},b1,north,store-1,mug,1\n"
        f"{TIME},b2,south,store-2,tee,1\n{TIME},b1,north,store-1,tee,1\n",
    )
    assert [(basket.number, basket.name, basket.channel) for basket in baskets] == [
        (0, "b1", "north"),
        (1, "b2", "south"),
        (2, "b1", "north"),
    ]
    assert baskets[0].lines == [("store-1", "tee", 2), ("store-1", "mug", 1)]
    assert baskets[0].time_s == 1483271606
    assert (dirt.rows, dirt.malformed_rows) == (4, 0)


def test_lines_of_nothing_are_dropped_and_counted(tmp_path: Path) -> None:
    baskets, dirt = rows(
        tmp_path,
        f"{TIME},b1,north,store-1,tee,0\n{TIME},b1,north,store-1,mug,1\n"
        f"{TIME},b2,north,store-1,tee,0\n",
    )
    assert [basket.lines for basket in baskets] == [[("store-1", "mug", 1)]]
    assert (dirt.zero_lines, dirt.empty_baskets) == (2, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{TIME},b1,north,store-1,tee", "5 cells"),
        (f"{TIME},b1,north,store-1,tee,1,", "7 cells"),
        ("2017-01-01 11:53:26,b1,north,store-1,tee,1", "time"),
        ("2017-13-01T11:53:26Z,b1,north,store-1,tee,1", "time"),
        ("Z,b1,north,store-1,tee,1", "time"),
        (f"{TIME},,north,store-1,tee,1", "basket"),
        (f"{TIME},b1,North,store-1,tee,1", "channel"),
        (f"{TIME},b1,north,,tee,1", "location"),
        (f"{TIME},b1,north,store-1,a b,1", "sku"),
        (f"{TIME},b1,north,store-1,{'x' * 65},1", "sku"),
        (f"{TIME},b1,north,store-1,tée,1", "sku"),
        (f"{TIME},b1,north,store-1,tee,-1", "quantity"),
        (f"{TIME},b1,north,store-1,tee,1.0", "quantity"),
        (f"{TIME},b1,north,store-1,tee,1e3", "quantity"),
        (f"{TIME},b1,north,store-1,tee,2147483648", "quantity"),
        (f"{TIME},b1,north,store-1,tee,", "quantity"),
        (f"{TIME},b1,north,store-1,tee,{'9' * 200_000}", "field larger"),
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_and_reported(
    tmp_path: Path, text: str, reason: str
) -> None:
    good = f"{TIME},b1,north,store-1,tee,1\n"
    baskets, dirt = rows(tmp_path, f"{good}{text}\n{good}")
    assert [len(basket.lines) for basket in baskets] == [2]
    assert (dirt.rows, dirt.malformed_rows) == (3, 1)
    assert dirt.malformed[0].startswith("line 3: ")
    assert reason in dirt.malformed[0]


def test_all_malformed_rows_are_counted_and_the_first_described(tmp_path: Path) -> None:
    _, dirt = rows(tmp_path, "broken\n" * (REPORTED_MAX + 5))
    assert (dirt.malformed_rows, len(dirt.malformed)) == (REPORTED_MAX + 5, REPORTED_MAX)


def test_bytes_that_are_no_text_spoil_only_their_row(tmp_path: Path) -> None:
    path = log(tmp_path, HEADER)
    good = f"{TIME},b1,north,store-1,tee,1\n".encode()
    path.write_bytes(path.read_bytes() + good.replace(b"tee", b"\xff\xfe\x00") + good)
    dirt = Dirt()
    assert [len(basket.lines) for basket in read(path, dirt)] == [1]
    assert dirt.malformed_rows == 1


@pytest.mark.parametrize("text", ["", "\n", "time,basket\n", HEADER.upper(), "\x00\n"])
def test_another_header_is_not_an_order_log(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotAnOrderLog, match="the first line must be time,basket,channel"):
        list(read(log(tmp_path, text), Dirt()))


def test_a_missing_file_is_not_an_order_log(tmp_path: Path) -> None:
    with pytest.raises(NotAnOrderLog, match="No such file"):
        list(read(tmp_path / "none.csv", Dirt()))


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    path = log(tmp_path, f"\ufeff{HEADER}\r\n{TIME},b1,north,store-1,tee,1\r\n\r\n")
    dirt = Dirt()
    assert len(list(read(path, dirt))) == 1
    assert (dirt.rows, dirt.malformed_rows) == (1, 0)


def test_limit_counts_baskets_with_something_to_sell(tmp_path: Path) -> None:
    text = f"{TIME},b0,north,store-1,tee,0\n" + "".join(
        f"{TIME},b{number},north,store-1,tee,1\n" for number in range(1, 9)
    )
    baskets, dirt = rows(tmp_path, text, limit=3)
    assert [basket.name for basket in baskets] == ["b1", "b2", "b3"]
    assert dirt.empty_baskets == 1


def test_a_basket_of_more_lines_than_a_reservation_has_comes_in_parts(tmp_path: Path) -> None:
    text = "".join(f"{TIME},b1,north,store-1,sku-{number},1\n" for number in range(161))
    baskets, dirt = rows(tmp_path, text)
    assert [len(part) for part in baskets[0].parts()] == [100, 61]
    assert dirt.large_baskets == 1


def test_the_committed_sample_is_small_and_as_dirty_as_its_source() -> None:
    dirt = Dirt()
    baskets = list(read(SAMPLE, dirt))
    assert SAMPLE.stat().st_size < 1_000_000
    assert len(baskets) > 3000
    assert {basket.channel for basket in baskets} == {"north", "east", "south", "west"}
    assert (dirt.malformed_rows, dirt.large_baskets) == (0, 4)
    assert dirt.zero_lines > 50
    assert max(line.quantity for basket in baskets for line in basket.lines) > 10_000


def sold(basket: int, product: int, store: int = 367, quantity: int = 1) -> Sold:
    return Sold(datetime(2017, 1, 1, 11, 53, 26), basket, store, product, quantity)


def test_the_converter_keeps_dirt_and_gives_a_store_always_one_channel() -> None:
    assert row(sold(1, 99, quantity=0)) == (TIME, 1, "west", "store-367", 99, 0)
    assert row(sold(2, 98, store=367))[2] == "west"
    assert {row(sold(1, 1, store=store))[2] for store in range(100, 104)} == {
        "north",
        "east",
        "south",
        "west",
    }


def test_a_sample_is_the_same_each_time_and_has_the_largest_baskets() -> None:
    sizes = {number: 1 + number % 20 for number in range(200)} | {77: 150}
    lines = [sold(basket, product) for basket, size in sizes.items() for product in range(size)]
    picked = list(sample(lines, 30))
    assert picked == list(sample(iter(lines), 30))
    assert len({line.basket for line in picked}) == 30
    assert sum(line.basket == 77 for line in picked) == 150
    typical = [b for b in {line.basket for line in picked} if sizes[b] <= SAMPLE_LINES_MAX]
    assert len(typical) == 26
