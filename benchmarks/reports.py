"""What the reports cost: feeding them while events are recorded, and reading them over a long log.

On one embedded PostgreSQL, in turns within one run, medians and ratios at the end:

* the same events in order: without reports, with deltas that nobody adds up, and with an aggregator beside them (the
  bound is 1.25 times as long: a fifth of the throughput);
* then each report over the whole of a log of three years: its first row, and all of them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from itertools import chain, islice
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from late import fresh
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text

from caselog.events.folding.resolve import Rules
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.outbox import TAKEN_DELTAS
from caselog.schema.reports.reading import Reading, read_rows
from caselog.schema.reports.tally import ReportTally
from caselog.schema.sessions.connection import make_engine
from caselog.workers.producers.simulation import simulate
from caselog.workers.recording import storing
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.servers.embedded import EmbeddedServers, uninstall
from caselog.workers.settings import load_settings
from caselog.workers.tasks.actors import GATHER_S
from caselog.workers.tasks.aggregator import Aggregator

BATCH = 1000
# Whole weeks, so that weekdays stay weekdays.
YEAR_PART = timedelta(days=39 * 7)
LAST_DAY = date(2026, 1, 31)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", type=int, default=3000, help="cases recorded in each turn")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--logs", type=int, default=100_000, help="log entries of three years that are read")
    chosen = arguments.parse_args()
    console = Console()
    autodiscover()
    rules = make_rules(load_settings())
    with tempfile.TemporaryDirectory() as base:
        data_dir = Path(base) / "data"
        try:
            with EmbeddedServers(data_dir, redis=False) as servers:
                url = servers.start().database_url
                assert url is not None
                feeding(url, rules, chosen.cases, chosen.rounds, console)
                reading(url, rules, chosen.logs, console)
        finally:
            uninstall(data_dir)


def feeding(url: str, rules: Rules, cases: int, rounds: int, console: Console) -> None:
    events = [msgspec.json.encode(event) for event in simulate(cases, 7)]
    turns: dict[str, list[float]] = {"without reports": [], "posting deltas": [], "and adding them up": []}
    for _ in range(rounds):
        for name, taken in turns.items():
            with ExitStack() as stack:
                engine = stack.enter_context(fresh(url))
                if name == "without reports":
                    stack.enter_context(patch.object(storing, "_moved_cases", lambda *_: set()))
                    stack.enter_context(patch.object(storing, "_unchanged_logs", lambda *_: []))
                    stack.enter_context(patch.object(ReportTally, "rows", lambda *_, **__: []))
                adding = name == "and adding them up"
                stack.enter_context(aggregating(engine, rules) if adding else nullcontext())
                begun = time.perf_counter()
                record(Recording(engine, event_registry, rules), events)
                taken.append(time.perf_counter() - begun)
    usual = statistics.median(turns["without reports"])
    for name, taken in turns.items():
        median = statistics.median(taken)
        console.print(f"{name}: {len(events) / median:,.0f} events/s, {median / usual:.2f} times as long")


@contextmanager
def aggregating(engine: Engine, rules: Rules) -> Iterator[None]:
    """Within, another process adds up what is posted."""
    context = multiprocessing.get_context("spawn")
    ready, over = context.Event(), context.Event()
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    process = context.Process(target=_add_up, args=(url, rules, ready, over), daemon=True)
    process.start()
    ready.wait()
    try:
        yield
    finally:
        over.set()
        process.join()


def _add_up(url: str, rules: Rules, ready: Event, over: Event) -> None:
    autodiscover()
    aggregator = Aggregator(make_engine(url), event_registry, rules)
    ready.set()
    while not over.is_set():  # as the tasks worker does
        taken = aggregator.add_up()
        if taken < TAKEN_DELTAS:
            over.wait(GATHER_S if taken else 0.05)


def reading(url: str, rules: Rules, logs: int, console: Console) -> None:
    with fresh(url) as engine:
        record(Recording(engine, event_registry, rules), [msgspec.json.encode(e) for e in three_years(logs)])
        Aggregator(engine, event_registry, rules).add_all_up()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
            db.execute(text("vacuum analyze"))  # as autovacuum leaves it
        table = Table("report", "rows", "first row, ms", "all rows, ms", title=f"{logs:,} log entries of three years")
        for name, report in REPORTS.items():
            for by in (None, "week", "month") if report.measures and not report.is_monthly else (None,):
                reading = Reading(
                    report=report, first=date(2022, 1, 1), last=LAST_DAY, by=by, now=datetime.now(UTC), zone=rules.zone
                )
                first, whole, rows = timed(engine, reading)
                table.add_row(name + (f" by {by}" if by else ""), f"{rows:,}", f"{first:.0f}", f"{whole:.0f}")
    console.print(table)


def timed(engine: Engine, reading: Reading) -> tuple[float, float, int]:
    """Milliseconds to the first row and to the last, and how many there were."""
    with engine.connect() as db:
        begun = time.perf_counter()
        found = read_rows(db, reading)
        some = list(islice(found, 1))
        first = time.perf_counter() - begun
        rows = len(some) + sum(1 for _ in found)
        return 1000 * first, 1000 * (time.perf_counter() - begun), rows


def three_years(logs: int) -> Iterator[dict[str, Any]]:
    """Journeys of about so many log entries in all, one run of eight months after the other."""
    runs = 4
    return chain.from_iterable(
        earlier(simulate(logs // 10 // runs, 100 + run), (runs - 1 - run) * YEAR_PART) for run in range(runs)
    )


def earlier(events: Iterator[dict[str, Any]], by: timedelta) -> Iterator[dict[str, Any]]:
    for event in events:
        context = event["data"].get("context", {})
        for held, name in ((event, "time"), (context, "requires_action_at")):
            if name in held:
                held[name] = (datetime.fromisoformat(held[name]) - by).isoformat()
        yield event


def record(recording: Recording, events: list[bytes]) -> None:
    for start in range(0, len(events), BATCH):
        recording.record([decode(b"[" + b",".join(events[start : start + BATCH]) + b"]")])


if __name__ == "__main__":
    main()
