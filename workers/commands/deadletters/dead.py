"""Commands for dead letters: look at them, try them again after a fix, or discard them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from caselog.events.phrases import count_of, sentence
from caselog.workers.commands.deadletters.options import (
    LISTED,
    Case,
    Code,
    DryRun,
    Everything,
    Fault,
    Ids,
    Json,
    Key,
    Reason,
    Since,
    Source,
    Text,
    Until,
    Why,
    Yes,
    confirm,
    none_matches,
    print_letter,
    print_letters,
    recording_of,
    require_all,
    wanted_letters,
)
from caselog.workers.rows.output import write_json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caselog.schema.operations.dead_letter_queries import Filter
    from caselog.workers.deadletters.requeue import Report

WHAT: Final = "dead letter"

dead = typer.Typer(help="Dead letters: what could not be recorded, and why.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    app.add_typer(dead, name="dead")


@dead.command("list", epilog="Example: caselog dead list --group --since 2026-11-01")
def dead_list(
    *,
    reason: Reason = None,
    key: Key = None,
    code: Code = None,
    case: Case = None,
    source: Source = None,
    fault: Fault = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    group: Annotated[
        bool, typer.Option("--group", help="One row a fault: how many, the first, the last, and an example.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    json: Json = False,
) -> None:
    """List dead letters, oldest first; or their faults, the one with the most letters first."""
    from caselog.schema.operations import dead_letter_queries
    from caselog.workers.commands.database import reading
    from caselog.workers.settings import load_settings

    wanted = wanted_letters(
        load_settings(),
        None,
        reason=reason,
        key=key,
        code=code,
        case=case,
        source=source,
        fault=fault,
        since=since,
        until=until,
        text=text,
    )
    with reading() as db:
        if group:
            faults: Sequence[Any] = dead_letter_queries.groups(db, wanted, limit=limit)
            print_letters(dead_letter_queries.Group.__struct_fields__, faults, json=json)
        else:
            print_letters(
                (*LISTED[:-1], "fault", "message") if json else LISTED,
                dead_letter_queries.find(db, wanted, limit=limit),
                json=json,
            )


@dead.command("show", epilog="Example: caselog dead show 17 --reveal --why 'the sender asks what was wrong'")
def dead_show(
    letter_ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Ids, from caselog dead list.")],
    *,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show the event's bytes, personal data and all; the audit says who looked.")
    ] = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Show dead letters with reason, remedy and the event, its notes and other personal data masked.

    Where one of the ids does not exist, none is shown (exit 1).
    """
    from caselog.schema.operations.dead_letter_queries import Filter, find
    from caselog.workers.commands.database import reading, writing
    from caselog.workers.deadletters.masking import masked
    from caselog.workers.deadletters.requeue import reveal as revealed

    if reveal:
        with writing() as (settings, engine):
            letters = revealed(engine, letter_ids, who=settings.who, why=why)
    else:
        with reading() as db:
            letters = list(find(db, Filter(ids=tuple(letter_ids))))
    require_all(letter_ids, {letter.id for letter in letters})
    columns = tuple(name for name in letters[0].__struct_fields__ if name not in ("id", "raw"))
    for letter in letters:
        print_letter(f"{WHAT} {letter.id}", columns, letter, letter.raw if reveal else masked(letter.raw), json=json)


