"""What every answer that is a problem has in common."""

from __future__ import annotations

from typing import Any, cast

import httpx2


def assert_problem(response: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    document = response.json()
    assert (response.status_code, document["code"]) == (status, code), document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == status
    return cast("dict[str, Any]", document)
