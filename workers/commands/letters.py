"""Which dead letters a command is about, and how they are printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from workers.output import print_table, write_rows

if TYPE_CHECKING:
    from schema.mending import Filter
    from workers.settings import Settings

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


def require_all(ids: Iterable[int], found: Iterable[int | None]) -> None:
    from events.errors import CaselogError

    missing = sorted(set(ids) - set(found))
    if missing:
        which = ", ".join(map(str, missing))
        many = f"are no dead letters {which}" if len(missing) > 1 else f"is no dead letter {which}"
        raise CaselogError(f"there {many} (that the filters match, where any were given). See: caselog dead list")


def print_letters(columns: Sequence[str], things: Iterable[Any], *, json: bool) -> None:
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


def count_of(many: int) -> str:
    return f"{many:,} dead letter{'' if many == 1 else 's'}"