@dead.command("requeue", epilog="Example: caselog dead requeue --reason unknown_code --why 'SPOB is registered now'")
def dead_requeue(
    letter_ids: Ids = None,
    *,
    reason: Reason = None,
    key: Key = None,
    code: Code = None,
    case: Case = None,
    source: Source = None,
    fault: Fault = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Try dead letters again after a fix: each event takes its place in time. Exit 1 where one failed again.

    Asks first where a filter or --all chooses; where that matches nothing, nothing is done (exit 0). An id that does
    not exist is refused, and the others with it (exit 1). Needs the database alone: no recorder has to run.
    """
    from caselog.schema.operations.dead_letter_queries import Filter
    from caselog.workers.commands.database import writing
    from caselog.workers.deadletters.requeue import requeue
    from caselog.workers.terminal.progress import counting

    with writing() as (settings, engine):
        wanted = wanted_letters(
            settings,
            letter_ids,
            reason=reason,
            key=key,
            code=code,
            case=case,
            source=source,
            fault=fault,
            since=since,
            until=until,
            text=text,
        )
        chosen = _chosen(engine, wanted, everything=everything)
        if dry_run:
            _show_which(engine, wanted, len(chosen), "requeued", json=json)
            return
        if chosen and (wanted.ids is None or wanted != Filter(ids=wanted.ids)):  # who gave ids has said which
            confirm(f"Requeue {count_of(len(chosen), WHAT)}?", yes=yes)
        with recording_of(settings, engine) as recording, counting("requeueing", len(chosen)) as progress:
            report = requeue(engine, recording, chosen, wanted=wanted, who=settings.who, why=why, progress=progress)
    _print_report(report, json=json)
    if not report.is_success:
        raise typer.Exit(1)


@dead.command("discard", epilog="Example: caselog dead discard --source /test --until 2026-11-01 --why 'test data'")
def dead_discard(
    letter_ids: Ids = None,
    *,
    reason: Reason = None,
    key: Key = None,
    code: Code = None,
    case: Case = None,
    source: Source = None,
    fault: Fault = None,
    since: Since = None,
    until: Until = None,
    text: Text = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    why: Why = None,
    json: Json = False,
) -> None:
    """Delete dead letters for ever, after asking. The audit keeps which they were, not what they said.

    Where a filter or --all matches nothing, nothing is done (exit 0). An id that does not exist is refused, and the
    others with it (exit 1). Exit 1 also where somebody else requeued or discarded some meanwhile.
    """
    from caselog.workers.commands.database import writing
    from caselog.workers.deadletters.requeue import discard
    from caselog.workers.terminal.progress import counting

    with writing() as (settings, engine):
        wanted = wanted_letters(
            settings,
            letter_ids,
            reason=reason,
            key=key,
            code=code,
            case=case,
            source=source,
            fault=fault,
            since=since,
            until=until,
            text=text,
        )
        chosen = _chosen(engine, wanted, everything=everything)
        if dry_run:
            _show_which(engine, wanted, len(chosen), "discarded", json=json)
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
            f"{count_of(len(chosen) - gone, WHAT)} left: somebody else requeued or discarded them meanwhile\n"
        )
        raise typer.Exit(1)


def _chosen(engine: Engine, wanted: Filter, *, everything: bool) -> dict[int, int]:
    """What is to be requeued or discarded: ids with their attempts, settled before anybody is asked."""
    from caselog.schema.operations.dead_letter_queries import Filter, select

    if wanted == Filter() and not everything:
        raise typer.BadParameter("say which: ids, a filter such as --reason unknown_code, or --all")
    with engine.connect() as db:
        chosen = select(db, wanted)
    if wanted.ids is not None:
        require_all(wanted.ids, chosen)
    return chosen


def _show_which(engine: Engine, wanted: Filter, many: int, what: str, *, json: bool) -> None:
    from caselog.schema.operations.dead_letter_queries import find

    with engine.connect() as db:
        print_letters(LISTED, find(db, wanted), json=json)
    sys.stdout.flush()
    sys.stderr.write(f"{count_of(many, WHAT)} would be {what}; nothing was done\n")


def _print_report(report: Report, *, json: bool) -> None:
    import msgspec

    if json:
        write_json({**msgspec.to_builtins(report), "failed": len(report.failures)})
    else:
        said = {
            "recorded": report.recorded,
            "in the log already": report.duplicates,
            f"parked until {'its' if report.parked == 1 else 'their'} case is created": report.parked,
            "failed again": len(report.failures),
            "taken by somebody else meanwhile": report.elsewhere,
        }
        counts = ", ".join(f"{many:,} {what}" for what, many in said.items() if many)
        chosen = f"{count_of(report.chosen, WHAT)}{': ' if counts else ''}{counts}\n"
        sys.stdout.write(chosen if report.chosen else none_matches(WHAT))
        if report.failures:
            print_letters(("id", "reason", "source", "event_id", "message"), report.failures, json=False)
    sys.stdout.flush()
    if report.interrupted is not None:
        sys.stderr.write(
            f"caselog: interrupted: {sentence(report.interrupted)} What was done is done; run the same again\n"
        )
