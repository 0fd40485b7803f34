"""Commands that run the pipeline: everything at once, one role, or the migration before it."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer


class RoleName(StrEnum):
    RECORDER = "recorder"
    TASKS = "tasks"
    STATUS = "status"
    DEMO = "demo"


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog up --demo")(up)
    app.command(epilog="Example: caselog worker recorder --processes 2")(worker)
    app.command(epilog="Example: CASELOG_DATABASE_URL=postgresql://… caselog migrate")(migrate)


def up(
    *, demo: Annotated[bool, typer.Option(help="Also publish simulated journeys of cases, for ever.")] = False
) -> None:
    """Run everything: servers where no URL is set, migration, recorder, tasks and status worker. Ctrl-C stops it."""
    from caselog.workers.roles.up import run_up
    from caselog.workers.settings import load_settings

    status = run_up(load_settings(), demo=demo)
    if status:
        raise typer.Exit(status)


def worker(
    role: Annotated[RoleName, typer.Argument(help="What this process does.")],
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many processes of the role.")] = 1,
) -> None:
    """Run one role until SIGTERM or Ctrl-C, for production."""
    from caselog.workers.servers.locate import check_writing, find_services
    from caselog.workers.settings import load_settings

    settings = load_settings()
    services = find_services(settings)
    if role in (RoleName.RECORDER, RoleName.TASKS):
        check_writing(services)
    # The kernel lets nobody kill the first process of a container from inside: a worker whose rule hangs in C could not
    # be replaced. As its child it can.
    if processes > 1 or (os.getpid() == 1 and role is not RoleName.STATUS):
        from caselog.workers.process.supervisor import Command, Supervisor
        from caselog.workers.roles.up import caselog_program
        from caselog.workers.settings import child_environment

        argv = [*caselog_program(), "worker", role.value]
        commands = [Command(f"{role.value} {number}", argv) for number in range(1, processes + 1)]
        Supervisor(commands, environment=child_environment(services.environment())).run()
        return
    match role:
        case RoleName.RECORDER:
            from caselog.workers.roles.recorder import run_recorder

            run_recorder(settings, services)
        case RoleName.TASKS:
            from caselog.workers.roles.tasks import run_tasks_worker

            run_tasks_worker(settings, services)
        case RoleName.STATUS:
            from caselog.workers.roles.status import run_status

            run_status(settings, services)
        case RoleName.DEMO:
            from caselog.workers.roles.demo import run_demo

            run_demo(services)


def migrate(
    *,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Then write anew what the rules before made of the log, where it is due.")
    ] = False,
    back_to: Annotated[
        str | None,
        typer.Option("--back-to", metavar="REVISION", help="Undo what came after; stop all workers before."),
    ] = None,
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, for the audit.")] = None,
) -> None:
    """Bring the database to the current schema; recorders may go on meanwhile. Running it again changes nothing.

    A database that a newer caselog has migrated is left as it is, with exit status 0. Where a roll-out is taken back,
    this version undoes its migrations (--back-to), before the workers of the version before start again. Nobody stops
    this version's workers: one that still runs would record by its own rules what the older schema takes, and wait with
    the rest. So stop them all. The audit keeps who migrated, from which revision to which, and why.
    """
    from caselog.schema.migrations.upgrade import By, is_ahead
    from caselog.schema.migrations.upgrade import migrate as run
    from caselog.schema.sessions.proof import prove_session
    from caselog.workers.commands.database import known_fence, reading
    from caselog.workers.servers.locate import find_direct_url
    from caselog.workers.settings import load_settings
    from caselog.workers.terminal.progress import counting

    if back_to is not None and rebuild:
        raise typer.BadParameter("what is taken back is for its own version to rebuild", param_hint="--rebuild")
    settings = load_settings()
    database_url = find_direct_url(settings)
    database_url = prove_session(database_url, "migrate", fence=known_fence(settings))
    before, after = run(database_url, _complain, back_to=back_to, by=By(settings.who, why))
    if back_to is not None and before != after:
        sys.stdout.write(f"taken back from {before} to {after}; start the workers of that version, and rebuild\n")
        return
    sys.stdout.write(f"at revision {after} already\n" if before == after else f"migrated from {before} to {after}\n")
    if is_ahead(after):
        return  # what there is to do, the newer version does
    if rebuild:
        from caselog.workers.recording.assembly import make_rules
        from caselog.workers.verification.rebuild import rebuild_outdated

        written = rebuild_outdated(database_url, make_rules(settings), settings.apps, counting)
        sys.stdout.write("rebuilt from the log\n" if written else "nothing is to be rebuilt\n")
        return
    from caselog.schema.recording.outdated import REMEDY, find_outdated, told

    with reading() as db:
        if found := find_outdated(db):
            _complain(f"{told(found)}. Reports are withheld, and the check rebuild is red, until you {REMEDY}")


def _complain(line: str) -> None:
    sys.stderr.write(f"caselog: {line}\n")
