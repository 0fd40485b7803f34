"""The workers as real processes on the tests' servers: started, killed and stopped; what is published, what stands."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

import psycopg

from caselog.events.transport import broker
from caselog.events.transport.publisher import Publisher
from caselog.workers.roles.up import caselog_program
from support.oracle.proof import add_up_reports
from support.oracle.stored import body
from support.processes.patience import DEADLINE_S, allowance_s
from support.servers.children import start_child

ROOT: Final = Path(__file__).parents[3]


def eventually(is_so: Callable[[], Any], what: str, within_s: float = DEADLINE_S) -> None:
    """Wait until it is so; fails after the deadline, saying what never came true."""
    deadline_s = monotonic() + within_s
    while not is_so():
        assert monotonic() < deadline_s, f"never came true within {within_s:g} s: {what}"
        sleep(0.02)


class Worker:
    """One `caselog worker` process, with what it logs."""

    def __init__(self, argv: list[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = start_child(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does it: nothing is tidied up."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def stop(self, within_s: float = 10.0) -> int:
        """SIGTERM. Gives the exit status; fails where it takes longer than is promised, on a machine this busy."""
        self.process.terminate()
        return self.process.wait(allowance_s(within_s))


class Pipeline:
    """The services of a test, the processes on them, and the questions that tests ask."""

    def __init__(self, directory: Path, database_url: str, broker_url: str, redis_url: str, **settings: str) -> None:
        self.directory = directory
        self.database_url = database_url
        self.broker_url = broker_url
        self.settings = {
            "CASELOG_DATABASE_URL": database_url,
            "CASELOG_BROKER_URL": broker_url,
            "CASELOG_REDIS_URL": redis_url,
            "CASELOG_DATA_DIR": str(directory / "data"),
            "CASELOG_ACCEPT_LOSS": "1",  # the tests' servers are quick ones, and no machine's crash is survived
            **settings,
        }
        self._workers: list[Worker] = []

    def environment(self, **settings: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CASELOG_")}
        return {**inherited, "COLUMNS": "200", **self.settings, **settings}

    def start(self, role: str, *arguments: str, **settings: str) -> Worker:
        """Start a worker; a normal return does not promise that it works yet."""
        return self.start_command("worker", role, *arguments, **settings)

    def start_command(self, *arguments: str, **settings: str) -> Worker:
        """Start a command of `caselog` that goes on until it is told to stop."""
        argv = [*caselog_program(), *arguments]
        log = self.directory / f"{len(self._workers)}-{'-'.join(arguments[:2])}.log"
        self._workers.append(Worker(argv, self.environment(**settings), log))
        return self._workers[-1]

    def run(self, *arguments: str, stdin: bytes = b"", **settings: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command of `caselog` to its end."""
        return subprocess.run(
            [*caselog_program(), *arguments],
            input=stdin,
            env=self.environment(**settings),
            cwd=ROOT,
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def publish(self, events: Iterable[dict[str, Any]], *, batch_events: int = 100) -> None:
        """Give events to the broker; it has them when this returns."""
        with Publisher(self.broker_url, batch_events=batch_events) as publisher:
            publisher.publish_many(events)

    def send(self, *bodies: bytes) -> None:
        """Give the broker messages of these bytes, whatever they are."""
        with broker.connect(self.broker_url) as connection, broker.open_channel(connection) as channel:
            broker.EVENTS_QUEUE(channel).declare()
            for one in bodies:
                broker.publish(
                    channel, one, exchange="caselog.events", routing_key="event.x", content_type="application/json"
                )

    def queue(self) -> broker.QueueStatus:
        with broker.connect(self.broker_url) as connection:
            return broker.queue_status(connection, "caselog.events", with_age=False)

    def queue_is_empty(self) -> bool:
        """Nothing is ready and, where the broker tells, nothing unacked."""
        status = self.queue()
        return status.ready == 0 and not status.unacked

    def one(self, query: str) -> Any:
        """The single value that a query gives."""
        with psycopg.connect(self.database_url) as db:
            row = db.execute(query.encode()).fetchone()
            assert row is not None
            return row[0]

    def logs(self) -> int:
        count: int = self.one("select count(*) from log")
        return count

    def recorded(self, count: int, within_s: float = DEADLINE_S) -> None:
        """Wait until the log has that many entries, and none of them waits to be acked."""
        eventually(lambda: self.logs() >= count, f"{count:,} logs", within_s)
        eventually(self.queue_is_empty, "the queue is empty", within_s)

    def drain_reports(self) -> None:
        """Add up the reports here, and wait for what a tasks worker is just adding up."""
        add_up_reports(self.database_url)
        eventually(lambda: self.one("select count(*) from report_outbox") == 0, "the outbox is empty")

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Within, PostgreSQL takes no connection to this database, and those that there were are cut."""
        name = self.one("select current_database()")
        with psycopg.connect(self.database_url.replace(f"/{name}?", "/postgres?", 1), autocommit=True) as server:
            server.execute(f"alter database {name} with allow_connections false".encode())
            try:
                server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
                yield
            finally:
                server.execute(f"alter database {name} with allow_connections true".encode())

    def close(self) -> None:
        """Leave no process behind."""
        for worker in self._workers:
            if worker.is_running():
                worker.process.terminate()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(DEADLINE_S)
            worker.kill()


def created(case: str, at: str = "2026-03-02T10:00:00Z", **more: Any) -> dict[str, Any]:
    """A valid event that creates a case."""
    return event("case", "CASE_CREATED", case, at, **more)


def event(
    key: str, code: str | None, case: str | None, at: str = "2026-03-02T11:00:00Z", **more: Any
) -> dict[str, Any]:
    """A valid event about a case, by an operator of its own; its id is told by what it says."""
    data: dict[str, Any] = {"actor": {"id": f"op-{case}", "role": "operator"}, **more.pop("data", {})}
    if code is not None:
        data["code"] = code
    return {
        "specversion": "1.0",
        "id": f"{case}/{at}/{key}/{code}",
        "source": "/tests",
        "type": key,
        "subject": case,
        "time": at,
        "data": data,
        **more,
    }


def lines(events: Iterable[dict[str, Any]]) -> bytes:
    """The events as JSON lines."""
    return b"".join(body(one) + b"\n" for one in events)
