"""A publisher of the rig, as a process: it writes each event that the broker confirmed into its ledger.

    python ledger.py BROKER_URL LEDGER SEED NUMBER

Chunk after chunk until SIGTERM; the chunk in hand is finished first. Started again on its ledger after a kill it
publishes the chunk in which it was killed once more, with the same ids.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TextIO

from support.oracle.reference import fold_all

from caselog.events.errors import PublishError
from caselog.events.transport.publisher import Publisher
from caselog.workers.producers.simulation import simulate

CASES: Final = 5
PAUSE_S: Final = 0.3
_DONE: Final = "done"


def chunk(seed: int, number: int, position: int) -> list[dict[str, Any]]:
    """The events of one chunk, the same for the same numbers: journeys, one that is refused, one without a case.

    Every event names its code: one that left it to its class would be resolved by what is recorded when it arrives,
    and so depend on the order of arrival (docs/rules.md §1.5).
    """
    name = f"{seed}-{number}-{position}"
    events = list(simulate(CASES, seed * 1_000_000 + number * 10_000 + position))
    logs = fold_all(events).logs
    for event in events:
        data = event["data"]
        data["code"] = logs[event["source"], event["id"]]["code"]
        data.pop("params", None)
        if "actor" in data:  # few actors, so that recorders wait for each other; and not so few that all do
            data["actor"]["id"] += f"-{position % 5}"
    first = next(event for event in events if "subject" in event)
    wrong: dict[str, Any] = [
        {"type": "accept_case", "data": {"code": "NO-SUCH-CODE"}},
        {"type": "no_such_event", "data": {}},
        {"type": "decline_help", "data": {"code": "DECL", "actor": {"id": "w", "role": "web"}}},
    ][position % 3]
    frame = {"specversion": "1.0", "source": "/chaos", "time": first["time"]}
    events.insert(len(events) // 2, {**frame, "id": f"wrong-{name}", "subject": first["subject"], **wrong})
    viewed = {"code": "CASE_VIEWED", "actor": {"id": "op-lost", "role": "operator"}}
    events.append({**frame, "id": f"lost-{name}", "subject": f"LOST-{name}", "type": "case", "data": viewed})
    return events


def read(path: Path) -> tuple[set[tuple[str, str]], int]:
    """What a ledger says: the (source, id) confirmed, and how many chunks are done."""
    if not path.exists():
        return set(), 0
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return {(line[0], line[1]) for line in lines if len(line) == 2}, sum(line == [_DONE] for line in lines)


def published(path: Path, seed: int, number: int) -> Iterator[dict[str, Any]]:
    """Every event of the chunks that a ledger says are done."""
    for position in range(read(path)[1]):
        yield from chunk(seed, number, position)


def _publish(publisher: Publisher, events: list[dict[str, Any]], ledger: TextIO, stopping: threading.Event) -> None:
    """Return when each event is confirmed, however often the broker goes away."""
    while True:
        for event in events:

            def confirmed(future: Future[None], event: dict[str, Any] = event) -> None:
                if future.exception() is None:
                    ledger.write(f"{event['source']}\t{event['id']}\n")

            publisher.publish(event).add_done_callback(confirmed)
        try:
            publisher.flush()
        except PublishError:
            stopping.wait(0.2)
            continue
        return


def main(broker_url: str, path: Path, seed: int, number: int) -> None:
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    position = read(path)[1]
    with path.open("a", buffering=1) as ledger, Publisher(broker_url, batch_events=10, retry_for_s=5) as publisher:
        ledger.write("\n")  # a kill may have left half a line
        while not stopping.is_set():
            _publish(publisher, chunk(seed, number, position), ledger, stopping)
            ledger.write(f"{_DONE}\n")
            position += 1
            stopping.wait(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
