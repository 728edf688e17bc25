"""What is built is what is meant: sdist, the wheel made of it, and a service that it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT, Service

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str, cwd: Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def locked() -> list[str]:
    """The entries of the lock, each with its hashes."""
    text = (ROOT / "requirements.lock").read_text()
    lines = [line for line in text.split("\n") if line and not line.startswith("#")]
    return re.split(r"\n(?! )", "\n".join(lines))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist, and the wheel that is built from it and nothing else."""
    directory = tmp_path_factory.mktemp("dist")
    # The build tools are the locked ones, so that nothing is fetched for it.
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory), str(ROOT)),
        cwd=directory,
    )
    return directory


def test_the_sdist_has_the_sources_and_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        str(path.relative_to(ROOT))
        for top in ("core", "api")
        for path in (ROOT / top).rglob("*")
        if path.suffix in {".py", ".pyx", ".pxd", ".pyi", ".lua", ".sql", ".js", ".html", ".typed"}
        or path.name == "py.typed"
    }
    assert sources <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".c"))]
    tops = {name.partition("/")[0] for name in names if "/" in name}
    assert tops <= {"api", "core", "stockade.egg-info"}


def test_the_wheel_has_core_and_api_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = set(archive.namelist())
        metadata = archive.read("stockade-0.1.0.dist-info/METADATA").decode()
    assert {name.partition("/")[0] for name in names} == {
        "api",
        "core",
        f"stockade-{PYPROJECT['project']['version']}.dist-info",
    }
    shipped = {
        str(path.relative_to(ROOT))
        for path in [
            *(ROOT / "core").rglob("*.lua"),
            *(ROOT / "core").rglob("*.sql"),
            *(path for path in (ROOT / "api" / "static").rglob("*") if path.is_file()),
        ]
    }
    assert shipped <= names
    assert {"core/py.typed", "api/py.typed"} <= names
    for source in (ROOT / "core" / "kernel").glob("_*.pyx"):
        assert [name for name in names if name.startswith(f"core/kernel/{source.stem}.cpython")]
    assert "Classifier: Private :: Do Not Upload" in metadata
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.slow
def test_the_wheel_serves_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    wheel = next(built.glob("*.whl"))
    versions = tmp_path / "versions"  # the wheel has no hash that could be known before
    versions.write_text("".join(entry.partition(" \\\n")[0] + "\n" for entry in locked()))
    run(
        *(str(binaries / "python"), "-m", "pip", "install", "--quiet"),
        *("--constraint", str(versions), f"{wheel}[embedded]"),
        cwd=tmp_path,
    )
    version = run(str(binaries / "stockade"), "--version", cwd=tmp_path)
    assert version == f"stockade {PYPROJECT['project']['version']}\n"
    with Service("--data", "data", command=[binaries / "stockade"], cwd=tmp_path) as service:
        url = service.url()
        for path in ("/readyz", "/docs", "/openapi.json"):
            with urllib.request.urlopen(url + path, timeout=20) as answer:
                assert (path, answer.status) == (path, 200)
        service.signal(signal.SIGTERM)
        assert service.finish()[0] == 0


def test_the_lock_has_everything_that_is_asked_for() -> None:
    """Each with its exact version, and the hash of each file that it may be installed from."""
    pinned = set()
    for entry in locked():
        version, *hashes = entry.split(" \\\n")
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)==[0-9][^ ;]*( ?;.*)?", version)
        assert found is not None, entry
        assert hashes, f"{version} has no hash"
        assert all(re.fullmatch("    --hash=sha256:[0-9a-f]{64}", each) for each in hashes), entry
        pinned.add(_canonical(found[1]))
    extras = PYPROJECT["project"]["optional-dependencies"]
    asked = [
        *PYPROJECT["build-system"]["requires"],
        *PYPROJECT["project"]["dependencies"],
        *extras["embedded"],
        *extras["tracing"],
        *extras["dev"],
    ]
    assert {_canonical(re.split(r"[\[<>=!~ ]", line, maxsplit=1)[0]) for line in asked} <= pinned


def test_what_is_missing_to_build_is_said_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "machine.py"],
        env=os.environ | {"CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "there is no C compiler (no-such-compiler): install gcc" in done.stderr


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
