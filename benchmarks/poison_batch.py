"""What a batch of late events of one case costs whose rule raises, against good ones, and against half as many.

Each turn records one batch into a fresh database in which the case stands and was last heard of later, so that all of
it is late: events that name their code and are recorded; events that name none, under a rule that raises; and events of
which each is refused only once the one before it is known to be, since it would have stopped the actor's timer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from figures import Series, add_output, print_series, write_bars, write_figures
from servers import fresh_database, servers

from caselog.events.model.codes import LogLevel, LogType
from caselog.events.model.message import decode
from caselog.events.model.registry import BaseEvent, autodiscover, event_registry
from caselog.events.model.state import CaseState, Log
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S, make_engine
from caselog.workers.process.garbage_collection import collect_rarely
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.settings import load_settings

Json = dict[str, Any]
NINE = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
OUTCOME: Json = {
    "type": LogType.OUTCOME,
    "level": LogLevel.HIGH,
    "selectable_by": [],
    "description": "d",
    "stops_timer": False,
}


class Poison(BaseEvent):
    """Raises where its context says so, or where a timer runs."""

    key = "poison"
    codes = {"PLAIN": OUTCOME, "STOPS": OUTCOME | {"stops_timer": True}}  # noqa: RUF012 - as an app declares it

    def get_log_code(self, case: CaseState | None, /, **_: Any) -> str:
        return "PLAIN" if case is not None else "STOPS"

    def apply(self, case: CaseState, log: Log) -> None:
        if log.context.get("raises") or (log.context.get("untimed") and log.timer_id is not None):
            raise ZeroDivisionError
        case.callback_attempt += 1


KINDS: dict[str, Json] = {
    "{:,} that name their code, and are recorded": {"code": "PLAIN"},
    "{:,} that name none, and are refused": {"context": {"raises": True}},
    "{:,}, each refusal brings the next to light": {"code": "STOPS", "context": {"untimed": True}},
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=2_000, help="events of the larger batch")
    arguments.add_argument("--rounds", type=int, default=9)
    add_output(arguments)
    chosen = arguments.parse_args()
    autodiscover()
    event_registry.register(Poison)
    collect_rarely(chosen.events)  # as workers do
    series = {(kind, many): Series(kind.format(many)) for kind in KINDS for many in (chosen.events, chosen.events // 2)}
    with servers(redis=False) as urls:
        assert urls.database_url is not None
        for _ in range(chosen.rounds):
            for (kind, many), one in series.items():
                with late(urls.database_url) as recording:
                    batch = [event(str(n), n, **KINDS[kind]) for n in range(1, many + 1)]
                    one.values.append(record(recording, batch, refused=0 if "recorded" in kind else many))
    found = list(series.values())
    title = "A batch of late events of one case"
    print_series(title, "ms a batch", found, base=found[0].name)
    write_figures(chosen.output, "poison_batch", {"unit": "ms a batch", "events": chosen.events, "series": found})
    write_bars(chosen.output, "poison_batch", title, "ms a batch", found)


@contextmanager
def late(url: str) -> Iterator[Recording]:
    """A recording into a log in which the case was heard of a day later; the actor's timer runs since its creation."""
    with fresh_database(url) as database_url:
        engine = make_engine(database_url, connections=1, idle_s=IDLE_IN_BATCH_S, by_index=True)
        recording = Recording(engine, event_registry, make_rules(load_settings()), transaction_events=10_000)
        made = event("made", 0) | {"type": "case", "data": {"code": "CASE_CREATED"}}
        start = event("start", 0, code="TIMER_STARTED") | {"type": "timer"}
        del start["subject"]
        record(recording, [made, start, event("last", 100_000, code="PLAIN")], refused=0)
        try:
            yield recording
        finally:
            engine.dispose()


def event(name: str, second: int, **data: Any) -> Json:
    return {
        "specversion": "1.0",
        "id": name,
        "source": "/benchmark",
        "type": "poison",
        "subject": "AB-1",
        "time": (NINE + timedelta(seconds=second)).isoformat(),
        "data": {"actor": {"id": "op-1", "role": "operator"}, "notes": name} | data,
    }


def record(recording: Recording, events: Iterable[Json], *, refused: int) -> float:
    """Record them in one batch; how many milliseconds it took. Ends the benchmark where others are refused."""
    message = decode(msgspec.json.encode(list(events)))
    began_s = time.perf_counter()
    recorded = recording.record([message])
    took_ms = 1000 * (time.perf_counter() - began_s)
    if (recorded.recorded, recorded.dead.total()) != (len(message.events) - refused, refused):
        raise SystemExit(f"expected {refused} to be refused, and found {recorded}")
    return took_ms


if __name__ == "__main__":
    main()
