"""Which dead letters a command is about, how they are printed, and what commands for parked events share with them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from caselog.workers.rows.output import print_event, print_table, write_rows

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from caselog.schema.operations.dead_letter_queries import Filter
    from caselog.workers.recording.batch import Recording
    from caselog.workers.settings import Settings

Ids = Annotated[list[int] | None, typer.Argument(metavar="ID", help="Ids, from caselog dead list.")]
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

LISTED: Final = (
    "id", "reason", "key", "code", "source", "event_id", "case_reference", "received_at", "attempts", "message",
)  # fmt: skip


def wanted_letters(
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
    from caselog.events.errors import REASONS, did_you_mean
    from caselog.schema.operations.dead_letter_queries import Filter
    from caselog.workers.commands.moments import beginning, moment

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


def require_all(
    ids: Iterable[int], found: Iterable[int | None], *, what: str = "dead letter", see: str = "caselog dead list"
) -> None:
    from caselog.events.errors import CaselogError

    missing = sorted(set(ids) - set(found))
    if missing:
        which = ", ".join(map(str, missing))
        many = f"are no {what}s {which}" if len(missing) > 1 else f"is no {what} {which}"
        raise CaselogError(f"there {many} (that the filters match, where any were given). See: {see}")


def print_letters(columns: Sequence[str], things: Iterable[Any], *, json: bool) -> None:
    rows = ([getattr(thing, column) for column in columns] for thing in things)
    if json:
        write_rows(sys.stdout.buffer, columns, rows, "jsonl")
    else:
        print_table(
            columns, ([_one_line(value, column) for value, column in zip(row, columns, strict=True)] for row in rows)
        )


def print_letter(title: str, columns: Sequence[str], thing: Any, raw: bytes | str, *, json: bool) -> None:
    """One of them: its columns, and below them the event."""
    facts = [getattr(thing, column) for column in columns]
    if json:
        write_rows(sys.stdout.buffer, ("id", *columns, "raw"), [[thing.id, *facts, raw]], "jsonl")
    else:
        print_table(("column", "value"), zip(columns, facts, strict=True), title=title)
        print_event(raw)


def _one_line(value: Any, column: str) -> Any:
    """A cell of a list: of a message its first line, of what a sender wrote its line breaks shown."""
    if not isinstance(value, str):
        return value
    return value.partition("\n")[0] if column == "message" else value.replace("\n", r"\n")


def none_matches(what: str) -> str:
    """The line where a filter or --all chose nothing: there is nothing to do, and that is a success."""
    return f"no {what} matches; nothing was done\n"


def confirm(question: str, *, yes: bool) -> None:
    from caselog.events.errors import CaselogError

    if yes:
        return
    if not sys.stdin.isatty():
        raise CaselogError(
            "this asks first, and there is no terminal to answer on: nothing was done. Add --yes (or --dry-run, to see "
            "how many and which)"
        )
    # Not typer's own question: a part of that goes to stdout, which is for results.
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CaselogError("nothing was done")


@contextmanager
def recording_of(settings: Settings, engine: Engine) -> Iterator[Recording]:
    """A road into the log, with every app registered. Raises `RegistrationError`."""
    from caselog.events.model.registry import autodiscover, event_registry
    from caselog.workers.commands.database import counting_of
    from caselog.workers.recording.assembly import make_rules
    from caselog.workers.recording.batch import Recording
    from caselog.workers.rule_watch.guard import Folding, take_interrupts
    from caselog.workers.rule_watch.shared_memory import Shared
    from caselog.workers.rule_watch.watcher import watch
    from caselog.workers.servers.locate import find_database_url

    autodiscover(settings.apps)
    shared = Shared()
    watch(shared, find_database_url(settings), settings.fold_limit_s)
    take_interrupts()
    folding = Folding(limit_s=settings.fold_limit_s, shared=shared)
    rules, give_up_s = make_rules(settings), settings.parked_give_up_s
    recording = Recording(
        engine,
        event_registry,
        rules,
        give_up_parked_s=give_up_s,
        folding=folding,
        counting=counting_of(settings, engine),
    )
    with closing(recording):
        yield recording
