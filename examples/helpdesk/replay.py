"""Turn a help desk's XES log into caselog's events: JSON lines of CloudEvents on stdout.

    python -m examples.helpdesk.replay helpdesk.xes.gz > helpdesk.jsonl

It needs Python alone, and reads the log trace by trace, so the log may be of any size. Ids are made from the trace
and the position in it: publishing the lines twice changes nothing.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast
from xml.etree import ElementTree as ET

SOURCE = "/helpdesk"

# The activity in the log: the event's type and code.
CODES = {
    "Insert ticket": ("work", "INSERTED"),
    "Assign seriousness": ("work", "SERIOUSNESS"),
    "Take in charge ticket": ("work", "TAKEN"),
    "Wait": ("work", "WAITING"),
    "Require upgrade": ("work", "UPGRADE"),
    "Schedule intervention": ("work", "INTERVENTION"),
    "Resolve ticket": ("work", "RESOLVED"),
    "Closed": ("work", "CLOSED"),
    "Create SW anomaly": ("anomaly", "CREATED"),
    "Resolve SW anomaly": ("anomaly", "RESOLVED"),
    "VERIFIED": ("verdict", "VERIFIED"),
    "RESOLVED": ("verdict", "RESOLVED"),
    "INVALID": ("verdict", "INVALID"),
    "DUPLICATE": ("verdict", "DUPLICATE"),
}
# Attributes of an event in the log that are worth having in reports.
KEPT = ("seriousness", "customer", "product", "service_level", "service_type", "responsible_section")


def traces(log: IO[bytes]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Each trace's name and its events' attributes, in the order of the log."""
    parsed = ET.iterparse(log, events=("start", "end"))  # noqa: S314 - the reader's own file, not a stranger's
    _, root = next(parsed)
    for moment, element in parsed:
        if moment == "end" and _tag(element) == "trace":
            children = list(element)
            names = [child.get("value", "") for child in children if child.get("key") == "concept:name"]
            events = [
                {value.get("key", ""): value.get("value", "") for value in child}
                for child in children
                if _tag(child) == "event"
            ]
            yield names[0], events
            root.clear()


def cloud_events(log: IO[bytes]) -> Iterator[dict[str, Any]]:
    """For each trace an event that creates its ticket, then one for each activity."""
    for ticket, activities in traces(log):
        for position, activity in enumerate(activities):
            context = {name: activity[name] for name in KEPT if name in activity}
            if position == 0:
                # At the time of the first activity and with the lower id: so it comes just before it.
                system = {"id": "helpdesk", "role": "system"}
                created = {"code": "CREATED", "actor": system, "context": context}
                yield _cloud_event(ticket, 0, "ticket", activity["time:timestamp"], created)
            key, code = CODES[activity["concept:name"]]
            actor = {"id": activity["org:resource"], "role": "operator"}
            data = {"code": code, "actor": actor, "context": context}
            yield _cloud_event(ticket, position + 1, key, activity["time:timestamp"], data)


def _cloud_event(ticket: str, position: int, key: str, time: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        # Zero-padded: events of one time are ordered by their ids.
        "id": f"{ticket}/{position:06d}",
        "source": SOURCE,
        "type": key,
        "subject": ticket,
        "time": time,
        "data": data,
    }


def _tag(element: ET.Element) -> str:
    """The element's name without the namespace that some logs declare and others do not."""
    return element.tag.rpartition("}")[2]


def main() -> None:
    if len(sys.argv) != 2:  # noqa: PLR2004 - the script and its argument
        sys.exit("usage: python -m examples.helpdesk.replay LOG.xes[.gz] > events.jsonl")
    path = Path(sys.argv[1])
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as log:
        for event in cloud_events(cast("IO[bytes]", log)):
            print(json.dumps(event, separators=(",", ":")))


if __name__ == "__main__":
    main()
