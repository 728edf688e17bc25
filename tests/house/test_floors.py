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

from tests.processes import ROOT

OURS = ("core", "api", "bench", "loadtest", "tests")

# importer → {imported: why}. A package stands for all modules in it, unless they are named; what
# is inside one package may import each other.
EDGES = {
    "core.errors": {},
    "core.model": {},
    "core.stock_model": {"core.model": "grammar of names, bounds of quantities"},
    "core.clock": {},
    "core.deadlines": {},
    "core.kernel": {},  # the kernel plans, and knows nothing of who asks
    "core.settings": {
        "core.errors": "a wrong setting stops the start with one line",
    },
    "core.embedded": {
        "core.errors": "a server that cannot be started stops the start with one line",
    },
    "core.store": {
        "core.errors": "what went wrong in the store, as everybody knows it",
        "core.model": "texts of the store become the values that cross walls",
    },
    "core.ledger": {
        "core.errors": "what went wrong in the ledger, as everybody knows it",
    },
    "core.chronicle": {
        "core.errors": "an event that is not to be believed",
        "core.ledger": "makes the pages that it writes",
        "core.store": "reads what scripts wrote into their events",
    },
    "core.trust": {
        "core.errors": "the ledger may be away",
        "core.ledger": "holds the store against it",
        "core.store": "what the store is",
    },
    "core.rebuild": {
        "core.chronicle": "believes what the stream still has",
        "core.errors": "what cannot be rebuilt",
        "core.ledger": "reads there, and fences it",
        "core.store": "writes there",
    },
    "core.scribe": {
        "core.chronicle": "what an event means",
        "core.errors": "waits for a server, stops for a stream that does not fit",
        "core.ledger": "writes there",
        "core.store": "reads there",
        "core.trust": "a store that lost what the ledger has is not read",
    },
    "core.snapshot": {
        "core.kernel": "keeps the kernel's own objects, so that a plan parses nothing twice",
        "core.store": "reads entries of SKUs",
    },
    "core.ops": {
        "core.errors": "an op ends with a result or with an error",
        "core.kernel": "an op that reserves is a demand of the kernel",
        "core.model": "what callers sent, what a receipt becomes",
        "core.store": "names of keys, and which script a verb is",
        "core.stock_model": "what a line of stock asks for",
    },
    "core.availability": {
        "core.errors": "what cannot be answered",
        "core.kernel": "asks it what a channel can take",
        "core.model": "grammar of SKUs",
        "core.ops": "a read waits as the others do",
        "core.snapshot": "what is answered from",
    },
    "core.channels": {
        "core.errors": "a channel may be in use",
        "core.kernel": "plans the rows without the channel",
        "core.model": "channels as they are",
        "core.store": "reads page by page, swaps rows",
    },
    "core.steps": {
        "core.errors": "the script's code becomes the caller's error",
        "core.kernel": "a planned stage is what a script writes",
        "core.model": "keys that new reservations came under",
        "core.ops": "the ops of one script",
        "core.store": "names of keys, scripts, wording",
    },
    "core.queues": {
        "core.availability": "reads wait as well",
        "core.errors": "what is given up ends with one",
        "core.kernel": "who touches a row that moved",
        "core.ops": "what waits",
        "core.replan_ops": "what waits to be planned anew",
        "core.store": "one queue per script that settles",
    },
    "core.refusals": {
        "core.errors": "makes them",
        "core.kernel": "names that the policy does not have",
        "core.model": "grammar of names",
        "core.ops": "whom they are for",
        "core.stock_model": "which line of stock is refused",
    },
    "core.stock_steps": {
        "core.kernel": "a planned stage is what a script writes",
        "core.ops": "the ops of the script",
        "core.steps": "a step as the others are",
        "core.store": "names of keys, scripts, wording",
    },
    "core.stock_planning": {
        "core.deadlines": "whether something is due that would give units back",
        "core.errors": "what is not to be had",
        "core.kernel": "asks it for plans",
        "core.ops": "what is planned",
        "core.queues": "what waits",
        "core.refusals": "what is refused, and why",
        "core.snapshot": "what plans are made on",
        "core.stock_steps": "the script that carries the plan",
        "core.stock_model": "what a line of stock asks for",
    },
    "core.replan_ops": {
        "core.kernel": "what its units become",
        "core.model": "the key it came under",
        "core.ops": "an op as the others are",
        "core.store": "records, as they were and as they become",
    },
    "core.replan_steps": {
        "core.kernel": "a planned stage is what a script writes",
        "core.ops": "what a caller gets",
        "core.replan_ops": "the ops of the script",
        "core.steps": "a step as the others are",
        "core.store": "names of keys, scripts",
    },
    "core.return_planning": {
        "core.errors": "what is not to be had",
        "core.kernel": "asks it for plans",
        "core.ops": "a pool that is missing",
        "core.queues": "what waits",
        "core.replan_ops": "what is planned",
        "core.replan_steps": "the script that carries the plan",
        "core.snapshot": "what plans are made on",
    },
    "core.backlog": {
        "core.errors": "who waited too long is told so",
        "core.lane": "what has been done, and the server's time",
        "core.store": "asks it for the ledger's mark",
    },
    "core.backing": {
        "core.backlog": "waits for the ledger",
        "core.errors": "what is not to be had",
        "core.lane": "key windows are the lane's",
        "core.ledger": "reads what left the store",
        "core.store": "brings it back",
    },
    "core.asking": {
        "core.backing": "what left the store, and waiting for the ledger",
        "core.errors": "each verb's refusals",
        "core.lane": "everything hot goes through the lane",
        "core.model": "requests in, answers out",
        "core.ops": "a use case is an op that it waits for",
        "core.store": "single reads",
    },
    "core.changes": {
        "core.asking": "asks as the other use cases do",
        "core.errors": "each verb's refusals",
        "core.model": "requests in",
        "core.ops": "what came of an op",
        "core.refusals": "locations that do not exist",
        "core.replan_ops": "a use case is an op that it waits for",
        "core.store": "records as values",
    },
    "core.planning": {
        "core.availability": "reads are answered before the next plan",
        "core.deadlines": "a refusal is only right if nothing is due",
        "core.errors": "what is not to be had",
        "core.kernel": "asks it for plans",
        "core.ops": "what is planned",
        "core.queues": "what waits",
        "core.refusals": "what is refused, and why",
        "core.replan_ops": "whose row cannot be read",
        "core.replan_steps": "the scripts of what is planned anew",
        "core.return_planning": "plans the returns",
        "core.snapshot": "what plans are made on",
        "core.steps": "the scripts of one pipeline",
        "core.stock_planning": "plans the lines of stock",
        "core.store": "bounds of scripts, names of keys",
    },
    "core.flight": {
        "core.clock": "how long it is under way",
        "core.steps": "what it carries",
    },
    "core.lane": {
        "core.availability": "a read that was seen lately is answered at once",
        "core.clock": "deadlines are proposed in the server's time",
        "core.deadlines": "what may be due",
        "core.errors": "every op that cannot go on ends with one",
        "core.flight": "what is under way",
        "core.model": "levels of durability",
        "core.ops": "what comes in",
        "core.planning": "forms the next pipeline",
        "core.queues": "what waits",
        "core.replan_ops": "what comes in to be planned anew",
        "core.replan_steps": "which replies know the policy",
        "core.snapshot": "what plans are made on",
        "core.steps": "what a pipeline's replies mean",
        "core.store": "the link to the store",
    },
    "core.catalogue": {
        "core.channels": "a channel that goes is swept out of all pools",
        "core.errors": "what may be wrong with a policy",
        "core.kernel": "a changed SKU brings its rows under its policy in the same step",
        "core.lane": "key windows and the server's time are the lane's",
        "core.model": "channels, locations, SKUs as requests and as answers",
        "core.store": "reads and writes policy",
    },
    "core.engine": {
        "core.asking": "how the lines of a verb are checked and refused",
        "core.changes": "its use cases, and how they ask",
        "core.errors": "each verb's refusals",
        "core.model": "requests in, answers out",
        "core.ops": "a use case is an op that it waits for",
        "core.store": "texts of records",
    },
    "core.stock": {
        "core.availability": "what a channel can take is asked of the lane",
        "core.errors": "each line's refusals",
        "core.lane": "everything hot goes through the lane",
        "core.model": "requests in, answers out",
        "core.ops": "a line is an op that it waits for",
        "core.refusals": "a line that moves nothing anywhere",
        "core.snapshot": "a reader sees a row as a demand would meet it",
        "core.store": "single reads",
        "core.stock_model": "requests in",
    },
    "core.reaper": {
        "core.backlog": "measures it",
        "core.errors": "goes on when the store is away",
        "core.lane": "expiry is a settling verb like the others",
        "core.store": "removes what ended long ago",
    },
    "core.importing": {
        "core.errors": "what may be wrong with a file",
        "core.kernel": "plans what rows of a file do to rows of the store",
        "core.lane": "key windows and the server's time are the lane's",
        "core.model": "grammar of SKUs and texts, SKUs and lines that a file makes",
        "core.store": "reads what is planned on, sends the script, moves the position on",
    },
    "core.auditing": {
        "core.chronicle": "accounts by the names that movements use",
        "core.errors": "what is not to be had, files that cannot be used",
        "core.importing": "counts come in tables as stock does",
        "core.lane": "key windows are the lane's",
        "core.ledger": "reads what it holds, keeps what is found",
        "core.model": "grammar of names",
        "core.stock": "what was counted is booked as any fact",
        "core.stock_model": "what a line of stock asks for",
        "core.store": "reads what it holds, mends it",
    },
    "core.opening": {
        "core.auditing": "opens it",
        "core.embedded": "a private store is rebuilt without anybody being asked",
        "core.errors": "refuses to start",
        "core.ledger": "opens it",
        "core.rebuild": "opens it",
        "core.scribe": "opens it",
        "core.settings": "is opened by them",
        "core.store": "opens the stream of events",
        "core.trust": "whether a store must be rebuilt",
    },
    "core.service": {
        "core.auditing": "hands out who mends",
        "core.backing": "opens it",
        "core.backlog": "opens it",
        "core.ledger": "hands out a worker's journal",
        "core.opening": "opens a worker's journal",
        "core.catalogue": "opens it",
        "core.channels": "a DELETE that was cut off is carried to its end",
        "core.clock": "hears the server's time before the first request",
        "core.embedded": "finds the server of a data directory",
        "core.engine": "opens it",
        "core.errors": "refuses to start",
        "core.importing": "opens it",
        "core.lane": "opens it and mends what it asks for",
        "core.model": "levels of durability",
        "core.reaper": "opens it",
        "core.settings": "is opened by them",
        "core.stock": "opens it",
        "core.store": "connects",
        "core.trust": "opens it",
    },
    "api": {
        "core.auditing": "counts come in, differences and repairs go out",
        "core.errors": "each code gets its status",
        "core.importing": "tells what became of a file",
        "core.model": "bodies are decoded into these structs, answers encoded from them",
        "core.ledger": "what a rebuild reports",
        "core.opening": "`serve` migrates, and keeps a scribe; a command rebuilds",
        "core.service": "the one thing that the door opens",
        "core.settings": "flags, environment and file",
        "core.embedded": "`serve` owns private servers, a command finds them",
        "core.stock_model": "bodies are decoded into these structs",
    },
    "loadtest": {},  # speaks HTTP, as any client
    "bench": {
        "api": "the bare route that others are compared with runs under the same server",
        "core": "measures it from inside",
    },
}

# Only for a type checker's eyes: these are reached through what is handed over at run time.
TYPES_ONLY = {
    ("core.steps", "core.lane"): "a step is given the lane that it belongs to",
    ("core.replan_steps", "core.lane"): "a step is given the lane that it belongs to",
    ("core.stock_steps", "core.lane"): "a step is given the lane that it belongs to",
    ("api", "core.catalogue"): "core.service hands it out",
    ("api", "core.engine"): "core.service hands it out",
    ("api", "core.ops"): "what core.engine hands out",
    ("api", "core.stock"): "core.service hands it out",
}

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
