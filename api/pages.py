"""Health, readiness, and the documentation, which needs nothing from elsewhere."""

from __future__ import annotations

from os import PathLike, stat_result
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from api import wire
from api.call import Call
from api.problems import KINDS, MethodNotAllowed, UnknownRoute, answer
from core.errors import Draining, StockadeError, StockUnavailable

if TYPE_CHECKING:
    from api.app import App

JSON = "application/json"
NO_STORE = {"cache-control": "no-store"}
FOR_AN_HOUR = {"cache-control": "max-age=3600", "x-content-type-options": "nosniff"}

# The viewer styles its shadow trees inline; scripts, data and all else come from here alone.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DOCS = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stockade</title>
<script type="module" src="/docs/rapidoc-min.js"></script>
</head>
<body>
<rapi-doc spec-url="/openapi.json" load-fonts="false" render-style="read" theme="light"
 show-header="false" allow-authentication="true" allow-server-selection="false"
 schema-style="table" default-schema-tab="example">
</rapi-doc>
<noscript>This page needs JavaScript; the same is in <a href="/openapi.json">openapi.json</a>.\
</noscript>
</body>
</html>
"""


async def healthz(request: Request) -> Response:
    """``GET /healthz``: the process answers."""
    return Response(b'{"status":"ok"}', headers=NO_STORE, media_type=JSON)


async def readyz(request: Request) -> Response:
    """``GET /readyz``: this worker can take reservations now; if not, a problem with the same.

    Balancers ask without a key, and need no more than yes or no.
    """
    app: App = request.app
    readiness = app.opened.readiness()
    if not app.may(request, "operate"):
        readiness = {"ready": readiness["ready"]}
    ready = bool(readiness["ready"]) and not app.draining
    readiness |= {"ready": ready, "draining": app.draining}
    if ready:
        return Response(wire.encode(readiness), headers=NO_STORE, media_type=JSON)
    return _problem(request, Draining() if app.draining else StockUnavailable(), readiness)


async def openapi(request: Request) -> Response:
    """``GET /openapi.json``."""
    app: App = request.app
    return Response(app.document, headers=FOR_AN_HOUR, media_type=JSON)


async def docs(request: Request) -> Response:
    """``GET /docs``: the document, to be read and tried out."""
    return HTMLResponse(DOCS, headers=FOR_AN_HOUR | {"content-security-policy": DOCS_POLICY})


async def problem(request: Request) -> Response:
    """``GET /problems/{code}``: what the ``type`` of a problem means."""
    code: str = request.path_params["code"]
    kind = KINDS.get(code)
    if kind is None:
        raise UnknownRoute
    text = f"{kind.title} ({kind.status} {code})\n\n{kind.text}\n"
    return PlainTextResponse(text, headers=FOR_AN_HOUR)


class Viewer(StaticFiles):
    """The files of ``/docs``: the viewer and its licences."""

    def __init__(self) -> None:
        super().__init__(packages=[("api", "static")])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a file, and always a whole one: what is wrong with a range would be no problem
        document."""
        headers = [header for header in scope["headers"] if header[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """A file, that a browser may keep for an hour."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(FOR_AN_HOUR)
        return response


# --- What went wrong, for Starlette


def _problem(
    request: Request, error: StockadeError, members: dict[str, Any] | None = None
) -> Response:
    """``error`` as a response, with ``members`` in its document."""
    status, headers, body = answer(error, Call(request.scope, request.app).instance)
    if members is not None:
        body = wire.encode(members | msgspec.json.decode(body))
    named = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status, headers=named | NO_STORE)


async def refused(request: Request, error: Exception) -> Response:
    """A StockadeError as the problem that it is."""
    assert isinstance(error, StockadeError)
    return _problem(request, error)


async def not_served(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our words."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _problem(request, UnknownRoute())
    if error.status_code == 405 and error.headers is not None:
        allow = ", ".join(sorted({*error.headers["Allow"].split(", "), "OPTIONS"}))
        if request.method == "OPTIONS":
            return Response(headers={"allow": allow})
        return _problem(request, MethodNotAllowed(allow))
    return _problem(request, StockadeError())


async def failed(request: Request, error: Exception) -> Response:
    """A defect. Starlette raises it again behind this answer, so that the server logs it."""
    return _problem(request, StockadeError())
