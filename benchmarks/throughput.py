"""All effects, durable: caselog against a dramatiq actor and a Celery task an event, in turns on the same servers.

Each contender works off a queue that is filled before it starts, into an empty database: log, case, timer, outbox and
reports. PostgreSQL and Redis are the embedded ones as `caselog up` starts them (fsync and synchronous_commit on);
RabbitMQ joins in where one answers on this machine. After each run of caselog every event is counted, and `verify`
folds the whole log afresh: a wrong answer ends the benchmark. Compare the rates of one run; never those of two.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import kombu
import msgspec
import psycopg
from amqp import ChannelError
from bounds import print_bounds
from figures import Series, add_output, print_series, write_bars, write_figures
from filling import fill
from given import add_source, given_events
from jobs import QUEUE, enqueue_celery, enqueue_dramatiq
from rich.console import Console
from servers import fresh_database, fresh_services, servers, virtual_host
from sqlalchemy import text
from working_off import WorkedOff, drained_a_second, running, worked_off

from caselog.events import Publisher
from caselog.events.model.message import decode
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.recording import history, store
from caselog.schema.sessions.connection import make_engine
from caselog.workers.recording.assembly import make_rules
from caselog.workers.recording.batch import Recording
from caselog.workers.roles.up import caselog_program
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import make_redis
from caselog.workers.settings import load_settings
from caselog.workers.tasks.wakeup import NAMESPACE
from caselog.workers.verification.verify import Verification

BATCH = 100
TRANSACTION = 2000
# Several times what a worker takes ahead.
LEAST = 1000
JOBS = str(Path(__file__).with_name("jobs.py"))
BASE = "dramatiq actor an event, Redis"
Run = Callable[[Services, list[bytes]], float | WorkedOff]


class Contender(msgspec.Struct, frozen=True):
    """`share` of the events is enough for those that are slower. `turns` a round: two where little decides a bound."""

    run: Run
    share: float = 1.0
    turns: int = 1
    is_ours: bool = True
    on_rabbitmq: bool = False


def contenders() -> dict[str, Contender]:
    job, none = "record", "nothing"
    return {
        "COPY of the same logs (the floor)": Contender(floor, 0.35, is_ours=False),
        "caselog, messages of 100, Redis": Contender(partial(caselog, message=BATCH)),
        "caselog, messages of 100, 2 recorders, Redis": Contender(partial(caselog, message=BATCH, recorders=2)),
        "caselog, single events, Redis": Contender(partial(caselog, message=1), turns=2),
        "caselog, single events, 2 recorders, Redis": Contender(partial(caselog, message=1, recorders=2), turns=2),
        "caselog, single events, 2 pipelines apart, Redis": Contender(apart, turns=2),
        BASE: Contender(partial(by_dramatiq, job=job), 0.017, is_ours=False),
        "Celery task an event, Redis": Contender(partial(by_celery, job=job), 0.0085, is_ours=False),
        "dramatiq actor that does nothing, Redis": Contender(partial(by_dramatiq, job=none), 0.07, is_ours=False),
        "Celery task that does nothing, Redis": Contender(partial(by_celery, job=none), 0.0085, is_ours=False),
        "caselog, messages of 100, RabbitMQ": Contender(partial(caselog, message=BATCH), on_rabbitmq=True),
        "caselog, messages of 100, 2 recorders, RabbitMQ": Contender(
            partial(caselog, message=BATCH, recorders=2), on_rabbitmq=True
        ),
        "caselog, single events, RabbitMQ": Contender(partial(caselog, message=1), 0.25, on_rabbitmq=True),
        "caselog, single events, 2 recorders, RabbitMQ": Contender(
            partial(caselog, message=1, recorders=2), 0.25, on_rabbitmq=True
        ),
        "dramatiq actor an event, RabbitMQ": Contender(
            partial(by_dramatiq, job=job), 0.017, is_ours=False, on_rabbitmq=True
        ),
        "Celery task an event, RabbitMQ": Contender(
            partial(by_celery, job=job), 0.017, is_ours=False, on_rabbitmq=True
        ),
        "dramatiq actor that does nothing, RabbitMQ": Contender(
            partial(by_dramatiq, job=none), 0.07, is_ours=False, on_rabbitmq=True
        ),
        "Celery task that does nothing, RabbitMQ": Contender(
            partial(by_celery, job=none), 0.07, is_ours=False, on_rabbitmq=True
        ),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source(arguments, events=120_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--only", default="", metavar="TEXT", help="contenders whose name holds this text")
    add_output(arguments)
    chosen = arguments.parse_args()
    with given_events(chosen) as events:
        series = measure(chosen, events)
    title = "All effects, durable: events worked off a second"
    print_series(title, "events/s", series, BASE)
    print_bounds({"throughput": series})
    write_figures(chosen.output, "throughput", {"events": len(events), "unit": "events/s", "series": series})
    write_bars(chosen.output, "throughput", title, "events/s", series)


def measure(chosen: argparse.Namespace, events: list[bytes]) -> list[Series]:
    autodiscover(load_settings().apps)
    running = {name: one for name, one in contenders().items() if chosen.only.lower() in name.lower()}
    found = {name: Series(name, is_ours=one.is_ours) for name, one in running.items()}
    a_round = [(name, one) for turn in range(2) for name, one in running.items() if turn < one.turns]
    with servers() as urls:
        for round_number in range(chosen.rounds):
            for name, one in a_round:
                # A virtual host a turn: what a contender left in a queue is not the next one's.
                with virtual_host() if one.on_rabbitmq else nullcontext() as amqp_url:
                    if one.on_rabbitmq and amqp_url is None:
                        continue
                    with fresh_services(urls, amqp_url) as services:
                        given = events[: max(int(len(events) * one.share), LEAST)]
                        worked = one.run(services, given)
                rate = worked.rate if isinstance(worked, WorkedOff) else worked
                found[name].values.append(rate)
                if isinstance(worked, WorkedOff):
                    found[name].busy.append(worked.busy)
                said(f"round {round_number + 1} of {chosen.rounds}: {name}: {rate:,.0f} events/s")
    if any(one.on_rabbitmq and not found[name].values for name, one in running.items()):
        said("no RabbitMQ on this machine, or no right to make a virtual host: Redis alone")
    return [one for one in found.values() if one.values]


def said(words: str) -> None:
    Console(stderr=True).print(words)


def caselog(services: Services, events: list[bytes], *, message: int, recorders: int = 1) -> WorkedOff:
    """From the queue to reports that are added up, and then proved."""
    publish(services, events, message)
    with running(workers(recorders), services) as alive:
        worked = worked_off(services, len(events), alive)
    prove(services, len(events))
    return worked


def publish(services: Services, events: list[bytes], message: int) -> None:
    if message == 1:
        # As a Publisher would, which waits for the disk after each: minutes in every turn.
        fill(services.broker_url, events)
        return
    with Publisher(services.broker_url, batch_events=message) as publisher:
        publisher.publish_many(events)


def workers(recorders: int) -> list[list[str]]:
    program = [*caselog_program(), "worker"]
    return [[*program, "recorder"]] * recorders + [[*program, "tasks"]]


def apart(services: Services, events: list[bytes]) -> WorkedOff:
    """Half of the single events, twice: two pipelines with a recorder each, which share the servers and nothing else.

    What the processors allow two recorders, were neither ever to wait for the other.
    """
    events = events[: len(events) // 2]
    with fresh_database(services.database_url) as database_url, ExitStack() as stack:
        second_redis = services.redis_url.replace("virtual_host=0", "virtual_host=1")
        both = (services, Services(database_url, second_redis, second_redis))
        for one in both:
            publish(one, events, 1)
        alive = [stack.enter_context(running(workers(1), one)) for one in both]
        with ThreadPoolExecutor(len(both)) as pool:
            first, second = pool.map(worked_off, both, [len(events)] * len(both), alive)
        stack.close()
        for one in both:
            prove(one, len(events))
    return first.beside(second)


def prove(services: Services, expected: int) -> None:
    """Every event is in the log, and everything that is folded from the log is as it has to be."""
    with psycopg.connect(services.database_url) as db:
        counts = db.execute("select (select count(*) from log), (select count(*) from dead_letter)").fetchone()
    if counts != (expected, 0):
        raise SystemExit(f"{expected} events gave (logs, dead letters) = {counts}: a fast wrong answer counts as none")
    with Verification(services.database_url, make_rules(load_settings())) as verification:
        findings = list(verification.whole(_unseen))
    if findings:
        raise SystemExit(f"{len(findings)} rows are not what the log says: a fast wrong answer counts as none")


@contextmanager
def _unseen(_what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    yield lambda _logs: None


def by_dramatiq(services: Services, events: list[bytes], *, job: str) -> float | WorkedOff:
    enqueue_dramatiq(services, job, events)
    with running([[sys.executable, JOBS, "dramatiq"]], services) as alive:
        if job == "record":
            return worked_off(services, len(events), alive)
        if services.broker_url.startswith("amqp"):
            return drained_from_kombu(services, len(events), alive)
        client = make_redis(services)
        return drained_a_second(lambda: int(client.hlen(f"{NAMESPACE}:{QUEUE}.msgs")), len(events), alive)


def by_celery(services: Services, events: list[bytes], *, job: str) -> float | WorkedOff:
    enqueue_celery(services.broker_url, job, events)
    # A cold stop: after SIGTERM an idle one on RabbitMQ stays for 20 seconds and more.
    with running([[sys.executable, JOBS, "celery"]], services, by=signal.SIGQUIT) as alive:
        if job == "record":
            return worked_off(services, len(events), alive)
        return drained_from_kombu(services, len(events), alive)


def drained_from_kombu(services: Services, filled: int, alive: Callable[[], None]) -> float:
    with kombu.Connection(services.broker_url) as connection, connection.channel() as channel:
        return drained_a_second(lambda: _ready(channel), filled, alive)


def _ready(channel: Any) -> int:
    try:
        return int(kombu.Queue(QUEUE, channel=channel).queue_declare(passive=True).message_count)
    except ChannelError:  # on Redis, an empty queue is none
        return 0


def floor(services: Services, events: list[bytes]) -> float:
    """The cost of the log rows themselves: COPY by 2,000 a transaction, with the same indexes, and nothing else."""
    engine = make_engine(services.database_url, connections=1)
    recording = Recording(engine, event_registry, make_rules(load_settings()))
    for start in range(0, len(events), TRANSACTION):
        recording.record([decode(b"[" + b",".join(events[start : start + TRANSACTION]) + b"]")])
    with engine.connect() as db:
        columns = ", ".join(store.LOG_COLUMNS)
        logs = [history.stored_log(row) for row in db.execute(text(f"select {columns} from log order by id"))]
    with psycopg.connect(services.database_url, autocommit=True) as emptying:
        emptying.execute("truncate log")
        emptying.execute("checkpoint")
    began_s = time.perf_counter()
    for start in range(0, len(logs), TRANSACTION):
        with engine.begin() as db, store.inserting_logs(db, logs[start : start + TRANSACTION]):
            pass
    took_s = time.perf_counter() - began_s
    engine.dispose()
    return len(logs) / took_s


if __name__ == "__main__":
    main()
