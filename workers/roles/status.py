"""The status worker: one process that says over HTTP and through the broker whether all is well."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

import msgspec
import redis
import uvicorn
from litestar import Litestar

from caselog.events.errors import RegistrationError, SettingsError
from caselog.events.folding.resolve import refuses_at_once
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import make_engine
from caselog.schema.sessions.fencing import Fence
from caselog.workers.access.admission import Admission
from caselog.workers.access.reads import ReadLog
from caselog.workers.continuity.memory import read_memory
from caselog.workers.health.checks import Health
from caselog.workers.health.ping import answer_pings
from caselog.workers.process.logs import configure_logs, get_logger
from caselog.workers.process.shutdown import exit_in_time
from caselog.workers.roles.self_report import tell_session
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import impatient
from caselog.workers.settings import Settings
from caselog.workers.web.app import checks_json, make_app, versions
from caselog.workers.web.connection import HttpConnection
from caselog.workers.web.intake import EventIntake
from caselog.workers.web.ops.assembly import ops_page
from caselog.workers.web.prometheus import Exposition
from caselog.workers.web.reports.pages import ReportPages

# Three checks and /metrics ask the database, each in a thread of its own.
DATABASE_CONNECTIONS: Final = 4
# Reports that are read at once; another one waits so long for its turn.
REPORT_CONNECTIONS: Final = 4
REPORT_TURN_S: Final = 5
REDIS_TIMEOUT_S: Final = 2
# A request may be waiting for a check; it has this long to be answered after SIGTERM.
LAST_REQUESTS_S: Final = 1
PINGS_STOP_WITHIN_S: Final = 2
# Connections that the kernel keeps until they are accepted: a burst of probes is not refused.
BACKLOG: Final = 512


def run_status(settings: Settings, services: Services) -> None:
    """Serve the pages and answer pings until SIGTERM or SIGINT; from the main thread.

    Raises `SettingsError` where `http_host` and `http_port` cannot be listened on. Servers that are away are no reason
    not to start: to say so is what this worker is for.
    """
    configure_logs("status")
    stopping = threading.Event()
    _import_apps(settings)
    with (
        listen(settings.http_host, settings.http_port) as listener,
        web_application(settings, services) as (app, health),
    ):
        server = _Server(
            uvicorn.Config(
                app,
                http=HttpConnection,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=LAST_REQUESTS_S,
            )
        )

        def stop(*_: object) -> None:
            exit_in_time()
            stopping.set()
            server.should_exit = True

        # While it serves, uvicorn's own handlers stand in their place; it calls these when it has ended.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        pings = threading.Thread(
            target=answer_pings,
            args=(services.broker_url, lambda: _answer(settings, health), stopping),
            name="pings",
            daemon=True,  # a broker that hangs must not keep the process
        )
        pings.start()
        get_logger().info("status started", pid=os.getpid(), url=_url(settings), reading=settings.reading_in_words)
        try:
            server.run(sockets=[listener])
        finally:
            stopping.set()
            pings.join(PINGS_STOP_WITHIN_S)


@contextmanager
def web_application(settings: Settings, services: Services) -> Iterator[tuple[Litestar, Health]]:
    """All that is served over HTTP, and what says whether all is well. Threads and engines of its own end with it."""
    fence = Fence()
    engine = make_engine(
        services.database_url, application="caselog status", connections=DATABASE_CONNECTIONS, fence=fence
    )
    tell_session(engine, services)
    # Their own connections: many readers keep no check waiting.
    reports = make_engine(
        services.database_url,
        application="caselog reports",
        connections=REPORT_CONNECTIONS,
        turn_s=REPORT_TURN_S,
        fence=fence,
    )
    # One that is away is what the checks are to say, and soon.
    client = impatient(services.redis_url, within_s=REDIS_TIMEOUT_S)
    with suppress(redis.RedisError):  # before anything is connected: of a list, the old primary is passed over
        read_memory(client, fence)
    health = Health(engine, services.broker_url, client, settings)
    exposition = Exposition(engine, services.broker_url, client, health, versions(settings))
    admission = Admission(settings)
    intake = EventIntake(services.broker_url, lambda event: refuses_at_once(event, event_registry))
    with ops_page(settings, services, client, health, admission) as ops:
        more = [intake.handler(), *ops, *ReportPages(reports, settings).handlers()]
        reads = ReadLog(services.redis_url)
        try:
            yield make_app(settings, health, exposition, more=more, admission=admission, reads=reads), health
        finally:
            intake.close()
            for one in (engine, reports):
                one.dispose()


class _Server(uvicorn.Server):
    """Ends in time also where a request waits for a database that does not answer: its thread is waited for."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        exit_in_time()
        super().handle_exit(sig, frame)


def _import_apps(settings: Settings) -> None:
    """Know the events of the apps, for what is refused at once; where they cannot be imported, recorders refuse it."""
    try:
        autodiscover(settings.apps)
    except RegistrationError as error:
        get_logger().warning("events are accepted that the apps would refuse", error=str(error))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `SettingsError` in one line that says which setting to change."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise SettingsError(f"CASELOG_HTTP_HOST: {host!r} is no address of this machine ({error.strerror})") from None
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise SettingsError(
            f"CASELOG_HTTP_PORT: {host}:{port} cannot be listened on ({why}). Stop what listens there, or set "
            "CASELOG_HTTP_PORT to a free port"
        ) from None
    # asyncio sets it on sockets of its own making alone. Without it, an answer on a connection that is kept open waits
    # 40 ms for the client's acknowledgement between its head and its body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _answer(settings: Settings, health: Health) -> bytes:
    return msgspec.json.encode({"version": versions(settings), "checks": msgspec.Raw(checks_json(health.check()))})


def _url(settings: Settings) -> str:
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    return f"http://{host}:{settings.http_port}/"
