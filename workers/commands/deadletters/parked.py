"""Commands for parked events: which wait for their case, try them at once, or discard them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from caselog.events.phrases import count_of, sentence
from caselog.workers.commands.deadletters.options import (
    Case,
    DryRun,
    Everything,
    Json,
    Key,
    Source,
    Why,
    Yes,
    confirm,
    none_matches,
    print_letter,
    print_letters,
    recording_of,
    require_all,
)
from caselog.workers.rows.output import write_json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caselog.schema.operations.parked_queries import Named, ParkedFilter
    from caselog.workers.deadletters.parked import Retried
    from caselog.workers.settings import Settings

parked = typer.Typer(help="Parked events: those that wait for their case to be created.", no_args_is_help=True)

WHAT = "parked event"
LISTED = ("id", "case_reference", "key", "source", "event_id", "parked_at", "attempts", "due_at", "give_up_at")

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Ids, from caselog parked list.")]
Since = Annotated[
    str | None, typer.Option(metavar="T", help="Only those parked at or after T: RFC 3339, or a local time or day.")
]
Until = Annotated[
    str | None, typer.Option(metavar="T", help="Only those parked at or before T; a day includes all of it.")
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(parked, name="parked")


@parked.command("list", epilog="Example: caselog parked list --group   or: caselog parked list --case AB-1234-5678")
def parked_list(
    *,
    case: Case = None,
    key: Key = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    group: Annotated[
        bool, typer.Option("--group", help="One row a case that is waited for: how many, and since when.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List the events that wait for their case, longest first: when each is tried again, and when it is given up.

    Given up means: tried after give_up_at (CASELOG_PARKED_GIVE_UP_S) it becomes a dead letter unknown_case.
    """
    from caselog.schema.operations.parked_queries import CaseWaited, ParkedFilter, by_case, find
    from caselog.workers.commands.database import reading
    from caselog.workers.settings import load_settings

    settings = load_settings()
    wanted = _wanted(settings, None, case=case, key=key, source=source, since=since, until=until)
    if group and wanted != ParkedFilter(case=case):
        raise typer.BadParameter("takes --case and no other filter", param_hint="--group")
    with reading() as db:
        if group:
            cases = by_case(db, give_up_s=settings.parked_give_up_s, case=case, limit=limit)
            print_letters(CaseWaited.__struct_fields__, cases, json=json)
        else:
            events = find(db, wanted, give_up_s=settings.parked_give_up_s, limit=limit)
            print_letters(LISTED, events, json=json)


@parked.command("show", epilog="Example: caselog parked show 17 --reveal --why 'the sender asks what it sent'")
def parked_show(
    event_ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Ids, from caselog parked list.")],
    *,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the event's bytes, personal data and all; the audit says who looked.")
    ] = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Show parked events, their notes and other personal data masked. Where an id does not exist, none (exit 1)."""
    from caselog.schema.operations.parked_queries import ParkedFilter, find
    from caselog.workers.commands.database import reading, writing
    from caselog.workers.deadletters.masking import masked
    from caselog.workers.deadletters.parked import reveal as revealed
    from caselog.workers.settings import load_settings

    if reveal:
        with writing() as (settings, engine):
            events = revealed(engine, event_ids, give_up_s=settings.parked_give_up_s, who=settings.who, why=why)
    else:
        give_up_s = load_settings().parked_give_up_s
        with reading() as db:
            events = list(find(db, ParkedFilter(ids=tuple(event_ids)), give_up_s=give_up_s))
    _require_all(event_ids, [event.id for event in events])
    for event in events:
        print_letter(f"{WHAT} {event.id}", LISTED[1:], event, event.raw if reveal else masked(event.raw), json=json)


@parked.command(
    "retry", epilog="Example: caselog parked retry --case AB-1234-5678 --why 'its case was created by hand'"
)
def parked_retry(
    event_ids: Ids = None,
    *,
    case: Case = None,
    key: Key = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Try parked events now, and say what became of each. Exit 1 where one became a dead letter or was not tried.

    Asks first where a filter or --all chooses; where that matches nothing, nothing is done (exit 0). An id that does
    not exist is refused, and the others with it (exit 1). Needs the database alone: no worker has to run. While
    recording is paused nothing is tried.
    """
    from caselog.schema.operations.parked_queries import ParkedFilter
    from caselog.workers.commands.database import writing
    from caselog.workers.deadletters.parked import retry
    from caselog.workers.terminal.progress import counting

    with writing() as (settings, engine):
        wanted = _wanted(settings, event_ids, case=case, key=key, source=source, since=since, until=until)
        chosen = _chosen(engine, wanted, everything=everything)
        if dry_run:
            _show_which(settings, engine, wanted, len(chosen), "tried", json=json)
            return
        if chosen and (wanted.ids is None or wanted != ParkedFilter(ids=wanted.ids)):  # who gave ids has said which
            confirm(f"Try {count_of(len(chosen), WHAT)} again?", yes=yes)
        with recording_of(settings, engine) as recording, counting("trying", len(chosen)) as progress:
            report = retry(engine, recording, chosen, wanted=wanted, who=settings.who, why=why, progress=progress)
    _print_report(report, json=json)
    if not report.is_success:
        raise typer.Exit(1)


