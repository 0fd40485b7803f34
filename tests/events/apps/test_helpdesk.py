"""The example of another organisation: its events.py, and the replay of a log."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support.oracle import helpdesk_oracle

from caselog.events.folding.fold import Plan, World, fold
from caselog.events.folding.resolve import Rules, screen
from caselog.events.model.codes import LogType
from caselog.events.model.message import Event, parse_event
from caselog.events.model.registry import autodiscover, event_registry

ROOT = Path(__file__).parents[3]
LONDON = ZoneInfo("Europe/London")

TICKETS = {
    # Seriousness twice on one local day, the wait aside: the second adds nothing. 23:30 UTC in July is the next day.
    "Case 1": [
        ("Assign seriousness", "2012-07-09T10:00:00+00:00"),
        ("Wait", "2012-07-09T10:00:00+00:00"),
        ("Assign seriousness", "2012-07-09T22:30:00+00:00"),
        ("Assign seriousness", "2012-07-09T23:30:00+00:00"),
        ("Take in charge ticket", "2012-07-10T09:00:00.5+02:00"),
        ("Create SW anomaly", "2012-07-10T09:30:00+02:00"),
        ("Resolve ticket", "2012-07-11T09:30:00+00:00"),
        ("Closed", "2012-07-12T09:30:00+00:00"),
    ],
    # A ticket that waits is open again: closing it once more is no repetition.
    "Case 3": [
        ("Closed", "2012-07-09T10:00:00+00:00"),
        ("Wait", "2012-07-09T11:00:00+00:00"),
        ("Closed", "2012-07-09T12:00:00+00:00"),
        ("Closed", "2012-07-09T13:00:00+00:00"),
    ],
    "Case 2": [("Create SW anomaly", "2012-07-09T10:00:00+00:00"), ("Wait", "2012-07-09T11:00:00+00:00")],
    "Case 10": [("Insert ticket", "2010-01-09T10:00:00+00:00")],
}


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    def event(activity: str, at: str) -> str:
        return (
            f'<event><string key="concept:name" value="{activity}" /><string key="org:resource" value="Value 3" />'
            f'<date key="time:timestamp" value="{at}" /><string key="product" value="P {activity}" />'
            f'<string key="customer" value="C" /></event>'
        )

    traces = "".join(
        f'<trace><string key="concept:name" value="{name}" />{"".join(event(*step) for step in steps)}</trace>'
        for name, steps in TICKETS.items()
    )
    path = tmp_path / "log of tickets.xes.gz"
    path.write_bytes(gzip.compress(f'<?xml version="1.0"?><log xmlns="http://x/">{traces}</log>'.encode()))
    return path


@pytest.fixture
def _helpdesk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(ROOT)
    before = event_registry.snapshot()
    autodiscover(["examples.helpdesk"])
    yield
    event_registry.restore(before)
    sys.modules.pop("examples.helpdesk.events")


def replayed(log_file: Path) -> list[Event]:
    script = ROOT / "examples" / "helpdesk" / "replay.py"
    lines = subprocess.run([sys.executable, script, log_file], capture_output=True, check=True).stdout.splitlines()
    return [parse_event(line) for line in lines]


def folded(events: list[Event]) -> Plan:
    latest = datetime(2100, 1, 1, tzinfo=UTC)
    screened = [screen(position, event, event_registry, latest) for position, event in enumerate(events)]
    return fold(screened, World(), event_registry, Rules(zone=LONDON), count(1))


@pytest.mark.usefixtures("_helpdesk")
def test_a_replayed_log_comes_to_what_an_independent_reading_of_it_says(log_file: Path) -> None:
    reading = helpdesk_oracle.read(log_file)
    plan = folded(replayed(log_file))
    assert (plan.refused, plan.parked) == ([], [])
    assert len(plan.logs) == reading.logs == 8 + 4 + 2 + 1 + 4
    assert len([log for log in plan.logs if log.suppressed]) == reading.suppressed == 2
    assert {reference: case.outcome_code for reference, case in plan.cases.items()} == reading.last_outcome
    assert {reference: case.created_at for reference, case in plan.cases.items()} == reading.created_at
    counted = Counter(
        (log.occurred_at.astimezone(LONDON).date(), log.key, log.code, log.category, log.organisation)
        for log in plan.logs
        if log.type == LogType.OUTCOME and not log.suppressed
    )
    assert counted == reading.daily_outcomes
    assert reading.last_outcome == {"Case 1": "CLOSED", "Case 3": "CLOSED", "Case 2": None, "Case 10": "INSERTED"}


def test_the_replay_is_the_same_each_time_and_no_id_comes_twice(log_file: Path) -> None:
    events = replayed(log_file)
    assert events == replayed(log_file)
    assert len({(event.source, event.id) for event in events}) == len(events) == 19


def test_a_ticket_is_created_before_its_first_activity_and_the_logs_order_stands(log_file: Path) -> None:
    """Two activities of one moment keep their order, because their ids have it."""
    ticket = [event for event in replayed(log_file) if event.subject == "Case 1"]
    assert ticket == sorted(ticket, key=lambda event: event.order_key)
    assert [event.data.code for event in ticket][:4] == ["CREATED", "SERIOUSNESS", "WAITING", "SERIOUSNESS"]
    assert ticket[0].time == ticket[1].time


def test_the_replay_without_a_log_says_how_to_call_it() -> None:
    called = subprocess.run(
        [sys.executable, "-m", "examples.helpdesk.replay"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert called.returncode == 1
    assert called.stderr.startswith("usage: ")
    assert not called.stdout
