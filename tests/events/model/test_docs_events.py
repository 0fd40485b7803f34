"""docs/events.md: what a stranger copies from it works."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from caselog.events.errors import EventRejected, RoleNotAllowed
from caselog.events.folding.fold import Plan, World, fold
from caselog.events.folding.resolve import Rules, screen
from caselog.events.model.message import Event, decode, parse_event
from caselog.events.model.registry import BaseEvent, autodiscover, event_registry

PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def after(remark: str) -> str:
    """The code block that follows an HTML comment on the page."""
    found = re.search(rf"<!-- {re.escape(remark)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"docs/events.md has no code block after <!-- {remark} -->"
    return found[1]


@pytest.fixture
def _claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "claims"
    package.mkdir()
    (package / "events.py").write_text(after("file: claims/events.py") + after("continues claims/events.py"))
    monkeypatch.syspath_prepend(tmp_path)
    autodiscover(["caselog.events.apps.timer"])
    before = event_registry.snapshot()
    autodiscover(["claims"])
    yield
    event_registry.restore(before)
    sys.modules.pop("claims.events")
    sys.modules.pop("claims")


def claim(number: int, key: str, data: str) -> Event:
    return parse_event(
        f'{{"specversion": "1.0", "id": "x{number}", "source": "/claims", "type": "{key}", "subject": "C-1",'
        f' "time": "2026-11-23T10:{number:02d}:00Z", "data": {data}}}'.encode()
    )


def folded(events: list[Event]) -> Plan:
    screened = [screen(position, event, event_registry, FAR) for position, event in enumerate(events)]
    return fold(screened, World(), event_registry, Rules(zone=ZoneInfo("Europe/London")), count(1))


def published() -> list[Event]:
    return [parse_event(line.encode()) for line in after("events for claims/events.py").splitlines()]


@pytest.mark.usefixtures("_claims")
def test_the_example_app_records_the_example_events() -> None:
    plan = folded(published())
    assert (plan.refused, plan.parked) == ([], [])
    assert [log.code for log in plan.logs] == ["REGISTERED", "PAID"]
    case = plan.cases["C-1"]
    assert (case.category, case.outcome_code, case.requires_action_by) == ("motor", "PAID", None)


@pytest.mark.usefixtures("_claims")
def test_the_example_app_refuses_what_the_page_says_it_refuses() -> None:
    operator = '"actor": {"id": "eva", "role": "operator"}'
    with pytest.raises(RoleNotAllowed):
        folded([*published(), claim(1, "assess", f'{{"code": "REFUSED", {operator}}}')])
    with pytest.raises(EventRejected, match="assessor"):
        folded([*published(), claim(1, "transfer", f"{{{operator}}}")])
    plan = folded([*published(), claim(1, "assess", f"{{{operator}}}")])
    assert [str(error) for _, error in plan.refused] == [
        "params.amount is missing: send the amount, 0 for a refusal, or data.code."
    ]


@pytest.mark.usefixtures("_claims")
def test_time_is_billed_as_the_page_says() -> None:
    actor = '"actor": {"id": "eva", "role": "operator"}'
    visit = '"context": {"assessor": "north", "visit_at": "2026-12-01T09:00:00+01:00"}'
    started = claim(1, "timer", f'{{"code": "TIMER_STARTED", {actor}}}')
    plan = folded([*published(), started, claim(4, "transfer", f"{{{actor}, {visit}}}")])
    case = plan.cases["C-1"]
    assert case.billable_time == 3 * 60
    assert (case.provider, case.requires_action_at) == ("north", datetime(2026, 12, 1, 8, tzinfo=UTC))


def test_every_event_on_the_page_is_a_valid_event() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for text in re.split(r"\n(?=\{)", block.strip()):
            assert isinstance(decode(text.encode()).events[0], Event), text


def test_the_page_names_every_hook_and_every_attribute_of_an_event_class() -> None:
    """What a class may have is what the page says, so nobody has to read the source."""
    members = {name for name in vars(BaseEvent) if not name.startswith("_")} | set(BaseEvent.__annotations__)
    for name in members - {"get_ordered_codes"}:
        assert f"`{name}" in PAGE, f"docs/events.md says nothing of BaseEvent.{name}"
