"""How long an event takes from `publish` to the commit that makes it visible, at a few rates.

Single events from one thread, with the Publisher's own linger, through a recorder and a tasks worker as `caselog up`
starts them. A trigger has PostgreSQL notify this process of each batch when it is committed: nothing is polled.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import psycopg
from bounds import print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from servers import fresh_services, servers
from working_off import last_id, running, worked_off

from caselog.events import Publisher
from caselog.workers.producers.simulation import simulate
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services

# The ids of a batch are its own, so its first and last say which events were committed.
NOTIFY = """
    create function tell() returns trigger language plpgsql as $$
    begin perform pg_notify('committed', min(id) || ' ' || max(id)) from new_logs; return null; end $$;
    create trigger tell after insert on log referencing new table as new_logs for each statement execute function tell()
"""
WARM_UP = 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rates", type=int, nargs="+", default=[10, 100, 1000], help="events a second")
    arguments.add_argument("--seconds", type=float, default=20, help="for each rate")
    add_output(arguments)
    chosen = arguments.parse_args()
    series: list[Series] = []
    with servers() as urls:
        for rate in chosen.rates:
            with fresh_services(urls) as services:
                taken = measure(services, rate, list(journeys(rate, chosen.seconds)))
            series += quantiles(f"{rate:,} events/s", taken)
    title = "From publish to commit, single events"
    print_series(title, "ms", series)
    print_bounds({"latency": series})
    write_figures(chosen.output, "latency", {"seconds": chosen.seconds, "unit": "ms", "series": series})
    write_bars(chosen.output, "latency", title, "milliseconds", series)


def quantiles(name: str, taken: list[float]) -> list[Series]:
    """The median, the 99 % value and the longest."""
    taken = sorted(taken)
    at = {"median": 0.5, "99 %": 0.99, "longest": 1.0}
    return [Series(f"{name}: {what}", [taken[min(int(q * len(taken)), len(taken) - 1)]]) for what, q in at.items()]


def journeys(rate: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The first few events, and as many as are published in that time."""
    count = WARM_UP + max(int(rate * seconds), 1)
    return islice(simulate(count // 6 + 5, 7), count)


def measure(services: Services, rate: int, events: list[dict[str, Any]]) -> list[float]:
    """Milliseconds of each event, the first few left out."""
    after = last_id(services)
    published_s: dict[str, float] = {}
    committed_s: dict[int, float] = {}
    program = [*caselog_program(), "worker"]
    with psycopg.connect(services.database_url, autocommit=True) as listener:
        listener.execute(NOTIFY)
        listener.execute("listen committed")
        hearing = threading.Thread(target=hear, args=(listener, committed_s, len(events)))
        hearing.start()
        with (
            running([[*program, "recorder"], [*program, "tasks"]], services) as alive,
            Publisher(services.broker_url) as publisher,
        ):
            for event in events[:WARM_UP]:
                publisher.publish(event)
            worked_off(services, WARM_UP, alive, after=after)
            began_s = time.perf_counter()
            for number, event in enumerate(events[WARM_UP:]):
                time.sleep(max(began_s + number / rate - time.perf_counter(), 0))
                published_s[event["id"]] = time.perf_counter()
                publisher.publish(event)
            publisher.flush()
            worked_off(services, len(events), alive, after=after)
        hearing.join()
        listener.execute("drop function tell() cascade")
        query = "select event_id, id from log where id > %s"
        ids: dict[str, int] = dict(listener.execute(query, [after]).fetchall())
    return [1000 * (committed_s[ids[name]] - at_s) for name, at_s in published_s.items()]


def hear(listener: psycopg.Connection, committed_s: dict[int, float], count: int) -> None:
    """Note when each log was committed, until all were."""
    for told in listener.notifies():
        now_s = time.perf_counter()
        first, last = map(int, told.payload.split())
        committed_s.update(dict.fromkeys(range(first, last + 1), now_s))
        if len(committed_s) >= count:
            return


if __name__ == "__main__":
    main()
