"""How soon work goes on after an outage, how long proving and rebuilding take, and the memory of each process.

A backlog waits in the queue; a recorder and a tasks worker are started: seconds to the first commit, and to the end.
Meanwhile the memory of both is read (resident, MB): what it is half-way and at the end says whether it grows.
Then `caselog verify` and `caselog rebuild`, as a person runs them, also reckoned for a million logs.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections import defaultdict

import msgspec
import psycopg
from bounds import print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from servers import fresh_services, servers
from working_off import POLL_S, ROLES, TAKEN, megabytes, running, worked_off, worker_process

from caselog.events import Publisher
from caselog.workers.producers.simulation import simulate
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services
from caselog.workers.settings import child_environment

MILLION = 1_000_000
LOOK_S = 0.2


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--backlog", type=int, default=50_000, help="events that wait")
    add_output(arguments)
    chosen = arguments.parse_args()
    events = [msgspec.json.encode(event) for event in simulate(chosen.backlog // 8, 7)][: chosen.backlog]
    with servers() as urls, fresh_services(urls) as services:
        with Publisher(services.broker_url) as publisher:
            publisher.publish_many(events)
        series, memory = work_off(services, len(events))
        for word in ("verify", "rebuild"):
            began_s = time.perf_counter()
            subprocess.run(
                [*caselog_program(), word],
                env=child_environment(services.environment()),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            took_s = time.perf_counter() - began_s
            series.append(Series(f"caselog {word}", [took_s]))
            series.append(Series(f"caselog {word}, a million logs at that", [took_s * MILLION / len(events)]))
    title = f"Recovery, {len(events):,} events"
    print_series(title, "s", series)
    title_memory = f"Memory while {len(events):,} events are worked off"
    print_series(title_memory, "MB", memory)
    print_bounds({"recovery": series, "memory": memory})
    write_figures(chosen.output, "recovery", {"events": len(events), "unit": "s", "series": series})
    write_bars(chosen.output, "recovery", title, "seconds", series)
    write_figures(chosen.output, "memory", {"events": len(events), "unit": "MB", "series": memory})
    write_bars(chosen.output, "memory", title_memory, "MB resident", memory)


def work_off(services: Services, backlog: int) -> tuple[list[Series], list[Series]]:
    """Seconds, and megabytes."""
    program = [*caselog_program(), "worker"]
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    began_s = time.perf_counter()
    with (
        psycopg.connect(services.database_url, autocommit=True) as db,
        running([[*program, role] for role in ROLES], services) as alive,
    ):
        while db.execute("select exists (select from log)").fetchone() == (False,):
            alive()
            time.sleep(POLL_S)
        first_s = time.perf_counter() - began_s
        workers = {role: worker_process(role) for role in ROLES}
        taken = 0.0
        while taken < backlog:
            alive()
            row = db.execute(TAKEN.encode()).fetchone()
            assert row is not None
            taken = row[0]
            for role, process in workers.items():
                seen[role].append((taken / backlog, megabytes(process)))
            time.sleep(LOOK_S)
        worked_off(services, backlog, alive)
        all_s = time.perf_counter() - began_s
        for role, process in workers.items():
            seen[role].append((1.0, megabytes(process)))
    memory = []
    for role, looks in seen.items():
        half_way = next(size for share, size in looks if share >= 1 / 2)
        memory += [
            Series(f"{role}: memory at the beginning", [looks[0][1]]),
            Series(f"{role}: memory half-way", [half_way]),
            Series(f"{role}: memory at the end", [looks[-1][1]]),
            Series(f"{role}: memory at most", [max(size for _, size in looks)]),
        ]
    return [Series("start to first commit", [first_s]), Series("start to all done", [all_s])], memory


if __name__ == "__main__":
    main()
