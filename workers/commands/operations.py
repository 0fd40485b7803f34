"""Commands for operations: settings in force, whether all is well, and who did what by hand or read of which cases."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from caselog.workers.rows.output import print_table, write_json, write_rows

if TYPE_CHECKING:
    from caselog.workers.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


audit = typer.Typer(help="The audit: who did what by hand, when and why.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog ping --timeout 5 && echo well")(ping)
    app.command(epilog="Example: caselog settings")(settings)
    app.add_typer(audit, name="audit")


def ping(
    *,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the answer.")] = 5,
    json: Json = False,
) -> None:
    """Ask the status worker through the broker; exit 0 when all is well."""
    from caselog.workers.health.ping import ping as ask
    from caselog.workers.servers.locate import find_broker_url
    from caselog.workers.settings import load_settings

    answer = ask(find_broker_url(load_settings()), timeout)
    checks = answer["checks"]
    well = bool(checks["*"]["status"])
    if json:
        write_json(answer)
    else:
        columns = ("check", "status", "value", "hint")
        print_table(
            columns,
            (
                [
                    name,
                    "ok" if check["status"] else "FAILED",
                    check.get("value"),
                    "" if check["status"] else check.get("hint"),
                ]
                for name, check in checks.items()
                if name != "*"
            ),
        )
        sys.stdout.write("all is well\n" if well else "not well: see the hints\n")
    if not well:
        raise typer.Exit(1)


def settings(
    *,
    broker_url: Annotated[
        bool, typer.Option("--broker-url", help="Print only where events go: for a Publisher, and nothing secret.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the settings in force, secrets masked, and which of them the environment sets."""
    from caselog.workers.settings import load_settings, shown

    if broker_url:
        _print_broker_url(load_settings())
        return
    rows = shown(load_settings())
    if json:
        write_json([dict(zip(("variable", "value", "set", "description"), row, strict=True)) for row in rows])
    else:
        print_table(("variable", "value", "set", "description"), rows)


def _print_broker_url(settings: Settings) -> None:
    """That of the embedded Redis where none is set. Raises `SettingsError` where it holds a password."""
    from caselog.events.errors import SettingsError
    from caselog.events.transport.urls import passwords_of
    from caselog.workers.servers.locate import find_broker_url

    url = find_broker_url(settings)
    if passwords_of(url):
        raise SettingsError(
            "CASELOG_BROKER_URL holds a password, which is not shown: take the URL from where it is set"
        )
    sys.stdout.write(f"{url}\n")


@audit.callback()
def _group() -> None:
    """Keeps `list` a command of its own, though it is the only one."""


@audit.command("list", epilog="Example: caselog audit list --action dead --since 2026-11-01")
def audit_list(
    *,
    action: Annotated[
        str | None, typer.Option(help="Only this action and those under it: dead, dead.discard, pause.")
    ] = None,
    who: Annotated[str | None, typer.Option(help="Only what this person did or read.")] = None,
    case: Annotated[
        str | None,
        typer.Option(
            metavar="REF", help="Only what names this case: who read it, what was retried or discarded of it."
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="Only at or after T: RFC 3339, or a local time or day.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="T", help="Only at or before T; a day includes all of it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List what was done by hand, and who read of cases (--action case.read), newest first."""
    from caselog.schema.operations.audit import AuditEntry, list_audit
    from caselog.workers.commands.database import reading
    from caselog.workers.commands.moments import beginning, moment
    from caselog.workers.settings import load_settings

    zone = load_settings().zone
    columns = AuditEntry.__struct_fields__
    after = None if since is None else beginning(since, zone, "--since")
    before = None if until is None else moment(until, zone, "--until")
    with reading() as db:
        entries = list_audit(db, action=action, who=who, case=case, since=after, until=before, limit=limit)
        rows = ([getattr(entry, column) for column in columns] for entry in entries)
        if json:
            write_rows(sys.stdout.buffer, columns, rows, "jsonl")
        else:
            print_table(columns, rows)
