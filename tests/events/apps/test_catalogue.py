"""The bundled codes are the organisation's catalogue, definition by definition."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.registry import autodiscover, event_registry

CATALOGUE = Path(__file__).parents[2] / "data" / "codes.json"

# The tables of docs/rules.md §1.3 and §5.4 speak of these.
KEYS_OF_APPS = {
    "legalaid": {"case", "means_test", "suspend_case"},
    "call_centre": {"assign_to_provider", "defer_assignment", "decline_help", "call_me_back", "stop_call_me_back"},
    "cla_provider": {"accept_case", "reject_case", "open_case", "close_case", "reopen_case", "split_case"},
    "diagnosis": {"diagnosis"},
    "knowledgebase": {"alternative_help"},
    "complaints": {"complaint"},
    "mcc": {"change_category"},
    "timer": {"timer"},
}


@pytest.fixture(autouse=True)
def _bundled() -> None:
    autodiscover()


def bundled() -> dict[tuple[str, str], dict[str, Any]]:
    keys = set().union(*KEYS_OF_APPS.values())
    return {(code.key, code.code): code.facts() for code in event_registry.codes() if code.key in keys}


def test_the_bundled_codes_equal_the_catalogue() -> None:
    """Every definition of the catalogue's file is there, exactly, and besides it only the app `timer`."""
    catalogue = {(code["key"], code["code"]): code for code in json.loads(CATALOGUE.read_text())}
    assert {name: facts for name, facts in bundled().items() if name[0] != "timer"} == catalogue


def test_there_are_72_codes_under_18_keys_and_the_two_of_the_timer() -> None:
    codes = bundled()
    assert len(codes) == 72 + 2
    assert len({key for key, _ in codes}) == 18 + 1


@pytest.mark.parametrize(("app", "keys"), KEYS_OF_APPS.items())
def test_each_app_registers_its_own_keys(app: str, keys: set[str]) -> None:
    registered = {
        key for key, cls in event_registry.all().items() if cls.__module__ == f"caselog.events.apps.{app}.events"
    }
    assert registered == keys


def test_the_timers_codes_start_and_cancel_it_and_need_no_case() -> None:
    """docs/rules.md §4: minor system logs that anyone may send; the fold ends the timer, not `stops_timer`."""
    timer = event_registry.get_event("timer")
    started, cancelled = event_registry.filter(key="timer")
    assert not timer.needs_case
    assert (started.code, started.starts_timer, started.cancels_timer) == ("TIMER_STARTED", True, False)
    assert (cancelled.code, cancelled.starts_timer, cancelled.cancels_timer) == ("TIMER_CANCELLED", False, True)
    for code in (started, cancelled):
        assert (code.type, code.level, code.selectable_by) == (LogType.SYSTEM, LogLevel.MINOR, ())
        assert not code.stops_timer


def test_only_case_created_creates_a_case() -> None:
    assert [(code.key, code.code) for code in event_registry.filter(creates_case=True)] == [("case", "CASE_CREATED")]


def test_one_code_under_two_keys_is_two_codes() -> None:
    """DUPL and CASE_VIEWED stand under two keys each, with definitions of their own."""
    counted = Counter(code for _, code in bundled())
    assert {code for code, count in counted.items() if count > 1} == {"DUPL", "CASE_VIEWED"}
    assert event_registry.get_code("reject_case", "DUPL").stops_timer is False
    assert event_registry.get_code("suspend_case", "DUPL").stops_timer is True
