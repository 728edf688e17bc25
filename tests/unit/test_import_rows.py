"""Files as people make them: read, or refused with the line and what is wrong there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ImportRefused
from core.importing.rows import Bad, Order, OrdersFile, StockFile, StockRow
from core.importing.table import LINE_BYTES_MAX, Table
from core.kernel._policy import Policy
from core.model import LINES_MAX, QUANTITY_MAX
from core.policy_model import ChannelSpec

POLICY = Policy(
    3,
    {"web": ChannelSpec(), "store": ChannelSpec(locations=["annex", "main"])},
    {"main": (True, True), "annex": (True, True), "attic": (False, True)},
)
HEADER = "sku,location,quantity\n"


def stock(directory: Path, content: str | bytes) -> list[StockRow | Bad]:
    """The rows of a stock file with this content."""
    with opened(directory, content) as table:
        return list(StockFile(table, POLICY).items())


def orders(directory: Path, content: str) -> list[Order | Bad]:
    """The orders of a file with this content."""
    with opened(directory, content) as table:
        return list(OrdersFile(table, POLICY).items())


def opened(directory: Path, content: str | bytes) -> Table:
    path = directory / "file.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Table(path)


def why(directory: Path, content: str | bytes) -> str:
    """Why a whole stock file is refused."""
    with pytest.raises(ImportRefused) as refused:
        stock(directory, content)
    return refused.value.detail


def reasons(rows: list[StockRow | Bad]) -> list[tuple[int, str]]:
    """(line, why) of the bad ones."""
    return [(row.line, row.why) for row in rows if isinstance(row, Bad)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_is_read_with_either_line_end_and_with_a_mark(
    tmp_path: Path, end: str, mark: str
) -> None:
    lines = ["sku,location,quantity,safety_stock", "tee,main,10,3", "", '"c,ap",annex,"0",', ",,,"]
    assert stock(tmp_path, mark + end.join(lines)) == [
        StockRow(0, 2, "tee", "main", 10, 3, None),
        StockRow(1, 4, "c,ap", "annex", 0, None, None),
    ]


def test_columns_come_in_any_order_and_location_may_be_left_out(tmp_path: Path) -> None:
    rows = stock(tmp_path, "free.store,quantity,sku,free.web\n2,5,tee,\n,5,cap,3\n")
    assert rows == [
        StockRow(0, 2, "tee", "main", 5, None, {"store": 2, "web": 0}),
        StockRow(1, 3, "cap", "main", 5, None, {"store": 0, "web": 3}),
    ]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("sku,location", "the column 'quantity' is missing"),
        ("sku,quantity,qty", "there is no column 'qty'"),
        ("SKU,quantity", "there is no column 'SKU'"),
        ("sku, quantity", "there is no column ' quantity'"),
        ("sku,quantity,free.wbe", "there is no column 'free.wbe'; there are sku, location, "
         "quantity, safety_stock, free.store, free.web"),
        ("sku,quantity,sku", "the column 'sku' is there twice"),
        ("sku;quantity", "separate columns by commas"),
        ("sku\tquantity", "separate columns by commas"),
        ("sku\rtee", "end lines with LF or CRLF"),
        ('"sku,quantity', "a quoted cell does not end on its line"),
        ("", "its first line must name the columns"),
    ],
)  # fmt: skip
def test_a_wrong_header_is_refused_by_name(tmp_path: Path, header: str, said: str) -> None:
    assert said in why(tmp_path, header + "\ntee,1\n")


@pytest.mark.parametrize(
    "content",
    [
        (HEADER + "tee,main,1\n").encode("utf-16"),
        (HEADER + "tee,main,1\n").encode("utf-16-be"),
        "sku,location,quantity\n毛衣,main,1\n".encode("gbk"),
        HEADER.encode() + b"t\xe9e,main,1\n",
        HEADER.encode() + b"te\0e,main,1\n",
    ],
)
def test_another_encoding_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    told = why(tmp_path, content)
    assert told.startswith("file.csv: ")
    assert 'not UTF-8; save it as "CSV UTF-8"' in told
    assert "\n" not in told


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    told = why(tmp_path, HEADER + "x" * (2 * LINE_BYTES_MAX))
    assert told == f"file.csv: line 2 is longer than {LINE_BYTES_MAX - 1:,} bytes"


@pytest.mark.parametrize(
    "number",
    ["", "1e3", "1.0", "1,000", "+5", "-1", " 5", "5 ", "１２", "²", "0x1", "1_0", "٣", "NaN",
     str(QUANTITY_MAX + 1), "9" * 400],
)  # fmt: skip
def test_a_number_is_digits_alone(tmp_path: Path, number: str) -> None:
    (row,) = stock(tmp_path, f'{HEADER}tee,main,"{number}"\n')
    assert isinstance(row, Bad)
    assert row.line == 2
    assert f"expected a whole number from 0 to {QUANTITY_MAX}, digits only" in row.why


@pytest.mark.parametrize("cells", ['"=""00123""",main,1', "tee,main,=A1+B1", "=x,main,1"])
def test_a_formula_is_not_a_value(tmp_path: Path, cells: str) -> None:
    (row,) = stock(tmp_path, f"{HEADER}{cells}\n")
    assert isinstance(row, Bad)
    assert "export values, not formulas" in row.why


