"""Routes, answers and headers, over an engine that only remembers what it was asked."""

from __future__ import annotations

import logging
from typing import Any, cast

import httpx2
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api import call
from api.app import App
from api.openapi import EXAMPLES, problem_codes
from api.problems import KINDS
from api.routes import PAGES, ROUTES
from api.routing import Route
from core.errors import Overloaded
from tests.fake_service import BASKET, ID, FakeService
from tests.problems import assert_problem


async def test_reserve_answers_with_the_reservation(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    response = await client.post("/v1/reservations", json=BASKET | {"reference": "o-1"})
    assert response.status_code == 201
    assert response.headers["location"] == f"/v1/reservations/{ID}"
    assert response.headers["etag"] == '"7"'
    assert response.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in response.headers
    body = response.json()
    assert body["id"] == ID
    assert body["reference"] == "o-1"
    assert "refused" not in body
    assert "reacquired" not in body
    name, (request, key) = service.engine.calls[0]
    assert (name, request.channel, key) == ("reserve", "web", None)


async def test_a_replay_says_so(client: httpx2.AsyncClient, service: FakeService) -> None:
    service.engine.replayed = True
    headers = {"Idempotency-Key": "k"}
    response = await client.post("/v1/reservations", json=BASKET, headers=headers)
    assert response.status_code == 201
    assert response.headers["idempotent-replayed"] == "true"
    line = {"sku": "tee", "location": "main", "quantity": 1}
    response = await client.post("/v1/stock/receive", json={"lines": [line]}, headers=headers)
    assert response.headers["idempotent-replayed"] == "true"
    lines = [line, line | {"sku": "busy"}]
    response = await client.post("/v1/stock/receive", json={"lines": lines}, headers=headers)
    assert "idempotent-replayed" not in response.headers


@pytest.mark.parametrize("verb", ["extend", "commit", "release", "cancel", "fulfil"])
async def test_a_verb_passes_key_and_version_on(
    client: httpx2.AsyncClient, service: FakeService, verb: str
) -> None:
    body = {"ttl_seconds": 9} if verb == "extend" else {}
    headers = {"Idempotency-Key": "k", "If-Match": '"3"'}
    path = f"/v1/reservations/{ID}/{verb}"
    response = await client.post(path, json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["etag"] == '"7"'
    escaped = path.replace("reservations", "%72eservations")
    await client.post(escaped, json=body, headers=headers)
    (name, (id, _, key, version)), (_, (_, _, escaped_key, _)) = service.engine.calls
    assert (name, id, version) == (verb, ID, 3)
    assert (key.field, key.fingerprint) == (escaped_key.field, escaped_key.fingerprint)
    assert key.mark != escaped_key.mark


@pytest.mark.parametrize("verb", ["cancel", "fulfil"])
async def test_a_quantity_is_moved_only_with_a_key(
    client: httpx2.AsyncClient, service: FakeService, verb: str
) -> None:
    path = f"/v1/reservations/{ID}/{verb}"
    body = {"lines": [{"sku": "tee", "quantity": 1}]}
    response = await client.post(path, json=body)
    assert_problem(response, 400, "idempotency_key_required")
    assert service.engine.calls == []
    assert (await client.post(path)).status_code == 200
    assert (await client.post(path, json={})).status_code == 200
    keyed = await client.post(path, json=body, headers={"Idempotency-Key": "k"})
    assert keyed.status_code == 200


async def test_a_batch_answers_element_by_element(client: httpx2.AsyncClient) -> None:
    elements = [BASKET, BASKET | {"channel": "sold-out"}]
    response = await client.post("/v1/reservations/batch", json={"reservations": elements})
    assert response.status_code == 200
    first, second = response.json()["results"]
    assert first["status"] == 201
    assert first["reservation"]["id"] == ID
    assert second["status"] == 409
    assert second["problem"]["code"] == "insufficient_stock"
    assert second["problem"]["instance"] == "/v1/reservations/batch"


async def test_skus_are_taken_from_the_path_as_sent(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    for path in ("/v1/skus/", "/v1/stock/"):
        response = await client.get(path + "a%2Fb%3Fc%23d%25e")
        assert response.json()["sku"] == "a/b?c#d%e"
        assert_problem(await client.get(path + "a/b"), 404, "unknown_route")
        assert_problem(await client.get(path), 404, "unknown_route")
        for wrong in ("a%20b", "%7Ba%7D", "a%40b", "%C3%A9", "%FF", "x" * 65, "%00", "x" * 9000):
            document = assert_problem(await client.get(path + wrong), 422, "validation_failed")
            assert document["errors"][0]["pointer"] == "{sku}"
    assert (await client.get("/v1/stock/receive")).json()["sku"] == "receive"


async def test_names_in_the_path_follow_the_grammar(client: httpx2.AsyncClient) -> None:
    for kind in ("channels", "locations"):
        for wrong in ("shared", "all", "Web", "-a", "a%2Fb", "a%20b", "%C3%A9", "x" * 33):
            path = f"/v1/{kind}/{wrong}"
            assert_problem(await client.get(path), 422, "validation_failed")
            document = assert_problem(await client.put(path, json={}), 422, "validation_failed")
            assert document["errors"][0]["pointer"] == "{name}"


@pytest.mark.parametrize("id", ["x", ID.upper(), ID[:-1], ID.replace("-7", "-4"), "%00", "batch"])
async def test_an_id_of_another_shape_is_unknown(
    client: httpx2.AsyncClient, service: FakeService, id: str
) -> None:
    assert_problem(await client.get(f"/v1/reservations/{id}"), 404, "unknown_reservation")
    path = f"/v1/reservations/{id}/commit"
    assert_problem(await client.post(path), 404, "unknown_reservation")
    # What is wrong with the request itself comes first.
    assert_problem(await client.post(path, json={"late": 1}), 422, "validation_failed")
    worse = await client.post(path, json={"late": 1}, headers={"If-Match": "x"})
    assert_problem(worse, 400, "if_match_invalid")
    assert service.engine.calls == []


async def test_policies_are_put_and_read(client: httpx2.AsyncClient, service: FakeService) -> None:
    made = await client.put("/v1/channels/web", json={"floor_share": 0.25})
    assert made.status_code == 201
    assert made.headers["etag"] == '"1"'
    assert made.headers["location"] == "/v1/channels/web"
    assert made.json()["floor_share"] == 0.25
    assert made.json()["version"] == 1
    changed = await client.put("/v1/locations/north", json={"sells": False})
    assert changed.status_code == 200
    assert "location" not in changed.headers
    read = await client.get("/v1/channels/web", headers={"If-Match": '"3"'})
    assert read.status_code == 200
    stale = await client.get("/v1/channels/web", headers={"If-Match": '"4"'})
    assert_problem(stale, 412, "stale_version")
    missing = await client.put("/v1/channels/missing", json={}, headers={"If-Match": "*"})
    assert_problem(missing, 412, "stale_version")
    assert [name for name, _ in service.engine.calls].count("put_channel") == 1


async def test_lists_are_paged(client: httpx2.AsyncClient) -> None:
    first = (await client.get("/v1/channels?limit=2")).json()
    assert [item["name"] for item in first["items"]] == ["app", "store"]
    rest = await client.get(f"/v1/channels?limit=2&cursor={first['next_cursor']}")
    assert [item["name"] for item in rest.json()["items"]] == ["web"]
    assert rest.json()["next_cursor"] is None
    stock = (await client.get("/v1/stock?limit=1")).json()
    rest = await client.get(f"/v1/stock?cursor={stock['next_cursor']}")
    assert rest.json()["next_cursor"] is None


async def test_stock_and_availability(client: httpx2.AsyncClient, service: FakeService) -> None:
    response = await client.get("/v1/stock?sku=a&sku=b%2Fc")
    assert [item["sku"] for item in response.json()["items"]] == ["a", "b/c"]
    both = await client.get("/v1/stock?sku=a&limit=1")
    assert_problem(both, 422, "validation_failed")
    response = await client.get("/v1/availability?channel=web&sku=a")
    assert response.headers["cache-control"] == "max-age=1"
    assert response.json()["items"] == [{"sku": "a", "available": 3}]
    response = await client.get("/v1/availability?channel=web&sku=a&by_location=true")
    assert response.json()["items"][0]["by_location"] == {"main": 3}
    await client.get("/v1/availability?sku=a%26b&&channel=web&sku=c+d&sku=c+d&by_location=false&")
    assert service.stock.calls[-1] == ("availability", ("web", ["a&b", "c d"], False))
    for wrong in ("", "channel=web", "sku=a", "channel=all&sku=a", "channel=web&sku=a&x=1"):
        response = await client.get(f"/v1/availability?{wrong}")
        assert_problem(response, 422, "validation_failed")
    many = "&".join(f"sku=s{number}" for number in range(201))
    assert_problem(await client.get(f"/v1/stock?{many}"), 422, "validation_failed")


async def test_a_channel_is_deleted(client: httpx2.AsyncClient, service: FakeService) -> None:
    response = await client.delete("/v1/channels/web", headers={"If-Match": '"3"'})
    assert (response.status_code, response.content) == (204, b"")
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers
    assert service.catalogue.calls == [("delete_channel", ("web", 3))]
    assert_problem(await client.delete("/v1/channels/missing"), 404, "unknown_channel")
    assert_problem(await client.delete("/v1/channels/Web"), 422, "validation_failed")
    assert_problem(await client.delete("/v1/channels/web?force=1"), 422, "validation_failed")
    stale = await client.delete("/v1/channels/web", headers={"If-Match": "web"})
    assert_problem(stale, 400, "if_match_invalid")


async def test_paths_and_methods_that_are_not_there(client: httpx2.AsyncClient) -> None:
    for path in (
        "/",
        "/v1",
        "/v1/reservations/",
        f"/v1/reservations/{ID}/",
        f"/v1/reservations/{ID}/pay",
        "/v1/nothing",
        "/v1/event",
        "/v2/reservations",
        "/V1/reservations",
        "/problems/nothing",
        "/problems/",
        "/healthz/",
        "/docs/",
        "/docs/nothing.js",
        "/docs/..%2Fapp.py",
        "/docs/%00",
        "/docs/" + "x" * 300,
    ):
        assert_problem(await client.get(path), 404, "unknown_route")
    for method, path, allow in [
        ("PUT", "/v1/reservations", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/channels/web", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("PATCH", "/v1/stock/receive", "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/v1/stock/adjust", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/stock/lose", "GET, HEAD, OPTIONS"),
        ("get", f"/v1/reservations/{ID}/commit", "OPTIONS, POST"),
        ("POST", "/healthz", "GET, HEAD, OPTIONS"),
        ("DELETE", "/problems/expired", "GET, HEAD, OPTIONS"),
        ("PUT", "/docs", "GET, HEAD, OPTIONS"),
        ("PUT", "/docs/rapidoc-min.js", "GET, HEAD, OPTIONS"),
    ]:
        response = await client.request(method, path)
        assert_problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allow
        options = await client.options(path)
        assert (options.status_code, options.headers["allow"]) == (200, allow)


async def test_a_query_that_a_route_does_not_take(
    client: httpx2.AsyncClient, service: FakeService
) -> None:
    response = await client.post("/v1/reservations?dry=true", json=BASKET)
    document = assert_problem(response, 422, "validation_failed")
    assert document["errors"] == [{"pointer": "?dry", "detail": "Unknown query parameter"}]
    response = await client.post("/v1/reservations?dry_run=yes", json=BASKET)
    document = assert_problem(response, 422, "validation_failed")
    assert document["errors"] == [{"pointer": "?dry_run", "detail": "Expected true or false"}]
    for path in (f"/v1/reservations/{ID}", "/v1/channels/web", "/v1/skus/tee", "/v1/stock/tee"):
        assert_problem(await client.get(path + "?at_risk=true"), 422, "validation_failed")
    assert service.engine.calls == []


async def test_head_is_get_without_the_body(client: httpx2.AsyncClient) -> None:
    for path in (f"/v1/reservations/{ID}", "/docs/rapidoc-min.js"):
        head, read = await client.head(path), await client.get(path)
        assert head.content == b""
        assert head.headers == read.headers


async def test_what_is_passed_through(client: httpx2.AsyncClient) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = {"traceparent": trace, "X-Request-Id": "r 1"}
    response = await client.post("/v1/reservations", json=BASKET, headers=sent)
    assert response.headers["traceparent"] == trace
    assert response.headers["x-request-id"] == "r 1"
    assert (await client.get("/nowhere", headers=sent)).headers["x-request-id"] == "r 1"
    wrong = {"traceparent": trace.replace("4bf9", "4BF9"), "X-Request-Id": "x" * 256}
    response = await client.post("/v1/reservations", json=BASKET, headers=wrong)
    assert response.status_code == 201
    assert "traceparent" not in response.headers
    assert "x-request-id" not in response.headers


async def test_the_order_in_which_things_are_wrong(client: httpx2.AsyncClient) -> None:
    async def code(path: str = "/v1/reservations", **sent: Any) -> str:
        response = await client.post(path, **sent)
        return cast(str, response.json()["code"])

    text = {"Content-Type": "text/plain"}
    key = {"Idempotency-Key": "a b"}
    json_type = {"Content-Type": "application/json"}
    too_large = b"x" * (call.BODY_BYTES_MAX + 1)
    assert await code("/v1/nothing", content=too_large) == "unknown_route"
    assert await code(content=too_large, headers=text) == "body_too_large"
    assert await code(content=b"{", headers=text | key) == "unsupported_media_type"
    assert await code(content=b"{", headers=json_type | key) == "idempotency_key_invalid"
    commit = f"/v1/reservations/{ID}/commit"
    match = {"If-Match": "x"}
    assert await code(commit, content=b"{", headers=text | match) == "unsupported_media_type"
    assert await code(commit, content=b"{", headers=json_type | match) == "if_match_invalid"
    assert await code(content=b"{", headers=json_type) == "malformed_json"
    assert await code(content=b"{}", headers=json_type) == "validation_failed"


async def test_errors_of_the_engine(
    client: httpx2.AsyncClient, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.engine.error = Overloaded()
    response = await client.post("/v1/reservations", json=BASKET)
    document = assert_problem(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"
    assert document["retryable"] is True
    assert document["outcome"] == "none"
    service.engine.error = KeyError("secret")
    with caplog.at_level(logging.ERROR, "stockade.api"):
        response = await client.post("/v1/reservations", json=BASKET)
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "KeyError" in caplog.text


async def test_health_and_readiness(
    app: App, client: httpx2.AsyncClient, service: FakeService
) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "draining": False, "durability": "fsync"}
    service.ready = False
    document = assert_problem(await client.get("/readyz"), 503, "stock_unavailable")
    assert document["ready"] is False
    service.ready = True
    app.drain()
    document = assert_problem(await client.get("/readyz"), 503, "draining")
    assert document["durability"] == "fsync"
    assert (await client.post("/v1/reservations", json=BASKET)).status_code == 201
    app.service = None
    assert_problem(await client.get("/readyz"), 503, "stock_unavailable")
    assert_problem(await client.post("/v1/reservations", json=BASKET), 503, "stock_unavailable")


async def test_a_page_that_fails_leaks_nothing(app: App, service: FakeService) -> None:
    def broken() -> dict[str, Any]:
        raise KeyError("secret")

    service.readiness = broken  # type: ignore[method-assign]
    # The server gets the error too, for its log.
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/readyz", headers={"X-Request-Id": "r 1"})
    assert_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    assert response.headers["x-request-id"] == "r 1"


async def test_the_document_is_openapi_and_names_every_route(client: httpx2.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(document).validate()
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    routes: tuple[Route[Any], ...] = (*ROUTES, *PAGES)
    assert described == {(route.method, route.path) for route in routes}
    assert "``" not in str(document)
    for body, example in EXAMPLES.items():
        assert msgspec.json.decode(msgspec.json.encode(example), type=body)
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(ids) == len(set(ids))
    assert {code for route in routes for code in problem_codes(route)} == set(KINDS) - {
        "method_not_allowed"
    }


async def test_the_documentation_needs_nothing_from_elsewhere(client: httpx2.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text
    assert 'src="/docs/rapidoc-min.js"' in page.text
    script = await client.get("/docs/rapidoc-min.js", headers={"Range": "bytes=x"})
    assert script.status_code == 200
    assert "javascript" in script.headers["content-type"]
    assert script.headers["x-content-type-options"] == "nosniff"
    assert "rapi-doc" in script.text
    known = {"If-None-Match": script.headers["etag"]}
    assert (await client.get("/docs/rapidoc-min.js", headers=known)).status_code == 304
    for code, kind in KINDS.items():
        text = await client.get(kind.type)
        assert text.status_code == 200
        assert code in text.text
