"""A publisher of the load rig, as a process: single events at a rate, or as quickly as the broker takes them.

    python steady.py BROKER_URL TOLD NAME RATE

RATE is in events a second; 0: no pause at all. Goes on until SIGTERM and finishes the journeys in hand. Only when the
broker has confirmed every event, TOLD says how many chunks of events there were.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from caselog.events.transport.publisher import Publisher
from caselog.workers.producers.simulation import simulate

CASES: Final = 20
# So many have an actor of their own: recorders wait for each other at times, and not always.
OPERATORS: Final = 10
# What a publisher that is quicker than the broker may hold, so that its own memory has a bound that is soon reached.
BUFFER_EVENTS: Final = 5_000
AHEAD_S: Final = 0.005
BEGUN: Final = "publishing"


def chunk(name: str, position: int) -> list[dict[str, Any]]:
    """The events of one chunk but for their times: whole journeys, one event that dies, one whose case never comes."""
    seed = int.from_bytes(f"{name} {position}".encode(), "big")
    events = list(simulate(CASES, seed))
    for event in events:
        event["id"] = "-".join([name, str(position), *event["id"].rsplit("-", 2)[1:]])
        event["data"]["actor"]["id"] += f"-{name}-{position % OPERATORS}"
    viewed = {"code": "CASE_VIEWED", "actor": {"id": "op-lost", "role": "operator"}}
    frame = {"specversion": "1.0", "source": "/load"}
    unknown = {"type": "accept_case", "data": {"code": "NO-SUCH-CODE"}, "subject": events[0].get("subject", "X")}
    events.insert(len(events) // 2, {**frame, "id": f"wrong-{name}-{position}", **unknown})
    lost = {"type": "case", "data": viewed, "subject": f"LOST-{name}-{position}"}
    return [*events, {**frame, "id": f"lost-{name}-{position}", **lost}]


def published(told: Path, name: str) -> Iterator[tuple[str, str]]:
    """The (source, id) of all that a publisher has published, when it has ended well."""
    for position in range(int(told.read_text())):
        yield from ((event["source"], event["id"]) for event in chunk(name, position))


def main(broker_url: str, told: Path, name: str, rate: float) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    position = 0
    due_s = time.monotonic()
    with Publisher(broker_url, buffer_events=BUFFER_EVENTS) as publisher:
        print(BEGUN, flush=True)  # noqa: T201 - on a busy machine it takes seconds to get here
        while not stopping.is_set():
            for event in chunk(name, position):
                # The moment at which it is published: so the log tells how long each event took to its commit.
                event["time"] = datetime.now(UTC).isoformat(timespec="microseconds")
                publisher.publish(event)
                if rate:
                    due_s += 1 / rate
                    if (ahead_s := due_s - time.monotonic()) > AHEAD_S:
                        time.sleep(ahead_s)
            position += 1
    told.write_text(str(position))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
