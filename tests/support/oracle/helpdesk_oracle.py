"""An independent reading of the help desk's log: what must be in the database after its replay.

It uses nothing of caselog: the file is read with regular expressions, and the rules are written down again from
docs/rules.md. Run it on a log to see the figures: python tests/support/oracle/helpdesk_oracle.py helpdesk.xes.gz
"""

from __future__ import annotations

import gzip
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

DAY_OF = ZoneInfo("Europe/London")

# Activity: key, code, and "high" (an outcome at level HIGH), "outcome" (one below) or "other" (no outcome).
MEANING = {
    "Insert ticket": ("work", "INSERTED", "high"),
    "Assign seriousness": ("work", "SERIOUSNESS", "high"),
    "Take in charge ticket": ("work", "TAKEN", "high"),
    "Wait": ("work", "WAITING", "outcome"),
    "Require upgrade": ("work", "UPGRADE", "high"),
    "Schedule intervention": ("work", "INTERVENTION", "high"),
    "Resolve ticket": ("work", "RESOLVED", "high"),
    "Closed": ("work", "CLOSED", "high"),
    "Create SW anomaly": ("anomaly", "CREATED", "other"),
    "Resolve SW anomaly": ("anomaly", "RESOLVED", "other"),
    "VERIFIED": ("verdict", "VERIFIED", "high"),
    "RESOLVED": ("verdict", "RESOLVED", "high"),
    "INVALID": ("verdict", "INVALID", "high"),
    "DUPLICATE": ("verdict", "DUPLICATE", "high"),
}

TRACE = re.compile(r"<trace>(.*?)</trace>", re.DOTALL)
EVENT = re.compile(r"<event>(.*?)</event>", re.DOTALL)
ATTRIBUTE = re.compile(r'key="([^"]*)" value="([^"]*)"')


@dataclass
class Reading:
    """What the log comes to. Suppressed logs count in `logs` and `suppressed` only."""

    tickets: int = 0
    logs: int = 0
    """Events of the log, and one creation a ticket."""
    suppressed: int = 0
    last_outcome: dict[str, str | None] = field(default_factory=dict)
    """By ticket: the code of its last outcome at level HIGH, or None where it has none."""
    created_at: dict[str, datetime] = field(default_factory=dict)
    daily_outcomes: Counter[tuple[date, str, str, str, str]] = field(default_factory=Counter)
    """By local day, key, code, category (the product when the ticket was created), organisation (the customer)."""


def read(path: Path) -> Reading:
    """Read a log, `.xes.gz`, and count."""
    reading = Reading()
    for trace in TRACE.findall(gzip.decompress(path.read_bytes()).decode()):
        head = trace[: trace.index("<event>")]
        ticket = dict(ATTRIBUTE.findall(head))["concept:name"]
        events = [dict(ATTRIBUTE.findall(event)) for event in EVENT.findall(trace)]
        moments = [datetime.fromisoformat(event["time:timestamp"]) for event in events]
        reading.tickets += 1
        reading.logs += 1 + len(events)
        reading.created_at[ticket] = moments[0]
        reading.last_outcome[ticket] = None
        category, organisation = events[0]["product"], events[0]["customer"]
        latest, is_closed = None, False
        # Events of one moment stay in the order of the log; `sorted` is stable.
        for moment, event in sorted(zip(moments, events, strict=True), key=lambda pair: pair[0]):
            key, code, kind = MEANING[event["concept:name"]]
            day = moment.astimezone(DAY_OF).date()
            # A step of the work closes the ticket or opens it again; what the other steps write, they all write.
            was_closed, is_closed = is_closed, code == "CLOSED" if key == "work" else is_closed
            if kind == "high":
                # Like the latest one, on the same day, and nothing of the ticket would be another; the log has no
                # notes, so they are always equal.
                if latest == (day, key, code) and is_closed == was_closed:
                    reading.suppressed += 1
                    continue
                latest = (day, key, code)
                reading.last_outcome[ticket] = code
            if kind != "other":
                reading.daily_outcomes[day, key, code, category, organisation] += 1
    return reading


if __name__ == "__main__":
    figures = read(Path(sys.argv[1]))
    print(f"{figures.tickets} tickets, {figures.logs} logs, {figures.suppressed} of them suppressed")  # noqa: T201
    print(f"{sum(figures.daily_outcomes.values())} outcomes in {len(figures.daily_outcomes)} report rows")  # noqa: T201
    print(Counter(figures.last_outcome.values()).most_common())  # noqa: T201
