"""What docs/SECURITY.md leans on, as far as the sources can tell; and that its tests are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.house.test_floors import imports, module_of, sources
from tests.processes import ROOT

# Whoever has one of these can be made to call an address; nobody who serves has any. The terminal
# view asks the address that its user names.
ASKS_ITS_USER = "api.top"
CALLERS = {
    "aiohttp", "ftplib", "http.client", "httpx", "httpx2", "imaplib", "requests", "smtplib",
    "socketserver", "telnetlib", "urllib.request", "urllib3", "xmlrpc",
}  # fmt: skip
# What makes code or objects of a text.
MAKERS = {"marshal", "pickle", "shelve", "yaml"}
# Where connections are made, to the addresses of the settings and to our own processes.
CONNECTS = {
    "core.embedded.postgres": "the private server's socket",
    "core.embedded.valkey": "the private server's socket",
    "core.store.link": "the store of the settings",
    "api.place": "a socket pair with each child",
}
# Where a query is put together, of words of its own: values go by $1, $2 ….
COMPOSED = {"core.ledger.migrating", "core.ledger.reading", "core.ledger.rebuilding"}
CONNECTING = {
    "create_connection", "create_datagram_endpoint", "create_unix_connection", "open_connection",
    "open_unix_connection",
}  # fmt: skip
ASKING = {"cursor", "execute", "executemany", "fetch", "fetchrow", "fetchval", "prepare"}
POINTED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def calls(path: str, names: set[str]) -> list[ast.Call]:
    tree = ast.parse((ROOT / path).read_text())
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in names
    ]


@pytest.mark.parametrize("top", ["core", "api"])
def test_nothing_that_serves_calls_out_or_makes_code_of_text(top: str) -> None:
    astray = {
        (module_of(path), name)
        for path in sources(top)
        if module_of(path) != ASKS_ITS_USER
        for name, _ in imports(path)
        if name in CALLERS or name.split(".")[0] in CALLERS | MAKERS
    }
    assert astray == set()
    connecting = {
        module_of(path)
        for path in sources(top)
        if path.suffix == ".py" and calls(str(path.relative_to(ROOT)), CONNECTING)
    }
    assert connecting == {name for name in CONNECTS if name.startswith(top)}
    for path in sources(top):
        if path.suffix == ".py":
            found = {
                node.func.id
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert not found & {"eval", "exec", "compile"}, path


def test_queries_are_whole_texts() -> None:
    """Written down, or named ones: whoever puts one together is in a list, and has it of its own
    words alone."""
    composing = {
        module_of(path)
        for path in sources("core/ledger")
        if path.suffix == ".py"
        for call in calls(str(path.relative_to(ROOT)), ASKING)
        if call.args and not _is_whole(call.args[0])
    }
    assert composing <= COMPOSED, composing - COMPOSED


def _is_whole(query: ast.expr) -> bool:
    return isinstance(query, ast.Constant) or ast.unparse(query).startswith("queries.get(")


def test_every_test_that_the_page_points_to_is_there() -> None:
    page = (ROOT / "docs" / "SECURITY.md").read_text()
    pointed = POINTED.findall(page)
    assert len(pointed) > 20
    for path, name in pointed:
        text = (ROOT / path).read_text()
        assert not name or f"def {name}(" in text, f"{path} has no {name}"
    for row in page.split("\n"):
        if row.startswith("| ") and not row.startswith(("| what", "| ---")):
            assert POINTED.search(row), row
