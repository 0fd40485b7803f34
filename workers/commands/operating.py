"""Commands for operations: queues, dead letters, settings in force, and whether all is well."""

from __future__ import annotations

import sys
from datetime import datetime, tzinfo
from typing import Annotated

import typer

from workers.output import print_table, write_json, write_rows

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
dead = typer.Typer(help="Dead letters: what could not be recorded, and why.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog queues")(queues)
    app.command(epilog="Example: caselog ping --timeout 5 && echo well")(ping)
    app.command(epilog="Example: caselog settings")(settings)
    app.add_typer(dead, name="dead")


def queues(*, json: Json = False) -> None:
    """Show each queue: messages ready and unacked, age of the oldest in seconds, consumers."""
    from workers.queues import queue_table
    from workers.roles import make_redis
    from workers.services import find_services
    from workers.settings import load_settings

    services = find_services(load_settings())
    found = queue_table(services, make_redis(services))
    if json:
        write_json(found)
        return
    columns = ("queue", "ready", "unacked", "oldest_age_s", "consumers")
    rows = [[getattr(status, column) for column in columns] for status in found]
    print_table(columns, [[round(cell, 1) if isinstance(cell, float) else cell for cell in row] for row in rows])


def ping(
    *,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the answer.")] = 5,
    json: Json = False,
) -> None:
    """Ask the status worker through the broker; exit 0 when all is well."""
    from workers.ping import ping as ask
    from workers.services import find_broker_url
    from workers.settings import load_settings

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


def settings(*, json: Json = False) -> None:
    """Show the settings in force, secrets masked, and which of them the environment sets."""
    from workers.settings import load_settings, shown

    rows = shown(load_settings())
    if json:
        write_json([dict(zip(("variable", "value", "set", "description"), row, strict=True)) for row in rows])
    else:
        print_table(("variable", "value", "set", "description"), rows)


@dead.command("list", epilog="Example: caselog dead list --reason unknown_code --since 2026-11-01")
def dead_list(
    *,
    reason: Annotated[str | None, typer.Option(help="Only this reason, such as unknown_code.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this event key.")] = None,
    case: Annotated[str | None, typer.Option(help="Only this case.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only those received at or after this time.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List dead letters, oldest first."""
    from schema.connection import make_engine
    from schema.deadletters import REASONS, list_dead_letters
    from workers.services import find_database_url
    from workers.settings import load_settings

    if reason is not None and reason not in REASONS:
        raise typer.BadParameter(f"there is no reason {reason!r}: choose {', '.join(REASONS)}", param_hint="--reason")
    settings = load_settings()
    columns = ("id", "reason", "source", "event_id", "key", "case_reference", "received_at", "attempts", "message")
    moment = None if since is None else _moment(since, settings.zone)
    engine = make_engine(find_database_url(settings), application="caselog command")
    with engine.connect() as db:
        letters = list_dead_letters(db, reason=reason, key=key, case_reference=case, since=moment, limit=limit)
        rows = ([getattr(letter, column) for column in columns] for letter in letters)
        if json:
            write_rows(sys.stdout.buffer, columns, rows, "jsonl")
        else:
            print_table(columns, ([*row[:-1], row[-1].partition("\n")[0]] for row in rows))


@dead.command("show", epilog="Example: caselog dead show 17")
def dead_show(
    letter_id: Annotated[int, typer.Argument(metavar="ID", help="The dead letter's id, from caselog dead list.")],
    *,
    json: Json = False,
) -> None:
    """Show one dead letter with its reason, remedy and the event as it was sent."""
    from events.errors import CaselogError
    from schema.connection import make_engine
    from schema.deadletters import get_dead_letter
    from workers.services import find_database_url
    from workers.settings import load_settings

    engine = make_engine(find_database_url(load_settings()), application="caselog command")
    with engine.connect() as db:
        letter = get_dead_letter(db, letter_id)
    if letter is None:
        raise CaselogError(f"there is no dead letter {letter_id}. See: caselog dead list")
    columns = tuple(name for name in letter.__struct_fields__ if name != "id")
    if json:
        write_rows(
            sys.stdout.buffer, ("id", *columns), [[letter.id, *(getattr(letter, name) for name in columns)]], "jsonl"
        )
    else:
        print_table(
            ("column", "value"), ([name, getattr(letter, name)] for name in columns), title=f"dead letter {letter.id}"
        )


def _moment(value: str, zone: tzinfo) -> datetime:
    """An RFC 3339 time, or a local day or time without offset."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is no time; give one such as 2026-11-23 or 2026-11-23T10:15:00Z", param_hint="--since"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
