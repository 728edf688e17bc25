"""Prometheus' rules: each alert fires when it should and is silent when all is well, and rules and
dashboard name only what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.meters import FAMILIES
from tests.processes import ROOT

RULES = ROOT / "deploy" / "prometheus" / "stockade.rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "stockade.json"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDS = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
MINUTES = 90  # of a test; of those that take days, as many hours
DAYS = {"StockadeVariance", "StockadeNotReconciled"}
WELL = {
    'stockade_workers{state="ready"}': "2x100",
    "stockade_store_up": "1x100",
    'stockade_store_durability{level="fsync"}': "1x100",
    "stockade_store_memory_bytes": "10x100",
    "stockade_store_memory_limit_bytes": "100x100",
    "stockade_deficit_units": "0x100",
    "stockade_oversold_orders": "0x100",
    "stockade_ledger_up": "1x100",
    "stockade_ledger_lag_seconds": "1x100",
    "stockade_ledger_backlog_bytes": "1x100",
    "stockade_ledger_backlog_limit_bytes": "100x100",
    'stockade_queue_wait_seconds_bucket{le="0.01",script="reserve"}': "0+600x100",
    'stockade_queue_wait_seconds_bucket{le="0.5",script="reserve"}': "0+600x100",
    'stockade_queue_wait_seconds_bucket{le="+Inf",script="reserve"}': "0+600x100",
    'stockade_reservations_total{verb="reserve",outcome="done",reason="",channel="web"}':
        "0+600x100",
    'stockade_reservations_total{verb="commit",outcome="done",reason="",channel="web"}':
        "0+300x100",
    'stockade_reservations_total{verb="reserve",outcome="failed",reason="overloaded",'
    'channel="web"}': "0x100",
    "stockade_oldest_unpaid_seconds": "800x100",
    "stockade_clock_suspect": "0x100",
    "stockade_protect_mode": "0x100",
    'stockade_lane_events_total{event="law_broken"}': "0x100",
    'stockade_script_errors_total{error="OOM"}': "0x100",
    'stockade_process_starts_total{process="worker"}': "2x100",
    "stockade_drift_open_cases": "0x100",
    "stockade_drift_variance_ratio": "0.004x100",
    "stockade_dropped_series": "0x100",
    "stockade_reconciled_timestamp_seconds": "NOW",
    "stockade_watch_timestamp_seconds": "NOW",
}  # fmt: skip

# Alert → what is other than well.
ILL: dict[str, dict[str, str]] = {
    "StockadeAway": {'stockade_workers{state="ready"}': "0x100"},
    "StockadeStoreAway": {"stockade_store_up": "0x100"},
    "StockadeNotDurable": {'stockade_store_durability{level="fsync"}': "0x100"},
    "StockadeStoreFull": {"stockade_store_memory_bytes": "85x100"},
    "StockadeDeficit": {"stockade_deficit_units": "1x100"},
    "StockadeOversold": {"stockade_oversold_orders": "3x100"},
    "StockadeLedgerStopped": {"stockade_ledger_up": "0x100"},
    "StockadeLedgerBehind": {"stockade_ledger_lag_seconds": "61x100"},
    "StockadeBacklogFills": {"stockade_ledger_backlog_bytes": "51x100"},
    "StockadeQueueWaits": {
        'stockade_queue_wait_seconds_bucket{le="0.01",script="reserve"}': "0x100"
    },
    "StockadeFailing": {
        'stockade_reservations_total{verb="reserve",outcome="failed",reason="overloaded",'
        'channel="web"}': "0+60x100"
    },
    "StockadeExpiryStops": {"stockade_oldest_unpaid_seconds": "7300x100"},
    "StockadeClockSuspect": {"stockade_clock_suspect": "1x100"},
    "StockadeProtected": {"stockade_protect_mode": "1x100"},
    "StockadeDefect": {'stockade_lane_events_total{event="law_broken"}': "0+1x100"},
    "StockadeScriptsRefused": {'stockade_script_errors_total{error="OOM"}': "0+1x100"},
    "StockadeProcessesDie": {'stockade_process_starts_total{process="worker"}': "0+1x100"},
    "StockadeDrift": {"stockade_drift_open_cases": "1x100"},
    "StockadeVariance": {"stockade_drift_variance_ratio": "0.011x100"},
    "StockadeNotReconciled": {"stockade_reconciled_timestamp_seconds": "60x100"},
    "StockadeNobodyWatches": {"stockade_watch_timestamp_seconds": "60x100"},
    "StockadeSeriesDropped": {"stockade_dropped_series": "1x100"},
}
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, check=False, cwd=RULES.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def case(ill: str | None, unit: str) -> dict[str, Any]:
    """A test of promtool's: all is well for some minutes or hours, or one thing is not."""
    now = {"m": "1+60x100", "h": "1+3600x100"}[unit]  # the time itself
    series = WELL | (ILL[ill] if ill else {})
    series = {name: now if values == "NOW" else values for name, values in series.items()}
    expected = [
        {
            "eval_time": f"{MINUTES}{unit}",
            "alertname": name,
            "exp_alerts": [
                {"exp_labels": rule["labels"], "exp_annotations": rule["annotations"]}
            ] if name == ill else [],
        }
        for name, rule in ALERTS.items()
    ]  # fmt: skip
    return {
        "interval": f"1{unit}",
        "name": ill or "all is well",
        "input_series": [{"series": name, "values": v} for name, v in series.items()],
        "alert_rule_test": expected,
    }


