"""Who may import whom: the floors of the house, read from the imports themselves.

Each edge stands in a table with its reason. An import that is not there fails, and so does an edge
that nobody uses any more.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.floors import EDGES, TYPES_ONLY
from tests.processes import ROOT

OURS = ("core", "api", "bench", "loadtest", "tests")

CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)


def module_of(path: Path) -> str:
    """The dotted name of a source file."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(top: str) -> Iterator[Path]:
    """The files of a package that import something."""
    for path in sorted((ROOT / top).rglob("*")):
        if path.suffix in {".py", ".pyi", ".pyx", ".pxd"}:
            yield path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, only for types) of what a file imports of ours."""
    text = path.read_text()
    if path.suffix in {".pyx", ".pxd"}:
        for match in CYTHON_IMPORT.finditer(text):
            yield match[1] or match[2], False
        return
    tree = ast.parse(text)
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for each in node.body
        for inner in ast.walk(each)
    }
    for node in ast.walk(tree):
        typed = id(node) in hidden
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, typed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield (deeper if is_module(deeper) else node.module), typed


def is_module(name: str) -> bool:
    """True if a dotted name of ours is a file or a package."""
    path = ROOT.joinpath(*name.split("."))
    return name.split(".")[0] in OURS and (
        path.is_dir() or any(path.with_suffix(s).exists() for s in (".py", ".pyx"))
    )


def floor_of(module: str, floors: list[str]) -> str | None:
    """The most precise entry of the table that a module belongs to."""
    fitting = [each for each in floors if module == each or module.startswith(each + ".")]
    return max(fitting, key=len, default=None)


def edges() -> dict[tuple[str, str, bool], list[str]]:
    """(importer, imported, only for types) → the files where it is so."""
    found: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for top in ("core", "api", "bench", "loadtest"):
        for path in sources(top):
            module = module_of(path)
            if module == "core":
                assert not list(imports(path)) or path.name != "__init__.py", "the map imports"
            here = floor_of(module, list(EDGES)) or module
            for name, typed in imports(path):
                if name.split(".")[0] not in OURS:
                    continue
                allowed = [*EDGES.get(here, {}), *(to for of, to in TYPES_ONLY if of == here)]
                there = floor_of(name, allowed) or floor_of(name, list(EDGES)) or name
                if there != here:
                    found[here, there, typed].append(str(path.relative_to(ROOT)))
    return found


def test_nobody_imports_against_the_table() -> None:
    """Nothing calls back upward: api → core.service → … → {model, errors}."""
    for (here, there, typed), files in edges().items():
        assert here in EDGES, f"{here} is not in the table ({files[0]})"
        known = there in EDGES[here] or (typed and (here, there) in TYPES_ONLY)
        assert known, f"{here} → {there} in {', '.join(files)} is not in the table"


def test_the_table_has_no_edge_that_nobody_uses() -> None:
    used = {(here, there) for here, there, _ in edges()}
    written = {(here, there) for here, allowed in EDGES.items() for there in allowed}
    assert written | set(TYPES_ONLY) == used


def test_the_table_has_no_circle() -> None:
    """Read as an order, it has a bottom and a top."""
    left = {here: {each for each in allowed if each in EDGES} for here, allowed in EDGES.items()}
    left["bench"] = {each for each in EDGES if each.startswith("core.")} | {"api"}
    while left:
        free = [here for here, allowed in left.items() if not allowed & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for here in free:
            del left[here]


@pytest.mark.parametrize("top", ["core", "api", "loadtest"])
def test_nothing_that_serves_imports_what_tests_it(top: str) -> None:
    for path in sources(top):
        others = {name.split(".")[0] for name, _ in imports(path)} & set(OURS)
        assert others <= {"loadtest": {"loadtest"}, "core": {"core"}}.get(top, {"api", "core"})


WINGS = {
    "redis": "core.store", "hiredis": "core.store", "asyncpg": "core.ledger", "uvicorn": "api",
    "starlette": "api",
}  # fmt: skip


def test_each_outside_system_is_spoken_to_from_one_wing() -> None:
    """The store from core.store, the ledger from core.ledger, HTTP from api."""
    astray = {
        (module_of(path), name)
        for top in ("core", "api")
        for path in sources(top)
        for name, _ in imports(path)
        if (wing := WINGS.get(name.split(".")[0])) and floor_of(module_of(path), [wing]) is None
    }
    assert astray == set()
