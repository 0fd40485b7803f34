"""What the alerts, the dashboard and the autoscaler ask for is what /metrics of a running pipeline has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.scrape import Page, Samples, value
from test_grafana import expressions
from test_kubernetes import OBJECTS
from test_prometheus import ALERTS

DOCUMENTED = Path(__file__).parents[3] / "docs" / "metrics.md"
_NAME = re.compile(r"\bcaselog_\w+")
_SELECTOR = re.compile(r"\b(caselog_\w+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=|!=)"([^"]*)"')
_GROUPED = re.compile(r"by \(([^)]*)\) \((?:rate\()?(caselog_\w+)")


def test_every_metric_label_and_value_that_is_asked_for_is_there(redis_pipeline: Pipeline) -> None:
    page = Page(redis_pipeline)
    redis_pipeline.start("recorder")
    redis_pipeline.start("tasks")
    redis_pipeline.publish([created("AB-1"), event("accept_case", "SPOP", "AB-1")])
    eventually(
        lambda: (
            value(page.samples(), "caselog_events_recorded_total", key="accept_case", code="SPOP")
            and value(page.samples(), "caselog_database_pool_max_connections", role="tasks")
        ),
        "the workers' numbers are there",
    )
    samples = page.samples()
    asked = list(_asked())
    assert len(asked) > 30
    assert _unknown(asked, samples) == set()
    # And the page of the documentation names each, and no other.
    documented = set(re.findall(r"`(caselog_\w+)`", DOCUMENTED.read_text()))
    assert documented == {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in samples}
    # The test does say no.
    assert _unknown(["caselog_event", 'caselog_workers{role="x"}', 'caselog_workers{x="recorder"}'], samples)
    assert _unknown(["sum by (rol) (caselog_workers)"], samples) == {"caselog_workers by rol"}


def _asked() -> Iterator[str]:
    yield from expressions()
    yield from (alert["expr"] for alert in ALERTS)
    for found in OBJECTS:
        if found["kind"] == "ScaledObject":
            yield from (trigger["metadata"]["query"] for trigger in found["spec"]["triggers"])


def _unknown(expressions: list[str], samples: Samples) -> set[str]:
    """What of the expressions no sample has: names, labels in matchers and groupings, values that are matched."""
    names = {name for name, _ in samples}
    labels = {(name, label) for name, pairs in samples for label, _ in pairs}
    values = {(name, label, given) for name, pairs in samples for label, given in pairs}
    unknown = set()
    for expression in expressions:
        unknown |= {name for name in _NAME.findall(expression) if name not in names}
        for name, matchers in _SELECTOR.findall(expression):
            for label, _, given in _MATCHER.findall(matchers):
                if (name, label, given) not in values:
                    unknown.add(f'{name}{{{label}="{given}"}}')
        for grouping, name in _GROUPED.findall(expression):
            unknown |= {f"{name} by {label}" for label in grouping.split(", ") if (name, label) not in labels}
    return unknown
