"""Files for running it elsewhere: durable servers, time to stop, two roles, settings that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.routes import PAGES
from core.settings import FILE_VARIABLE, PREFIX, Settings
from tests.processes import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
UNIT = (DEPLOY / "systemd" / "stockade.service").read_text()
KUBERNETES: dict[str, Any] = {
    f"{each['kind']}/{each['metadata']['name']}": each
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for each in yaml.safe_load_all(path.read_text())
}
TEXTS = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
VALKEY = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def stop_seconds(environment: dict[str, str]) -> int:
    """The least that whatever stops the service must wait (docs/OPERATIONS.md)."""
    known = Settings()
    notice = int(environment.get("STOCKADE_NOTICE_SECONDS", known.notice_seconds))
    drain = int(environment.get("STOCKADE_DRAIN_SECONDS", known.drain_seconds))
    return notice + 2 * drain + 10


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]+)\b", path.read_text()))
    roles = {"PASSWORD", "OWNER_PASSWORD"}  # of postgres/roles.sh, no settings
    known = {name.upper() for name in Settings.__struct_fields__}
    assert named - roles - {FILE_VARIABLE.removeprefix(PREFIX)} <= known


def test_the_stores_keep_what_they_acknowledge() -> None:
    command = COMPOSE["services"]["valkey"]["command"]
    conf = (DEPLOY / "systemd" / "valkey.conf").read_text()
    for name, value in VALKEY.items():
        assert command[command.index(f"--{name}") + 1] == value
        assert re.search(rf"^{name} {value}$", conf, re.MULTILINE)
    assert "--maxmemory" in command
    assert COMPOSE["services"]["valkey"]["volumes"] == ["valkey:/data"]


def test_the_unit_lets_processes_say_who_goes_first() -> None:
    """Of the group that it denies, so that neither scribe nor workers are refused what they ask."""
    denied = UNIT.index("SystemCallFilter=~@privileged @resources")
    allowed = UNIT[denied:].splitlines()[2]
    assert allowed == "SystemCallFilter=setpriority sched_setaffinity sched_setattr"


def test_nobody_kills_what_still_drains() -> None:
    service = COMPOSE["services"]["stockade"]
    assert service["stop_grace_period"] == "60s"
    assert stop_seconds(service["environment"]) <= 60
    pod = KUBERNETES["Deployment/stockade"]["spec"]["template"]["spec"]
    settings = KUBERNETES["ConfigMap/stockade"]["data"]
    assert stop_seconds(settings) <= pod["terminationGracePeriodSeconds"]
    found = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert found is not None
    assert stop_seconds({}) <= int(found[1])
    # A balancer has seen the probe fail before the port closes.
    probe = pod["containers"][0]["readinessProbe"]
    assert probe["httpGet"]["path"] == "/readyz"
    seen_seconds = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert seen_seconds < int(settings["STOCKADE_NOTICE_SECONDS"])


def test_probes_need_no_key_and_prometheus_has_one() -> None:
    container = KUBERNETES["Deployment/stockade"]["spec"]["template"]["spec"]["containers"][0]
    asked = {container[f"{each}Probe"]["httpGet"]["path"] for each in ("startup", "liveness",
             "readiness")}  # fmt: skip
    open_pages = {page.path for page in PAGES if not page.scopes}
    assert asked <= open_pages
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["metrics_path"] not in open_pages
    assert job["authorization"] == {"credentials_file": "stockade.key"}
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/deploy/prometheus/stockade.key" in ignored


def test_only_migrating_knows_the_owner() -> None:
    def owners(text: object) -> bool:
        return "OWNER_DSN" in str(text)

    assert [name for name, each in COMPOSE["services"].items() if owners(each)] == ["migrate"]
    assert [name for name, each in KUBERNETES.items() if owners(each)] == ["Job/stockade-migrate"]
    assert "owner.env" not in UNIT
    assert COMPOSE["services"]["migrate"]["command"] == ["migrate"]


def test_containers_have_no_rights() -> None:
    for name in ("Deployment/stockade", "Job/stockade-migrate"):
        pod = KUBERNETES[name]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    text = (DEPLOY / "container" / "Containerfile").read_text()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001:10001"]
    assert text.count("\nFROM ") == 2
    assert "HEALTHCHECK" in text


def test_the_autoscaler_goes_by_queue_time() -> None:
    scaler = KUBERNETES["HorizontalPodAutoscaler/stockade"]["spec"]
    (metric,) = scaler["metrics"]
    adapter = DEPLOY / "kubernetes" / "examples" / "prometheus-adapter.yaml"
    (rule,) = yaml.safe_load(adapter.read_text())["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert "stockade_queue_wait_seconds_bucket" in rule["seriesQuery"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("name", ["stockade.service", "stockade-migrate.service"])
def test_systemd_knows_every_line_of_a_unit(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / name).read_text()
    text = re.sub(r"^EnvironmentFile=.*\n", "", text, flags=re.MULTILINE)  # there is none here
    file = tmp_path / name
    file.write_text(text.replace("/opt/stockade/bin/stockade", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
