"""Texts of the store: free text that can never be structure, and every format read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from core.model import Key, PoolChannel, is_name, is_printable, is_sku
from core.policy_model import ChannelEntry, ChannelSpec, LocationSpec, SkuChannel, SkuEntry
from core.store import wording
from core.store.wording import Record, RecordLine

printable = st.text(min_size=1, max_size=128).filter(str.isprintable)
awkward = st.text(" -%@,\n\t\0{}\"\\`/+&#é漢🧦\u202e\xa0ab0", min_size=1, max_size=40)


@given(printable | awkward)
def test_free_text_is_one_word_and_comes_back(text: str) -> None:
    """No space, no @, nothing that is not visible ASCII; never the sign for none."""
    word = wording.encode_text(text)
    assert word
    assert word != b"-"
    assert all(33 <= byte <= 126 for byte in word), word
    assert not set(b" @{}\"\\`") & set(word)
    assert wording.decode_text(word.decode()) == text


@given(printable, printable)
def test_two_texts_are_never_one_word(a: str, b: str) -> None:
    assert (wording.encode_text(a) == wording.encode_text(b)) == (a == b)


def test_no_text_is_a_dash_and_a_dash_is_a_text() -> None:
    assert wording.encode_text(None) == b"-"
    assert wording.decode_text("-") is None
    assert wording.encode_text("-") == b"%2D"
    assert wording.decode_text("%2D") == "-"


@pytest.mark.parametrize("text", ["order-17", "a.b_c~d", "2026", "~", ".", "_x"])
def test_plain_text_stays_readable(text: str) -> None:
    """What an operator sees in a terminal."""
    assert wording.encode_text(text) == text.encode()


def test_what_is_printable_is_what_can_be_encoded() -> None:
    """A lone surrogate has no UTF-8: the grammar keeps it out."""
    assert not is_printable("\ud800")
    with pytest.raises(UnicodeEncodeError):
        wording.encode_text("\ud800")


# Records.

RECORD = b"C 3 1700000000500 - 1700000000400 9 web c%409 - tee@main@2,1,1,0,0,4 mug@north@5,0"


def test_a_record_is_read_in_parts() -> None:
    assert wording.parse_record(RECORD) == Record(
        "C", 3, 1700000000500, None, 1700000000400, "9", "web", "c%409", "-",
        [RecordLine("tee@main", 2, 1, 1, 0, 0, 4), RecordLine("mug@north", 5, 0)],
    )  # fmt: skip
    assert wording.parse_record(RECORD).tail == b"web c%409 -"
    line = wording.parse_record(RECORD).lines[1]
    assert (line.sku, line.location) == ("mug", "north")


counts = st.integers(0, 5)


@given(
    st.sampled_from("RCFTLXK"),
    st.integers(1, 9),
    st.tuples(*[st.none() | st.integers(1, 2**41)] * 3),
    st.sampled_from(["-", "7", "~0123456789abcdef"]),
    st.lists(st.builds(RecordLine, st.just("a%@main"), *[counts] * 7), max_size=3),
)
def test_a_record_comes_back_as_it_was(
    state: str,
    version: int,
    times: tuple[int | None, int | None, int | None],
    seq: str,
    lines: list[RecordLine],
) -> None:
    record = Record(state, version, *times, seq, "web", "c", "r", lines)
    assert wording.parse_record(record.encode()) == record


@given(counts, counts, counts, counts)
def test_what_is_open_splits_as_it_goes(
    own: int, borrowed: int, fulfilled: int, cancelled: int
) -> None:
    """Own units ship first, borrowed ones go back first: counted unit by unit."""
    fulfilled = min(fulfilled, own + borrowed)
    cancelled = min(cancelled, own + borrowed - fulfilled)
    left = [own, borrowed]
    for first, units in ((0, fulfilled), (1, cancelled)):
        part = min(left[first], units)
        left[first] -= part
        left[1 - first] -= units - part
    line = RecordLine("tee@main", own, borrowed, fulfilled, cancelled)
    assert line.open_parts == tuple(left)


# Rows.


def test_a_row_is_the_pool_it_says() -> None:
    """Every account, and per channel what it can take: own, shared if it may, no more than its
    ceiling leaves. ``store`` is closed."""
    row = b"7 1 2 5,3,1,2,0,-4 app@0,1,0,1 store@2,0,0,0,2,-,0,0 web@4,5,6,3,1,u500,6,0"
    specs = {
        "app": ChannelSpec(borrow=False),
        "kiosk": ChannelSpec(locations=["north"]),
        "market": ChannelSpec(),
        "web": ChannelSpec(),
    }
    pool, reach = wording.parse_pool("tee@main", row, specs, True)
    assert (pool.sku, pool.location, pool.version) == ("tee", "main", 7)
    assert (pool.shared, pool.safety, pool.damaged, pool.quarantine) == (5, 3, 1, 2)
    assert pool.on_hand == 5 + 3 + 1 + 2 + 1 + 2 + (4 + 5 + 6)
    assert pool.channels == {
        "app": PoolChannel(0, 1, 0, 0, None),
        "market": PoolChannel(0, 0, 0, 5, None),
        "store": PoolChannel(2, 0, 0, 0, None),
        "web": PoolChannel(4, 5, 6, 6, 6),
    }
    assert reach == {"app": 0, "market": 5, "web": 6}


def test_where_nothing_is_sold_nothing_is_available() -> None:
    pool, reach = wording.parse_pool(
        "tee@main", b"7 1 2 5,0,0,0,0,0 web@4,0,0,0", {"web": ChannelSpec()}, False
    )
    assert (pool.on_hand, pool.channels["web"].free, reach) == (9, 4, {"web": 0})


def test_a_deficit_lowers_what_lies_there() -> None:
    pool, _ = wording.parse_pool("tee@main", b"7 1 2 0,0,0,1,4,0 web@0,5,6,0", {}, True)
    assert (pool.deficit, pool.on_hand) == (4, 8)


# Policy.

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,31}", fullmatch=True).filter(is_name)
skus = st.from_regex(r"[!#-?A-Z\[\]^_a-z|~]{1,64}", fullmatch=True).filter(is_sku)
shares = st.none() | st.integers(0, 1_000_000).map(lambda millionths: millionths / 1_000_000)
units = st.none() | st.integers(0, 2**31 - 1)


@given(
    st.integers(1, 2**53),
    names,
    st.builds(ChannelSpec, shares, units, shares, units, st.booleans(), st.booleans(),
              st.lists(names, min_size=1, max_size=3)),
)  # fmt: skip
def test_a_channel_comes_back_as_it_was(version: int, name: str, spec: ChannelSpec) -> None:
    found = wording.parse_channel(name, wording.channel_entry(version, spec))
    assert (found.name, found.version, found.spec) == (name, version, kept(spec))
    closed = replace(found.spec, closed=True)
    again = wording.parse_channel(name, wording.channel_entry(version + 1, closed))
    assert (again.name, again.version, again.spec) == (name, version + 1, closed)


def kept(spec: ChannelSpec) -> ChannelEntry:
    """As the store keeps it."""
    return ChannelEntry(**asdict(spec))


def test_a_quota_is_found_by_its_whole_name() -> None:
    row = b"7 1 2 5,3,1,2,0,-4 a.web@9,9,9,0 web-2@1,2,3,0 web@4,5,6,3,1,u500,6,0"
    assert wording.quota(row, "web") == (4, 5, 6)
    assert wording.quota(row, "web-2") == (1, 2, 3)
    assert wording.quota(row, "we") == (0, 0, 0)
    with pytest.raises(ValueError, match="int"):
        wording.quota(b"7 1 2 5,3,1,2,0,-4 web@x,1,2,0", "web")


@given(st.integers(1, 2**53), names, st.booleans(), st.booleans())
def test_a_location_comes_back_as_it_was(
    version: int, name: str, sells: bool, returns: bool
) -> None:
    entry = wording.location_entry(version, LocationSpec(sells, returns))
    found = wording.parse_location(name, entry)
    assert (found.name, found.version, found.sells, found.returns) == (
        name, version, sells, returns,
    )  # fmt: skip


@given(
    st.integers(1, 2**53),
    st.lists(names, unique=True, max_size=4).map(tuple),
    st.builds(SkuEntry, st.integers(0, 9), st.dictionaries(names, st.integers(0, 9), max_size=2),
              st.dictionaries(names, st.builds(SkuChannel, shares, units), max_size=2),
              st.none() | st.integers(1, 9), st.integers(1, 30), st.integers(0, 9)),
)  # fmt: skip
def test_a_sku_comes_back_as_it_was(number: int, places: tuple[str, ...], spec: SkuEntry) -> None:
    entry = wording.sku_entry(number, places, spec)
    assert wording.parse_sku(entry) == (number, places, spec)
    view = wording.sku_view("tee", entry)
    assert (view.sku, view.version, view.channels) == ("tee", number, spec.channels)


@given(
    st.binary(min_size=22, max_size=22).map(bytes.hex).map(str.encode),
    st.sampled_from([200, 201]),
    skus,
    names,
)
def test_a_key_stands_for_its_first_answer(
    fingerprint: bytes, status: int, sku: str, location: str
) -> None:
    """A SKU may have nearly any visible character; none of them is taken for the end of it."""
    resource = f"{sku}@{location}"
    key = Key(b"k" * 22, fingerprint)
    field, value = wording.pack_key(key, status, resource)
    assert field == b"k" * 22
    assert wording.parse_key(value) == (fingerprint, status, resource)
    assert wording.is_of(value, key.mark)
    assert not wording.is_of(value, Key(b"k" * 22, fingerprint).mark)
