"""The OpenAPI 3.1 document, made of the table of routes and the structs themselves."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from inspect import cleandoc
from typing import Any

import msgspec

from api.batch import ELEMENTS, Batch
from api.problems import KINDS, Problem
from api.routing import Route
from core.access import SCOPES
from core.model import (
    ID_PATTERN,
    NAME_PATTERN,
    SKU_PATTERN,
    Amend,
    Cancel,
    Commit,
    Extend,
    Fulfil,
    Release,
    Reserve,
    Return,
)
from core.policy_model import ChannelSpec, LocationSpec, SkuSpec
from core.stock_model import Adjust, Count, Reallocate, Receive, Transfer

VERSION = "1.0"  # of the contract; additions raise the second number
INFO = """\
Stockade decides who gets the last unit. Quantities are whole units, times RFC 3339 UTC with
milliseconds. A path parameter is percent-encoded: a `/` in a SKU is `%2F`. Members that are not
in the schema are refused; of a repeated member the last one counts."""

PARAMETERS: dict[str, tuple[str, str]] = {
    "id": (ID_PATTERN, "The id of a reservation, as reserving gave it."),
    "sku": (SKU_PATTERN, "A SKU: 1 to 64 visible ASCII characters, percent-encoded."),
    "name": (NAME_PATTERN, "The name of a channel or location; not that of an account."),
    "code": (r"^[a-z_]+$", "The code of a problem."),
}
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "1 to 255 visible ASCII characters, quoted or bare. The same request with the "
    "same key is done once; a repeat gets the first status and the resource as it is now, with "
    "`Idempotent-Replayed: true`.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "description": "The version that this request was made for, as `ETag` gave it.",
    "schema": {"type": "string"},
}
SECURITY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, `id.secret`, as `stockade keys create` printed it once. As long as "
    "there is none, whoever is on this machine may do everything. Scopes: "
    + "; ".join(f"`{name}`: {text}" for name, text in SCOPES.items())
    + ".",
}
ETAG = {"description": "The version.", "schema": {"type": "string"}}
LOCATION = {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}}
REPLAYED = {"description": "Sent if this had happened before.", "schema": {"const": "true"}}
RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
BASKET = {
    "channel": "web",
    "lines": [{"sku": "tee-m", "quantity": 2}],
    "ttl_seconds": 900,
    "reference": "order-17",
}
EXAMPLES: dict[type, dict[str, Any]] = {
    Reserve: BASKET,
    Batch: {
        "reservations": [
            BASKET | {"idempotency_key": "order-17"},
            {"verb": "release", "id": "01932d5a-1c4e-7a3b-9f00-3c5e8b0a4d00"},
        ]
    },
    Amend: {"lines": [{"sku": "tee-m", "quantity": 3}, {"sku": "cap", "quantity": 1}]},
    Extend: {"ttl_seconds": 900},
    Commit: {"reference": "order-17"},
    Release: {},
    Cancel: {"reason": "changed mind"},
    Fulfil: {"lines": [{"sku": "tee-m", "quantity": 1}], "reference": "parcel-1"},
    Return: {"lines": [{"sku": "tee-m", "quantity": 1, "disposition": "quarantine"}]},
    Receive: {"lines": [{"sku": "tee-m", "location": "main", "quantity": 10}]},
    Adjust: {
        "lines": [{"sku": "tee-m", "location": "main", "delta": -1, "account": "damaged"}],
        "reason": "dropped",
    },
    Count: {"lines": [{"sku": "tee-m", "location": "main", "counted": 9, "if_on_hand": 10}]},
    Transfer: {
        "lines": [{"sku": "tee-m", "from_location": "main", "to_location": "annex", "quantity": 3}]
    },
    Reallocate: {
        "lines": [
            {"sku": "tee-m", "location": "main", "from": "shared", "to": "web", "quantity": 2},
            {"sku": "tee-m", "location": "main", "by": "policy"},
        ]
    },
    SkuSpec: {"safety_stock": 2, "channels": {"web": {"ceiling_units": 100}}, "customer_limit": 4},
    LocationSpec: {"sells": True, "returns": True},
    ChannelSpec: {"floor_share": 0.7, "borrow": False, "locations": ["main"]},
}
MEDIA_TYPES = {
    "/v1/events": "text/event-stream",
    "/docs": "text/html",
    "/problems/{code}": "text/plain",
}
_PARAMETER = re.compile(r"{(\w+)}")


def document(routes: Iterable[Route[Any]]) -> dict[str, Any]:
    """The document that describes ``routes``."""
    routes = tuple(routes)
    structs = [struct for route in routes for struct in (route.body, *route.responses.values())]
    distinct = list(
        dict.fromkeys(each for each in (*structs, *ELEMENTS, Problem) if each is not None)
    )
    references, components = msgspec.json.schema_components(
        distinct, ref_template="#/components/schemas/{name}"
    )
    for component in components.values():
        if "description" in component:
            component["description"] = _markdown(component["description"])
    schemas = dict(zip(distinct, references, strict=True))
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stockade", "version": VERSION, "description": INFO},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": SECURITY}},
    }


def _markdown(docstring: str) -> str:
    """The text of a docstring, with its code marked as the document's readers expect it."""
    return cleandoc(docstring).replace("``", "`")


