"""Commands for reports exported in the background: ask for one, look at them, delete them."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caselog.workers.rows.formats import Format, RowFormat
from caselog.workers.rows.output import print_table, write_json, write_rows

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caselog.schema.operations.background_exports import Export
    from caselog.schema.reports.reading import Reading
    from caselog.workers.settings import Settings

ExportId = Annotated[int, typer.Argument(metavar="ID", help="Its id, from caselog exports list.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

POLLED_S = 0.5
# A tasks worker begins what waits within a second or two.
PATIENCE_S = 15
exports = typer.Typer(
    help="Reports exported in the background: caselog report NAME … --background.", no_args_is_help=True
)


def add_to(app: typer.Typer) -> None:
    app.add_typer(exports, name="exports")


@exports.command("list", epilog="Example: caselog exports list --limit 10")
def exports_list(
    *,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """List exports, newest first, with how far each is."""
    from caselog.schema.operations import background_exports
    from caselog.workers.commands.database import reading

    with reading() as db:
        found = [_facts(export) for export in background_exports.list_exports(db, limit=limit)]
    if json:
        write_rows(sys.stdout.buffer, FACTS, ([facts[name] for name in FACTS] for facts in found), "jsonl")
        return
    columns = ("id", "report", "from", "to", "format", "who", "requested_at", "status", "rows", "bytes", "file")
    rows = ([{**facts["parameters"], **facts}[name] for name in columns] for facts in found)
    print_table(columns, rows)


@exports.command("show", epilog="Example: caselog exports show 7 --wait && echo done")
def exports_show(
    export_id: ExportId,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it is over; exit status 1 unless it is done.")
    ] = False,
    json: Json = False,
) -> None:
    """Show an export: what was asked, how far it is, where it lies, why it failed."""
    from caselog.workers.commands.database import writing

    with writing() as (_, engine):
        export = _wait_for(engine, export_id) if wait else _look_at(engine, export_id)
    facts = _facts(export)
    if json:
        write_json(facts)
    else:
        print_table(("column", "value"), facts.items(), title=f"export {export_id}")
    if wait and export.status != "done":
        raise typer.Exit(1)


@exports.command("delete", epilog="Example: caselog exports delete 7 --why 'sent to the wrong team'")
def exports_delete(
    export_id: ExportId,
    *,
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, for the audit.")] = None,
    json: Json = False,
) -> None:
    """Delete an export that is done, failed or was cancelled, with its file; or cancel one that is not over yet.

    The audit keeps who did so and why, and the list that there was one. Exit 1 where there is none, or none any more.
    """
    from caselog.schema.operations import background_exports
    from caselog.workers.commands.database import writing

    with writing() as (settings, engine):
        with engine.begin() as db:
            export = background_exports.delete(db, export_id, who=settings.who, why=why)
        _wake_up(settings)
    if json:
        write_json(_facts(export))
    else:
        sys.stdout.write(f"export {export_id} is {export.status}; a tasks worker removes what there is of its file\n")


def check_request(form: Format, output: Path | None, *, is_background: bool, json: bool, shown: bool) -> None:
    """Raises `typer.BadParameter` where other options of a report do not go with an export in the background."""
    if not is_background:
        raise typer.BadParameter("goes with --background; --output FILE writes one here", param_hint="--to-url")
    if shown:
        raise typer.BadParameter("leave out --plot and --bom", param_hint="--background")
    if output is not None:
        raise typer.BadParameter("a tasks worker does not write here; give --to-url", param_hint="--output")
    if json and form not in (Format.TABLE, Format.JSONL):
        raise typer.BadParameter(f"this is --format jsonl, and not {form}", param_hint="--json")
    if form is Format.TABLE and not json:
        raise typer.BadParameter(f"a file is written as {', '.join(RowFormat)}, not {form}", param_hint="--format")


def ask_for(reading: Reading, *, form: str, to_url: str | None) -> None:
    """Queue an export and print its id. Raises `BadTarget` where nothing can be written there, as far as is known.

    And `Withheld` where the report would be wrong.
    """
    from caselog.schema.operations import background_exports
    from caselog.schema.recording.outdated import refuse_outdated
    from caselog.workers.commands.database import writing
    from caselog.workers.rows.targets import open_target, plain_url, refuse_outside

    with writing() as (settings, engine):
        target = settings.exports if to_url is None else plain_url(to_url)
        refuse_outside(target, settings.exports)
        open_target(target)
        with engine.begin() as db:
            refuse_outdated(db)
            export = background_exports.request(db, reading, form=form, target=target, who=settings.who)
        _wake_up(settings)
    sys.stdout.write(f"export {export.id} is queued: {_facts(export)['file']}\n")
    sys.stderr.write(f"See how far it is with: caselog exports show {export.id} --wait\n")


FACTS = (
    "id", "report", "parameters", "format", "who", "requested_at", "started_at", "finished_at", "status", "rows",
    "bytes", "file", "failure",
)  # fmt: skip


def _facts(export: Export) -> dict[str, Any]:
    from caselog.workers.rows.output import rfc3339
    from caselog.workers.rows.targets import location

    asked = export.parameters
    return {
        **{name: getattr(export, name, None) for name in FACTS},
        "parameters": {
            "from": asked.first.isoformat(),
            "to": asked.last.isoformat(),
            "by": asked.by,
            "where": asked.where,
            "now": rfc3339(asked.now),
            "zone": asked.zone,
        },
        "file": location(export.target, export.file_name),
    }


def _look_at(engine: Engine, export_id: int) -> Export:
    from caselog.schema.operations import background_exports

    with engine.connect() as db:
        return background_exports.get_export(db, export_id)


def _wait_for(engine: Engine, export_id: int) -> Export:
    """The export once it is over. Says where nobody seems to work on it."""
    from caselog.workers.terminal.progress import counting

    doubtful_s = time.monotonic() + PATIENCE_S
    with counting(f"export {export_id}: rows", None) as advance:
        done = 0
        while not (export := _look_at(engine, export_id)).is_over:
            advance(export.rows - done)
            done = export.rows
            if export.status == "queued" and time.monotonic() > doubtful_s:
                doubtful_s = float("inf")
                sys.stderr.write(f"export {export_id} is still queued: does a tasks worker run? See: caselog ping\n")
            time.sleep(POLLED_S)
    return export


def _wake_up(settings: Settings) -> None:
    """Ask a tasks worker to look now; where that is not possible, it looks within a second or two."""
    from caselog.events.errors import SettingsError
    from caselog.workers.servers.locate import find_services
    from caselog.workers.servers.redis_client import make_redis
    from caselog.workers.tasks.wakeup import EXPORT, WakeUp

    with suppress(SettingsError):
        WakeUp(make_redis(find_services(settings)))(EXPORT)