def test_every_alert_is_tried() -> None:
    assert set(ILL) == set(ALERTS)
    for rule in ALERTS.values():
        assert set(rule["annotations"]) == {"summary", "action"}
        assert rule["labels"]["severity"] in ("critical", "warning")


@needs_promtool
def test_alerts_fire_when_they_should_and_no_other_does(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    # The key that it names is made by whoever deploys it.
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    ratio = {
        "expr": "stockade:hold_to_commit:ratio1h",
        "eval_time": f"{MINUTES}m",
        "exp_samples": [
            {"labels": 'stockade:hold_to_commit:ratio1h{channel="web"}', "value": 0.5}
        ],
    }  # fmt: skip
    for unit in ("m", "h"):
        tests = [case(name, unit) for name in ILL if (name in DAYS) == (unit == "h")]
        if unit == "m":
            tests.append(case(None, unit) | {"promql_expr_test": [ratio]})
        file = tmp_path / f"rules.{unit}.json"
        rules = {"rule_files": [str(RULES)], "evaluation_interval": f"1{unit}"}
        file.write_text(json.dumps(rules | {"tests": tests}))
        promtool("test", "rules", file)


def names_in(expression: str) -> set[str]:
    """Metrics and recorded rules that a PromQL expression names."""
    return set(re.findall(r"\bstockade[_:][a-z0-9_:]+", expression))


def known() -> set[str]:
    """What may be named."""
    found = set(RECORDS)
    for name, family in FAMILIES.items():
        ends = ("_bucket", "_count", "_sum") if family.kind == "histogram" else ("",)
        found |= {name + end for end in ends}
    return found


def test_rules_name_only_what_there_is() -> None:
    used = [rule["expr"] for group in GROUPS for rule in group["rules"]]
    assert set().union(*map(names_in, used)) <= known()
    labels = {label for family in FAMILIES.values() for label in family.labels} | {"le"}
    for expression in used:
        for matched in re.findall(r"\{([^}]*)\}(?!/)", expression):
            assert set(re.findall(r"(\w+)=", matched)) <= labels, expression


def test_the_dashboard_shows_only_what_there_is() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    used = set()
    for panel in panels:
        assert panel["targets"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            used |= names_in(target["expr"])
    assert used <= known()
    # What the issue of seeing asks for is on it.
    assert {name for name in FAMILIES if not names_on(name, used)} <= NOT_SHOWN


NOT_SHOWN = {
    "stockade_clock_suspect", "stockade_protect_mode", "stockade_dropped_series",
    "stockade_watch_timestamp_seconds",
    "stockade_script_errors_total", "stockade_oversold_units", "stockade_ledger_up",
    "stockade_store_up", "stockade_scribe_write_duration_seconds", "stockade_deficit_pools",
    "stockade_store_script_calls_total", "stockade_process_starts_total",
    "stockade_script_duration_seconds",  # by way of a recorded rule
}  # fmt: skip


def names_on(name: str, used: set[str]) -> bool:
    return any(each.startswith(name) for each in used)


@needs_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)
