"""What a growing log does to throughput, latency and memory, and how large tables and indexes are an event.

Events are worked off into an empty database and into ones with `--logs` logs, in turns; the events of each round are
others. Each of these logs has a PostgreSQL of its own, whose shared buffers nobody else takes meanwhile. Checkpoints
come when PostgreSQL's settings ask for them. After these rounds others come into the longest log, right after a
checkpoint, when PostgreSQL writes each page whole that it touches. At the end of each turn the memory of both workers
is read (resident, MB). Then single events are published, 100 a second.
What is there already are copies of simulated journeys of years before (benchmarks/grown.py).
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from itertools import islice
from typing import NamedTuple

import msgspec
import psycopg
import redis
from bounds import AFTER_CHECKPOINT, print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from grown import COPIED, grow
from latency import WARM_UP, journeys, measure, quantiles
from reports import YEAR_PART, earlier
from rich.console import Console
from rich.table import Table
from servers import fresh_database, servers
from throughput import prove, said
from working_off import ROLES, last_id, megabytes, running, worked_off, worker_process

from caselog.events import Publisher
from caselog.events.model.registry import autodiscover
from caselog.workers.producers.simulation import simulate
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services, redis_py_url

RATE = 100


class Turn(NamedTuple):
    """What is found, in which database (None: an empty one each time), and how many logs were made in it."""

    found: Series
    memory: dict[str, Series]
    url: str | None
    there: int


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--logs", type=int, nargs="+", default=[200_000], help="logs that are there already")
    arguments.add_argument("--events", type=int, default=120_000, help="events worked off in each turn")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=10, help="for the latency on each log")
    arguments.add_argument("--prove", action="store_true", help="verify each database at the end; minutes a million")
    add_output(arguments)
    chosen = arguments.parse_args()
    autodiscover()
    sizes: dict[str, dict[str, float]] = {}
    waits: list[Series] = []
    with servers() as urls, ExitStack() as databases:
        server_url, redis_url = urls.database_url, urls.redis_url
        assert server_url is not None
        assert redis_url is not None

        def services(turn: Turn) -> Services:
            # An empty one is kept until the end: to drop it is a checkpoint.
            url = turn.url or databases.enter_context(fresh_database(server_url))
            return Services(url, redis_url, redis_url)

        turns = [make_turn(0, None, 0)]
        for logs in chosen.logs:
            began_s = time.perf_counter()
            own_url = databases.enter_context(servers(redis=False)).database_url
            assert own_url is not None
            url = databases.enter_context(fresh_database(own_url))
            turns.append(make_turn(logs, url, grow(url, logs)))
            sizes[turns[-1].found.name] = sizes_an_event(url, turns[-1].there)
            said(f"{turns[-1].there:,} logs were made in {time.perf_counter() - began_s:.0f} s")
        longest = turns[-1]
        after_checkpoint = longest._replace(found=Series(f"{longest.found.name}, {AFTER_CHECKPOINT}"))
        for number in range(chosen.rounds):
            # Each stretch is later than those before: the operators are the same, and nothing is to come late.
            events = stretch(chosen.events, number, 2 * chosen.rounds)
            for turn in turns:
                take_turn(turn, services(turn), events, f"{number + 1} of {chosen.rounds}")
        for number in range(chosen.rounds):
            events = stretch(chosen.events, chosen.rounds + number, 2 * chosen.rounds)
            which = f"{number + 1} of {chosen.rounds}"
            take_turn(after_checkpoint, services(longest), events, which, checkpoint=True)
        for turn in turns:
            waits += quantiles(turn.found.name, latency_of(services(turn), chosen.seconds))
        for turn in turns[1:] if chosen.prove else ():
            stretches = chosen.rounds * (2 if turn is longest else 1)
            recorded = stretches * chosen.events + WARM_UP + int(RATE * chosen.seconds)
            prove(services(turn), turn.there + recorded)
    # Turns right after a checkpoint are of the same log: their memory is with that of the others.
    memory = [turn.memory[role] for role in ROLES for turn in turns]
    tell([turn.found for turn in (*turns, after_checkpoint)], waits, memory, sizes, chosen)


def make_turn(logs: int, url: str | None, there: int) -> Turn:
    name = f"{logs:,} logs"
    return Turn(Series(name), {role: Series(f"{role}, {name}") for role in ROLES}, url, there)


def take_turn(turn: Turn, services: Services, events: list[bytes], which: str, *, checkpoint: bool = False) -> None:
    if checkpoint:
        with psycopg.connect(services.database_url, autocommit=True) as db:
            db.execute("checkpoint")
    rate, memory = work_off(services, events)
    turn.found.values.append(rate)
    for role, size in memory.items():
        turn.memory[role].values.append(size)
    said(f"round {which}: {turn.found.name}: {rate:,.0f} events/s")


def tell(
    rates: list[Series],
    waits: list[Series],
    memory: list[Series],
    sizes: dict[str, dict[str, float]],
    chosen: argparse.Namespace,
) -> None:
    """Print the tables and write the figures and the plots."""
    title = "Events worked off a second, by the logs that were there"
    print_series(title, "events/s", rates, "0 logs")
    title_waits = f"From publish to commit at {RATE} events/s, by the logs that were there"
    print_series(title_waits, "ms", waits)
    title_memory = "Memory at the end of a turn, by the logs that were there"
    print_series(title_memory, "MB", memory)
    for name, each in sizes.items():
        table = Table("table or index", "bytes an event", title=f"Size on disk, {name}")
        for relation, size in [*each.items(), ("all", sum(each.values()))]:
            table.add_row(relation, f"{size:,.0f}")
        Console().print(table)
    print_bounds({"growth": rates, "growth_memory": memory})
    figures = {"events": chosen.events, "unit": "events/s", "series": rates, "bytes_an_event": sizes}
    write_figures(chosen.output, "growth", figures)
    write_bars(chosen.output, "growth", title, "events/s", rates)
    write_figures(chosen.output, "growth_latency", {"seconds": chosen.seconds, "unit": "ms", "series": waits})
    write_bars(chosen.output, "growth_latency", title_waits, "milliseconds", waits)
    write_figures(chosen.output, "growth_memory", {"events": chosen.events, "unit": "MB", "series": memory})
    write_bars(chosen.output, "growth_memory", title_memory, "MB resident", memory)
    largest = sizes[f"{chosen.logs[-1]:,} logs"]
    bars = [Series(name, [size]) for name, size in largest.items() if size >= 1]
    write_figures(chosen.output, "size", {"logs": chosen.logs[-1], "unit": "bytes an event", "series": bars})
    write_bars(chosen.output, "size", f"Size on disk, {chosen.logs[-1]:,} logs", "bytes an event", bars)


def stretch(count: int, number: int, of: int) -> list[bytes]:
    """So many simulated events of a stretch of time; after the last of them comes what latency is read from."""
    events = earlier(simulate(count // 8, 100 + number), (of - number) * YEAR_PART)
    return [msgspec.json.encode(event) for event in islice(events, count)]


def latency_of(services: Services, seconds: float) -> list[float]:
    """Milliseconds of each event, from an empty broker."""
    with redis.Redis.from_url(redis_py_url(services.redis_url)) as client:
        client.flushall()
    return measure(services, RATE, list(journeys(RATE, seconds)))


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


def work_off(services: Services, events: list[bytes]) -> tuple[float, dict[str, float]]:
    """Events a second, from an empty broker; and megabytes of each worker when all is done."""
    with redis.Redis.from_url(redis_py_url(services.redis_url)) as client:
        client.flushall()
    after = last_id(services)
    with Publisher(services.broker_url) as publisher:
        publisher.publish_many(events)
    with running([[*caselog_program(), "worker", role] for role in ROLES], services) as alive:
        rate = worked_off(services, len(events), alive, after=after).rate
        return rate, {role: megabytes(worker_process(role)) for role in ROLES}


if __name__ == "__main__":
    main()