def test_what_is_wrong_with_a_row_stays_with_that_row(tmp_path: Path) -> None:
    rows = stock(
        tmp_path,
        HEADER + 'tee,main\nt ee,main,1\n"tee,main,1\ntee,main,1,1\nte"e,main,1\nt\re,main,1\n'
        "good,main,1\n",
    )
    assert [row.number for row in rows] == list(range(7))
    assert [line for line, _ in reasons(rows)] == [2, 3, 4, 5, 6, 7]
    said = [text for _, text in reasons(rows)]
    assert said[0] == "expected 3 cells as in the first line, found 2"
    assert "1 to 64 visible ASCII characters" in said[1]
    assert said[2] == "a quoted cell does not end on its line"
    assert said[3] == "expected 3 cells as in the first line, found 4"
    assert "carriage return" in said[5]
    assert isinstance(rows[6], StockRow)


def test_more_set_aside_than_there_is_is_bad(tmp_path: Path) -> None:
    rows = stock(tmp_path, "sku,quantity,free.web,free.store\ntee,5,3,3\n")
    assert reasons(rows) == [(2, "the free columns make 6, the quantity is 5")]


def test_what_the_store_cannot_take_is_said(tmp_path: Path) -> None:
    content = "sku,location,quantity,free.web\na,moon,1,0\na,annex,1,1\na,annex,1,0\na,attic,1,\n"
    rows = [row for row in stock(tmp_path, content) if isinstance(row, StockRow)]
    assert [row.unfit(POLICY, {"a": None}) for row in rows] == [
        "there is no location 'moon'", "web does not sell from annex", None, None,
    ]  # fmt: skip


@given(st.binary(max_size=300) | st.text("\"',\r\n=a1 é", max_size=60).map(str.encode))
def test_any_bytes_are_rows_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes
) -> None:
    """Nothing else happens, and what is a row has the cells that the types promise."""
    directory = tmp_path_factory.mktemp("any")
    try:
        rows = stock(directory, HEADER.encode() + rest)
    except ImportRefused:
        return
    assert [row.number for row in rows] == list(range(len(rows)))
    assert all(row.why for row in rows if isinstance(row, Bad))


def test_rows_of_one_order_make_one(tmp_path: Path) -> None:
    found = orders(
        tmp_path,
        "order,channel,sku,quantity,location,customer,state\n"
        "A 1,web,tee,2,,c-9,\nA 1,web,cap,1,main,c-9,\nB,store,tee,1,,,fulfilled\n",
    )
    assert all(isinstance(each, Order) for each in found)
    first, second = [each for each in found if isinstance(each, Order)]
    assert (first.number, first.rows, first.line) == (0, 2, 2)
    assert (first.reference, first.channel, first.customer, first.state) == (
        "A 1", "web", "c-9", "committed",
    )  # fmt: skip
    assert [(line.sku, line.quantity, line.location) for line in first.lines] == [
        ("tee", 2, None), ("cap", 1, "main"),
    ]  # fmt: skip
    assert (second.number, second.customer, second.state) == (2, None, "fulfilled")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("A,store,cap,1,", "channel, customer or state differ"),
        ("A,web,cap,0,", "expected a whole number from 1"),
        ("A,web,c p,1,", "visible ASCII"),
        ("A,web,cap,1,paid", "state is 'paid'; expected committed or fulfilled"),
    ],
)
def test_an_order_with_a_wrong_row_is_left_out_whole(tmp_path: Path, row: str, said: str) -> None:
    content = f"order,channel,sku,quantity,state\nA,web,tee,1,\n{row}\nA,web,sock,1,\nB,web,tee,1,"
    bad, good = orders(tmp_path, content)
    assert isinstance(bad, Bad)
    assert (bad.number, bad.rows, bad.line, bad.reference) == (0, 3, 3, "A")
    assert said in bad.why
    assert isinstance(good, Order)
    assert good.reference == "B"


def test_an_order_of_too_many_lines_is_one_bad_order(tmp_path: Path) -> None:
    rows = "A,web,tee,1\n" * (LINES_MAX + 50) + "B,web,tee,1\n"
    bad, good = orders(tmp_path, "order,channel,sku,quantity\n" + rows)
    assert bad == Bad(0, LINES_MAX + 50, 2, "the order has 150 rows; an order may have 100 at most",
                      "A")  # fmt: skip
    assert isinstance(good, Order)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.csv", tmp_path):
        with pytest.raises(ImportRefused) as refused:
            Table(path)
        assert str(path) in refused.value.detail


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    with opened(tmp_path, HEADER) as table:
        table.check_unchanged()
        with table.path.open("a") as more:
            more.write("tee,main,1\n")
        with pytest.raises(ImportRefused, match="was changed while it was read"):
            table.check_unchanged()