@parked.command("discard", epilog="Example: caselog parked discard --source /load-test --why 'not real'")
def parked_discard(
    event_ids: Ids = None,
    *,
    case: Case = None,
    key: Key = None,
    source: Source = None,
    since: Since = None,
    until: Until = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Delete parked events for ever, after asking. The audit keeps which they were, not what they said.

    Where a filter or --all matches nothing, nothing is done (exit 0). An id that does not exist is refused, and the
    others with it (exit 1). Exit 1 also where some were recorded, tried or discarded by somebody else meanwhile.
    """
    from caselog.workers.commands.database import writing
    from caselog.workers.deadletters.parked import discard
    from caselog.workers.terminal.progress import counting

    with writing() as (settings, engine):
        wanted = _wanted(settings, event_ids, case=case, key=key, source=source, since=since, until=until)
        chosen = _chosen(engine, wanted, everything=everything)
        if dry_run:
            _show_which(settings, engine, wanted, len(chosen), "discarded", json=json)
            return
        if chosen:
            confirm(f"Discard {count_of(len(chosen), WHAT)} for ever?", yes=yes)
        with counting("discarding", len(chosen)) as progress:
            gone = discard(engine, chosen, wanted=wanted, who=settings.who, why=why, progress=progress)
    if json:
        write_json({"chosen": len(chosen), "discarded": gone})
    else:
        sys.stdout.write(f"{count_of(gone, WHAT)} discarded\n" if chosen else none_matches(WHAT))
    if gone < len(chosen):
        sys.stderr.write(
            f"{count_of(len(chosen) - gone, WHAT)} left: recorded, tried or discarded by somebody else meanwhile\n"
        )
        raise typer.Exit(1)


def _wanted(
    settings: Settings,
    ids: Sequence[int] | None,
    *,
    case: str | None,
    key: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
) -> ParkedFilter:
    from caselog.schema.operations.parked_queries import ParkedFilter
    from caselog.workers.commands.moments import beginning, moment

    return ParkedFilter(
        ids=tuple(ids) if ids else None,
        case=case,
        key=key,
        source=source,
        since=None if since is None else beginning(since, settings.zone, "--since"),
        until=None if until is None else moment(until, settings.zone, "--until"),
    )


def _chosen(engine: Engine, wanted: ParkedFilter, *, everything: bool) -> list[Named]:
    """What is to be tried or discarded, settled before anybody is asked."""
    from caselog.schema.operations.parked_queries import ParkedFilter, select

    if wanted == ParkedFilter() and not everything:
        raise typer.BadParameter("say which: ids, a filter such as --case AB-1234-5678, or --all")
    with engine.connect() as db:
        chosen = select(db, wanted)
    if wanted.ids is not None:
        _require_all(wanted.ids, [event.id for event in chosen])
    return chosen


def _require_all(ids: Sequence[int], found: Sequence[int]) -> None:
    require_all(ids, found, what=WHAT, see="caselog parked list")


def _show_which(settings: Settings, engine: Engine, wanted: ParkedFilter, many: int, what: str, *, json: bool) -> None:
    from caselog.schema.operations.parked_queries import find

    with engine.connect() as db:
        print_letters(LISTED, find(db, wanted, give_up_s=settings.parked_give_up_s), json=json)
    sys.stdout.flush()
    sys.stderr.write(f"{count_of(many, WHAT)} would be {what}; nothing was done\n")


def _print_report(report: Retried, *, json: bool) -> None:
    if json:
        write_json(report.told())
    else:
        words = {
            "recorded": "recorded",
            "duplicate": "in the log already",
            "waiting": f"still waiting for {'its' if report.counts['waiting'] == 1 else 'their'} case",
            "dead": "dead now",
            "elsewhere": "taken by somebody else meanwhile",
        }
        counts = ", ".join(f"{many:,} {words[became]}" for became, many in report.counts.items() if many)
        chosen = f"{count_of(report.chosen, WHAT)}{': ' if counts else ''}{counts}\n"
        sys.stdout.write(chosen if report.chosen else none_matches(WHAT))
        if report.events:
            print_letters(("id", "source", "event_id", "became", "reason", "message"), report.events, json=False)
    sys.stdout.flush()
    if report.interrupted is not None:
        sys.stderr.write(
            f"caselog: interrupted: {sentence(report.interrupted)} What was done is done; run the same again\n"
        )
