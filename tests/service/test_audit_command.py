"""``stockade audit`` and ``GET /v1/audit``: what commands did is in them, and what requests did."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.listening import Shop
from tests.processes import ROOT, Service, until

COMMAND_SECONDS = 120.0


def run(data: Path, *words: str) -> str:
    """What a command says."""
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", *words, "--data", str(data)],
        cwd=data.parent, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_done_is_told_by_whom(tmp_path: Path) -> None:
    data = tmp_path / "var"
    operator = f"cli:{getpass.getuser()}"
    file = tmp_path / "stock.csv"
    file.write_text("sku,location,quantity\ncap,main,5\n")
    with Service("--data", str(data)) as service:
        shop = Shop(service)
        run(data, "mode", "protect", "--reason", "counts are off")
        run(data, "import", str(file))
        run(data, "export", "reservations", "--since", "2020-01-01", "--pii")
        run(data, "show", "tee", "--pii")
        run(data, "purge", "--customer-retention-days", "9")
        basket = {"channel": "web", "lines": [{"sku": "cap", "quantity": 1}]}
        sold = {"state": "committed", "shortage": "record", "durability": "ledger"}
        shop.ask("POST", "/v1/reservations", basket | sold)  # until the ledger has all before it
        items: list[dict[str, Any]] = shop.ask("GET", "/v1/audit")["items"]
        told = [(each["actor"], each["verb"], each["target"]) for each in items]
        assert told == [
            ("loopback", "put", "channel/web"), ("loopback", "put", "sku/tee"),
            (operator, "put", "mode/protect"), (operator, "import", "stock.csv"),
            (operator, "read", "export reservations"), (operator, "read", "show tee"),
            (operator, "purge", "people"),
        ]  # fmt: skip
        lines = run(data, "audit", "--format", "jsonl").splitlines()
        assert [json.loads(line) for line in lines] == items
        text = run(data, "audit").splitlines()
        assert len(text) == len(items)
        assert f"{operator}  put  mode/protect" in text[2]
        assert shop.ask("GET", "/v1/audit?target=sku/tee")["items"] == items[1:2]
        assert run(data, "audit", "--since", "2099-01-01") == ""
        check_keys(shop, data, operator)
        shop.caller.close()


def check_keys(shop: Shop, data: Path, operator: str) -> None:
    """What a key does bears its id; who may read that needs a scope of its own."""

    def ask(key: str, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json",
                   "x-request-id": "req 7"}  # fmt: skip
        shop.caller.request(method, path, body, headers)
        answer = shop.caller.getresponse()
        return answer.status, json.loads(answer.read())

    def made(scope: str) -> tuple[str, str]:
        key = run(data, "keys", "create", "--name", scope, "--scope", scope).strip()
        return key, key.partition(".")[0]

    (auditor, first), (editor, second) = made("audit"), made("quota:write")
    until(lambda: ask(editor, "GET", "/v1/audit")[0] == 403, "the keys count")
    assert ask(editor, "PUT", "/v1/channels/web", '{"borrow": false}')[0] == 200
    assert ask(editor, "GET", "/v1/audit")[0] == 403
    found: list[Any] = []

    def there() -> bool:
        found[:] = ask(auditor, "GET", f"/v1/audit?actor={second}")[1]["items"]
        return bool(found)

    until(there, "the ledger has it")
    (change,) = found
    assert (change["target"], change["request_id"]) == ("channel/web", "req 7")
    assert (change["before"]["borrow"], change["after"]["borrow"]) == (True, False)
    makers = ask(auditor, "GET", f"/v1/audit?target=key/{first}")[1]["items"]
    assert [(each["actor"], each["verb"]) for each in makers] == [(operator, "create")]
