"""deploy/prometheus: what Prometheus is given is valid, names what there is, and each alert is tested and explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgcachewatch_daemon.io.metrics import METRICS
from tests.deploy.expressions import faults
from tests.promtool import needs_promtool, promtool
from tests.tidy.tree import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOK = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
TESTS = (FOLDER / "alerts_test.yml").read_text(encoding="utf-8")
Alert = dict[str, Any]  # Any: as YAML has it


def alerts() -> list[Alert]:
    content = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def section(name: str) -> str:
    """The runbook's text on an alert, empty when there is none."""
    found = re.search(rf"^#+ {name}\n(.*?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_what_there_is_and_is_explained(alert: Alert) -> None:
    name = alert["alert"]
    assert faults(alert["expr"]) == []
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"]["runbook"] == f"deploy/README.md#{name.lower()}"
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert section(name), f"deploy/README.md has no section {name!r}"
    assert f'alertname="{name}", alertstate="firing"' in TESTS, "it is not tested to fire"


def test_the_runbook_explains_no_alert_that_is_gone() -> None:
    assert set(re.findall(r"^#+ (PGCacheWatch\w+)$", RUNBOOK, re.MULTILINE)) == {each["alert"] for each in alerts()}


def test_names_of_alerts_are_unique() -> None:
    names = [each["alert"] for each in alerts()]
    assert len(set(names)) == len(names)


def test_a_fault_in_an_expression_is_seen() -> None:
    assert faults("pgcachewatch_source_upp == 0") == ["there is no 'pgcachewatch_source_upp'"]
    assert faults('up{color="x"}') == ["up has no label 'color'"]
    assert faults("sum by (colour) (pgcachewatch_clients)") == ["no series has the label 'colour'"]
    assert faults('sum by (path) (pgcachewatch_clients{job=~"$job"}[$__rate_interval])') == []


def test_what_may_lose_events_or_stop_commits_is_alerted_on() -> None:
    asked = " ".join(each["expr"] for each in alerts())
    wanted = {"source_up", "ready", "notify_queue_usage_ratio", "drift_gaps", "journal_losses", "consumer_gaps"}
    for row in METRICS:
        assert row.name not in wanted or row.full_name in asked, row.full_name


def test_the_command_of_the_runbook_wraps_them_for_the_operator(tmp_path: Path) -> None:
    (command,) = re.findall(r"^(\{ printf .*?> prometheusrule\.yaml)$", RUNBOOK, re.MULTILINE | re.DOTALL)
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True)
    rule = yaml.safe_load((tmp_path / "prometheusrule.yaml").read_text(encoding="utf-8"))
    assert (rule["kind"], rule["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")
    assert [each for group in rule["spec"]["groups"] for each in group["rules"]] == alerts()


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "config", FOLDER / "prometheus.yml")


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_on_a_quiet_day() -> None:
    assert "SUCCESS" in promtool("test", "rules", FOLDER / "alerts_test.yml")
