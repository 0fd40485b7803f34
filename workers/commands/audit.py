"""Commands about the audit: who did what by hand, when and why, and who read of which cases."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from caselog.workers.rows.output import print_table, write_rows

audit = typer.Typer(help="The audit: who did what by hand, when and why.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(audit, name="audit")


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
    from caselog.workers.rows.timestamps import beginning, moment
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
