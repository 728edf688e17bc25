"""The house's style, where it can be counted. Lists of offenders may only get shorter."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import problems
from core import errors
from core.errors import StockadeError
from tests.processes import ROOT

TOPS = ("core", "api", "bench", "loadtest", "tests")
COLUMNS_MAX = 100
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
TEST_SLEEP_SECONDS_MAX = 0.1

# Longer than they should be, with the length that they may not pass.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {
    "core/store/_answer.pyx:reservation_json": 75,
}

# API.md's table of problems: what clients branch on. A change needs a decision and a line in
# CHANGELOG.md.
CONTRACT = {
    400: {"malformed_json", "idempotency_key_invalid", "idempotency_key_required"},
    401: {"unauthenticated"},
    403: {"forbidden"},
    404: {"unknown_sku", "unknown_reservation", "unknown_channel", "unknown_location",
          "unknown_route"},
    405: {"method_not_allowed"},
    409: {"insufficient_stock", "customer_limit", "invalid_state", "invalid_quantity", "expired",
          "hold_limit", "channel_in_use"},
    412: {"stale_version"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"validation_failed", "idempotency_key_reused", "customer_required",
          "durability_unavailable"},
    429: {"rate_limited"},
    503: {"overloaded", "stock_unavailable", "ledger_unavailable", "draining"},
}  # fmt: skip
# Beyond the table.
ADDED = {
    400: {"if_match_invalid"}, 404: {"unknown_reconciliation"}, 408: {"request_timeout"},
    431: {"head_too_large"}, 500: {"internal_error"},
}  # fmt: skip
# Of commands and of the scribe: no request ever gets these.
AT_START = {"start_refused", "import_refused", "ledger_broken", "rebuild_refused"}


def sources(*endings: str) -> list[Path]:
    """The house's own files with these endings."""
    return [
        path
        for top in TOPS
        for path in sorted((ROOT / top).rglob("*"))
        if path.suffix in endings and "static" not in path.parts
    ]


PYTHON = sources(".py")
TEXTS = sources(".py", ".pyi", ".pyx", ".pxd", ".lua")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of the functions of a file."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield node.name, node.end_lineno - node.lineno + 1
        return
    start = (
        re.compile(r"( *)(?:local )?function (\w+)")
        if path.suffix == ".lua"
        else re.compile(
            r"( *)(?:c(?:p)?def(?! class\b)|def)\b[^=]*?(\w+)\([^=]*$|( *)def (\w+)\("
        )
    )
    lines = [*text.split("\n"), "the end"]
    for number, line in enumerate(lines):
        match = start.match(line)
        if match is None:
            continue
        indent = len(line) - len(line.lstrip())
        inside = [
            after
            for after in range(number + 1, len(lines))
            if lines[after].strip()
            and len(lines[after]) - len(lines[after].lstrip()) <= indent
            and not lines[after].lstrip().startswith(")")
        ]
        last = max(k for k in range(number, inside[0]) if lines[k].strip())
        yield next(group for group in match.groups()[1::2] if group), last - number + 1


def test_lines_are_short_enough() -> None:
    long = [
        f"{name_of(path)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if len(line) > COLUMNS_MAX
    ]
    assert long == []


def test_files_are_short_enough() -> None:
    lengths = {name_of(path): path.read_text().count("\n") for path in TEXTS}
    long = {name: n for name, n in lengths.items() if n > FILE_LINES_MAX}
    grown = {name: n for name, n in long.items() if n > LONG_FILES.get(name, 0)}
    assert grown == {}, "longer than the house allows, or longer than they were"
    assert LONG_FILES.keys() <= long.keys(), "no longer too long: take it off the list"


def test_functions_are_short_enough() -> None:
    lengths = {
        f"{name_of(path)}:{name}": lines
        for path in sources(".py", ".pyx", ".lua")
        for name, lines in functions(path)
    }
    assert len(lengths) > 500
    long = {name: n for name, n in lengths.items() if n > FUNCTION_LINES_MAX}
    grown = {name: n for name, n in long.items() if n > LONG_FUNCTIONS.get(name, 0)}
    assert grown == {}, "longer than the house allows, or longer than they were"
    assert LONG_FUNCTIONS.keys() <= long.keys(), "no longer too long: take it off the list"


def test_nothing_is_put_off() -> None:
    """What is not done is an issue, not a note in the code."""
    notes = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [name_of(path) for path in TEXTS if notes.search(path.read_text())]
    assert found == []


def handlers(path: Path) -> Iterator[tuple[ast.ExceptHandler, str]]:
    """What a file catches."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            yield node, ast.unparse(node.type) if node.type is not None else ""


@pytest.mark.parametrize("top", TOPS)
def test_no_error_is_swallowed(top: str) -> None:
    """Nobody catches everything, or does nothing about it."""
    for path in PYTHON:
        if path.relative_to(ROOT).parts[0] != top:
            continue
        assert "suppress(Exception" not in path.read_text() or path == Path(__file__)
        for node, caught in handlers(path):
            where = f"{name_of(path)}:{node.lineno}"
            assert caught, f"{where} catches everything"
            nothing = all(
                isinstance(each, ast.Pass | ast.Continue)
                or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
                for each in node.body
            )
            assert not (nothing and caught in {"Exception", "BaseException"}), where


def test_no_test_waits_for_time_to_pass() -> None:
    """A test waits for what it waits for; between two looks it may rest a moment."""
    for path in PYTHON:
        if path.relative_to(ROOT).parts[0] != "tests":
            continue
        tree = ast.parse(path.read_text())
        known = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sleep")):
                continue
            (argument,) = node.args
            seconds = argument.value if isinstance(argument, ast.Constant) else None
            if isinstance(argument, ast.Name):
                seconds = known.get(argument.id)
            if isinstance(seconds, int | float):
                where = f"{name_of(path)}:{node.lineno}"
                assert seconds < TEST_SLEEP_SECONDS_MAX, f"{where} sleeps for {seconds} s"


def leaves(root: type[StockadeError] = StockadeError) -> Iterator[type[StockadeError]]:
    """All errors of the house."""
    for each in root.__subclasses__():
        yield each
        yield from leaves(each)


def own(leaf: type[StockadeError]) -> bool:
    return leaf.__module__ in {errors.__name__, problems.__name__}


def test_every_code_stands_for_one_error() -> None:
    """Except for a family's own: a parent may have the code of its first child."""
    seen: dict[str, type[StockadeError]] = {}
    for leaf in filter(own, leaves()):
        if "code" not in vars(leaf):
            continue
        other = seen.setdefault(leaf.code, leaf)
        assert other is leaf or issubclass(leaf, other), f"{leaf.code} is {other} and {leaf}"
        assert leaf.__doc__, f"{leaf} has no message"


def test_every_code_is_in_the_contract_with_its_status() -> None:
    promised = {code: status for status, codes in CONTRACT.items() for code in codes}
    promised |= {code: status for status, codes in ADDED.items() for code in codes}
    for code, kind in problems.KINDS.items():
        assert promised.get(code) == kind.status, code
    codes = {leaf.code for leaf in filter(own, leaves())}
    assert codes - AT_START == problems.KINDS.keys()


def test_what_may_be_tried_again_says_so() -> None:
    """`retryable` is true for 429 and 503 only."""
    for leaf in filter(own, leaves()):
        if leaf.code not in AT_START:
            assert leaf.retryable == (problems.KINDS[leaf.code].status in {429, 503}), leaf
