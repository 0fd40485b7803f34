"""The events that a benchmark works off: simulated, or those of a file that somebody gives.

An XES log (the XML of process mining; `.gz` too) is any organisation's: each trace becomes a case, each event an
outcome whose code is its activity, by the resource that did it. The codes are registered by an app that is written for
the run, so nothing has to be known of the log beforehand.
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import msgspec
from working_off import BENCHMARKS

from caselog.events.errors import EventError
from caselog.events.model.codes import NAME_CHARACTERS
from caselog.events.model.message import Malformed, decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.workers.producers.simulation import simulate
from caselog.workers.settings import load_settings

APP = "caselog_given"
SOURCE = "/given"
CREATED = "CREATED"
# What has a place of its own in an event; every other attribute is kept in its context.
PLACED = {"concept:name", "time:timestamp", "org:resource"}
APP_EVENTS = '''"""The activities of a log that was given to a benchmark."""

from caselog.events import BaseEvent, LogLevel, LogType, event_registry

STEP = {{"level": LogLevel.HIGH, "selectable_by": [], "stops_timer": False}}


class Given(BaseEvent):
    key = "given"
    codes = {{
        {created!r}: STEP | {{"type": LogType.SYSTEM, "description": "The case begins"}},
        **{{name: STEP | {{"type": LogType.OUTCOME, "description": name}} for name in {activities!r}}},
    }}
    creates_case = ({created!r},)


event_registry.register(Given)
'''


def add_source(arguments: argparse.ArgumentParser, *, events: int) -> None:
    arguments.add_argument(
        "--events", type=int, help=f"of caselog's runs; the slower ones get fewer ({events:,}, or all of a file)"
    )
    arguments.add_argument("--jsonl", type=Path, metavar="FILE", help="work off these events, of CASELOG_APPS")
    arguments.add_argument("--xes", type=Path, metavar="FILE", help="work off this event log, a code for each activity")
    arguments.set_defaults(simulated=events)


@contextmanager
def given_events(chosen: argparse.Namespace) -> Iterator[list[bytes]]:
    """The events, each as JSON. Within, processes that are started find the app that their codes are registered in."""
    if chosen.jsonl is not None:
        yield read_jsonl(chosen.jsonl)[: chosen.events]
    elif chosen.xes is not None:
        events, activities = read_xes(chosen.xes)
        with _app(activities):
            yield [msgspec.json.encode(event) for event in events[: chosen.events]]
    else:
        many = chosen.events or chosen.simulated
        yield [msgspec.json.encode(event) for event in simulate(many // 8, 7)][:many]


def read_jsonl(path: Path) -> list[bytes]:
    """Each event of the file's lines, which hold an event or a batch each, in their order."""
    autodiscover(load_settings().apps)
    found = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            message = decode(line)
            for at, event in enumerate(message.events):
                if isinstance(event, Malformed):
                    raise SystemExit(f"line {number} of {path}: {event.error}")
                try:  # else the breaker would pause the recorder, and the benchmark wait for it
                    event_registry.registered(event.type)
                except EventError as error:
                    raise SystemExit(f"line {number} of {path}: {error}") from None
                found.append(message.raw(at).strip())
    return found


def read_xes(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The log's events in the order of their times, each case's creation added, and the names of its activities."""
    sys.path.append(str(BENCHMARKS.parent))
    from examples.helpdesk.replay import traces  # noqa: PLC0415 - it lies beside us, and is not installed

    events, activities = [], set()
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as log:
        for number, (name, steps) in enumerate(traces(cast("IO[bytes]", log))):
            case = f"{name} {number}"[:200]  # names may come twice
            for position, step in enumerate(steps):
                if position == 0:
                    events.append(_event(case, 0, step, CREATED))
                code = _code(step)
                activities.add(code)
                events.append(_event(case, position + 1, step, code))
    decoded = [(decode(msgspec.json.encode(event)).events[0], event) for event in events]
    for read, event in decoded:
        if isinstance(read, Malformed):
            raise SystemExit(f"{event['id']} of {path}: {read.error}")
    # As the broker would have seen them: by their times, whatever offset each is written in.
    decoded.sort(key=lambda both: both[0].order_key)  # type: ignore[union-attr]  # the others ended it above
    return [event for _, event in decoded], sorted(activities)


def _event(case: str, position: int, step: dict[str, str], code: str) -> dict[str, Any]:
    context = {name: value for name, value in step.items() if name not in PLACED and value}
    data: dict[str, Any] = {"code": code, "context": context}
    if step.get("org:resource"):
        data["actor"] = {"id": step["org:resource"][:200], "role": "operator"}
    return {
        "specversion": "1.0",
        "id": f"{case}/{position:06d}",
        "source": SOURCE,
        "type": "given",
        "subject": case,
        "time": step.get("time:timestamp", ""),
        "data": data,
    }


def _code(step: dict[str, str]) -> str:
    name = " ".join(filter(None, (step.get("concept:name"), step.get("lifecycle:transition"))))
    return "".join(character for character in name if character.isprintable())[:NAME_CHARACTERS] or "unnamed"


@contextmanager
def _app(activities: list[str]) -> Iterator[None]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="caselog-bench-app-") as directory:
        package = Path(directory) / APP
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "events.py").write_text(APP_EVENTS.format(created=CREATED, activities=activities))
        sys.path.append(directory)
        os.environ.update(CASELOG_APPS=APP, PYTHONPATH=directory)
        try:
            yield
        finally:
            sys.path.remove(directory)
            os.environ.clear()
            os.environ.update(before)
