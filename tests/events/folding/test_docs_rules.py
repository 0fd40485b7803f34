"""docs/rules.md: what it lists is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caselog.events.calendar.working_time import CALLBACK_MINUTES
from caselog.events.folding.facts import RESOLVING_CODES
from caselog.events.model.codes import Role
from caselog.events.model.registry import autodiscover, event_registry
from caselog.events.model.state import MEMORY, CaseState

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
SECTIONS = dict(re.findall(r"^### (\d\.\d) .+?\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
# Written as codes are, and no codes.
OTHER_WORDS = {"CLA", "HIGH", "MODERATE", "MINOR", "JSON", "RFC", "SMS", "VOICEMAIL", "PHONE", "WEB", "CASELOG", "SLA"}


def first_column(number: str) -> list[str]:
    """The names between backticks in the first cells of a section's table."""
    cells = re.findall(r"^\|(.*?)\|", SECTIONS[number], re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def codes() -> set[str]:
    autodiscover()
    return {code.code for code in event_registry.codes()}


def test_every_code_that_it_names_is_one(codes: set[str]) -> None:
    words = set(re.findall(r"(?<![\w`-])[A-Z][A-Z0-9]+(?:[-_][A-Z]+)*(?![\w-])", PAGE))
    assert words > {"SPOP", "MIS-OOS", "CALLBACK_COMPLETE"}
    assert words - OTHER_WORDS <= codes


def test_it_names_every_code_that_resolves_a_callback() -> None:
    listed = SECTIONS["7.3"].partition("codes:")[2]
    assert set(re.findall(r"\b[A-Z]{3,}\b", listed)) - OTHER_WORDS == RESOLVING_CODES


def test_it_has_the_deadlines_of_a_callback() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|$", SECTIONS["6.2"], re.MULTILINE)
    assert {name: int(minutes.replace(",", "")) for name, minutes in rows} == CALLBACK_MINUTES


def test_it_has_each_column_of_a_case_and_each_role() -> None:
    columns = set(CaseState.__struct_fields__) - set(MEMORY)
    assert sorted(first_column("5.3")) == sorted(columns | {"state", "modified_at"})
    assert first_column("1.2") == [role.value for role in Role]
