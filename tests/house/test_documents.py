"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import pytest

from tests.documents import DOCS, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_it_would_be_made_now(name: str) -> None:
    made = PAGES[name]()
    assert (DOCS / name).read_text() == made, "run `python -m tests.documents`"
