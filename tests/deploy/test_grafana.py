"""deploy/grafana: every panel asks for what the relay and its clients show, and the files belong together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.expressions import faults
from tests.promtool import needs_promtool, promtool
from tests.tidy.tree import ROOT

FOLDER = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboards" / "pgcachewatch.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
Panel = dict[str, Any]  # Any: as JSON has it


def expressions() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["expr"] for each in DASHBOARD["annotations"]["list"])


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_a_panel_asks_for_what_there_is(panel: Panel) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        assert faults(target["expr"]) == []
        assert target["datasource"]["uid"] == "${datasource}"


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where_on(panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["description"].endswith("."), "it is read at night"
    assert defaults["unit"]
    assert len(panel["targets"]) == 1 or all(target["legendFormat"] for target in panel["targets"])
    if panel["type"] == "timeseries":
        # An axis that does not begin at 0 makes a mountain of nothing; a certificate may have ended before now.
        assert defaults.get("min") == 0 or panel["title"] == "TLS"


def test_variables_and_annotations_ask_for_what_there_is() -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric = variable["definition"].removeprefix("label_values(").rpartition(",")[0]
            assert faults(metric) == []
    assert [faults(each["expr"]) for each in DASHBOARD["annotations"]["list"]] == [[]]


def test_panels_do_not_overlap_and_their_numbers_are_unique() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_provisioning_names_the_source_and_the_folder_of_dashboards() -> None:
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8"))
    providers = yaml.safe_load((FOLDER / "provisioning/dashboards/pgcachewatch.yaml").read_text(encoding="utf-8"))
    assert [each["type"] for each in sources["datasources"]] == ["prometheus"]
    assert [each["options"]["path"] for each in providers["providers"]] == ["/var/lib/grafana/dashboards"]


@needs_promtool
def test_prometheus_can_read_each_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": each.replace("$__rate_interval", "1m")}
        for number, each in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)
