"""What a growing log does to the throughput, how large tables and indexes are an event, and a recorder's memory.

The same events are worked off into an empty database and into one with `--logs` logs, in turns. What is there already
are copies of simulated journeys of the year before, each copy with cases and operators of its own.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timedelta

import msgspec
import psutil
import psycopg
from figures import Series, add_output, print_series, write_bars, write_figures
from rich.console import Console
from rich.table import Table
from servers import fresh_services, servers
from working_off import events_a_second, running

from events import Publisher
from events.message import decode
from events.registry import autodiscover, event_registry
from schema.connection import make_engine
from workers.aggregating import Aggregator
from workers.recording import Recording
from workers.roles import make_rules
from workers.services import Services
from workers.settings import load_settings
from workers.simulate import simulate
from workers.up import caselog_program

SEED = 20_000
BATCH = 1000
YEAR = timedelta(weeks=52)
# Tables, and the columns that make a copy of a row another row: n is the number of the copy.
COPIED = {
    "log": {
        "id": "id + {n} * {span}", "event_id": "event_id || '-{n}'", "case_reference": "case_reference || '-{n}'",
        "actor": "actor || '-{n}'", "timer_id": "timer_id + {n} * {span}",
    },
    '"case"': {
        "reference": "reference || '-{n}'", "outcome_code_id": "outcome_code_id + {n} * {span}",
        "search_field": "search_field || '{n}'", "last_log_event_id": "last_log_event_id || '-{n}'",
    },
    "timer": {
        "id": "id + {n} * {span}", "actor": "actor || '-{n}'", "case_reference": "case_reference || '-{n}'",
    },
}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--logs", type=int, default=200_000, help="logs that are there already")
    arguments.add_argument("--events", type=int, default=20_000, help="events worked off in each turn")
    arguments.add_argument("--rounds", type=int, default=3)
    add_output(arguments)
    chosen = arguments.parse_args()
    autodiscover()
    events = [msgspec.json.encode(event) for event in simulate(chosen.events // 8, 7)][: chosen.events]
    rates = {logs: Series(f"{logs:,} logs") for logs in (0, chosen.logs)}
    memory = {logs: Series(f"{logs:,} logs") for logs in (0, chosen.logs)}
    sizes: dict[str, float] = {}
    with servers() as urls:
        for _ in range(chosen.rounds):
            for logs, found in rates.items():
                with fresh_services(urls) as services:
                    there = load(services, logs)
                    sizes = sizes_an_event(services, there) if logs else sizes
                    rate, megabytes = work_off(services, events, there)
                found.values.append(rate)
                memory[logs].values.append(megabytes)
    title = "Events worked off a second, by the logs that were there"
    print_series(title, "events/s", list(rates.values()), "0 logs")
    print_series("A recorder's memory at the end", "MB", list(memory.values()))
    table = Table("table or index", "bytes an event", title="Size on disk, after loading")
    for name, size in sizes.items():
        table.add_row(name, f"{size:,.0f}")
    Console().print(table)
    figures = {"events": len(events), "rates": list(rates.values()), "memory_mb": list(memory.values())}
    write_figures(chosen.output, "growth", figures | {"bytes_an_event": sizes})
    write_bars(chosen.output, "growth", title, "events/s", list(rates.values()))


def load(services: Services, logs: int) -> int:
    """Fill the database with about so many logs. Returns how many there are."""
    if not logs:
        return 0
    recording = Recording(make_engine(services.database_url), event_registry, make_rules(load_settings()))
    seed = [msgspec.json.encode(_earlier(event)) for event in simulate(min(SEED, logs) // 8, 3)][: min(SEED, logs)]
    for start in range(0, len(seed), BATCH):
        recording.record([decode(b"[" + b",".join(seed[start : start + BATCH]) + b"]")])
    Aggregator(recording.engine, event_registry, make_rules(load_settings())).add_all_up()
    recording.engine.dispose()
    with psycopg.connect(services.database_url, autocommit=True) as db:
        for table, changed in COPIED.items():
            columns = [row[0] for row in db.execute(_COLUMNS.encode(), [table.strip('"')]).fetchall()]
            for n in range(1, logs // len(seed)):
                values = [changed.get(name, name).format(n=n, span=2 * SEED) for name in columns]
                where = f"id <= {2 * SEED}" if table != '"case"' else "reference !~ '-[0-9]+-[0-9]+-[0-9]+$'"
                db.execute(
                    f"insert into {table} ({', '.join(columns)}) select {', '.join(values)} from {table} "
                    f"where {where}".encode()
                )
        db.execute("select setval('log_id_seq', (select max(id) from log))")
        db.execute("vacuum analyze")
        count = db.execute("select count(*) from log").fetchone()
    assert count is not None
    return int(count[0])


_COLUMNS = "select column_name from information_schema.columns where table_name = %s order by ordinal_position"


def _earlier(event: dict[str, object]) -> dict[str, object]:
    return event | {"time": (datetime.fromisoformat(str(event["time"])) - YEAR).isoformat()}


def sizes_an_event(services: Services, logs: int) -> dict[str, float]:
    """Bytes on disk an event: each of the recorder's tables, TOAST included, and each of their indexes."""
    with psycopg.connect(services.database_url) as db:
        rows = db.execute(
            """
            select relname, case relkind when 'r' then pg_table_size(oid) else pg_relation_size(oid) end
            from pg_class where relkind = 'r' and relname = any(%(tables)s)
            or relkind = 'i' and oid in (select indexrelid from pg_index join pg_class as t on t.oid = indrelid
                                         where t.relname = any(%(tables)s))
            order by 2 desc
            """,
            {"tables": [name.strip('"') for name in COPIED]},
        ).fetchall()
    return {name: size / logs for name, size in rows}


def work_off(services: Services, events: list[bytes], there: int) -> tuple[float, float]:
    """Events a second, and the recorder's megabytes at the end."""
    with psycopg.connect(services.database_url) as db:
        row = db.execute("select case when is_called then last_value else 0 end from log_id_seq").fetchone()
    assert row is not None
    with Publisher(services.broker_url) as publisher:
        publisher.publish_many(events)
    program = [*caselog_program(), "worker"]
    with running([[*program, "recorder"], [*program, "tasks"]], services) as alive:
        rate = events_a_second(services, len(events), alive, there=there, after=row[0])
        megabytes = max(
            one.memory_info().rss for one in psutil.Process().children(recursive=True) if "recorder" in one.cmdline()
        )
    return rate, megabytes / 1e6


if __name__ == "__main__":
    main()
