"""Health, readiness, and the documentation, which needs nothing from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec

from api import wire
from api.call import JSON, Call, Header, Reply
from api.problems import KINDS, UnknownRoute, answer
from core.errors import Draining, StockUnavailable

TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")
HTML: Header = (b"content-type", b"text/html; charset=utf-8")
SCRIPT: Header = (b"content-type", b"text/javascript; charset=utf-8")
NO_STORE: Header = (b"cache-control", b"no-store")
FOR_AN_HOUR: Header = (b"cache-control", b"max-age=3600")
NO_SNIFF: Header = (b"x-content-type-options", b"nosniff")

# The viewer styles its shadow trees inline; scripts, data and all else come from here alone.
DOCS_POLICY: Header = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
DOCS = b"""\
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
 show-header="false" allow-authentication="false" allow-server-selection="false"
 schema-style="table" default-schema-tab="example">
</rapi-doc>
<noscript>This page needs JavaScript; the same is in <a href="/openapi.json">openapi.json</a>.\
</noscript>
</body>
</html>
"""


async def healthz(call: Call) -> Reply:
    """``GET /healthz``: the process answers."""
    return 200, [JSON, NO_STORE], b'{"status":"ok"}'


async def readyz(call: Call) -> Reply:
    """``GET /readyz``: this worker can take reservations now; if not, a problem with the same."""
    readiness = call.state.open.readiness()
    ready = bool(readiness["ready"]) and not call.state.draining
    readiness |= {"ready": ready, "draining": call.state.draining}
    if ready:
        return 200, [JSON, NO_STORE], wire.encode(readiness)
    error = Draining() if call.state.draining else StockUnavailable()
    status, headers, body = answer(error, call.instance)
    document = readiness | msgspec.json.decode(body)
    return status, [*headers, NO_STORE], wire.encode(document)


async def openapi(call: Call) -> Reply:
    """``GET /openapi.json``."""
    return 200, [JSON, FOR_AN_HOUR], call.state.document


async def docs(call: Call) -> Reply:
    """``GET /docs``: the document, to be read and tried out."""
    return 200, [HTML, FOR_AN_HOUR, NO_SNIFF, DOCS_POLICY], DOCS


async def docs_script(call: Call) -> Reply:
    """``GET /docs/rapidoc-min.js``: the viewer."""
    return 200, [SCRIPT, FOR_AN_HOUR, NO_SNIFF], _script()


@cache
def _script() -> bytes:
    return resources.files("api").joinpath("static", "rapidoc-min.js").read_bytes()


async def problem(call: Call) -> Reply:
    """``GET /problems/{code}``: what the ``type`` of a problem means."""
    kind = KINDS.get(call.parameter)
    if kind is None:
        raise UnknownRoute
    text = f"{kind.title} ({kind.status} {call.parameter})\n\n{kind.text}\n"
    return 200, [TEXT, FOR_AN_HOUR, NO_SNIFF], text.encode()
