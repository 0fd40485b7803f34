"""How soon work goes on after an outage, and how long proving and rebuilding take.

A backlog waits in the queue; a recorder and a tasks worker are started: seconds to the first commit, and to the end.
Then `caselog verify` and `caselog rebuild`, as a person runs them, also reckoned for a million logs.
"""

from __future__ import annotations

import argparse
import subprocess
import time

import msgspec
import psycopg
from figures import Series, add_output, print_series, write_bars, write_figures
from servers import fresh_services, servers
from working_off import POLL_S, events_a_second, running

from events import Publisher
from workers.services import Services
from workers.settings import child_environment
from workers.simulate import simulate
from workers.up import caselog_program

MILLION = 1_000_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--backlog", type=int, default=50_000, help="events that wait")
    add_output(arguments)
    chosen = arguments.parse_args()
    events = [msgspec.json.encode(event) for event in simulate(chosen.backlog // 8, 7)][: chosen.backlog]
    with servers() as urls, fresh_services(urls) as services:
        with Publisher(services.broker_url) as publisher:
            publisher.publish_many(events)
        series = work_off(services, len(events))
        for words in (["verify"], ["rebuild"]):
            began_s = time.perf_counter()
            subprocess.run(
                [*caselog_program(), *words],
                env=child_environment(services.environment()),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            took_s = time.perf_counter() - began_s
            series.append(Series(f"caselog {words[0]}", [took_s]))
            series.append(Series(f"caselog {words[0]}, a million logs at that", [took_s * MILLION / len(events)]))
    title = f"Recovery, {len(events):,} events"
    print_series(title, "s", series)
    write_figures(chosen.output, "recovery", {"events": len(events), "unit": "s", "series": series})
    write_bars(chosen.output, "recovery", title, "seconds", series)


def work_off(services: Services, backlog: int) -> list[Series]:
    program = [*caselog_program(), "worker"]
    began_s = time.perf_counter()
    with (
        psycopg.connect(services.database_url, autocommit=True) as db,
        running([[*program, "recorder"], [*program, "tasks"]], services) as alive,
    ):
        while db.execute("select exists (select from log)").fetchone() == (False,):
            alive()
            time.sleep(POLL_S)
        first_s = time.perf_counter() - began_s
        events_a_second(services, backlog, alive)
        all_s = time.perf_counter() - began_s
    return [Series("start to first commit", [first_s]), Series("start to all done", [all_s])]


if __name__ == "__main__":
    main()
