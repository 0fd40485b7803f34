"""The chaos rig: a whole pipeline under faults drawn by a seed; in the end nothing is lost, doubled or stuck.

    make chaos SECONDS=600 SEED=1 BROKER=rabbitmq
    PYTHONPATH=tests .venv/bin/python tests/system/chaos/rig.py --seconds 600 --faults 500 --seed 1 --broker redis

Exits 0 only where every promise held. The seed draws the faults and the events; what they meet is up to the machine,
so a seed repeats the attack, not the accident.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import secrets
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import psycopg
from faults import Fault, of_node, of_postgres, of_process, of_redis, of_virtual_host, of_wire
from ledger import published, read
from rabbitmq import STARTS_WITHIN_S, OwnNode, start_rabbitmq
from rich.console import Console
from rich.table import Table
from servers import Owned, start_postgres, start_redis, wait_until
from support.oracle.proof import what_differs
from support.oracle.reference import fold_all
from support.oracle.stored import assert_same, what_stands
from support.processes.pipeline import Pipeline, Worker
from support.servers.free_ports import free_port
from wire import Wires

from caselog.events.model.registry import autodiscover
from caselog.workers.process.supervisor import STOP_WITHIN_S
from caselog.workers.servers.data_dir import make_place
from caselog.workers.servers.embedded import uninstall

RECORDERS: Final = 3
PUBLISHERS: Final = 2
# Longer than a transaction that stands still holds its locks (30 s), a lease, and the delay of parked events together.
DRAIN_S: Final = 180.0
# About three faults a second are begun, some of which find their target broken already: several are under way at once.
MEAN_PAUSE_S: Final = 0.3
TICK_S: Final = 0.02
# A worker that has not started yet is mostly left alone: else on a busy machine none would ever get to its work.
WHILE_STARTING: Final = 0.2
# A kind that was not begun yet is drawn so much more often, so that a short run has seen the rare ones, too.
FIRST_TIME: Final = 3
# Of libraries, which go on: dramatiq does not expect redis-py's timeouts, SQLAlchemy tells of a cut connection.
KNOWN: Final = ("/dramatiq/brokers/redis.py", "Exception during reset or similar")
# In the end nothing may be left here. Events of a case that is never published wait for it, as they should.
NOTHING_STAYS: Final = ("report_outbox", "parked where case_reference not like 'LOST-%'")
HERE: Final = Path(__file__).parent
# Small transactions: more instants at which something is half done.
SETTINGS: Final = {"CASELOG_BATCH_EVENTS": "50"}


class Actor:
    """A process that is started again whenever it is killed."""

    def __init__(self, name: str, role: str, launch: Callable[[], Worker]) -> None:
        self.name, self.role = name, role
        self._launch = launch
        self.worker = launch()
        self.is_expected_to_run = True
        self.logs = [self.worker.log]

    def start(self) -> None:
        self.worker = self._launch()
        self.logs.append(self.worker.log)
        self.is_expected_to_run = True

    def has_started(self) -> bool:
        """Whether it has said so. A publisher says nothing: its ledger is what it has to say."""
        return self.role == "publisher" or self.worker.log.stat().st_size > 0

    def kill(self) -> None:
        self.is_expected_to_run = False
        self.worker.kill()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.worker.process.send_signal(number)


@dataclass
class Report:
    """What came of a run. `broken` names each promise that did not hold; empty: all did."""

    seed: int
    broker: str
    seconds: float = 0
    faults: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def show(self) -> None:
        console = Console(width=100)
        table = Table("fault", "times", title=f"{self.faults.total()} faults, {self.broker}, seed {self.seed}")
        for kind, times in sorted(self.faults.items()):
            table.add_row(kind, str(times))
        console.print(table)
        table = Table("what", "how many", title=f"after {self.seconds:.0f} s")
        for what, count in self.numbers.items():
            table.add_row(what, f"{count:,}")
        console.print(table)
        for line in self.broken:
            console.print(f"BROKEN: {line}", style="red", markup=False)


@dataclass(frozen=True)
class Durability:
    """How Redis keeps what it confirmed, and whether it is killed."""

    appendfsync: str | None = "always"  # None: without append-only file, snapshots only
    is_killed: bool = True


class Rig:
    """One run. The servers, workers and publishers live until `close`."""

    def __init__(self, directory: Path, seed: int, broker: str, durability: Durability) -> None:
        self.report = Report(seed, broker)
        self._chance = random.Random(seed)
        self._seed = seed
        self._directory = directory
        self._cleanup = ExitStack()
        self._heals: list[tuple[float, int, str, Callable[[], None]]] = []
        self._order = itertools.count()
        self._taken: set[str] = set()
        self._stopping: list[tuple[Actor, float]] = []
        try:
            self._start_servers(broker, durability)
            self._start_actors()
        except BaseException:
            self.close()
            raise

    def _start_servers(self, broker: str, durability: Durability) -> None:
        wires = Wires()
        self._cleanup.callback(wires.close)
        data = self._directory / "data"
        self._cleanup.callback(uninstall, data)
        place = make_place(data)
        self._servers: list[Owned] = []
        self._cleanup.callback(self._stop_servers)
        redis, redis_url = start_redis(place, wires, durability.appendfsync)
        self._servers.append(redis)
        postgres, database_url, self.direct_url = start_postgres(place, wires)
        self._servers.append(postgres)
        has_aof = durability.appendfsync is not None
        self._faults = of_redis(redis, has_aof=has_aof, is_killed=durability.is_killed)
        self._faults += of_postgres(postgres, self.direct_url)
        self._wires = {owned.name: owned.wire for owned in self._servers}
        broker_url = redis_url
        if broker == "rabbitmq":
            rabbitmq = start_rabbitmq(self._directory / "rabbitmq", wires)
            if isinstance(rabbitmq, OwnNode):
                self._servers.append(rabbitmq)
                self._faults += of_node(rabbitmq)
            else:
                self._cleanup.callback(rabbitmq.close)
                self.report.broker = "rabbitmq (a virtual host)"
            self._wires["RabbitMQ"] = rabbitmq.wire
            self._faults += of_virtual_host(rabbitmq.control)
            broker_url = rabbitmq.url
        self._faults += [fault for name, wire in self._wires.items() for fault in of_wire(name, wire)]
        self.pipeline = Pipeline(self._directory, database_url, broker_url, redis_url, **SETTINGS)
        self.pipeline.settings["CASELOG_HTTP_PORT"] = str(free_port())
        self._cleanup.callback(self.pipeline.close)
        migrated = self.pipeline.run("migrate")
        assert migrated.returncode == 0, migrated.stderr.decode()

    def _stop_servers(self) -> None:
        for owned in self._servers:
            owned.close()

    def _start_actors(self) -> None:
        def worker(role: str) -> Callable[[], Worker]:
            return lambda: self.pipeline.start(role)

        def publisher(number: int) -> Callable[[], Worker]:
            arguments = [str(HERE / "ledger.py"), self.pipeline.broker_url, str(self._ledger(number))]
            argv = [sys.executable, *arguments, str(self._seed), str(number)]
            environment = self.pipeline.environment(PYTHONPATH=str(HERE.parents[1]))
            return lambda: Worker(argv, environment, self._directory / f"publisher-{number}-{next(self._order)}.log")

        self.actors = [Actor(f"recorder {n}", "recorder", worker("recorder")) for n in range(RECORDERS)]
        self.actors += [Actor(role, role, worker(role)) for role in ("tasks", "status")]
        self.publishers = [Actor(f"publisher {n}", "publisher", publisher(n)) for n in range(PUBLISHERS)]
        self._cleanup.callback(self._kill_publishers)
        self._faults += [fault for actor in (*self.actors, *self.publishers) for fault in of_process(self, actor)]

    def _kill_publishers(self) -> None:
        for actor in self.publishers:
            actor.worker.kill()

    def _ledger(self, number: int) -> Path:
        return self._directory / f"ledger-{number}"

    # Breaking

    def break_things(self, seconds: float, faults: int | None) -> None:
        """Begin faults for so long, or until there were so many; then heal what is broken."""
        begun_s = monotonic()
        next_s = begun_s
        while monotonic() - begun_s < seconds and (faults is None or self.report.faults.total() < faults):
            self._tick()
            if monotonic() >= next_s:
                self._break_one()
                next_s = monotonic() + self._chance.expovariate(1 / MEAN_PAUSE_S)
            sleep(TICK_S)
        while self._heals or self._stopping:
            self._tick()
            sleep(TICK_S)
        for owned in self._servers:
            wait_until(owned.is_up, f"{owned.name} runs again", STARTS_WITHIN_S)
        self.report.seconds = monotonic() - begun_s

    def _break_one(self) -> None:
        begun = self.report.faults
        weights = [fault.weight * (1 if begun[fault.kind] else FIRST_TIME) for fault in self._faults]
        [fault] = self._chance.choices(self._faults, weights)
        if fault.target in self._taken or not self._is_there(fault):
            return
        heal = fault.begin(self._chance)
        if heal is None:
            return
        self.report.faults[fault.kind] += 1
        with (self._directory / "faults.log").open("a") as log:
            log.write(f"{datetime.now(UTC):%H:%M:%S.%f} {fault.kind} ({fault.target}), {heal.after_s:.2f} s\n")
        self._taken.add(fault.target)
        heapq.heappush(self._heals, (monotonic() + heal.after_s, next(self._order), fault.target, heal.do))

    def _is_there(self, fault: Fault) -> bool:
        actors = {actor.name: actor for actor in (*self.actors, *self.publishers)}
        actor = actors.get(fault.target)
        if actor is None:
            return True
        return actor.is_expected_to_run and (actor.has_started() or self._chance.random() < WHILE_STARTING)

    def stop_in_time(self, actor: Actor) -> None:
        """SIGTERM; that it ends within 10 seconds is seen to while other things go on."""
        actor.is_expected_to_run = False
        actor.send(signal.SIGTERM)
        self._stopping.append((actor, monotonic()))

    def _tick(self) -> None:
        now = monotonic()
        while self._heals and self._heals[0][0] <= now:
            _, _, target, do = heapq.heappop(self._heals)
            do()
            self._taken.discard(target)
        for owned in self._servers:
            owned.revive()
        for actor, since_s in list(self._stopping):
            self._see_it_stop(actor, since_s)
        for actor in (*self.actors, *self.publishers):
            if actor.is_expected_to_run and not actor.worker.is_running():
                status, said = actor.worker.process.returncode, actor.worker.said()[-600:]
                self.report.broken.append(f"{actor.name} ended by itself with status {status}: {said}")
                actor.start()

    def _see_it_stop(self, actor: Actor, since_s: float) -> None:
        took_s = monotonic() - since_s
        # A publisher finishes its chunk, for as long as the broker is away.
        if actor.worker.is_running() and (actor.role == "publisher" or took_s <= STOP_WITHIN_S):
            return
        if actor.worker.is_running():
            self.report.broken.append(f"{actor.name} ran on {took_s:.1f} s after SIGTERM: {actor.worker.said()[-800:]}")
        self._stopping.remove((actor, since_s))
        actor.worker.kill()
        actor.start()

    # Afterwards

    def settle(self) -> None:
        """The publishers finish, and everything drains."""
        for actor in self.publishers:
            actor.is_expected_to_run = False
            actor.send(signal.SIGTERM)
        with self._or_broken("publishers do not end"):
            wait_until(lambda: not any(p.worker.is_running() for p in self.publishers), "the publishers end", DRAIN_S)
        with self._or_broken("stuck in the queue"):
            wait_while_it_falls(self._queued, "the queue")
        for what in NOTHING_STAYS:
            with self._or_broken(f"stuck: {what}"):
                wait_while_it_falls(partial(self._one, f"select count(*) from {what}"), what)
        for actor in self.actors:
            actor.is_expected_to_run = False
            actor.send(signal.SIGTERM)
        for actor in self.actors:
            with self._or_broken(f"{actor.name} does not stop"):
                wait_until(lambda actor=actor: not actor.worker.is_running(), "it ends", STOP_WITHIN_S)  # type: ignore[misc]
        with self._or_broken("given back to the queue"):
            wait_until(self.pipeline.queue_is_empty, "the queue is empty", 5)
        with self._or_broken("what is stuck cannot be counted"):
            left = [self._one(f"select count(*) from {what}") for what in NOTHING_STAYS]
            self.report.numbers["stuck"] = self._queued() + sum(left)

    def judge(self) -> None:
        """Compare what stands with the ledgers, with the rules, and with the log folded afresh."""
        events = [event for n in range(PUBLISHERS) for event in published(self._ledger(n), self._seed, n)]
        confirmed: set[tuple[str, str]] = set()
        for number in range(PUBLISHERS):
            confirmed |= read(self._ledger(number))[0]
        autodiscover()
        stands = what_stands(self.direct_url)
        with psycopg.connect(self.direct_url) as db:
            query = "select source, event_id from {}"
            rows = {
                table: Counter(db.execute(query.format(table).encode()).fetchall())
                for table in ("log", "dead_letter", "parked")
            }
        places = sum(rows.values(), Counter[Any]())
        lost = confirmed - places.keys()
        doubled = [name for name, times in places.items() if times > 1]
        numbers = self.report.numbers
        numbers["events published"] = len(events)
        numbers["confirmed by the broker"] = len(confirmed)
        numbers["recorded"] = rows["log"].total()
        numbers["dead letters"] = rows["dead_letter"].total()
        numbers["waiting for a case that never comes"] = rows["parked"].total()
        numbers["lost"] = len(lost)
        numbers["doubled"] = len(doubled)
        broken = self.report.broken
        if lost:
            broken.append(f"lost: {sorted(lost)[:5]}")
        if doubled:
            broken.append(f"doubled: {sorted(doubled)[:5]}")
        if places.total() != len(events):
            broken.append(f"{places.total()} events have a place, and {len(events)} were published")
        with self._or_broken("what stands is not what the rules say"):
            assert_same(stands, fold_all(events))
        differences = what_differs(self.direct_url)
        numbers["differences found by verify"] = len(differences)
        if differences:
            broken.append(f"verify: {differences[:3]}")
        logs = [log for actor in self.actors for log in actor.logs]
        tracebacks = [
            log.name
            for log in logs
            if any(
                "Traceback" in line and not any(known in line for known in KNOWN)
                for line in log.read_text(errors="replace").splitlines()
            )
        ]
        numbers["workers that logged a traceback"] = len(tracebacks)
        if tracebacks:
            broken.append(f"a fault of a server is one line in a log, and here was a traceback: {tracebacks}")

    def _queued(self) -> int:
        queue = self.pipeline.queue()
        return queue.ready + (queue.unacked or 0)

    def _one(self, query: str) -> Any:
        with psycopg.connect(self.direct_url) as db:
            row = db.execute(query.encode()).fetchone()
            assert row is not None
            return row[0]

    def _or_broken(self, what: str) -> _OrBroken:
        return _OrBroken(self.report, what)

    def close(self) -> None:
        self._cleanup.close()


class _OrBroken:
    """Within, an error is a broken promise, and the run goes on to its report."""

    def __init__(self, report: Report, what: str) -> None:
        self._report, self._what = report, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._report.broken.append(f"{self._what}: {' '.join(str(error).split())[:500]}")
        return True


def wait_while_it_falls(left: Callable[[], int], what: str) -> None:
    """Until nothing is left. Raises `TimeoutError` where it is stuck: no fewer than `DRAIN_S` seconds before.

    How long it may take in all depends on the machine; nothing is added any more, so it ends.
    """
    fewest, since_s = left(), monotonic()
    while fewest:
        sleep(0.2)
        now = left()
        if now < fewest:
            fewest, since_s = now, monotonic()
        elif monotonic() - since_s > DRAIN_S:
            raise TimeoutError(f"{fewest} are left in {what}, as {DRAIN_S:g} s ago")


def run(
    directory: Path,
    seed: int,
    broker: str,
    *,
    seconds: float,
    faults: int | None = None,
    durability: Durability = Durability(),
) -> Report:
    """Break things for so long and judge. What the workers said stays in the directory."""
    rig = Rig(directory, seed, broker, durability)
    try:
        rig.break_things(seconds, faults)
        rig.settle()
        rig.judge()
    finally:
        rig.close()
    return rig.report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="how long faults are begun")
    parser.add_argument("--faults", type=int, help="end earlier, after so many")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000))
    parser.add_argument("--broker", choices=["redis", "rabbitmq"], default="redis")
    parser.add_argument("--appendfsync", choices=["always", "everysec"], default="always", help="of Redis")
    parser.add_argument(
        "--no-aof", action="store_true", help="Redis keeps snapshots only, and is only shut down with SAVE"
    )
    parser.add_argument("--kill-redis", action="store_true", help="with --no-aof: kill Redis, to see what that loses")
    parser.add_argument("--directory", type=Path, help="for data and logs; kept. Unset: temporary, kept on failure")
    chosen = parser.parse_args()
    directory = chosen.directory or Path(tempfile.mkdtemp(prefix="caselog-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"seed {chosen.seed}, logs in {directory}", flush=True)  # noqa: T201 - a script
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = run(
        directory,
        chosen.seed,
        chosen.broker,
        seconds=chosen.seconds,
        faults=chosen.faults,
        durability=Durability(
            appendfsync=None if chosen.no_aof else chosen.appendfsync,
            is_killed=chosen.kill_redis or not chosen.no_aof,
        ),
    )
    report.show()
    if report.broken:
        options = [f"--faults {chosen.faults}"] if chosen.faults else []
        options += [f"--appendfsync {chosen.appendfsync}"] if chosen.appendfsync != "always" else []
        options += ["--no-aof"] if chosen.no_aof else []
        options += ["--kill-redis"] if chosen.kill_redis else []
        arguments = f' ARGS="{" ".join(options)}"' if options else ""
        again = f"make chaos SECONDS={chosen.seconds:g} SEED={chosen.seed} BROKER={chosen.broker}{arguments}"
        print(f"\nA promise was broken. The same attack again: {again}\nLogs: {directory}")  # noqa: T201
        return 1
    if chosen.directory is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
