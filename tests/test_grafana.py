"""deploy/grafana/caselog.json, read as Grafana reads it: it loads, each panel stands once, and asks in PromQL."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.processes.scrape import promtool

FILE = Path(__file__).parents[1] / "deploy" / "grafana" / "caselog.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Panels and units that every Grafana has, without a plugin.
CORE_PANELS = {"row", "stat", "timeseries", "state-timeline"}
UNITS = {"none", "short", "s", "cps"}
COLUMNS = 24


def expressions(dashboard: dict[str, Any] = DASHBOARD) -> list[str]:
    """Every PromQL expression of the dashboard, annotations included."""
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return found + [one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one]


def test_it_has_what_grafana_needs_to_load_it() -> None:
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 41
    assert not DASHBOARD.keys() & {"id", "__inputs", "__requires"}  # those of one Grafana's own database, or an export


def test_every_query_goes_to_the_prometheus_that_the_reader_chooses() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    for panel in CHARTS:
        assert panel["datasource"] == DATASOURCE
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE


def test_panels_and_their_queries_have_ids_of_their_own_and_come_with_grafana() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert {panel["type"] for panel in PANELS} <= CORE_PANELS
    for panel in CHARTS:
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in CHARTS:
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        if all(re.search(r"seconds(_bucket)?\b", target["expr"]) for target in panel["targets"]):
            assert panel["fieldConfig"]["defaults"]["unit"] == "s", panel["title"]


def test_no_panel_lies_on_another_or_beyond_the_edge() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["w"] > 0
        assert place["h"] > 0
        assert 0 <= place["x"] <= place["x"] + place["w"] <= COLUMNS, panel["title"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(columns, rows):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]


def test_every_expression_is_promql(tmp_path: Path) -> None:
    """Read by promtool, each as a recording rule of a name of its own."""
    rules = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions())
    ]
    assert len(rules) >= len(CHARTS)
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules[0]["expr"] = "sum(caselog_workers"  # promtool does say no
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert promtool("check", "rules", str(file)).returncode != 0


@pytest.mark.parametrize(
    "panel", [panel for panel in CHARTS if panel["type"] != "stat"], ids=lambda panel: panel["title"]
)
def test_the_lines_of_a_panel_are_told_apart_by_their_legends(panel: dict[str, Any]) -> None:
    """And a legend names only labels that the expression keeps."""
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends)
    for target in panel["targets"]:
        kept = {name.strip() for names in re.findall(r"by \(([^)]*)\)", target["expr"]) for name in names.split(",")}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == kept - {"le"}
