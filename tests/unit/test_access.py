"""Who may do what: the scopes of the routes, and what a caller has of them."""

from __future__ import annotations

from typing import Any

import pytest

from api.routes import PAGES, ROUTES
from api.routing import Route
from core.access import LOOPBACK, SCOPES, Caller

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs", "/problems/{code}"}


@pytest.mark.parametrize("route", [*ROUTES, *PAGES], ids=lambda route: f"{route[0]} {route[1]}")
def test_every_route_says_who_may_ask(route: Route[Any]) -> None:
    assert route.scopes <= SCOPES.keys()
    assert bool(route.scopes) != (route.path in OPEN)


def test_a_caller_may_what_its_scopes_say() -> None:
    caller = Caller("k", "till", frozenset({"reserve", "fulfil"}))
    assert caller.may("reserve")
    assert not caller.may("stock:read")
    assert all(map(LOOPBACK.may, SCOPES))
