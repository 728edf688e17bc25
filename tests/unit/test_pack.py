"""What is packed in C, against the same said plainly."""

from __future__ import annotations

from typing import Any, cast

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from core.model import Key
from core.store._pack import key_lines, pack_command, record_lines
from core.store.wording import pack_key, value_in_entry

word = st.binary() | st.text() | st.integers(-(2**63), 2**63 - 1)
plain = st.binary(min_size=1, max_size=70).map(lambda each: each.hex().encode())


@given(st.lists(word, min_size=1, max_size=20).map(tuple))
def test_a_command_is_what_any_client_would_send(command: tuple[Any, ...]) -> None:
    assert pack_command(command) == hiredis.pack_command(cast("Any", command))


def test_lengths_of_words_have_as_many_digits_as_they_need() -> None:
    for size in (0, 1, 9, 10, 99, 100, 12_345, 1_000_000):
        assert pack_command([b"x" * size]) == b"*1\r\n$%d\r\n%s\r\n" % (size, b"x" * size)


@given(st.lists(st.tuples(plain, plain), max_size=20))
def test_records_of_an_event_are_lines(pairs: list[tuple[bytes, bytes]]) -> None:
    ids, records = [id.decode() for id, _ in pairs], [record for _, record in pairs]
    assert record_lines(ids, records) == b"\n".join(each for pair in pairs for each in pair)


@given(st.lists(st.tuples(plain, plain, plain), max_size=20, unique_by=lambda each: each[0]))
def test_keys_that_share_an_entry_are_found_in_it(keys: list[tuple[bytes, bytes, bytes]]) -> None:
    fields, prints, ids = ([each[n] for each in keys] for n in range(3))
    entry = key_lines(fields, prints, b"201", [id.decode() for id in ids])
    for field, fingerprint, id in keys:
        value = value_in_entry(entry, field)
        key = Key(field, fingerprint)
        assert pack_key(key, 201, id.decode()) == (field, b"%s %s" % (value, key.mark))
    assert entry.count(b"\n") == max(0, len(keys) - 1)
