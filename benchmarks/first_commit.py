"""How soon a recorder commits its first batch where a long backlog waits, in single-event messages, on each broker.

From the start of the process: seconds on the clock, and of the recorder's own processor time, which does not tell of
what else the machine does. Also with one batch alone in the queue, for comparison.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

import msgspec
import psutil
import psycopg
from figures import Series, add_output, print_series, write_bars, write_figures
from filling import fill
from servers import fresh_services, servers, virtual_host
from working_off import POLL_S, running

from caselog.workers.producers.simulation import simulate
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services

BATCH = 1_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--backlog", type=int, default=1_000_000, help="messages that wait, of one event each")
    arguments.add_argument("--only", choices=["redis", "rabbitmq"], help="one broker")
    add_output(arguments)
    chosen = arguments.parse_args()
    events = [msgspec.json.encode(event) for event in simulate(chosen.backlog // 8 + 1, 7)][: chosen.backlog]
    series: list[Series] = []
    with servers() as urls, ExitStack() as stack:
        brokers = {"Redis": None, "RabbitMQ": stack.enter_context(virtual_host())}
        if brokers["RabbitMQ"] is None or chosen.only == "redis":
            del brokers["RabbitMQ"]
        if chosen.only == "rabbitmq":
            del brokers["Redis"]
        for name, amqp_url in brokers.items():
            for waiting in (events[:BATCH], events):
                with fresh_services(urls, amqp_url) as services:
                    fill(services.broker_url, waiting)
                    clock_s, processor_s = first_commit(services)
                series.append(Series(f"{name}, {len(waiting):,} wait: on the clock", [clock_s]))
                series.append(Series(f"{name}, {len(waiting):,} wait: of the processor", [processor_s]))
    title = f"From a recorder's start to its first commit, {len(events):,} messages waiting"
    print_series(title, "s", series)
    write_figures(chosen.output, "first_commit", {"messages": len(events), "unit": "s", "series": series})
    write_bars(chosen.output, "first_commit", title, "seconds", series)


def first_commit(services: Services) -> tuple[float, float]:
    """Seconds on the clock, and of the recorder's processor time."""
    began_s = time.perf_counter()
    with (
        psycopg.connect(services.database_url, autocommit=True) as db,
        running([[*caselog_program(), "worker", "recorder"]], services) as alive,
    ):
        [recorder] = [child for child in psutil.Process().children() if child.cmdline()[-1:] == ["recorder"]]
        while db.execute("select exists (select from log)").fetchone() == (False,):
            alive()
            time.sleep(POLL_S)
        clock_s = time.perf_counter() - began_s
        used = recorder.cpu_times()
        return clock_s, used.user + used.system


if __name__ == "__main__":
    main()
