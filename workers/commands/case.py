"""Commands about one case, and for finding it: as it is or was, its log, and why each column has its value."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caselog.workers.rows.output import print_table, rfc3339, write_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from caselog.events.folding.case_history import History
    from caselog.schema.operations.case_logs import Part

MOST_FOUND = 1000

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[str, typer.Argument(metavar="REF", help="The case's reference.")]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="T",
        help="What had happened by then, by the events' times. RFC 3339, or a local time or day (its end), included.",
    ),
]
KnownAt = Annotated[
    str | None,
    typer.Option("--known-at", metavar="T", help="What had been recorded by then; T as in --as-of. Both may be given."),
]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog case AB-1234-5678 --as-of 2026-11-22T10:15")(case)
    app.command(epilog="Example: caselog log AB-1234-5678")(log)
    app.command(epilog="Example: caselog explain AB-1234-5678")(explain)
    app.command(epilog="Example: caselog search ab1234")(search)


def case(reference: Reference, *, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False) -> None:
    """Show a case as it is, or as it was: folded again from what had happened, or was known, at a moment."""
    from caselog.workers.commands.database import known_case, reading, waits_for

    with reading() as db:
        if as_of is None and known_at is None:
            columns = known_case(db, reference)
        else:
            columns = _columns(*_history(db, reference, as_of, known_at))
        waits = waits_for(db, reference)
    if json:
        write_json(columns)
    else:
        print_table(("column", "value"), columns.items())
    _tell(waits)


def log(reference: Reference, *, json: Json = False) -> None:
    """Show the whole log of a case, in order; why an entry is without effect stands beside it."""
    from caselog.schema.operations.table_exports import case_log
    from caselog.workers.commands.database import known_case, reading, waits_for

    with reading() as db:
        known_case(db, reference)
        history, _ = _history(db, reference, None, None)
        stored = case_log(db, reference)
        waits = waits_for(db, reference)
    _tell(waits)
    entries = [stored[entry.log.id] | {"why": entry.why} for entry in history.entries]
    if json:
        write_json(entries)
        return
    columns = ("id", "occurred_at", "key", "code", "type", "level", "actor", "role", "timer_id", "suppressed", "why")
    print_table((*columns, "notes"), ([entry[column] for column in (*columns, "notes")] for entry in entries))


def explain(reference: Reference, *, as_of: AsOf = None, known_at: KnownAt = None, json: Json = False) -> None:
    """Show each column of a case with its value, the log entry that last set it, and the rule in words."""
    from caselog.events.folding.rules_in_words import rule_in_words
    from caselog.workers.commands.database import known_case, reading, waits_for

    with reading() as db:
        history, part = _history(db, reference, as_of, known_at)
        stored = known_case(db, reference) if as_of is None and known_at is None else None
        waits = waits_for(db, reference)
    columns = _columns(history, part)
    found = []
    for column, value in columns.items():
        cause = history.causes.get(column)
        entry = None if cause is None else cause.entry.log
        found.append(
            {
                "column": column,
                "value": value,
                "log": None
                if entry is None
                else {
                    "id": entry.id,
                    "source": entry.source,
                    "event_id": entry.event_id,
                    "key": entry.key,
                    "code": entry.code,
                    "occurred_at": entry.occurred_at,
                    "recorded_at": part.recorded_at[entry.id],
                },
                "actor": None if entry is None else entry.actor,
                "role": None if entry is None else entry.role,
                "rule": rule_in_words(column, value, history),
            }
        )
    if json:
        write_json(found)
    else:
        print_table(("column", "value", "log", "time", "code", "by", "rule"), (_explained(row) for row in found))
    _tell(waits)
    differ = (
        [] if stored is None else [name for name in columns if name != "modified_at" and stored[name] != columns[name]]
    )
    if differ:
        sys.stderr.write(
            f"The log says otherwise than the case as it is stored: {', '.join(differ)}. "
            f"Run: caselog verify --case {reference}\n"
        )


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Part of a reference or of what else is searched by.")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=MOST_FOUND, help="At most so many cases.")] = 20,
    json: Json = False,
) -> None:
    """Find cases: with or without dashes and blanks, in any case, any part of three letters or digits and more.

    Best matches first. A shorter text is looked for at the beginning only.
    """
    from caselog.schema.operations.search import COLUMNS, SHORTEST_PART, search_cases
    from caselog.workers.commands.database import reading

    with reading() as db:
        found = search_cases(db, text, limit)
    if json:
        write_json(found.cases)
    elif found.cases:
        print_table(COLUMNS, ([row[column] for column in COLUMNS] for row in found.cases))
    if not found.cases:
        sys.stderr.write("No case matches.\n")
    if found.cut:
        sys.stderr.write(f"There may be more: these are the best {len(found.cases)}. Type more, or raise --limit.\n")
    if found.only_beginnings:
        sys.stderr.write(
            f"Only beginnings were looked at: elsewhere, give {SHORTEST_PART} letters or digits in a row.\n"
        )


def _history(db: Connection, reference: str, as_of: str | None, known_at: str | None) -> tuple[History, Part]:
    """The case's history up to the moments, and the part of the log that it is folded from."""
    from caselog.events.errors import CaselogError
    from caselog.events.folding.case_history import case_history
    from caselog.events.model.registry import autodiscover, event_registry
    from caselog.schema.operations.case_logs import case_part
    from caselog.schema.recording.definitions import retire_unregistered
    from caselog.workers.commands.database import known_case
    from caselog.workers.commands.moments import moment
    from caselog.workers.recording.assembly import make_rules
    from caselog.workers.settings import load_settings

    settings = load_settings()
    happened = None if as_of is None else moment(as_of, settings.zone, "--as-of")
    recorded = None if known_at is None else moment(known_at, settings.zone, "--known-at")
    autodiscover(settings.apps)
    stored = known_case(db, reference)
    retire_unregistered(db, event_registry)
    ends = [(code.key, code.code) for code in event_registry.folded_codes() if code.stops_timer or code.cancels_timer]
    part = case_part(db, reference, ends, as_of=happened, known_at=recorded)
    history = case_history(reference, part.logs, part.stretches, event_registry, make_rules(settings))
    if history is None:
        raise CaselogError(_not_there_yet(reference, stored["created_at"], part.began, happened, recorded))
    return history, part


