"""Commands that read: exports, reports and the codes there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from workers.formats import Format, RowFormat, write
from workers.output import output_to, print_table, write_json

if TYPE_CHECKING:
    from events.codes import Code
    from schema.reports.reading import By

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.", dir_okay=False)]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog export logs --format csv --output logs.csv")(export)
    app.command(epilog="Example: caselog report case_volume --from 2026-01-01 --to 2026-11-30 --by month")(report)
    app.command(epilog="Example: caselog codes --key suspend_case --role operator")(codes)


def export(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="cases, logs, timers or dead.")],
    *,
    form: Annotated[RowFormat, typer.Option("--format", help="How to write it.")] = RowFormat.JSONL,
    output: Output = None,
) -> None:
    """Export all rows, streamed. Timestamps are RFC 3339 in UTC."""
    from schema import audit
    from schema.exports import get_export, stream_export
    from workers.commands.database import reading, writing
    from workers.progress import counting

    chosen = get_export(what)
    if what == "dead":  # its raw bytes are what `caselog dead show` masks
        with writing() as (settings, engine), engine.begin() as db:
            audit.record(db, who=settings.who, action="dead.export", why=None, detail={})
    with reading() as db, output_to(output) as out, counting(f"exporting {what}", None) as advance:
        rows = stream_export(db, chosen)
        write(out, chosen.fields, _counted(rows, advance), form)


def report(
    name: Annotated[str | None, typer.Argument(help="Which report; --list shows them.")] = None,
    *,
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First local day, included.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last local day, included.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write it.")] = Format.TABLE,
    output: Output = None,
    by: Annotated[str | None, typer.Option(help="Sum up by day, week or month.")] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Only rows that match; no value: only empty ones.")
    ] = None,
    now: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment of asking, for what depends on it.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the reports.")] = False,
) -> None:
    """Show a report for a range of days."""
    from schema.reports.finding import REPORTS, get_report
    from schema.reports.reading import Reading, read_rows, read_totals
    from workers.commands.database import reading
    from workers.moments import moment
    from workers.settings import load_settings

    if list_ or name is None:
        print_table(
            ("report", "description", "columns"),
            ([r.name, r.description, ", ".join(c.name for c in r.columns)] for r in REPORTS.values()),
        )
        return
    settings = load_settings()
    asked = Reading(
        report=get_report(name),
        first=_day(first, "--from"),
        last=_day(last, "--to"),
        by=cast("By | None", by),
        where=dict(map(_condition, where or [])),
        now=datetime.now(UTC) if now is None else moment(now, settings.zone, "--now"),
        zone=settings.zone,
    )
    columns = [column.name for column in asked.columns]
    with reading() as db:
        rows = read_rows(db, asked)
        if form is not Format.TABLE:
            with output_to(output) as out:
                write(out, asked.columns, rows, form)
            return
        found = list(rows)
        if asked.report.measures:
            found.append(("total", *[None] * (len(asked.report.dimensions) - 1), *read_totals(db, asked)))
    print_table(columns, found, title=f"{name}: {asked.first} to {asked.last}")


def _condition(text: str) -> tuple[str, str | None]:
    column, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no condition; give one such as category=debt", param_hint="--where")
    return column, value or None


def codes(
    *,
    key: Annotated[str | None, typer.Option(help="Only the codes of this event key.")] = None,
    role: Annotated[str | None, typer.Option(help="Only the codes that this role may choose.")] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/codes.md.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Compare them with the codes that the log has used; exit 1 where one was removed, or would fold "
            "otherwise than it did. For a deploy pipeline, before the deploy.",
        ),
    ] = False,
) -> None:
    """Show the registered codes, by key and in their order."""
    from events.codes import Role
    from events.registry import autodiscover, event_registry
    from workers.settings import load_settings

    autodiscover(load_settings().apps)
    if key is not None and not check:  # a key that was removed is what a check may be after
        event_registry.get_event(key)
    if role is not None and role not in list(Role):
        raise typer.BadParameter(f"there is no role {role!r}: choose {', '.join(Role)}", param_hint="--role")
    chosen = [
        code
        for code in event_registry.codes()
        if (key is None or code.key == key) and (role is None or code.selectable_for(role))
    ]
    if check:
        _check_codes(key, json=json)
        return
    if json:
        write_json([code.facts() for code in chosen])
    elif markdown:
        sys.stdout.write(_markdown(chosen))
    else:
        print_table(_FACTS, ([_fact(code, name) for name in _FACTS] for code in chosen))


def _check_codes(key: str | None, *, json: bool) -> None:
    """Print what was removed or contradicted, one line a code; exit 1 where there is any."""
    from events.registry import event_registry
    from events.retired import check
    from schema.definitions import used_codes
    from workers.commands.database import reading

    with reading() as db:
        used = [use for use in used_codes(db) if key is None or use.key == key]
    findings = check(event_registry, used)
    if json:
        write_json(findings)
    else:
        sys.stdout.write("".join(f"{finding.message}\n" for finding in findings))
    if findings:
        raise typer.Exit(1)
    sys.stderr.write(f"All {len(used)} codes that the log has used are registered, and fold as they did.\n")


_FACTS = (
    "key", "code", "type", "level", "selectable_by", "stops_timer", "order", "set_requires_action_by", "description",
)  # fmt: skip


def _fact(code: Code, name: str) -> Any:
    value = code.facts()[name]
    if name == "selectable_by":
        return ", ".join(value) or "anyone"
    if name == "set_requires_action_by":
        return "" if value is None else str(value.get("rule") or value.get("set") or "nobody")
    if name == "stops_timer":
        return "yes" if value else ""
    return value


def _markdown(chosen: list[Code]) -> str:
    lines = [
        "# Codes",
        "",
        "Every code of the bundled apps, generated by `caselog codes --markdown`. Levels: HIGH 29, MODERATE 21,",
        "MINOR 11. `set_requires_action_by` is empty where the code leaves the case's next move alone.",
    ]
    for key in dict.fromkeys(code.key for code in chosen):
        names = [name for name in _FACTS if name != "key"]
        lines += ["", f"## `{key}`", "", f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        for code in chosen:
            if code.key == key:
                cells = ["" if (value := _fact(code, name)) is None else str(value) for name in names]
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _day(value: str | None, option: str) -> date:
    if value is None:
        raise typer.BadParameter("give a day such as 2026-11-23", param_hint=option)
    try:
        return datetime.strptime(value, "%Y-%m-%d").date()  # noqa: DTZ007 - a local day has no time zone
    except ValueError:
        raise typer.BadParameter(f"{value!r} is no day; give one such as 2026-11-23", param_hint=option) from None


def _counted(rows: Iterator[tuple[Any, ...]], advance: Any) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        yield row
        advance(1)
