"""Metrics, alerts, dashboard panels, runbook and compose file agree with one another."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import yaml

from deploy.stack.jars import cache_folder
from streams.metrics import REGISTRY
from streams.settings import ROLES, Settings

ROOT = Path(__file__).resolve().parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
PROMTOOL = cache_folder().parent / "promtool" / "usr" / "bin" / "promtool"


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


ALERTS = [rule for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]]
ALERT_NAMES = [alert["alert"] for alert in ALERTS]
PANELS = [panel for path in DASHBOARDS for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", [])]


def exported_names() -> set[str]:
    """Names of the series that Prometheus scrapes."""
    names = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {f"{family.name}{suffix}" for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\btwin_\w+", expression))


@pytest.fixture(scope="module")
def promtool() -> str:
    installed = subprocess.run(["bash", "-c", "command -v promtool"], check=False, capture_output=True, text=True).stdout.strip()
    tool = installed or str(PROMTOOL)
    if not Path(tool).exists():
        message = "promtool is missing: run deploy/prometheus/fetch_promtool.sh"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return tool


def test_the_rules_are_valid_and_their_own_tests_pass(promtool: str) -> None:
    completed = subprocess.run([PROMETHEUS / "check_rules.sh"], check=False, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_every_alert_is_tested_once_silent_and_once_firing(alert: str) -> None:
    cases = [case for test in read_yaml(PROMETHEUS / "alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    cases_of_alert = [case for case in cases if case["alertname"] == alert]
    assert any(case.get("exp_alerts") for case in cases_of_alert), "no firing case"
    assert any(not case.get("exp_alerts") for case in cases_of_alert), "no silent case"


@pytest.mark.parametrize("alert", ALERTS, ids=ALERT_NAMES)
def test_every_alert_has_a_runbook_section_that_says_what_to_do(alert: dict[str, Any]) -> None:
    name, runbook = alert["alert"], (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    section = runbook.split(f"\n### {name}\n")[1].split("\n#")[0]
    assert all(f"**{part}**" in section for part in ("Means", "Look", "Do"))


async def test_every_query_of_the_runbook_runs_on_the_tables(fresh_database: str) -> None:
    queries = re.findall(r"`(SELECT [^`]+)`", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"))
    assert len(queries) > 5
    connection = await asyncpg.connect(fresh_database)
    try:
        for query in queries:
            await connection.fetch(query)
    finally:
        await connection.close()


def test_the_runbook_has_no_section_for_an_alert_that_does_not_exist() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(headings) == sorted(ALERT_NAMES)


@pytest.mark.parametrize(("location", "expression"), [*[(a["alert"], a["expr"]) for a in ALERTS], *QUERIES])
def test_no_alert_or_panel_uses_a_metric_that_the_service_does_not_export(location: str, expression: str) -> None:
    assert metrics_in(expression) <= exported_names(), location


def test_every_metric_has_a_panel() -> None:
    in_panels = set().union(*(metrics_in(expression) for _, expression in QUERIES))
    families = {family.name.removesuffix("_total") for family in REGISTRY.collect() if family.name.startswith("twin_")}
    assert {name for name in families if not any(metric.startswith(name) for metric in in_panels)} == set()


def test_every_panel_has_a_valid_query(promtool: str, tmp_path: Path) -> None:
    fill = {"$__rate_interval": "1m", "$__interval": "1m", "$line": ".+", "$segment": "all"}
    expressions: list[dict[str, str]] = []
    for _, expression in QUERIES:
        for word, value in fill.items():
            expression = expression.replace(word, value)  # noqa: PLW2901
        expressions.append({"record": f"panel:{len(expressions)}", "expr": expression})
    rules = tmp_path / "panels.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": expressions}]}), encoding="utf-8")
    completed = subprocess.run([promtool, "check", "rules", rules], check=False, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_uses_the_provisioned_source_and_panels_do_not_overlap(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    provisioned = read_yaml(ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    sources = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel.get("targets", [])}
    assert sources == {source["uid"] for source in provisioned}
    cells = [
        (x, y)
        for spot in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(spot["x"], spot["x"] + spot["w"])
        for y in range(spot["y"], spot["y"] + spot["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


COMPOSE = read_yaml(ROOT / "docker-compose.yml")


def test_prometheus_scrapes_every_role_at_its_port() -> None:
    settings = Settings(web_port=6066)
    jobs = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    scraped = {group["labels"]["role"]: group["targets"] for group in jobs["twinstream"]["static_configs"]}
    service = {role: name for name in ("worker", "trainer", "web") for role in COMPOSE["services"][name]["command"][2].split(",")}
    assert scraped == {role: [f"{service[role]}:{settings.port_of(role)}"] for role in ROLES}
    assert COMPOSE["services"]["worker"]["environment"]["TWIN_WEB_PORT"] == "6066"


def test_the_roles_answer_to_the_names_that_prometheus_asks_for() -> None:
    environment = COMPOSE["services"]["worker"]["environment"]
    names = Settings(allowed_hosts=environment["TWIN_ALLOWED_HOSTS"], web_host=environment["TWIN_WEB_HOST"]).host_names
    jobs = {job["job_name"]: job for job in read_yaml(PROMETHEUS / "prometheus.yml")["scrape_configs"]}
    targets = {target.partition(":")[0] for group in jobs["twinstream"]["static_configs"] for target in group["targets"]}
    assert targets <= set(names)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_of_compose_has_no_more_rights_than_it_needs(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any(str(volume).startswith("/") for volume in service.get("volumes", []))
    secrets = [str(value) for key, value in service.get("environment", {}).items() if "PASSWORD" in key]
    assert all(re.fullmatch(r"/run/secrets/\w+", value) for value in secrets)
    assert {Path(value).name for value in secrets} <= set(service.get("secrets", []))
    if name != "migrate":
        assert "healthcheck" in service
