"""Commands that prove: whether cases, timers and reports are what the log says, and writing them anew from it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caselog.events.phrases import count_of, sentence
from caselog.workers.rows.output import print_table, rfc3339, write_rows

if TYPE_CHECKING:
    from caselog.schema.verification.findings import Difference, Finding
    from caselog.workers.verification.verify import Verification

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, one a difference.")]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog verify && echo 'everything is what the log says'")(verify)
    app.command(epilog="Example: caselog rebuild cases timers")(rebuild)


def verify(
    *,
    case: Annotated[
        str | None, typer.Option(metavar="REF", help="Only this case and the timers that touch it.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Write what the log says, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Repair without asking.")] = False,
    json: Json = False,
) -> None:
    """Fold the log afresh and compare every case, timer, log flag and report; exit 1 where one differs."""
    with _database_lost_is_one_line(), _verification("verify", writes=repair) as verification:
        found = _show(verification, case, json=json, marked=repair)
        if found and repair:
            many = count_of(sum(found.values()), "difference")
            if not yes and not typer.confirm(f"Write what the log says in place of {many}?", err=True):
                raise typer.Exit(1)
            _repair(verification)
    if found and repair:
        with _database_lost_is_one_line(), _verification("verify") as verification:
            found = _show(verification, case, json=json, marked=False)
    if found:
        raise typer.Exit(1)


def rebuild(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[cases|timers|reports]...", help="What to write; all by default.")
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write projections anew from the log, while recorders go on; interrupted, it leaves the old ones in force."""
    from caselog.workers.terminal.progress import counting
    from caselog.workers.verification.rebuild import get_parts
    from caselog.workers.verification.rebuild import rebuild as run

    chosen = get_parts(parts or [])
    with _database_lost_is_one_line(), _verification("rebuild", writes=True) as verification:
        written = run(verification, chosen, counting)
    if json:
        write_rows(sys.stdout.buffer, tuple(written), [tuple(written.values())], "jsonl")
    else:
        print_table(("table", "rows that were not what the log says"), written.items())


def _show(verification: Verification, reference: str | None, *, json: bool, marked: bool) -> Counter[str]:
    """Print what differs as it is found, and in the end how much. Returns the differences by table."""
    from caselog.events.errors import CaselogError
    from caselog.workers.terminal.progress import counting

    if reference is None:
        findings: Iterable[Finding] = verification.whole(counting, marked=marked)
    else:
        if not verification.knows(reference):
            raise CaselogError(f"there is no case {reference!r}, and no log of it. References are exact.")
        findings = verification.case(reference, marked=marked)
    found: Counter[str] = Counter()
    for finding in findings:
        _print(finding, found, json=json)
    sys.stdout.flush()
    many = sum(found.values())
    for_what = "everything" if reference is None else f"case {reference}"
    what = f"{count_of(verification.logs, 'log entry', 'log entries')} folded for {for_what}"
    if reference is not None:
        what += " (sums over all cases are compared only for everything: run it without --case)"
    tables = ", ".join(f"{many:,} in {table}" for table, many in sorted(found.items()))
    differ = f"{count_of(many, 'difference')}: {tables}" if many else "no difference"
    sys.stderr.write(f"{_visible(what)}: {differ}\n")
    return found


def _print(finding: Finding, found: Counter[str], *, json: bool) -> None:
    from caselog.schema.verification.findings import differences

    for difference in differences(finding):
        found[difference.table] += 1
        if json:
            names = difference.__struct_fields__
            write_rows(sys.stdout.buffer, names, [[_value(getattr(difference, name)) for name in names]], "jsonl")
        else:
            sys.stdout.write(_visible(_line(difference)) + "\n")


def _line(difference: Difference) -> str:
    log = difference.log
    by = "" if log is None else f" [log {log.id}, {rfc3339(log.occurred_at)}, {log.key}/{log.code}]"
    of = "" if difference.case in (None, difference.name) else f" of case {difference.case}"
    return (
        f"{difference.table} {difference.name}{of}: {difference.column} is {_word(difference.stored)}, "
        f"and the log says {_word(difference.fresh)}{by}"
    )


def _visible(line: str) -> str:
    """Control characters shown, not obeyed: what a case says is never formatting."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def _value(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _word(value: Any) -> str:
    import msgspec

    return "nothing" if value is None else msgspec.json.encode(value).decode()


def _repair(verification: Verification) -> None:
    from caselog.workers.verification.rebuild import repair

    written = repair(verification)
    rows = ", ".join(f"{many:,} in {table}" for table, many in written.items() if many)
    sys.stderr.write(f"written: {rows or 'nothing, all is as the log says by now'}; verifying again\n")


@contextmanager
def _database_lost_is_one_line() -> Iterator[None]:
    import psycopg

    from caselog.events.errors import CaselogError
    from caselog.schema.sessions.connection import hush
    from caselog.schema.sessions.leaving import why_left

    try:
        yield
    except psycopg.Error as error:
        said = (hush(error) or str(error)).strip()
        if type(error) is psycopg.InternalError and error.sqlstate is None:
            said = "a query was cancelled half-way"  # the driver's own words are of the answers that it got
        elif why_left(error) is None and not isinstance(error, psycopg.OperationalError):
            raise
        remedy = "run this again"
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            remedy = "run this on the primary (CASELOG_DATABASE_DIRECT_URL): even to compare takes temporary tables"
        raise CaselogError(f"PostgreSQL: {sentence(said)} Nothing was written; {remedy}.") from error


def _verification(command: str, *, writes: bool = False) -> Verification:
    """A proof of the database in force, under the registry and the rules in force. Raises `NoSession`.

    Of a list of servers one that Redis knows to be fenced off is passed over; one that is named alone may be compared,
    and is not written to.
    """
    from caselog.events.model.registry import autodiscover
    from caselog.schema.sessions.database_url import driver_url, has_several_hosts
    from caselog.schema.sessions.proof import prove_session
    from caselog.workers.commands.database import known_fence
    from caselog.workers.process import crash_points
    from caselog.workers.recording.assembly import make_rules
    from caselog.workers.servers.locate import find_direct_url
    from caselog.workers.settings import load_settings
    from caselog.workers.verification.verify import Verification

    settings = load_settings()
    crash_points.arm(settings.crash_at)
    autodiscover(settings.apps)
    database_url = find_direct_url(settings)
    asks = writes or has_several_hosts(driver_url(database_url))
    database_url = prove_session(database_url, command, fence=known_fence(settings) if asks else None)
    return Verification(database_url, make_rules(settings), apps=settings.apps)
