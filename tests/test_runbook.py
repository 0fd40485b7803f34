"""docs/runbook.md: a section for each alert, and every command in it is one that there is."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest
import yaml
from test_compose import USAGE_ERROR, resolve_command

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "runbook.md").read_text()
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PARTS = ("**What it means.**", "**Look at**", "**Mend", "**Over when**")
_PLACEHOLDER = re.compile(r"…|\.\.\.")


def commands() -> list[str]:
    """Every `caselog …` of a code block or between backticks, without its comment; each once."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("caselog ")]
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`(caselog [^`]*)`(?!`)", TEXT)]
    return sorted(set(lines + [span for span in spans if not _PLACEHOLDER.search(span)]))


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert list(SECTIONS) == ALERTS  # in the order of the rules


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_says_what_it_means_what_to_look_at_how_to_mend_and_when_it_is_over(alert: str) -> None:
    places = [SECTIONS[alert].find(part) for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_the_command_line_has(command: str) -> None:
    words = shlex.split(command, comments=True)
    resolve_command(list(takewhile(lambda word: word not in {"|", "&&", ">"}, words[1:])))
    with pytest.raises(USAGE_ERROR):  # the test does say no
        resolve_command([*words[1:], "--no-such-option"])


def test_every_variable_is_a_setting() -> None:
    from caselog.workers.settings import Settings  # noqa: PLC0415 - the page's other tests need none

    assert set(re.findall(r"CASELOG_[A-Z_]+", TEXT)) <= {f"CASELOG_{name.upper()}" for name in Settings.model_fields}
