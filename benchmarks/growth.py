"""What a growing log does to throughput and latency, and how large tables and indexes are an event.

Events are worked off into an empty database and into ones with `--logs` logs, in turns; the events of each round are
others. Then single events are published, 100 a second. What is there already are copies of simulated journeys of
years before (benchmarks/grown.py).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import msgspec
import psycopg
import redis
from bounds import print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from grown import COPIED, grow
from latency import WARM_UP, journeys, measure, quantiles
from reports import YEAR_PART, earlier
from rich.console import Console
from rich.table import Table
from servers import fresh_database, servers
from throughput import prove, said
from working_off import last_id, running, worked_off

from events import Publisher
from events.registry import autodiscover
from workers.services import Services, redis_py_url
from workers.simulate import simulate
from workers.up import caselog_program

RATE = 100


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--logs", type=int, nargs="+", default=[200_000], help="logs that are there already")
    arguments.add_argument("--events", type=int, default=40_000, help="events worked off in each turn")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=10, help="for the latency on each log")
    arguments.add_argument("--prove", action="store_true", help="verify each database at the end; minutes a million")
    add_output(arguments)
    chosen = arguments.parse_args()
    autodiscover()
    rates = {logs: Series(f"{logs:,} logs") for logs in (0, *chosen.logs)}
    sizes: dict[str, dict[str, float]] = {}
    with servers() as urls, ExitStack() as databases:
        assert urls.database_url is not None
        assert urls.redis_url is not None
        grown: dict[int, tuple[str, int]] = {}
        for logs in chosen.logs:
            began_s = time.perf_counter()
            url = databases.enter_context(fresh_database(urls.database_url))
            grown[logs] = (url, grow(url, logs))
            sizes[f"{logs:,} logs"] = sizes_an_event(url, grown[logs][1])
            said(f"{grown[logs][1]:,} logs were made in {time.perf_counter() - began_s:.0f} s")
        for number in range(chosen.rounds):
            # Later than those of the rounds before: the operators are the same, and nothing is to come late.
            before = earlier(simulate(chosen.events // 8, 100 + number), (chosen.rounds - number) * YEAR_PART)
            events = [msgspec.json.encode(event) for event in islice(before, chosen.events)]
            for logs, found in rates.items():
                with database(urls.database_url, grown.get(logs)) as url:
                    rate = work_off(Services(url, urls.redis_url, urls.redis_url), events)
                found.values.append(rate)
                said(f"round {number + 1} of {chosen.rounds}: {found.name}: {rate:,.0f} events/s")
        waits: list[Series] = []
        for logs, found in rates.items():
            with database(urls.database_url, grown.get(logs)) as url:
                waits += quantiles(
                    found.name, latency_of(Services(url, urls.redis_url, urls.redis_url), chosen.seconds)
                )
        for url, there in grown.values() if chosen.prove else ():
            recorded = chosen.rounds * chosen.events + WARM_UP + int(RATE * chosen.seconds)
            prove(Services(url, urls.redis_url, urls.redis_url), there + recorded)
    title = "Events worked off a second, by the logs that were there"
    print_series(title, "events/s", list(rates.values()), "0 logs")
    title_waits = f"From publish to commit at {RATE} events/s, by the logs that were there"
    print_series(title_waits, "ms", waits)
    for name, each in sizes.items():
        table = Table("table or index", "bytes an event", title=f"Size on disk, {name}")
        for relation, size in [*each.items(), ("all", sum(each.values()))]:
            table.add_row(relation, f"{size:,.0f}")
        Console().print(table)
    print_bounds({"growth": list(rates.values())})
    figures = {"events": chosen.events, "unit": "events/s", "series": list(rates.values()), "bytes_an_event": sizes}
    write_figures(chosen.output, "growth", figures)
    write_bars(chosen.output, "growth", title, "events/s", list(rates.values()))
    write_figures(chosen.output, "growth_latency", {"seconds": chosen.seconds, "unit": "ms", "series": waits})
    write_bars(chosen.output, "growth_latency", title_waits, "milliseconds", waits)
    largest = sizes[f"{chosen.logs[-1]:,} logs"]
    bars = [Series(name, [size]) for name, size in largest.items() if size >= 1]
    write_bars(chosen.output, "size", f"Size on disk, {chosen.logs[-1]:,} logs", "bytes an event", bars)


def latency_of(services: Services, seconds: float) -> list[float]:
    """Milliseconds of each event, from an empty broker."""
    with redis.Redis.from_url(redis_py_url(services.redis_url)) as client:
        client.flushall()
    return measure(services, RATE, list(journeys(RATE, seconds)))


@contextmanager
def database(server_url: str, grown: tuple[str, int] | None) -> Iterator[str]:
    """The grown database, or one that is empty."""
    if grown is not None:
        yield grown[0]
        return
    with fresh_database(server_url) as url:
        yield url


def sizes_an_event(database_url: str, logs: int) -> dict[str, float]:
    """Bytes on disk an event: each of the tables, TOAST included, and each of their indexes."""
    with psycopg.connect(database_url) as db:
        rows = db.execute(
            """
            select relname, case relkind when 'r' then pg_table_size(oid) else pg_relation_size(oid) end
            from pg_class where relkind = 'r' and relname = any(%(tables)s)
            or relkind = 'i' and oid in (select indexrelid from pg_index join pg_class as t on t.oid = indrelid
                                         where t.relname = any(%(tables)s))
            order by 2 desc
            """,
            {"tables": [*COPIED, "report_sum"]},
        ).fetchall()
    return {name: size / logs for name, size in rows}


def work_off(services: Services, events: list[bytes]) -> float:
    """Events a second, from an empty broker."""
    with redis.Redis.from_url(redis_py_url(services.redis_url)) as client:
        client.flushall()
    after = last_id(services)
    with Publisher(services.broker_url) as publisher:
        publisher.publish_many(events)
    program = [*caselog_program(), "worker"]
    with running([[*program, "recorder"], [*program, "tasks"]], services) as alive:
        return worked_off(services, len(events), alive, after=after).rate


if __name__ == "__main__":
    main()