def _operation(route: Route[Any], schemas: dict[type, dict[str, Any]]) -> dict[str, Any]:
    """What one method of one path takes and gives."""
    module = route.handler.__module__.removeprefix("api.")
    name = route.handler.__name__
    operation: dict[str, Any] = {
        "operationId": f"{module}_{name}",
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "parameters": _parameters(route),
        "responses": _responses(route, schemas),
        # One of the scopes is enough; without any it is open.
        "security": [{"key": [scope]} for scope in sorted(route.scopes)],
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {
                "application/json": {
                    "schema": schemas[route.body],
                    "examples": {"plain": {"value": EXAMPLES[route.body]}},
                }
            },
        }
    return operation


def _tag(path: str) -> str:
    """The group of a path, for the reader."""
    _, first, *rest = path.split("/")
    if first != "v1":
        return "Service"
    return "SKUs" if rest[0] == "skus" else rest[0].capitalize()


def _parameters(route: Route[Any]) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name in _PARAMETER.findall(route.path):
        pattern, text = PARAMETERS[name]
        parameters.append(
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": text,
                "schema": {"type": "string", "pattern": pattern},
            }
        )
    for query in route.query:
        parameters.append(
            {
                "name": query.name,
                "in": "query",
                "required": query.required,
                "description": query.text,
                "schema": query.schema,
            }
        )
    if route.key:
        parameters.append(KEY)
    if route.if_match:
        parameters.append(IF_MATCH)
    return parameters


def _responses(route: Route[Any], schemas: dict[type, dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, struct in route.responses.items():
        headers = {}
        if status == 204:
            responses["204"] = {"description": HTTPStatus.NO_CONTENT.phrase}
            continue
        if route.if_match or status == 201:
            headers["ETag"] = ETAG
        if status == 201:
            headers["Location"] = LOCATION
        if route.key:
            headers["Idempotent-Replayed"] = REPLAYED
        media_type = MEDIA_TYPES.get(route.path, "application/json")
        content = {media_type: {} if struct is None else {"schema": schemas[struct]}}
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": headers,
            "content": content,
        }
    codes: dict[int, list[str]] = defaultdict(list)
    for code in problem_codes(route):
        codes[KINDS[code].status].append(code)
    for status in sorted(codes):
        responses[str(status)] = {
            "description": ", ".join(f"`{code}`" for code in codes[status]),
            "headers": {"Retry-After": RETRY_AFTER} if status in (429, 503) else {},
            "content": {"application/problem+json": {"schema": schemas[Problem]}},
        }
    return responses


def problem_codes(route: Route[Any]) -> list[str]:
    """Every code that ``route`` may answer with."""
    codes = list(route.problems)
    if route.scopes:
        codes += ["unauthenticated", "forbidden", "rate_limited"]
    if route.body is not None:
        codes += ["malformed_json", "body_too_large", "unsupported_media_type"]
    if route.key:
        codes += ["idempotency_key_invalid", "idempotency_key_reused", "draining"]
    if route.if_match:
        codes += ["if_match_invalid", "stale_version"]
    if route.path.startswith("/v1/"):
        codes += [
            "validation_failed", "overloaded", "stock_unavailable", "ledger_unavailable",
            "internal_error", "request_timeout", "head_too_large",
        ]  # fmt: skip
    return list(dict.fromkeys(codes))
