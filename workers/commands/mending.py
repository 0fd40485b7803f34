"""Commands for dead letters: look at them, try them again after a fix, or discard them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.output import print_table, write_json, write_rows

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from schema.deadletters import DeadLetter
    from schema.mending import Filter
    from workers.mending import Report
    from workers.recording import Recording
    from workers.settings import Settings

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Ids, from caselog dead list.")]
Reason = Annotated[str | None, typer.Option(help="Only this reason, such as unknown_code.")]
Key = Annotated[str | None, typer.Option(help="Only this event key.")]
Code = Annotated[str | None, typer.Option(help="Only this code, as given in the event.")]
Case = Annotated[str | None, typer.Option(metavar="REF", help="Only this case.")]
Source = Annotated[str | None, typer.Option(help="Only this sender: the event's source.")]
Fault = Annotated[str | None, typer.Option(help="Only this fault, from caselog dead list --group.")]
Since = Annotated[
    str | None, typer.Option(metavar="T", help="Only those set aside at or after T: RFC 3339, or a local time or day.")
]
Until = Annotated[
    str | None, typer.Option(metavar="T", help="Only those set aside at or before T; a day includes all of it.")
]
Text = Annotated[str | None, typer.Option(help="Only with this anywhere in message, event id, source or case.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, where no id or filter is given.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many and which.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Why = Annotated[str | None, typer.Option(metavar="TEXT", help="The reason, for the audit.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_LISTED = (
    "id", "reason", "key", "code", "source", "event_id", "case_reference", "received_at", "attempts", "message",
)  # fmt: skip
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
    from schema import mending
    from workers.commands.database import reading
    from workers.settings import load_settings

    wanted = _wanted(
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
            faults: Sequence[Any] = mending.groups(db, wanted, limit=limit)
            _print(mending.Group.__struct_fields__, faults, json=json)
        else:
            _print((*_LISTED[:-1], "fault", "message") if json else _LISTED, _found(db, wanted, limit), json=json)


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
    """Show dead letters with reason, remedy and the event, its notes and other personal data masked."""
    from schema.mending import Filter, find
    from workers.commands.database import reading
    from workers.masking import masked
    from workers.mending import reveal as revealed

    if reveal:
        with _mending() as (settings, engine):
            letters = revealed(engine, letter_ids, who=settings.who, why=why)
    else:
        with reading() as db:
            letters = list(find(db, Filter(ids=tuple(letter_ids))))
    _require_all(letter_ids, {letter.id for letter in letters})
    columns = tuple(name for name in letters[0].__struct_fields__ if name != "id")
    for letter in letters:
        shown = [letter.raw if reveal else masked(letter.raw) if c == "raw" else getattr(letter, c) for c in columns]
        if json:
            write_rows(sys.stdout.buffer, ("id", *columns), [[letter.id, *shown]], "jsonl")
        else:
            print_table(("column", "value"), zip(columns, shown, strict=True), title=f"dead letter {letter.id}")


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

    Asks first where a filter or --all chooses. Needs the database alone: no recorder has to run, and any may.
    """
    from schema.mending import Filter
    from workers.mending import requeue
    from workers.progress import counting

    with _mending() as (settings, engine):
        wanted = _wanted(
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
        recording = _recording(settings, engine)
        chosen = _chosen(engine, wanted, everything=everything)
        if dry_run:
            _show_which(engine, wanted, len(chosen), "requeued", json=json)
            return
        if chosen and (wanted.ids is None or wanted != Filter(ids=wanted.ids)):  # who gave ids has said which
            _confirm(f"Requeue {_letters(len(chosen))}?", yes=yes)
        with counting("requeueing", len(chosen)) as progress:
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
    """Delete dead letters for ever, after asking. The audit keeps which they were, not what they said."""
    from workers.mending import discard
    from workers.progress import counting

    with _mending() as (settings, engine):
        wanted = _wanted(
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
            _confirm(f"Discard {_letters(len(chosen))} for ever?", yes=yes)
        with counting("discarding", len(chosen)) as progress:
            gone = discard(engine, chosen, wanted=wanted, who=settings.who, why=why, progress=progress)
    if json:
        write_json({"chosen": len(chosen), "discarded": gone})
    else:
        sys.stdout.write(f"{_letters(gone)} discarded\n")
    if gone < len(chosen):
        sys.stderr.write(f"{_letters(len(chosen) - gone)} left: somebody else requeued or discarded them meanwhile\n")
        raise typer.Exit(1)


def _wanted(
    settings: Settings,
    ids: Sequence[int] | None,
    *,
    reason: str | None,
    key: str | None,
    code: str | None,
    case: str | None,
    source: str | None,
    fault: str | None,
    since: str | None,
    until: str | None,
    text: str | None,
) -> Filter:
    from events.errors import did_you_mean
    from schema.deadletters import REASONS
    from schema.mending import Filter
    from workers.moments import beginning, moment

    if reason is not None and reason not in REASONS:
        raise typer.BadParameter(
            f"there is no reason {reason!r}: choose {', '.join(REASONS)}.{did_you_mean(reason, REASONS)}",
            param_hint="--reason",
        )
    return Filter(
        ids=tuple(ids) if ids else None,
        reason=reason,
        key=key,
        code=code,
        case=case,
        source=source,
        fault=fault,
        since=None if since is None else beginning(since, settings.zone, "--since"),
        until=None if until is None else moment(until, settings.zone, "--until"),
        text=text,
    )


def _chosen(engine: Engine, wanted: Filter, *, everything: bool) -> dict[int, int]:
    """What is to be requeued or discarded: ids with their attempts, settled before anybody is asked."""
    from schema.mending import Filter, select

    if wanted == Filter() and not everything:
        raise typer.BadParameter("say which: ids, a filter such as --reason unknown_code, or --all")
    with engine.connect() as db:
        chosen = select(db, wanted)
    if wanted.ids is not None:
        _require_all(wanted.ids, chosen)
    return chosen


def _require_all(ids: Iterable[int], found: Iterable[int | None]) -> None:
    from events.errors import CaselogError

    missing = sorted(set(ids) - set(found))
    if missing:
        which = ", ".join(map(str, missing))
        many = f"are no dead letters {which}" if len(missing) > 1 else f"is no dead letter {which}"
        raise CaselogError(f"there {many} (that the filters match, where any were given). See: caselog dead list")


def _confirm(question: str, *, yes: bool) -> None:
    from events.errors import CaselogError

    if yes:
        return
    if not sys.stdin.isatty():
        raise CaselogError(
            "this asks first, and there is no terminal to answer on: nothing was done. Add --yes (or --dry-run, to see "
            "how many and which)"
        )
    if not typer.confirm(question, err=True):
        raise CaselogError("nothing was done")


def _show_which(engine: Engine, wanted: Filter, many: int, what: str, *, json: bool) -> None:
    with engine.connect() as db:
        _print(_LISTED, _found(db, wanted, None), json=json)
    sys.stdout.flush()
    sys.stderr.write(f"{_letters(many)} would be {what}; nothing was done\n")


def _print_report(report: Report, *, json: bool) -> None:
    import msgspec

    if json:
        write_json({**msgspec.to_builtins(report), "failed": len(report.failures)})
    else:
        said = {
            "recorded": report.recorded,
            "in the log already": report.duplicates,
            "parked until their case is created": report.parked,
            "failed again": len(report.failures),
            "taken by somebody else meanwhile": report.elsewhere,
        }
        counts = ", ".join(f"{many:,} {what}" for what, many in said.items() if many)
        sys.stdout.write(f"{_letters(report.chosen)}{': ' if counts else ''}{counts}\n")
        if report.failures:
            _print(("id", "reason", "source", "event_id", "message"), report.failures, json=False)
    sys.stdout.flush()
    if report.interrupted is not None:
        sys.stderr.write(f"caselog: interrupted: {report.interrupted}. What was done is done; run the same again\n")


def _print(columns: Sequence[str], things: Iterable[Any], *, json: bool) -> None:
    rows = ([getattr(thing, column) for column in columns] for thing in things)
    if json:
        write_rows(sys.stdout.buffer, columns, rows, "jsonl")
    else:
        print_table(
            columns, ([_one_line(value, column) for value, column in zip(row, columns, strict=True)] for row in rows)
        )


def _one_line(value: Any, column: str) -> Any:
    """A cell of a list: of a message its first line, of what a sender wrote its line breaks shown."""
    if not isinstance(value, str):
        return value
    return value.partition("\n")[0] if column == "message" else value.replace("\n", r"\n")


def _letters(many: int) -> str:
    return f"{many:,} dead letter{'' if many == 1 else 's'}"


def _found(db: Connection, wanted: Filter, limit: int | None) -> Iterator[DeadLetter]:
    from schema.mending import find

    return find(db, wanted, limit=limit)


@contextmanager
def _mending() -> Iterator[tuple[Settings, Engine]]:
    """The settings and the database in force, to write to."""
    from schema.connection import make_engine
    from workers.services import find_database_url
    from workers.settings import load_settings

    settings = load_settings()
    engine = make_engine(find_database_url(settings), application="caselog command")
    try:
        yield settings, engine
    finally:
        engine.dispose()


def _recording(settings: Settings, engine: Engine) -> Recording:
    from events.registry import autodiscover, event_registry
    from workers.recording import Recording
    from workers.roles import make_rules

    autodiscover(settings.apps)
    return Recording(engine, event_registry, make_rules(settings), give_up_parked_s=settings.parked_give_up_s)
