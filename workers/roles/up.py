"""`caselog up`: the whole pipeline in one command, on embedded servers where no URL is set."""

from __future__ import annotations

import os
import shlex
import socket
import sys
import sysconfig
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from caselog.events.errors import SettingsError
from caselog.events.transport.urls import shown
from caselog.workers.process.supervisor import (
    Command,
    StopRequested,
    Supervisor,
    complain,
    raising_signals,
    waking_signals,
)
from caselog.workers.servers.data_dir import locked
from caselog.workers.servers.embedded import EmbeddedServers
from caselog.workers.servers.locate import Services, check_writing, combine, find_direct_url, needs
from caselog.workers.settings import Settings, child_environment
from caselog.workers.terminal.progress import counting


def run_up(settings: Settings, demo: bool, commands: Sequence[Command] | None = None) -> int:  # noqa: FBT001 - the command line's switch
    """Run until SIGINT, SIGTERM or SIGHUP and leave nothing running. Gives back the exit status.

    Raises `SettingsError` in one line where it cannot start: another `up` holds the data directory, the HTTP port is
    taken, a server does not start. `commands` are the child processes; None: the workers.
    """
    wanted = needs(settings)
    servers = EmbeddedServers(settings.data_dir, postgres=wanted.postgres, redis=wanted.redis)
    with waking_signals() as signals, locked(settings.data_dir):
        try:
            with raising_signals(signals):
                refuse_taken_port(settings.http_host, settings.http_port)
                services = combine(settings, servers.start())
                check_writing(services)
                _migrate(services, services.database_url if wanted.postgres else find_direct_url(settings), settings)
            _say(where_to_look(settings, services.broker_url))
            supervisor = Supervisor(
                worker_commands(demo=demo) if commands is None else commands,
                environment=child_environment(services.environment()),
                watch=lambda: _revive(servers),
            )
            supervisor.run_until(signals)
        except StopRequested:
            pass
        finally:
            servers.stop()
    _say("caselog has stopped. The data stays; `caselog up` goes on where it was.")
    return 0


def worker_commands(*, demo: bool) -> list[Command]:
    """The roles that make the pipeline, one process each."""
    roles = ["recorder", "tasks", "status", *(["demo"] if demo else [])]
    return [Command(role, [*caselog_program(), "worker", role]) for role in roles]


def caselog_program() -> list[str]:
    """What starts another `caselog`: the installed script by its name, so that the process list shows the role."""
    script = Path(sysconfig.get_path("scripts")) / "caselog"
    return [sys.executable, str(script)] if script.exists() else [sys.executable, "-m", "caselog.workers"]


def refuse_taken_port(host: str, port: int) -> None:
    """Raises `SettingsError` where nobody could listen: the status worker would die of it again and again."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: connections that linger
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"CASELOG_HTTP_PORT: {host}:{port} cannot be listened on ({error.strerror}). "
                "Set CASELOG_HTTP_PORT to a free port, such as CASELOG_HTTP_PORT=8081"
            ) from None


def where_to_look(settings: Settings, broker_url: str) -> str:
    """What a newcomer can do next, as text for the terminal. The commands are as they can be pasted."""
    script = Path(sysconfig.get_path("scripts")) / "caselog"
    program = os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)
    prefix = shlex.quote(program if script.exists() else "caselog")
    if settings.data_dir != Path(".caselog"):
        prefix = f"CASELOG_DATA_DIR={shlex.quote(str(settings.data_dir.resolve()))} {prefix}"
    today = datetime.now(settings.zone).date()
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    pages = f"http://{host}:{settings.http_port}"
    return f"""caselog runs. Reading over HTTP is {settings.reading_in_words}.
  ops page  {pages}/
  reports   {pages}/reports
  health    {pages}/healthcheck.json
  broker    {shown(broker_url)}
  data      {settings.data_dir.resolve()}
  try, in another terminal:
    {prefix} ping
    {prefix} queues
    {prefix} export cases --format jsonl
    {prefix} report outcomes --from {today - timedelta(days=30)} --to {today}
  Ctrl-C stops it."""


def _migrate(services: Services, database_url: str, settings: Settings) -> None:
    """To this version's schema and rules: who starts everything with one command need know nothing of either."""
    from caselog.schema.migrations.upgrade import migrate  # noqa: PLC0415 - Alembic is slow to import, and only this needs it
    from caselog.schema.sessions.fencing import Fence  # noqa: PLC0415 - as what follows
    from caselog.schema.sessions.proof import prove_session  # noqa: PLC0415 - likewise
    from caselog.workers.continuity.memory import Memory  # noqa: PLC0415 - likewise
    from caselog.workers.recording.assembly import make_rules  # noqa: PLC0415 - likewise
    from caselog.workers.servers.redis_client import impatient  # noqa: PLC0415 - likewise
    from caselog.workers.verification.rebuild import rebuild_outdated  # noqa: PLC0415 - likewise, and seldom needed

    memory = Memory(impatient(services.redis_url), Fence())
    memory.learn()  # an old primary that came back is not to be written to
    database_url = prove_session(database_url, "migrate", fence=memory.fence)
    migrate(database_url, complain)
    rebuild_outdated(database_url, make_rules(settings), settings.apps, counting)


def _revive(servers: EmbeddedServers) -> None:
    """A server that died is started again on its data; workers wait for it meanwhile (docs/design.md "Promises")."""
    try:
        for name in servers.revive():
            complain(f"the embedded {name} had died and was started again")
    except SettingsError as error:
        complain(f"{error}; trying again")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
