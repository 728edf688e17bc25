"""What a route is, and how a path of ``/v1`` finds its own.

A path is matched as it was sent, segment by segment, and decoded afterwards: a ``%2F`` inside a
SKU stays inside it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from api.call import Answer, Call
from api.problems import MethodNotAllowed, UnknownRoute

Handler: TypeAlias = Callable[[Call], Awaitable[Answer]]
PageHandler: TypeAlias = Callable[[Request], Awaitable[Response]]
H = TypeVar("H", Handler, PageHandler)


class Query(NamedTuple):
    """A query parameter, for the documentation: its JSON schema and what it does."""

    name: str
    schema: dict[str, Any]
    text: str
    required: bool = False


class Route(NamedTuple, Generic[H]):
    """One method of one path: who handles it, and what the documentation says of it.

    ``path`` holds at most one ``{parameter}``, a whole segment. Who has one of ``scopes`` may ask;
    where there are none, anybody may. ``body_bytes_max`` is 0 where no body is read. ``responses``
    gives the struct, or the media type, of each status that is not a problem; ``problems`` the
    codes it may answer besides those every route shares.
    """

    method: str
    path: str
    handler: H
    summary: str
    responses: dict[int, Any]
    scopes: frozenset[str]
    body: type | None = None
    body_bytes_max: int = 0
    body_optional: bool = False
    query: tuple[Query, ...] = ()
    key: bool = False
    if_match: bool = False
    problems: tuple[str, ...] = ()


class _Node:
    """One segment of the tree of paths."""

    __slots__ = ("literals", "methods", "parameter")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, Route[Handler]] = {}


class Router:
    """The tree of all paths. Paths without a parameter are found with one look-up."""

    def __init__(self, routes: Iterable[Route[Handler]]) -> None:
        self._root = _Node()
        self._exact: dict[bytes, dict[str, Route[Handler]]] = {}
        for route in routes:
            node = self._root
            for segment in route.path.encode("ascii").split(b"/")[1:]:
                if segment.startswith(b"{"):
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.methods[route.method] = route
            if route.method == "GET":
                node.methods["HEAD"] = route
            if "{" not in route.path:
                self._exact[route.path.encode("ascii")] = node.methods

    def find(self, method: str, raw_path: bytes) -> tuple[Route[Handler], str]:
        """The route of ``method`` at ``raw_path``, and the parameter of the path, decoded.

        Raises UnknownRoute, MethodNotAllowed.
        """
        methods = self._exact.get(raw_path)
        if methods is not None and (route := methods.get(method)) is not None:
            return route, ""
        allowed: set[str] = set()
        for methods, parameter in self._matches(raw_path):
            if (route := methods.get(method)) is not None:
                return route, parameter
            allowed |= methods.keys()
        if not allowed:
            raise UnknownRoute
        raise MethodNotAllowed(", ".join(sorted(allowed | {"OPTIONS"})))

    def _matches(self, raw_path: bytes) -> list[tuple[dict[str, Route[Handler]], str]]:
        """All nodes that ``raw_path`` leads to, literal ones first, with their parameter."""
        segments = raw_path.split(b"/")[1:]
        if b"%" in raw_path:
            segments = [unquote_to_bytes(segment) for segment in segments]
        nodes = [(self._root, b"")]
        for segment in segments:
            following: list[tuple[_Node, bytes]] = []
            for node, parameter in nodes:
                if (literal := node.literals.get(segment)) is not None:
                    following.append((literal, parameter))
                if segment and node.parameter is not None:
                    following.append((node.parameter, segment))
            nodes = following
        return [
            (node.methods, value.decode(errors="replace")) for node, value in nodes if node.methods
        ]
