"""What a type checker is told of the compiled modules is what was compiled."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT

SOURCES = sorted((ROOT / "core").rglob("_*.pyx"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES]

# What Cython adds to every module, and to classes that cannot be pickled.
ADDED_BY_CYTHON = [
    r".*\.__pyx_capi__",
    r".*\.__test__",
    r".*\.__(reduce|setstate)_cython__",
]


def test_every_compiled_module_has_a_stub() -> None:
    assert MODULES
    assert all(path.with_suffix(".pyi").exists() for path in SOURCES)


def test_stubs_equal_the_compiled_modules(tmp_path: Path) -> None:
    """Names, signatures and defaults, as mypy's own tool compares them."""
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(ADDED_BY_CYTHON) + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowed)),
            *("--ignore-unused-allowlist", "--concise", *MODULES),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_stubs_say_what_the_code_says(name: str) -> None:
    """A docstring that an editor shows is the one that stands in the source."""
    module = importlib.import_module(name)
    stub = Path(*name.split(".")).with_suffix(".pyi")
    tree = ast.parse((ROOT / stub).read_text())
    for path, node in definitions(tree):
        told = ast.get_docstring(node)
        if told is None:
            continue
        compiled = module
        for part in path.split("."):
            compiled = getattr(compiled, part)
        assert inspect.getdoc(compiled) == told, f"{name}.{path}"


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Classes, their methods, and functions of a stub, by their paths."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    yield f"{node.name}.{each.name}", each
