"""What docs/CHECKOUT.md and docs/checkout.http say is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from api import problems
from tests.processes import ROOT
from tests.stories.storefront import Storefront

GUIDE = ROOT / "docs" / "CHECKOUT.md"
FILE = ROOT / "docs" / "checkout.http"
METHODS = ("GET", "PUT", "POST", "DELETE")


@dataclass
class Request:
    """A request of the file, as it stands there."""

    title: str
    name: str
    statuses: list[int]  # of the first round, and of the rounds after it if that is another one
    method: str
    url: str
    headers: dict[str, str]
    body: str


def requests_of(text: str) -> Iterator[Request]:
    """The requests of a file in the .http format."""
    for block in re.split(r"^###", text, flags=re.MULTILINE)[1:]:
        title, *lines = block.split("\n")
        name, statuses = "", []
        while lines[0].startswith("#"):
            comment = lines.pop(0).removeprefix("#").strip()
            if comment.startswith("@name "):
                name = comment.removeprefix("@name ")
            if comment.startswith("→"):
                statuses = [int(status) for status in re.findall(r"\d{3}", comment)]
        method, url = lines.pop(0).split(" ")
        assert method in METHODS, (title, method)
        assert statuses, f"{title}: no status is noted"
        ends = lines.index("")
        headers = dict(line.split(": ", 1) for line in lines[:ends])
        body = "\n".join(lines[ends:]).strip()
        yield Request(title.strip(), name, statuses, method, url, headers, body)


def variables_of(text: str) -> dict[str, str]:
    """The file's own variables."""
    return dict(re.findall(r"^@(\w+) = (\S+)$", text, re.MULTILINE))


def filled(text: str, variables: dict[str, str], answers: dict[str, Any]) -> str:
    """``text`` with every ``{{…}}`` replaced by a variable, or by a part of an earlier answer."""

    def value(match: re.Match[str]) -> str:
        name, _, path = match[1].partition(".response.body.$.")
        if not path:
            return variables[name]
        found = answers[name]
        for step in path.split("."):
            found = found[step]
        return str(found)

    return re.sub(r"\{\{(.+?)\}\}", value, text)


async def send_all(
    client: httpx2.AsyncClient, variables: dict[str, str], again: bool
) -> dict[str, Any]:
    """Sends the whole file and compares the statuses; the answers by title and by name."""
    answers: dict[str, Any] = {}
    for request in requests_of(FILE.read_text()):
        url, body = (filled(text, variables, answers) for text in (request.url, request.body))
        headers = {
            name: filled(value, variables, answers) for name, value in request.headers.items()
        }
        response = await client.request(request.method, url, headers=headers, content=body or None)
        status = request.statuses[-1 if again else 0]
        assert response.status_code == status, (request.title, response.text)
        answers[request.title] = answers[request.name or request.title] = response.json()
    return answers


async def test_the_whole_order_can_be_sent_as_it_stands(storefront: Storefront) -> None:
    """From the first line to the last, twice, the second time as another order."""
    variables = variables_of(FILE.read_text())
    assert variables["host"] == "http://127.0.0.1:8080", "where `make run` serves"
    variables["host"] = str(storefront.client.base_url).rstrip("/")
    for again in (False, True):
        variables["order"] = str(int(variables["order"]) + again)
        answers = await send_all(storefront.client, variables, again)
        assert answers["And clicks twice: the same basket"]["id"] == answers["basket"]["id"]
        order = answers["The order as it is now"]
        (line,) = order["lines"]
        assert (order["state"], order["reference"]) == ("fulfilled", f"order-{variables['order']}")
        assert (line["fulfilled"], line["cancelled"], line["returned"]) == (2, 1, 1)
        results = answers["Two at once: that order leaves, and somebody else reserves"]["results"]
        assert [result["status"] for result in results] == [200, 201]
        assert all("problem" not in result for result in results)
    # Ten came and three left of each round; one came back broken.
    assert (await storefront.stock("tee-m"))["on_hand"] == 14
    assert await storefront.stock("tee-m", "high-street") == {"on_hand": 2, "damaged": 2}


def test_the_guide_knows_what_to_do_on_every_code() -> None:
    """Each code that the service can answer with stands in the table, beside its status."""
    told: dict[str, int] = {}
    rows = [line for line in GUIDE.read_text().split("\n") if re.match(r"\| \d{3}", line)]
    for row in rows:
        status = 0
        for number, code in re.findall(r"(\d{3})|`([a-z_]+)`", row.split("|")[1]):
            status = int(number) if number else status
            if code:
                told[code] = status
    kinds = {code: kind.status for code, kind in problems.KINDS.items()}
    assert {code: told.get(code) for code in kinds} == kinds
