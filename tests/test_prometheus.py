"""deploy/prometheus, read by promtool as Prometheus reads it: what is scraped, and when which alert fires."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.processes.scrape import promtool

from caselog.workers.settings import Settings

FOLDER = Path(__file__).parents[1] / "deploy" / "prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
EXAMPLES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
RUNBOOK = "https://github.com/caselog/caselog/blob/main/docs/runbook.md#"


def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    for arguments in (("check", "config", "prometheus.yml"), ("check", "rules", "alerts.yml")):
        checked = promtool(*arguments, cwd=FOLDER)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_scrapes_the_status_worker_where_it_listens() -> None:
    (job,) = CONFIG["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"status:{Settings.model_fields['http_port'].default}"]}]
    assert job.get("metrics_path", "/metrics") == "/metrics"
    assert CONFIG["rule_files"] == ["alerts.yml"]


def test_every_alert_fires_as_its_examples_say() -> None:
    tested = promtool("test", "rules", "alerts_test.yml", cwd=FOLDER)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", [alert["alert"] for alert in ALERTS])
def test_every_alert_has_an_example_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    fires = [
        bool(one.get("exp_alerts")) for test in EXAMPLES for one in test["alert_rule_test"] if one["alertname"] == alert
    ]
    assert True in fires
    assert False in fires


def test_an_example_that_is_not_so_is_told(tmp_path: Path) -> None:
    """The test does say no: an alert that would fire a minute later fails its example."""
    text = (FOLDER / "alerts.yml").read_text()
    changed = re.sub(r"(alert: CaselogQueueOld\n.*\n.*\n\s+for:) 2m", r"\1 3h", text)
    assert changed != text
    (tmp_path / "alerts.yml").write_text(changed)
    (tmp_path / "alerts_test.yml").write_text((FOLDER / "alerts_test.yml").read_text())
    tested = promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)
    assert tested.returncode != 0
    assert "CaselogQueueOld" in tested.stdout + tested.stderr


def test_every_alert_says_how_bad_it_is_what_it_means_and_where_to_read_more() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)
    for alert in ALERTS:
        assert re.fullmatch(r"Caselog[A-Za-z]+", alert["alert"])
        assert alert["labels"]["severity"] in {"critical", "warning"}
        annotations = alert["annotations"]
        assert annotations["summary"]
        assert not annotations["summary"].endswith(".")
        assert annotations["description"].endswith(".")
        assert annotations["runbook_url"] == RUNBOOK + alert["alert"].lower()
