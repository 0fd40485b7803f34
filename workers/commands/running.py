"""Commands that run the pipeline: everything at once, one role, or the migration before it."""

from __future__ import annotations

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
    from workers.settings import load_settings
    from workers.up import run_up

    status = run_up(load_settings(), demo=demo)
    if status:
        raise typer.Exit(status)


def worker(
    role: Annotated[RoleName, typer.Argument(help="What this process does.")],
    *,
    processes: Annotated[int, typer.Option(min=1, max=64, help="How many processes of the role.")] = 1,
) -> None:
    """Run one role until SIGTERM or Ctrl-C, for production."""
    from workers.services import find_services
    from workers.settings import load_settings

    settings = load_settings()
    services = find_services(settings)
    if processes > 1:
        from workers.settings import child_environment
        from workers.supervisor import Command, Supervisor
        from workers.up import caselog_program

        argv = [*caselog_program(), "worker", role.value]
        commands = [Command(f"{role.value} {number}", argv) for number in range(1, processes + 1)]
        Supervisor(commands, environment=child_environment(services.environment())).run()
        return
    from workers import roles

    match role:
        case RoleName.RECORDER:
            roles.run_recorder(settings, services)
        case RoleName.TASKS:
            roles.run_task_worker(settings, services)
        case RoleName.STATUS:
            from workers.status import run_status

            run_status(settings, services)
        case RoleName.DEMO:
            roles.run_demo(services)


def migrate() -> None:
    """Bring the database to the current schema; recorders may go on meanwhile. Running it again changes nothing."""
    from schema.migrate import migrate as run
    from workers.services import find_database_url
    from workers.settings import load_settings

    before, after = run(find_database_url(load_settings()), lambda line: sys.stderr.write(f"caselog: {line}\n"))
    sys.stdout.write(f"at revision {after} already\n" if before == after else f"migrated from {before} to {after}\n")
