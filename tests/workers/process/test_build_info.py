"""The fingerprint of a deploy: the same for its recorders, another one where the code of caselog or events differs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EVENTS = """
from caselog.events import BaseEvent, LogLevel, LogType, event_registry

class Greeting(BaseEvent):
    key = "greeting"
    codes = {"HELLO": {"type": LogType.EVENT, "level": LogLevel.MINOR, "selectable_by": [], "description": "Hello",
                       "stops_timer": False, "set_requires_action_by": lambda case: None}}

    def apply(self, case, log):
        case.state = "new"

event_registry.register(Greeting)
"""
PRINT = """
import sys
from caselog.events.model.registry import autodiscover, event_registry
from caselog.workers.process.build_info import deploy_fingerprint
autodiscover(sys.argv[2].split(","))
print(deploy_fingerprint(event_registry, sys.argv[1]))
"""


def fingerprint(directory: Path, events: str, *, commit: str = "abc", apps: str = "greetings") -> str:
    app = directory / "greetings"
    app.mkdir(exist_ok=True)
    (app / "__init__.py").touch()
    (app / "events.py").write_text(events)
    code = f"import sys; sys.path.insert(0, {str(directory)!r}); sys.dont_write_bytecode = True\n{PRINT}"
    done = subprocess.run(
        [sys.executable, "-c", code, commit, apps],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    return done.stdout


def test_every_process_of_a_deploy_has_the_same(tmp_path: Path) -> None:
    assert fingerprint(tmp_path, EVENTS) == fingerprint(tmp_path, EVENTS)


@pytest.mark.parametrize(
    ("events", "commit", "apps"),
    [
        (EVENTS.replace("HELLO", "HI"), "abc", "greetings"),
        (EVENTS.replace('case.state = "new"', 'case.state = "opened"'), "abc", "greetings"),
        (EVENTS, "def", "greetings"),
        (EVENTS, "abc", "greetings,caselog.events.apps.timer"),
    ],
    ids=["a code", "a rule", "the commit", "the apps"],
)
def test_it_changes_with(tmp_path: Path, events: str, commit: str, apps: str) -> None:
    """What a deploy may mend: codes, the rules of an event, caselog itself, and the apps that are registered."""
    assert fingerprint(tmp_path, events, commit=commit, apps=apps) != fingerprint(tmp_path, EVENTS)
