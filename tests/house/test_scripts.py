"""What every Lua script promises in its text, as far as text can tell; and what names it may know.

Lua does not roll back: a script that stops after its first write has done half of something.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from core.store import scripts
from tests.processes import ROOT

LUA = ROOT / "core" / "store" / "lua"
FILES = sorted(LUA.glob("*.lua"))
PARTS = sorted((LUA / "parts").glob("*.lua"))
# What takes memory that nobody waits for: refused when it is full.
GROWS = {"reserve", "stock", "import"}

CALL = re.compile(r"\b(?:redis\.)?p?call(?:_many)?\('(\w+)'(?:,\s*((?:[^,()\[\]]|\[[^\]]*\]+)+))?")
READS = {"HGET", "HMGET", "HEXISTS", "HGETALL", "TYPE", "TIME", "EXISTS", "LRANGE", "LLEN",
         "ZLEXCOUNT"}
WRITES = {"HSET", "HINCRBY", "HDEL", "XADD", "XTRIM", "RPUSH", "LTRIM", "ZADD", "ZREM", "UNLINK",
          "DEL"}
# Not of workers that serve: of their start, of the scribe, of a rebuild.
UNOPENED = {"start", "mark", "rebuild_begin", "rebuild_put", "rebuild_end"}

# Whole key names: from KEYS, or a parameter that a caller filled from KEYS.
KEY = re.compile(
    r"KEYS\[.+\]|pools|limits|key|bucket|stream|window|current|previous|entry\[1\]|push\[1\]"
)


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def code(path: Path) -> str:
    """A file without its comments, line by line."""
    return "\n".join(line.partition("--")[0] for line in path.read_text().split("\n"))


def header(path: Path) -> list[str]:
    """The comment that a file begins with, without the first line of a script."""
    lines = path.read_text().split("\n")
    start = 1 if lines[0].startswith("#!") else 0
    found = []
    for line in lines[start:]:
        if not line.startswith("--") or line.startswith("--%include"):
            break
        found.append(line.removeprefix("--").strip())
    return found


def units(text: str) -> list[str]:
    """The functions that stand at the edge of the page, each apart, and then all the rest."""
    functions = re.findall(r"^local function .*?^end$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^local function .*?^end$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*functions, rest]


def writes_in(unit: str) -> list[int]:
    """Where a text writes, or calls a function of the parts that does."""
    found = [match.start() for match in CALL.finditer(unit) if match[1] in WRITES]
    for name in writers():
        found += [match.start() for match in re.finditer(rf"(?<!function )\b{name}\(", unit)]
    return found


@functools.cache
def writers() -> set[str]:
    """The functions of the parts that write themselves; `settle` is a script's last step."""
    found = set()
    for path in PARTS:
        for unit in units(code(path)):
            named = re.match(r"local function (\w+)", unit)
            if named and any(command in WRITES for command, _ in CALL.findall(unit)):
                found.add(named[1])
    return found - {"settle"}


def test_every_script_has_a_file_and_every_file_is_a_script() -> None:
    names = [script.name for script in scripts.ALL]
    assert sorted(names) == [path.stem for path in FILES]
    assert len({script.sha for script in scripts.ALL}) == len(names)
    for script in scripts.ALL:
        assert getattr(scripts, script.name.upper()) is script
        assert b"--%include" not in script.text


def test_every_part_is_part_of_a_script() -> None:
    included = {
        name
        for path in FILES
        for name in re.findall(r"^--%include (\w+)$", path.read_text(), re.MULTILINE)
    }
    assert included == {path.stem for path in PARTS}


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_the_first_line_says_how_it_runs(path: Path) -> None:
    """When memory is full only what makes room, or keeps a promise, still runs."""
    first = path.read_text().split("\n")[0]
    match = re.fullmatch(r"#!lua(?: flags=([\w,-]+))?", first)
    assert match is not None, first
    flags = set((match[1] or "").split(",")) - {""}
    if path.stem in GROWS:
        assert flags == set()
    else:
        assert "allow-oom" in flags
        assert flags <= {"allow-oom", "no-writes"}
    assert ("no-writes" in flags) != bool(writes_in(code(path)) or "settle(" in code(path))