def _not_there_yet(
    reference: str, created: datetime, began: datetime | None, happened: datetime | None, recorded: datetime | None
) -> str:
    if happened is not None and happened < created:
        return f"case {reference!r} did not exist on {rfc3339(happened)}: it was created on {rfc3339(created)}"
    if recorded is not None and began is not None:
        return f"case {reference!r} was not known on {rfc3339(recorded)}: it was first recorded on {rfc3339(began)}"
    return (
        f"no entry in the log of case {reference!r} is known to create a case: add the app whose events it holds to "
        f"CASELOG_APPS"
    )


def _columns(history: History, part: Part) -> dict[str, Any]:
    """The case's columns by name; `modified_at` is when the last of the entries was recorded."""
    from caselog.schema.operations.table_exports import EXPORTS

    last = max(part.recorded_at.values())
    return {name: last if name == "modified_at" else getattr(history.case, name) for name in EXPORTS["cases"].columns}


def _tell(waits: str | None) -> None:
    """What is not in the case yet, beside what is."""
    if waits is not None:
        sys.stdout.flush()
        sys.stderr.write(f"{waits}\n")


def _explained(row: dict[str, Any]) -> list[Any]:
    log, actor = row["log"], row["actor"] or ""
    by = f"{actor} ({row['role']})" if row["role"] else actor
    entry = ["", "", ""] if log is None else [log["id"], log["occurred_at"], f"{log['key']}/{log['code']}"]
    return [row["column"], row["value"], *entry, by, row["rule"]]