@pytest.mark.parametrize("path", FILES, ids=ids(FILES))
def test_a_script_begins_with_its_contract(path: Path) -> None:
    """What it is, what it guarantees, KEYS, ARGV, what it returns, which event it appends."""
    lines = header(path)
    assert lines[0].startswith(f"{path.stem}: ")
    text = "\n".join(lines)
    for word in (r"^Guarantees: ", r"^KEYS\b", r"\bARGV\b", r"^Returns |\breply: ", r"^Event"):
        assert re.search(word, text, re.MULTILINE), f"{word} is missing"
    assert lines == [line.rstrip() for line in lines]
    event = re.search(r"^Event:? (\w+)", text, re.MULTILINE)
    assert event is not None
    appends = any(word in code(path) for word in ("append_event(", "'XADD'", "return settle("))
    assert (event[1] != "none") == (appends or "= settle(" in code(path))


@pytest.mark.parametrize("path", PARTS, ids=ids(PARTS))
def test_a_part_says_what_it_is_part_of(path: Path) -> None:
    assert header(path)[0].startswith("Part of ")
    assert not path.read_text().startswith("#!")


@pytest.mark.parametrize("path", FILES + PARTS, ids=ids(FILES + PARTS))
def test_whole_key_names_arrive_in_keys(path: Path) -> None:
    """No name is built, none is written out, and no command is one that nobody looked at."""
    text = code(path)
    assert "{s" not in text
    for command, key in CALL.findall(text):
        assert command in READS | WRITES, f"{command} is in no list of this test"
        if command != "TIME":
            assert KEY.fullmatch(key.strip()), f"{command} {key}"
    assert "KEYS[ARGV" not in text
    assert not re.search(r"KEYS\[[^\]]*\]\s*\.\.\s*[^']", text.replace("KEYS[i] .. ' is a '", ""))


@pytest.mark.parametrize("path", FILES + PARTS, ids=ids(FILES + PARTS))
def test_numbers_of_argv_are_read_as_numbers(path: Path) -> None:
    """ARGV is text: it is joined and compared with text; who counts with it says tonumber."""
    argument = r"ARGV\[(?:[^\[\]]|\[[^\]]*\])*\]"
    for line in code(path).split("\n"):
        bare = re.sub(rf"tonumber\({argument}\)", "0", line)
        bare = re.sub(r"'[^']*'", "''", bare)
        assert not re.search(rf"{argument}\s*(?:[-+*/%<>]|[=~]=\s*\d)", bare), line
        assert not re.search(rf"(?:[-+*/%<>]|\d\s*[=~]=)\s*{argument}", bare), line
        assert not re.search(rf"for \w+ = [^d]*{argument}.* do\b", bare), line


@pytest.mark.parametrize("path", FILES + PARTS, ids=ids(FILES + PARTS))
def test_all_guards_stand_before_the_first_write(path: Path) -> None:
    """No early return, and no error, behind a write: the last return is the only one."""
    for unit in units(code(path)):
        writes = writes_in(unit)
        if not writes:
            continue
        behind = unit[min(writes) :]
        assert "error_reply" not in behind
        edge = "  " if unit.startswith("local function") else ""
        last = re.findall(rf"^{edge}return\b", behind, re.MULTILINE)
        assert len(re.findall(r"\breturn\b", behind)) == len(last) <= 1


def test_every_script_but_the_first_opens_the_shard_before_anything_else() -> None:
    """Types, epoch, clock and policy are looked at by every script in the same way."""
    for path in FILES:
        text = code(path)
        if path.stem in UNOPENED:
            continue
        opened = text.index("open_shard(")
        assert text.index("if stop then return stop end") > opened
        first = CALL.search(text)
        assert first is None or first.start() > opened


def test_no_module_but_keys_knows_a_key() -> None:
    """All names come from one module."""
    own = ROOT / "core" / "store" / "keys.py"
    names = re.compile(r"\{s\d|\{\{s\{|['\"]:?(?:rsv|due|idem|done):")
    for top in ("core", "api", "loadtest", "bench"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in {".py", ".pyx", ".lua"} and path != own:
                assert not names.search(path.read_text()), f"{path.relative_to(ROOT)} has a key"
    assert names.search(own.read_text())
